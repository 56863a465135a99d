"""A version's own baseline: of its frozen reference and its validation report, and of no other version."""

from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine

from mlops_assets.evaluation.report import REPORT_JSON
from mlops_assets.foundation.database import transaction
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.tables import DriftReferenceRecord, ModelVersionRecord
from mlops_assets.monitoring.baseline import Baseline, baseline_of
from mlops_assets_tests.mlflow_runs import SPEC
from mlops_assets_tests.registry.test_model_card import a_report

AT = datetime(2026, 3, 9, tzinfo=UTC)


def register(engine: Engine, version: str, run_id: str) -> None:
    major, minor, patch = map(int, version.split("."))
    with transaction(engine) as session:
        session.add(
            ModelVersionRecord(
                model_name=SPEC.registered_model, semver=version, major=major, minor=minor, patch=patch, mlflow_version="1",
                run_id=run_id, training_hash="t", data_hash="d", created_at=AT, updated_at=AT,
            )
        )  # fmt: skip


def freeze(engine: Engine, version: str, accuracy: float | None) -> None:
    with transaction(engine) as session:
        session.add(
            DriftReferenceRecord(
                model_name=SPEC.registered_model, model_version=version, agent=SPEC.name, content_hash="h", rows=10,
                accuracy=accuracy, mean_confidence=0.7, created_at=AT,
            )
        )  # fmt: skip


def test_both_sources(engine: Engine, tmp_path: Path) -> None:
    """The champion's accuracy is another version's baseline, or an unknown one is 0."""
    paths = ArtifactPaths(tmp_path)
    assert baseline_of(engine, SPEC, "1.0.0", paths) == Baseline()
    report = a_report()
    file = paths.reports(SPEC.name) / "run-1" / REPORT_JSON
    file.parent.mkdir(parents=True)
    file.write_text(report.model_dump_json(), encoding="utf-8")
    register(engine, "1.0.0", "run-1")
    register(engine, "2.0.0", "run-2")
    evaluated = baseline_of(engine, SPEC, "1.0.0", paths)
    assert (evaluated.accuracy, evaluated.mean_confidence) == (report.metrics["accuracy"], None)
    assert evaluated.latency_p95_ms == report.metrics.get("latency_p95_ms")
    assert evaluated.source == "validation report of MLflow run run-1"
    assert baseline_of(engine, SPEC, "2.0.0", paths) == Baseline()
    freeze(engine, "1.0.0", 0.5)
    frozen = baseline_of(engine, SPEC, "1.0.0", paths)
    assert (frozen.accuracy, frozen.mean_confidence, frozen.f1) == (0.5, 0.7, report.metrics.get("f1"))
    assert frozen.source == "drift reference, frozen 2026-03-09 and validation report of MLflow run run-1"
    freeze(engine, "2.0.0", None)
    unlabelled = baseline_of(engine, SPEC, "2.0.0", paths)
    assert (unlabelled.accuracy, unlabelled.mean_confidence) == (None, 0.7)
