"""What a version was when it was evaluated: the baseline that its served decisions are held against."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from mlops_assets.evaluation.report import REPORT_JSON, read_report
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.tables import DriftReferenceRecord, ModelVersionRecord


@dataclass(frozen=True)
class Baseline:
    """A version's own figures on the held-out decisions of its evaluation; None where it is not known."""

    accuracy: float | None = None
    f1: float | None = None
    mean_confidence: float | None = None
    latency_p95_ms: float | None = None
    source: str = "no evaluation of this version is known here"


def baseline_of(engine: Engine, spec: AgentSpec, version: str, paths: ArtifactPaths) -> Baseline:
    """Return the baseline of a version: of its frozen drift reference, and of its validation report where that lies here.

    Raises:
        InputError: the validation report is damaged.
        StorageError: the database does not answer.
    """
    name = spec.registered_model
    with read_transaction(engine) as session:
        reference = session.get(DriftReferenceRecord, (name, version))
        run_id = _run_id(session, name, version)
    report_file = None if run_id is None else paths.reports(spec.name) / run_id / REPORT_JSON
    measured = {} if report_file is None or not report_file.is_file() else read_report(report_file).metrics
    if reference is None and not measured:
        return Baseline()
    frozen = None if reference is None else reference.accuracy
    return Baseline(
        accuracy=frozen if frozen is not None else measured.get("accuracy"),
        f1=measured.get("f1"),
        mean_confidence=None if reference is None else reference.mean_confidence,
        latency_p95_ms=measured.get("latency_p95_ms"),
        source=_source(reference.created_at if reference is not None else None, report_file if measured else None),
    )


def _run_id(session: Session, model_name: str, version: str) -> str | None:
    query = select(ModelVersionRecord.run_id).where(
        ModelVersionRecord.model_name == model_name, ModelVersionRecord.semver == version
    )
    return session.scalars(query).one_or_none()


def _source(frozen_at: datetime | None, report: Path | None) -> str:
    parts = []
    if frozen_at is not None:
        parts.append(f"drift reference, frozen {frozen_at:%Y-%m-%d}")
    if report is not None:
        parts.append(f"validation report of MLflow run {report.parent.name}")
    return " and ".join(parts)
