"""Fixtures of the training room: one small trained agent for all tests that only read it."""

import shutil
from pathlib import Path

import pytest

from mlops_assets.features.decision_table import DecisionTable
from mlops_assets.training.learner import TrainedAgent, train
from mlops_assets.training.tracking import TrainingTracker, connect
from mlops_assets_tests.training.samples import FAST, TOY, toy_table


@pytest.fixture(scope="session")
def table() -> DecisionTable:
    """1800 logged decisions of the toy problem."""
    return toy_table()


@pytest.fixture(scope="session")
def trained(table: DecisionTable) -> TrainedAgent:
    """An agent trained on them; tests do not change it."""
    return train(table, TOY, FAST, device="cpu", seed=7)


@pytest.fixture(scope="session")
def _mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty MLflow database: the migration takes seconds, so it is done once and copied."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def tracker(_mlflow_template: Path, tmp_path: Path) -> TrainingTracker:
    """A tracker on an MLflow store of the test's own."""
    database = tmp_path / "mlflow" / "mlflow.db"
    database.parent.mkdir()
    shutil.copyfile(_mlflow_template, database)
    return TrainingTracker(f"sqlite:///{database}", str(tmp_path / "artifacts"))
