"""Rows of registered versions: found, and asked whether a step may take them. `model_registry.py` changes them."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from mlops_assets.foundation.audit import CHAMPION_EVENTS, ROLLED_BACK
from mlops_assets.foundation.database import lock_name
from mlops_assets.foundation.errors import InputError, NotReadyError
from mlops_assets.foundation.tables import AuditEvent, DecisionRecord, ModelVersionRecord
from mlops_assets.registry.registration import Stage
from mlops_assets.registry.semver import SemVer


def lock_model(session: Session, model_name: str) -> None:
    """Let changes of one model queue to the end of the transaction, in every room that makes some."""
    lock_name(session, f"model_registry:{model_name}")


def version_records(session: Session, model_name: str) -> list[ModelVersionRecord]:
    """Return the model's versions, the highest first."""
    columns = (ModelVersionRecord.major, ModelVersionRecord.minor, ModelVersionRecord.patch)
    query = select(ModelVersionRecord).where(ModelVersionRecord.model_name == model_name)
    return list(session.scalars(query.order_by(*(column.desc() for column in columns))))


def version_record(session: Session, model_name: str, version: str) -> ModelVersionRecord:
    """Resolve a semantic version, with or without `v`.

    Raises:
        InputError: no such version; the known ones are named.
    """
    semver = str(SemVer.parse(version))
    records = version_records(session, model_name)
    found = next((record for record in records if record.semver == semver), None)
    if found is None:
        known = ", ".join(record.semver for record in records) or "none"
        raise InputError(f"{model_name} has no version {semver}; registered versions: {known}")
    return found


def numbered_record(session: Session, model_name: str, number: str) -> ModelVersionRecord:
    """Return the version that MLflow counts as `number`.

    Raises:
        InputError: the operational database does not know it.
    """
    query = select(ModelVersionRecord).where(
        ModelVersionRecord.model_name == model_name, ModelVersionRecord.mlflow_version == number
    )
    found = session.scalars(query).one_or_none()
    if found is None:
        raise InputError(
            f"MLflow's version {number} of {model_name} is not in the operational database; the two stores do not "
            "belong together: check MLFLOW_TRACKING_URI and MLOPS_DATABASE_URL"
        )
    return found


def mlflow_number(record: ModelVersionRecord) -> str:
    """Return MLflow's own number of the version.

    Raises:
        NotReadyError: it is not in MLflow.
    """
    if record.mlflow_version is None:
        raise NotReadyError(f"{record.model_name} {record.semver} is not in MLflow; register run {record.run_id} again")
    return record.mlflow_version


def record_in_production(session: Session, model_name: str) -> ModelVersionRecord | None:
    """Return the champion's row, or None."""
    return next((record for record in version_records(session, model_name) if record.stage == "Production"), None)


def require_stage(record: ModelVersionRecord, *stages: Stage) -> None:
    """Raise NotReadyError unless the version is in one of the stages."""
    if record.stage not in stages:
        raise NotReadyError(
            f"{record.model_name} {record.semver} is in stage {record.stage}; this step takes {' or '.join(stages)}"
        )


def require_approved(session: Session, record: ModelVersionRecord) -> None:
    """Raise NotReadyError unless the newest decision on the version is an approval."""
    newest = session.scalars(
        select(DecisionRecord.status)
        .where(DecisionRecord.model_name == record.model_name, DecisionRecord.semver == record.semver)
        .order_by(DecisionRecord.id.desc())
        .limit(1)
    ).one_or_none()
    if newest != "approved":
        found = "has no decision" if newest is None else f"is {newest}"
        raise NotReadyError(f"{record.model_name} {record.semver} {found}, and only an approved version goes on")


def was_champion(session: Session, record: ModelVersionRecord) -> bool:
    """Tell from the audit trail whether the version was ever in production."""
    query = select(AuditEvent.sequence).where(
        AuditEvent.model_name == record.model_name,
        AuditEvent.version == record.semver,
        AuditEvent.event_type.in_(CHAMPION_EVENTS),
    )
    return session.scalars(query.limit(1)).one_or_none() is not None


def champion_line(session: Session, model_name: str) -> list[str]:
    """Return the champions up to the present one, which is last, without those that were rolled back."""
    events = session.scalars(
        select(AuditEvent)
        .where(AuditEvent.model_name == model_name, AuditEvent.event_type.in_(CHAMPION_EVENTS))
        .order_by(AuditEvent.sequence)
    )
    line: list[str] = []
    for event in events:
        left = event.details.get("from_version") if event.event_type == ROLLED_BACK else None
        line = [version for version in line if version not in {event.version, left}]
        line.append(event.version)
    return line
