"""Rows of the operational tables as serving writes them: predictions and outcomes of any agent."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import ArrayLike
from sqlalchemy import Engine

from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.database import transaction
from mlops_assets.foundation.tables import Base, OutcomeRecord, PredictionRecord

SERVED_AT = datetime(2026, 3, 9, 12, tzinfo=UTC)


def state_bytes(values: ArrayLike) -> bytes:
    """A state vector as the table holds it: float32, little-endian."""
    return np.asarray(values, dtype="<f4").tobytes()


def prediction_row(spec: AgentSpec, prediction_id: str, **changes: object) -> PredictionRecord:
    """A decision as served: without an episode, every number of the state 0.5, the second action; `changes` by column."""
    columns: dict[str, object] = {
        "prediction_id": prediction_id,
        "event_time": SERVED_AT,
        "agent": spec.name,
        "agent_id": f"{spec.name}-shop",
        "test_id": "tests/cart::adds",
        "requirement_id": "",
        "requirement_text": "",
        "episode_id": prediction_id,
        "step": 0,
        "ui_framework": "react",
        "browser": "chromium",
        "test_type": "e2e",
        "model_name": spec.registered_model,
        "model_version": "1.0.0",
        "model_alias": "champion",
        "experiment": None,
        "variant": "champion",
        "treatment_share": None,
        "arms": None,
        "aa_arm": None,
        "user_hash": None,
        "state": state_bytes(np.full(len(spec.state_fields), 0.5)),
        "missing_features": [],
        "q_values": [0.0, 1.0, *[0.0] * (len(spec.actions) - 2)],
        "action": 1,
        "propensity": 0.9,
        "explored": False,
        "confidence": 0.5,
        "latency_ms": 1.5,
        "cached": False,
        "status": "ok",
        "fallback": None,
        "channel": "http",
    }
    unknown = sorted(changes.keys() - columns.keys())
    assert not unknown, f"prediction has no column {unknown}"
    return PredictionRecord(**{**columns, **changes})


def outcome_row(
    prediction: PredictionRecord,
    reward: float,
    *,
    done: bool = True,
    best_action: int | None = None,
    action_values: Sequence[float] | None = None,
    occurred_at: datetime | None = None,
    received_at: datetime | None = None,
    outcome_id: int | None = None,
) -> OutcomeRecord:
    """What came of a prediction, five minutes after it; `outcome_id` None lets the database number it."""
    happened = occurred_at or prediction.event_time + timedelta(minutes=5)
    row = OutcomeRecord(
        prediction_id=prediction.prediction_id,
        agent=prediction.agent,
        reward=reward,
        done=done,
        best_action=best_action,
        action_values=None if action_values is None else list(action_values),
        occurred_at=happened,
        received_at=received_at or happened,
    )
    if outcome_id is not None:
        row.id = outcome_id
    return row


def episode_rows(spec: AgentSpec, episode_id: str, steps: int, **changes: object) -> list[PredictionRecord]:
    """The predictions of one episode, a minute apart."""
    begin = changes.pop("event_time", SERVED_AT)
    assert isinstance(begin, datetime)
    return [
        prediction_row(
            spec,
            f"{episode_id}-{step}",
            **{"episode_id": episode_id, "step": step, "event_time": begin + timedelta(minutes=step), **changes},
        )
        for step in range(steps)
    ]


def write(engine: Engine, rows: Iterable[Base]) -> None:
    """Insert rows in their order, in one transaction."""
    with transaction(engine) as session:
        for row in rows:
            session.add(row)
            session.flush()
