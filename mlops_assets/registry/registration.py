"""How a run's model becomes a version: found again, adopted after a crash, or created. Stages come later."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, cast

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.audit import append_event
from mlops_assets.foundation.tables import ModelVersionRecord
from mlops_assets.registry.mlflow_store import SEMVER_TAG, STAGE_TAG, LoggedPolicy, MlflowStore, StoredVersion
from mlops_assets.registry.semver import Bump, SemVer, next_version

Stage = Literal["None", "Staging", "Production", "Archived", "Deleted"]
REGISTERED = "model_registered"
TRAINING_HASH_TAG = "training_hash"
AUTHOR_TAG = "author"


@dataclass(frozen=True)
class Candidate:
    """A trained and evaluated run that asks for a version.

    `training_hash` identifies what was trained: training set, configuration, seed and code. `validation_status` is
    pending, passed, failed or insufficient_data; `metrics` become tags `metric.<name>`. `user` is who registers it, a
    person or a service; `author` is the person whose work it is, None where no person is known.
    """

    run_id: str
    training_hash: str
    data_hash: str
    description: str
    user: str
    author: str | None = None
    validation_status: str = "pending"
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RegisteredVersion:
    """One version of a registered model; `created` is true only in the answer to the call that registered it."""

    model_name: str
    semver: str
    mlflow_version: str
    run_id: str
    training_hash: str
    data_hash: str
    stage: Stage
    registered_at: datetime
    created: bool


def registered_version(record: ModelVersionRecord, *, created: bool) -> RegisteredVersion:
    """Read a version from its row."""
    return RegisteredVersion(
        model_name=record.model_name,
        semver=record.semver,
        mlflow_version=record.mlflow_version or "",
        run_id=record.run_id,
        training_hash=record.training_hash,
        data_hash=record.data_hash,
        stage=cast("Stage", record.stage),
        registered_at=record.created_at,
        created=created,
    )


def find_registered(session: Session, model_name: str, candidate: Candidate) -> ModelVersionRecord | None:
    """Find the version of this run, or of another run that trained the same thing."""
    same = or_(
        ModelVersionRecord.run_id == candidate.run_id, ModelVersionRecord.training_hash == candidate.training_hash
    )
    query = select(ModelVersionRecord).where(ModelVersionRecord.model_name == model_name, same)
    return session.scalars(query.order_by(ModelVersionRecord.id).limit(1)).one_or_none()


def create_or_adopt(
    session: Session,
    store: MlflowStore,
    policy: LoggedPolicy,
    candidate: Candidate,
    spec: AgentSpec,
    *,
    bump: Bump,
    now: datetime,
) -> ModelVersionRecord:
    """Write the version to MLflow, its row and its audit event; the caller holds the model's lock and commits.

    A version that MLflow holds for this run or training, but the database does not, comes from a call that died
    before its commit: it is adopted with the semantic version, the run and the author that it was given.
    """
    name = spec.registered_model
    stored = store.versions(name)
    left_over = _left_over(session, name, candidate, stored)
    if left_over is not None:
        semver, number, run_id = SemVer.parse(left_over.tags[SEMVER_TAG]), left_over.number, left_over.run_id
        author = left_over.tags.get(AUTHOR_TAG)
    else:
        author = candidate.author
        semver, run_id = next_version(_taken(session, name, stored), bump), candidate.run_id
        tags = _tags(candidate, spec, semver, now)
        description = f"{semver}: {candidate.description}"
        number = store.create_version(
            name, policy, run_id=candidate.run_id, tags=tags, purpose=spec.purpose, description=description
        )
    record = ModelVersionRecord(
        model_name=name,
        semver=str(semver),
        major=semver.major,
        minor=semver.minor,
        patch=semver.patch,
        mlflow_version=number,
        run_id=run_id,
        training_hash=candidate.training_hash,
        data_hash=candidate.data_hash,
        stage="None",
        created_at=now,
        updated_at=now,
    )
    session.add(record)
    session.flush()
    details = {"run_id": run_id, "data_hash": candidate.data_hash, "training_hash": candidate.training_hash}
    append_event(
        session,
        event_type=REGISTERED,
        model_name=name,
        version=record.semver,
        user=candidate.user,
        details={**details, "author": author, "adopted": left_over is not None},
        now=now,
    )
    return record


def _taken(session: Session, model_name: str, stored: list[StoredVersion]) -> list[SemVer]:
    """Every semantic version ever given, in either store."""
    rows = session.scalars(select(ModelVersionRecord).where(ModelVersionRecord.model_name == model_name))
    in_database = [SemVer(row.major, row.minor, row.patch) for row in rows]
    return in_database + [SemVer.parse(version.tags[SEMVER_TAG]) for version in stored if _semver(version)]


def _left_over(
    session: Session, model_name: str, candidate: Candidate, stored: list[StoredVersion]
) -> StoredVersion | None:
    query = select(ModelVersionRecord.mlflow_version).where(ModelVersionRecord.model_name == model_name)
    known = set(session.scalars(query))
    for version in stored:
        same = candidate.run_id == version.run_id or candidate.training_hash == version.tags.get(TRAINING_HASH_TAG)
        if same and _semver(version) and version.number not in known:
            return version
    return None


def _semver(version: StoredVersion) -> str | None:
    return version.tags.get(SEMVER_TAG)


def _tags(candidate: Candidate, spec: AgentSpec, semver: SemVer, now: datetime) -> dict[str, str]:
    return {
        **candidate.tags,
        **({} if candidate.author is None else {AUTHOR_TAG: candidate.author}),
        **{f"metric.{name}": f"{value:.6g}" for name, value in candidate.metrics.items()},
        SEMVER_TAG: str(semver),
        STAGE_TAG: "None",
        "framework": "pytorch",
        "agent_type": spec.name,
        "validation_status": candidate.validation_status,
        "approval_status": "pending",
        "training_date": now.isoformat(),
        "data_version": candidate.data_hash,
        TRAINING_HASH_TAG: candidate.training_hash,
    }
