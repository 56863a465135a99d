import json
from dataclasses import replace
from pathlib import Path

import pytest

from mlops_assets.features.decision_table import DecisionTable
from mlops_assets.training.artifacts import write_artifacts
from mlops_assets.training.config import load_config
from mlops_assets.training.learner import TrainedAgent
from mlops_assets.training.policy import GreedyPolicy
from mlops_assets_tests.training.samples import FAST, TOY


def test_all_files_are_there_and_readable(trained: TrainedAgent, table: DecisionTable, tmp_path: Path) -> None:
    """A run whose configuration, policy or curve cannot be read back is no record."""
    written = write_artifacts(trained, table, TOY, tmp_path / "run")
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == [
        "config.yaml",
        "policy.onnx",
        "policy.pt",
        "reward_curve.csv",
        "training_curves.png",
        "training_metrics.json",
    ]
    assert load_config(written.files.config) == FAST
    assert GreedyPolicy.from_onnx(written.files.onnx).weights_hash == trained.weights_hash
    assert GreedyPolicy.from_checkpoint(written.files.checkpoint).weights_hash == trained.weights_hash
    assert written.files.training_curves.read_bytes().startswith(b"\x89PNG\r\n")
    report = json.loads(written.files.metrics.read_text(encoding="utf-8"))
    assert report["metrics"] == written.metrics
    assert report["weights_hash"] == trained.weights_hash
    assert report["device_reason"] == "device 'cpu' was asked for"


def test_final_metrics(trained: TrainedAgent, table: DecisionTable, tmp_path: Path) -> None:
    """The numbers that the run is compared by."""
    metrics = write_artifacts(trained, table, TOY, tmp_path).metrics
    assert metrics["total_episodes"] == 600
    assert metrics["total_transitions"] == 1800
    returns = table.reward.reshape(600, 3).sum(axis=1)
    assert metrics["final_avg_reward"] == pytest.approx(returns[-100:].mean())
    assert metrics["final_train_accuracy"] > 0.95
    # The log is uniformly random over two actions.
    assert metrics["final_exploration_rate"] == pytest.approx(0.5, abs=0.05)
    assert metrics["training_time_seconds"] == trained.seconds


def test_an_unknown_number_is_absent(trained: TrainedAgent, table: DecisionTable, tmp_path: Path) -> None:
    """NaN is no JSON, and 0.0 would be a lie."""
    blind = replace(trained, curve=(replace(trained.curve[-1], train_accuracy=float("nan")),))
    written = write_artifacts(blind, table, TOY, tmp_path)
    assert "final_train_accuracy" not in written.metrics
    assert json.loads(written.files.metrics.read_text(encoding="utf-8"))["metrics"] == written.metrics
