"""What the tests of faults share: requests under way, and what was logged of them."""

from collections.abc import Callable
from typing import Any

import pyarrow.compute as pc
from sqlalchemy import Engine, select

from mlops_assets.features.offline import read_rows
from mlops_assets.features.views import AGENT_CONTEXT_FEATURES, TEST_EXECUTION_FEATURES
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.settings import Settings
from mlops_assets.foundation.tables import PredictionRecord
from mlops_assets.serving.api_documents import example_request
from mlops_assets_tests.serving.live import Answers

SPEC = AGENTS["execution"]
RATE = 100.0


def requests_for(settings: Settings) -> Callable[[int], dict[str, Any]]:
    """Requests for tests and agents that the feature store knows, each an episode of its own: `episode-<number>`."""
    tests = pc.unique(read_rows(settings.paths, TEST_EXECUTION_FEATURES, columns=["test_id"])["test_id"]).to_pylist()
    agents = pc.unique(
        read_rows(settings.paths, AGENT_CONTEXT_FEATURES, groups=["execution"], columns=["agent_id"])["agent_id"]
    ).to_pylist()

    def make(number: int) -> dict[str, Any]:
        known = {"test_id": tests[number % len(tests)], "agent_id": agents[number % len(agents)]}
        return {**example_request(SPEC), **known, "episode_id": f"episode-{number}", "step": 0}

    return make


def stored(engine: Engine) -> dict[str, str]:
    """Logged decisions and their status; each is there once by the table's key."""
    with read_transaction(engine) as session:
        return dict(session.execute(select(PredictionRecord.prediction_id, PredictionRecord.status)).tuples().all())


def episodes(engine: Engine) -> dict[str, str]:
    """Logged decisions and the episode that each belongs to."""
    with read_transaction(engine) as session:
        return dict(session.execute(select(PredictionRecord.prediction_id, PredictionRecord.episode_id)).tuples().all())


def answered_ids(answers: Answers, *, before: float = float("inf")) -> set[str]:
    """Predictions that clients got."""
    return {document["prediction_id"] for _, answered, _, document in answers.of(200) if answered < before}
