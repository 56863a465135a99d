from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from mlops_assets.features.decision_table import DecisionTable
from mlops_assets.foundation.errors import InputError
from mlops_assets.training.learner import CurvePoint
from mlops_assets.training.lineage import Lineage
from mlops_assets.training.policy import GreedyPolicy
from mlops_assets.training.run import TrainingOrigin, TrainingRun, run_training
from mlops_assets.training.tracking import TrainingTracker, connect
from mlops_assets_tests.training.samples import FAST, TOY, changed

CONFIG = FAST.model_copy(update={"updates": 60, "report_every": 5})
LINEAGE = Lineage(
    git_sha="a1",
    data_hash="b2",
    training_hash="c3",
    config_hash=CONFIG.config_hash,
    seed=7,
    lock_hash="e5",
    feature_views={},
)
ORIGIN = TrainingOrigin(
    lifecycle_run_id="dagster-1",
    description="drift",
    reason={"trigger_type": "drift", "trigger_reason": "PSI 0.31 > 0.3"},
    started_at=datetime(2026, 6, 1, tzinfo=UTC),
)


def _run(
    table: DecisionTable, tracker: TrainingTracker, folder: Path, seen: list[CurvePoint] | None = None
) -> TrainingRun:
    return run_training(
        table,
        TOY,
        CONFIG,
        device="cpu",
        lineage=LINEAGE,
        origin=ORIGIN,
        dataset_source="/data/toy",
        folder_for=lambda run_id: folder / run_id,
        tracker=tracker,
        progress=None if seen is None else seen.append,
    )


def test_one_training_is_one_complete_run(table: DecisionTable, tracker: TrainingTracker, tmp_path: Path) -> None:
    """A run that lacks its reason, lineage, curve, files or model cannot be judged or repeated."""
    seen: list[CurvePoint] = []
    result = _run(table, tracker, tmp_path / "models", seen)
    client = connect(tracker.tracking_uri)
    run = client.get_run(result.run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "20260601_drift")
    assert run.data.params["trigger_reason"] == "PSI 0.31 > 0.3"
    assert run.data.params["updates"] == "60"
    assert run.data.tags["fingerprint"] == LINEAGE.fingerprint
    assert run.data.tags["weights_hash"] == result.trained.weights_hash
    assert result.artifacts.metrics.items() <= run.data.metrics.items()
    assert [metric.step for metric in client.get_metric_history(result.run_id, "loss")] == [p.update for p in seen]
    assert len(seen) == 8
    assert {"policy.pt", "policy.onnx", "training_curves.png", "reward_curve.csv"} <= {
        file.path for file in client.list_artifacts(result.run_id)
    }
    assert GreedyPolicy.from_onnx(result.artifacts.files.onnx).weights_hash == result.trained.weights_hash
    assert result.artifacts.files.folder == tmp_path / "models" / result.run_id
    assert str(client.get_logged_model(result.model_uri.removeprefix("models:/")).status) == "READY"
    assert run.inputs.dataset_inputs[0].dataset.digest == "c3"


def test_a_failed_training_ends_failed_and_can_be_tried_again(
    table: DecisionTable, tracker: TrainingTracker, tmp_path: Path
) -> None:
    """A run that stays RUNNING after its process is long gone; a second try in a second run."""
    reward = table.reward.copy()
    reward[0] = np.inf
    with pytest.raises(InputError, match="reward of decision"):
        _run(changed(table, reward=reward), tracker, tmp_path)
    client = connect(tracker.tracking_uri)
    (failed,) = client.search_runs([client.get_experiment_by_name("toy-agent-training").experiment_id])
    assert failed.info.status == "FAILED"
    result = _run(table, tracker, tmp_path)
    assert result.run_id == failed.info.run_id
    assert client.get_run(result.run_id).info.status == "FINISHED"
