"""What a run has trained, from the records and reports of its assets."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine

from mlops_assets.evaluation.report import REPORT_JSON
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.records import write_record
from mlops_assets.monitoring.completions import trained_by
from mlops_assets.monitoring.run_alerts import Trained
from mlops_assets_tests.monitoring.alerting import NOW
from mlops_assets_tests.registry.test_model_card import a_report

WHOLE = Trained("execution", "execution-agent-dqn", "1.2.0", "approved", 0.93, None)


def record(engine: Engine, asset: str, run_id: str = "run", agent: str = "execution", **payload: object) -> None:
    write_record(engine, asset=asset, partition=agent, run_id=run_id, payload=payload, now=NOW)


@pytest.fixture
def paths(tmp_path: Path) -> ArtifactPaths:
    return ArtifactPaths(tmp_path)


def test_only_what_this_run_made_is_told(engine: Engine, paths: ArtifactPaths) -> None:
    """A run that found nothing new tells of the version of last week."""
    record(engine, "registered_model", model_name="execution-agent-dqn", semver="1.2.0", created=True)
    record(engine, "approval", status="approved")
    record(engine, "registered_model", agent="generation", model_name="g", semver="1.0.0", created=False)
    record(engine, "registered_model", "before", model_name="execution-agent-dqn", semver="1.1.0", created=True)
    assert trained_by(engine, paths, "run") == [replace(WHOLE, accuracy=None)]
    assert [one.semver for one in trained_by(engine, paths, "before")] == ["1.1.0"]
    assert trained_by(engine, paths, "before")[0].status == "not decided"
    assert trained_by(engine, paths, "nothing") == []


def test_its_numbers_are_those_of_its_report(engine: Engine, paths: ArtifactPaths) -> None:
    """A report that is away keeps people from hearing of the version, or gives it an accuracy of 0."""
    record(engine, "registered_model", model_name="execution-agent-dqn", semver="1.2.0", created=True)
    write_record(
        engine,
        asset="validation_report",
        partition="execution",
        run_id="run",
        payload={"run_id": "mlflow"},
        now=NOW,
    )
    record(engine, "approval", status="approved")
    assert trained_by(engine, paths, "run") == [replace(WHOLE, accuracy=None)]
    folder = paths.reports("execution") / "mlflow"
    folder.mkdir(parents=True)
    (folder / REPORT_JSON).write_text(a_report().model_dump_json(), encoding="utf-8")
    assert trained_by(engine, paths, "run") == [WHOLE]
    better = a_report().model_copy(update={"metrics": {"accuracy": 0.93, "improvement_percent": 2.5}})
    (folder / REPORT_JSON).write_text(better.model_dump_json(), encoding="utf-8")
    assert trained_by(engine, paths, "run") == [replace(WHOLE, improvement_percent=2.5)]
