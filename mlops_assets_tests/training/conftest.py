"""Fixtures of the training room: one small trained agent for all tests that only read it."""

import pytest

from mlops_assets.features.decision_table import DecisionTable
from mlops_assets.training.learner import TrainedAgent, train
from mlops_assets_tests.training.samples import FAST, TOY, toy_table


@pytest.fixture(scope="session")
def table() -> DecisionTable:
    """1800 logged decisions of the toy problem."""
    return toy_table()


@pytest.fixture(scope="session")
def trained(table: DecisionTable) -> TrainedAgent:
    """An agent trained on them; tests do not change it."""
    return train(table, TOY, FAST, device="cpu", seed=7)
