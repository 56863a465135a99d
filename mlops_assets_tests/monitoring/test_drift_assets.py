"""The job `drift_monitoring` on models that were really trained: traffic like the reference, and traffic that is not."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from sqlalchemy import Engine, select

from mlops_assets.definitions import build_definitions
from mlops_assets.evaluation.metrics import greedy, q_values
from mlops_assets.features.training_set import open_training_set
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.database import create_operational_engine, read_transaction
from mlops_assets.foundation.profiles import PolicyProfile, load_profile
from mlops_assets.foundation.records import read_record
from mlops_assets.foundation.settings import load_settings
from mlops_assets.foundation.tables import DriftCheckRecord, DriftReferenceRecord
from mlops_assets.monitoring.alerts import alerts
from mlops_assets.retraining.drift_signals import checks_since, signals_of
from mlops_assets.serving.batch import confidences
from mlops_assets.training.artifacts import ArtifactFolder
from mlops_assets.training.policy import GreedyPolicy
from mlops_assets_tests.lifecycle.conftest import FirstLifecycle, first_lifecycle
from mlops_assets_tests.lifecycle.worlds import SMALL, Run, SmallWorldPlatform, read_run
from mlops_assets_tests.monitoring.traffic import serve

__all__ = ["first_lifecycle"]

pytestmark = pytest.mark.slow
SPEC = AGENTS["execution"]
MODEL = SPEC.registered_model
DAY = datetime(2026, 3, 9, tzinfo=UTC)
SERVED = 4000


class FewAreEnough(SmallWorldPlatform):
    """Some hundred held-out decisions are all that this world has."""

    @property
    def profile(self) -> PolicyProfile:
        small = super().profile
        drift = small.drift.model_copy(update={"min_rows": 200, "min_effective_rows": 20})
        return small.model_copy(update={"drift": drift})


@dataclass(frozen=True)
class Watched:
    """A home with champions, and its jobs."""

    home: Path
    engine: Engine
    platform: FewAreEnough

    def check(self) -> Run:
        definitions = build_definitions(resources={"platform": self.platform})
        with dg.DagsterInstance.ephemeral() as instance:
            result = definitions.resolve_job_def("drift_monitoring").execute_in_process(
                instance=instance, raise_on_error=False
            )
            found = read_run(instance, result.run_id)
            assert found.success, found.failures
            return found

    def serve(
        self, begin: datetime, *, factor: Mapping[str, float] | None = None, more: Mapping[str, float] | None = None
    ) -> None:
        """Serve decisions that were held out when the champion was trained, some fields of them in another unit, or moved."""
        model = read_record(self.engine, asset="dqn_model", partition=SPEC.name)
        paths = load_settings({"MLOPS_HOME": str(self.home), **SMALL}).paths
        table = open_training_set(SPEC.name, model["training_hash"], paths=paths).holdout()
        rows = np.random.default_rng(begin.day).integers(len(table), size=SERVED)
        states = table.state[rows].copy()
        for name, value in (factor or {}).items():
            states[:, SPEC.state_fields.index(name)] *= value
        for name, value in (more or {}).items():
            states[:, SPEC.state_fields.index(name)] += value
        policy = GreedyPolicy.from_onnx(ArtifactFolder(paths.models(SPEC.name) / model["run_id"]).onnx)
        values = q_values(policy, states)
        actions, confidence = greedy(values), confidences(values)

        def changes(row: int) -> dict[str, Any]:
            number = rows[row]
            return {
                "state": states[row].astype("<f4").tobytes(),
                "q_values": values[row].tolist(),
                "action": int(actions[row]),
                "confidence": float(confidence[row]),
                "episode_id": f"{begin:%m%d}-{row}",
                "user_hash": None,
                "browser": str(table.browser[number]),
                "ui_framework": str(table.ui_framework[number]),
                "test_type": str(table.test_type[number]),
            }

        serve(
            self.engine, SPEC, SERVED, start=begin, hours=23.9, prefix=f"{begin:%m%d}-", labelled=0.0, changes=changes
        )

    def asked(self, since: datetime = DAY - timedelta(days=9999)) -> list[str]:
        """What checks after this time ask of retraining."""
        policy = load_profile("aiwebtest").retraining
        with read_transaction(self.engine) as session:
            checks = checks_since(session, SPEC.name, "1.0.0", since)
        return [signal.kind for check in checks for signal in signals_of(check, policy)]

    def checks(self) -> list[DriftCheckRecord]:
        with read_transaction(self.engine) as session:
            query = select(DriftCheckRecord).where(DriftCheckRecord.agent == SPEC.name, DriftCheckRecord.rows > 0)
            return list(session.scalars(query.order_by(DriftCheckRecord.id)))


@pytest.fixture
def watched(first_lifecycle: FirstLifecycle, tmp_path: Path) -> Iterator[Watched]:
    home = tmp_path / "home"
    shutil.copytree(first_lifecycle.pristine, home)
    platform = FewAreEnough(
        settings_override={
            "MLOPS_HOME": str(home),
            **SMALL,
            # MLflow notes where artifacts lie, which is in the home that was copied.
            "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow/mlflow.db",
        }
    )
    engine = create_operational_engine(f"sqlite:///{home}/operations.db")
    yield Watched(home, engine, platform)
    engine.dispose()


def test_drift_is_found_told_and_asks_for_a_training(watched: Watched) -> None:
    """Traffic as ever is called drift, or a field in another unit goes by: no row, no alert, no trigger, no page."""
    quiet = watched.check()
    assert quiet.facts("drift_report", SPEC.name)["verdict"] == "insufficient_data"
    assert quiet.facts("drift_reference", SPEC.name)["frozen_now"]

    watched.serve(DAY)
    same = watched.check()
    facts = same.facts("drift_report", SPEC.name)
    assert (facts["verdict"], facts["drifted"], facts["psi"]) == ("ok", [], 0.0)
    assert not same.facts("drift_reference", SPEC.name)["frozen_now"]
    assert Path(facts["report"]).is_file()
    assert (Path(facts["report"]).parent / "evidently" / "drift_report.html").is_file()
    assert alerts(watched.engine) == []

    watched.serve(DAY + timedelta(days=1), more={"duration_share": 0.5})
    moved = watched.check().facts("drift_report", SPEC.name)
    assert moved["verdict"] == "critical"
    assert moved["drifted"][0] == "duration_share"
    assert "duration_share" in moved["What was found"]
    told = {alert.finding.key: str(alert.finding.severity) for alert in alerts(watched.engine)}
    assert told[f"{MODEL}:feature_drift"] == "CRITICAL"
    assert "drift" in watched.asked()

    watched.serve(DAY + timedelta(days=2), factor={"duration_share": 1000.0})
    broken = watched.check().facts("drift_report", SPEC.name)
    assert broken["verdict"] == "critical"
    assert broken["recommendation"].startswith("Mend the source of duration_share")
    assert [check.verdict for check in watched.checks()] == ["ok", "critical", "critical"]
    # A training on the other unit would learn it.
    assert "drift" not in watched.asked(since=watched.checks()[1].checked_at)


def test_the_same_window_is_checked_once(watched: Watched) -> None:
    """A retried run counts a drift twice, or a second home freezes another reference under the same version."""
    watched.serve(DAY)
    watched.check()
    watched.check()
    assert len(watched.checks()) == 1
    with read_transaction(watched.engine) as session:
        frozen = list(session.scalars(select(DriftReferenceRecord).where(DriftReferenceRecord.agent == SPEC.name)))
    assert [(one.model_name, one.model_version) for one in frozen] == [(MODEL, "1.0.0")]
    assert frozen[0].accuracy is not None
    assert 0.0 < frozen[0].accuracy <= 1.0
