"""Outcomes: once each, late or not, and only such as fit the decision."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, select

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.tables import OutcomeRecord
from mlops_assets.serving.outcomes import (
    OutcomeConflictError,
    OutcomeFieldError,
    UnknownPredictionError,
    record_outcomes,
)
from mlops_assets.serving.requests import OutcomeRequest
from mlops_assets_tests.experiences.served import prediction_row

SPEC = AGENTS["execution"]
NOW = datetime(2026, 3, 9, 18, tzinfo=UTC)


@pytest.fixture
def served(engine: Engine) -> Engine:
    """A database with some decisions: p0..p4 on their own, e0 and e1 of one episode."""
    with transaction(engine) as session:
        session.add_all(prediction_row(SPEC, f"p{i}") for i in range(5))
        session.add_all(prediction_row(SPEC, f"e{i}", episode_id="cycle", step=i) for i in range(2))
    return engine


def told(prediction_id: str = "p0", reward: float = 1.0, **changes: Any) -> OutcomeRequest:
    """An outcome."""
    return OutcomeRequest.model_validate({"prediction_id": prediction_id, "reward": reward, **changes})


def record(engine: Engine, *outcomes: OutcomeRequest, unshipped: Mapping[str, Any] | None = None) -> tuple[int, int]:
    """Record; how many were new, and how many had been told."""
    done = record_outcomes(engine, outcomes, unshipped=(unshipped or {}).get, now=NOW)
    return done.accepted, done.repeated


def rewards(engine: Engine) -> dict[str, float]:
    """What is recorded."""
    with read_transaction(engine) as session:
        return {one.prediction_id: one.reward for one in session.scalars(select(OutcomeRecord))}


def test_the_same_outcome_counts_once(served: Engine) -> None:
    """A client that tries again doubles a reward."""
    label = {"best_action": 3, "action_values": [0.0, 1.0, 2.0, 3.0]}
    assert record(served, told("p0"), told("p1", 2.5, **label), told("p0")) == (2, 1)
    assert record(served, told("p1", 2.5, **label), told("p2")) == (1, 1)
    assert rewards(served) == {"p0": 1.0, "p1": 2.5, "p2": 1.0}


def test_another_outcome_of_the_same_decision_is_refused(served: Engine) -> None:
    """The later of two rewards wins, and nobody knows which one the agent learnt from."""
    record(served, told("p0"))
    with pytest.raises(OutcomeConflictError, match="'p0' has another outcome already, with another reward"):
        record(served, told("p1"), told("p0", 2.0))
    with pytest.raises(OutcomeConflictError, match="best_action, action_values"):
        record(served, told("p0", best_action=0, action_values=[1.0, 0.0, 0.0, 0.0]))
    with pytest.raises(OutcomeConflictError, match="with another reward"):
        record(served, told("p2", 1.0), told("p2", 2.0))
    assert rewards(served) == {"p0": 1.0}


def test_an_unknown_decision_is_refused_and_a_fresh_one_is_known(served: Engine) -> None:
    """An outcome told right after the answer is lost, or one for nothing is stored."""
    with pytest.raises(UnknownPredictionError, match="'p9' is not in the log"):
        record(served, told("p0"), told("p9"))
    assert rewards(served) == {}
    fresh = {"p9": {"agent": "execution", "episode_id": "p9"}}
    assert record(served, told("p9"), unshipped=fresh) == (1, 0)


@pytest.mark.parametrize(
    ("outcome", "field", "message"),
    [
        (told(reward=101.0), "outcomes.0.reward", "101 is not within execution's -100 to 100"),
        (told(done=False), "outcomes.0.done", "ends its episode"),
        (told(best_action=4, action_values=[0.0] * 4), "outcomes.0.best_action", "4 is not one of execution's 4"),
        (told(best_action=1, action_values=[0.0] * 3), "outcomes.0.action_values", "3 values for execution's 4"),
        (
            told(best_action=1, action_values=[0.0, 1.0, -1e39, 0.0]),
            "outcomes.0.action_values",
            r"-1e\+39 is beyond single precision",
        ),
        (
            told(best_action=1, action_values=[0.0, 1.0, 2.5, 0.0]),
            "outcomes.0.best_action",
            "action 1 is worth 1, another one 2.5",
        ),
    ],
)
def test_what_does_not_fit_the_agent_is_refused(
    served: Engine, outcome: OutcomeRequest, field: str, message: str
) -> None:
    """A reward in another unit gets into the training data, or a label that contradicts itself."""
    with pytest.raises(OutcomeFieldError, match=message) as refused:
        record(served, outcome, told("p1"))
    assert refused.value.field == field
    assert rewards(served) == {}


def test_any_of_several_best_actions_is_a_label(served: Engine) -> None:
    """Whoever breaks ties in another way than the first of equals cannot tell a label."""
    assert record(served, told(best_action=2, action_values=[3.0, -3.4e38, 3.0, 3.0])) == (1, 0)


def test_decisions_of_an_episode_may_be_unfinished(served: Engine) -> None:
    """Only the last decision of a cycle ends it."""
    assert record(served, told("e0", done=False), told("e1")) == (2, 0)


def test_an_absent_label_is_null(served: Engine) -> None:
    """Every outcome counts as labelled for a query that looks for labels."""
    record(served, told("p0"), told("p1", best_action=0, action_values=[1.0, 0.0, 0.0, 0.0]))
    with read_transaction(served) as session:
        query = select(OutcomeRecord.prediction_id).where(OutcomeRecord.action_values.is_not(None))
        assert session.scalars(query).all() == ["p1"]


def test_many_at_once(engine: Engine) -> None:
    """A thousand outcomes are more keys than a database takes in one statement."""
    with transaction(engine) as session:
        session.add_all(prediction_row(SPEC, f"m{i}") for i in range(1000))
    assert record(engine, *(told(f"m{i}", i / 100) for i in range(1000))) == (1000, 0)
    assert record(engine, *(told(f"m{i}", i / 100) for i in range(1000))) == (0, 1000)
