"""Traffic of one version as the server logs it, written in bulk: decisions over hours, and what came of them."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import Engine

from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.database import insert_missing, transaction
from mlops_assets.foundation.tables import OutcomeRecord
from mlops_assets.serving.prediction_rows import insert_predictions
from mlops_assets_tests.experiences.served import outcome_row, prediction_row

Changes = Callable[[int], Mapping[str, Any]]
_A_TRANSACTION = 20_000


def serve(
    engine: Engine,
    spec: AgentSpec,
    count: int,
    *,
    start: datetime,
    hours: float = 24.0,
    prefix: str = "p",
    version: str = "1.0.0",
    accuracy: float = 0.9,
    labelled: float = 1.0,
    seed: int = 0,
    changes: Changes = lambda _row: {},
) -> None:
    """Write `count` decisions spread evenly over the hours, an episode for every four; the share `labelled` gets outcomes.

    States are uniform in 0..1, latencies log-normal around 2 ms; the action is the greedy one, and the best with probability
    `accuracy`. `changes` overrides columns by row.
    """
    random = np.random.default_rng(seed)
    states = random.random((count, len(spec.state_fields))).astype("<f4")
    values = random.random((count, len(spec.actions))).round(4)
    right = random.random(count) < accuracy
    told = random.random(count) < labelled
    latency = np.exp(random.normal(np.log(2.0), 0.3, count))
    template, outcome = columns_of(prediction_row(spec, "template")), None
    for first in range(0, count, _A_TRANSACTION):
        predictions, outcomes = [], []
        for row in range(first, min(first + _A_TRANSACTION, count)):
            action = int(values[row].argmax())
            made = {
                **template,
                "prediction_id": f"{prefix}{row:07d}",
                "event_time": start + timedelta(seconds=row * hours * 3600 / count),
                "episode_id": f"{prefix}-episode-{row // 4}",
                "step": row % 4,
                "model_version": version,
                "user_hash": f"user-{row % 50}" if row % 3 else None,
                "state": states[row].tobytes(),
                "q_values": values[row].tolist(),
                "action": action,
                "confidence": float(values[row].max()),
                "latency_ms": float(latency[row]),
                "browser": ("chromium", "firefox", "webkit")[row % 3],
                **changes(row),
            }
            predictions.append(made)
            if told[row]:
                best = action if right[row] else (action + 1) % len(spec.actions)
                gains = [float(number == best) for number in range(len(spec.actions))]
                if outcome is None:
                    outcome = columns_of(outcome_row(prediction_row(spec, "template"), 1.0))
                    del outcome["id"]
                outcomes.append(
                    {
                        **outcome,
                        "prediction_id": made["prediction_id"],
                        "reward": 1.0 if right[row] else -1.0,
                        "done": row % 4 == 3,
                        "best_action": best,
                        "action_values": gains,
                        "occurred_at": made["event_time"] + timedelta(minutes=5),
                        "received_at": made["event_time"] + timedelta(minutes=30),
                    }
                )
        with transaction(engine) as session:
            insert_predictions(session, predictions)
            insert_missing(session, OutcomeRecord, outcomes)


def columns_of(record: Any) -> dict[str, Any]:
    """Return what a row that is not written yet holds, as `insert_missing` takes it."""
    return {
        column.key: getattr(record, column.key) for column in record.__table__.columns if hasattr(record, column.key)
    }
