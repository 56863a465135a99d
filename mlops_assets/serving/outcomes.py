"""What came of served decisions: recorded once each, however often and however late it is told."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from mlops_assets.foundation.agents import AgentSpec, agent_spec
from mlops_assets.foundation.database import insert_missing, transaction
from mlops_assets.foundation.errors import InputError, PermanentError
from mlops_assets.foundation.tables import OutcomeRecord, PredictionRecord
from mlops_assets.serving.requests import OutcomeRequest

_KEYS_AT_ONCE = 500
_LARGEST = float(np.finfo(np.float32).max)
_SAME = ("reward", "done", "best_action", "action_values")


class UnknownPredictionError(InputError):
    """An outcome names a prediction that is not in the log, or not yet."""


class OutcomeConflictError(PermanentError):
    """Another outcome of the same prediction is recorded already."""


class OutcomeFieldError(InputError):
    """A field of one outcome does not fit the decision; `field` is its path in the request."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message


@dataclass(frozen=True)
class Recorded:
    """How many outcomes are new, and how many had been told before."""

    accepted: int
    repeated: int


def record_outcomes(
    engine: Engine,
    outcomes: Sequence[OutcomeRequest],
    *,
    unshipped: Callable[[str], Mapping[str, Any] | None],
    now: datetime,
) -> Recorded:
    """Record all of them in one transaction, or none.

    Args:
        engine: operational database.
        outcomes: what came of decisions; the same outcome twice is one.
        unshipped: finds a decision that is answered but not in the database yet.
        now: when they are told.

    Raises:
        UnknownPredictionError: a prediction is not known.
        OutcomeConflictError: a prediction has another outcome already, or gets two in this request.
        OutcomeFieldError: a reward or an action out of the agent's range, a decision of no episode that is not done, or
            action values that are not one for each action, finite as float32, and largest for the best action.
        StorageError: the database does not answer.
    """
    rows: dict[str, dict[str, Any]] = {}
    with transaction(engine) as session:
        decisions = _decisions(session, [one.prediction_id for one in outcomes], unshipped)
        for i, one in enumerate(outcomes):
            row = _row(one, decisions, i, now)
            _require_same(rows.setdefault(one.prediction_id, row), row)
        # In one order for everybody: two requests about the same decisions would wait for each other.
        rows = dict(sorted(rows.items()))
        known = set(_stored(session, list(rows)))
        for begin in range(0, len(rows), _KEYS_AT_ONCE):
            insert_missing(session, OutcomeRecord, list(rows.values())[begin : begin + _KEYS_AT_ONCE])
        # After the insert: what a request beside this one recorded in between is seen as well.
        for prediction_id, stored in _stored(session, list(rows)).items():
            _require_same(
                {name: getattr(stored, name) for name in _SAME} | {"prediction_id": prediction_id}, rows[prediction_id]
            )
    return Recorded(accepted=len(rows) - len(known), repeated=len(outcomes) - len(rows) + len(known))


def _decisions(
    session: Session, ids: Sequence[str], unshipped: Callable[[str], Mapping[str, Any] | None]
) -> dict[str, tuple[str, bool]]:
    """Agent of each decision, and whether it is an episode of its own."""
    found = {key: row for key in ids if (row := unshipped(key)) is not None}
    decisions = {key: (row["agent"], row["episode_id"] == key) for key, row in found.items()}
    others = [key for key in dict.fromkeys(ids) if key not in decisions]
    columns = (PredictionRecord.prediction_id, PredictionRecord.agent, PredictionRecord.episode_id)
    for begin in range(0, len(others), _KEYS_AT_ONCE):
        query = select(*columns).where(PredictionRecord.prediction_id.in_(others[begin : begin + _KEYS_AT_ONCE]))
        decisions |= {key: (agent, episode == key) for key, agent, episode in session.execute(query)}
    return decisions


def _row(one: OutcomeRequest, decisions: Mapping[str, tuple[str, bool]], index: int, now: datetime) -> dict[str, Any]:
    if one.prediction_id not in decisions:
        raise UnknownPredictionError(
            f"prediction {one.prediction_id!r} is not in the log; a decision is known a second after its answer at the "
            "latest: check the id, or try again"
        )
    agent, own_episode = decisions[one.prediction_id]
    spec, path = agent_spec(agent), f"outcomes.{index}"
    if not spec.reward_low <= one.reward <= spec.reward_high:
        raise OutcomeFieldError(
            f"{path}.reward", f"{one.reward:g} is not within {agent}'s {spec.reward_low:g} to {spec.reward_high:g}"
        )
    if own_episode and not one.done:
        raise OutcomeFieldError(f"{path}.done", "a decision without episode_id ends its episode; give true")
    if one.best_action is not None and one.action_values is not None:
        _check_label(spec, one.best_action, one.action_values, path)
    return {
        "prediction_id": one.prediction_id,
        "agent": agent,
        "reward": one.reward,
        "done": one.done,
        "best_action": one.best_action,
        "action_values": one.action_values,
        "occurred_at": now,
        "received_at": now,
    }


def _check_label(spec: AgentSpec, best: int, values: Sequence[float], path: str) -> None:
    """Refuse a label that the validation of training data would refuse, or that contradicts itself."""
    actions = len(spec.actions)
    if best >= actions:
        raise OutcomeFieldError(f"{path}.best_action", f"{best} is not one of {spec.name}'s {actions} actions")
    if len(values) != actions:
        raise OutcomeFieldError(f"{path}.action_values", f"{len(values)} values for {spec.name}'s {actions} actions")
    # They are learnt from as float32, in which 1e39 is infinite.
    beyond = [value for value in values if abs(value) > _LARGEST]
    if beyond:
        raise OutcomeFieldError(f"{path}.action_values", f"{beyond[0]:g} is beyond single precision ({_LARGEST:g})")
    if values[best] != max(values):
        raise OutcomeFieldError(
            f"{path}.best_action",
            f"action {best} is worth {values[best]:g}, another one {max(values):g}; give an action of the largest value",
        )


def _require_same(stored: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    different = [name for name in _SAME if stored[name] != told[name]]
    if different:
        raise OutcomeConflictError(
            f"prediction {told['prediction_id']!r} has another outcome already, with another {', '.join(different)}; "
            "an outcome is told once, and not changed afterwards"
        )


def _stored(session: Session, ids: Sequence[str]) -> dict[str, OutcomeRecord]:
    found: dict[str, OutcomeRecord] = {}
    for begin in range(0, len(ids), _KEYS_AT_ONCE):
        query = select(OutcomeRecord).where(OutcomeRecord.prediction_id.in_(ids[begin : begin + _KEYS_AT_ONCE]))
        found |= {record.prediction_id: record for record in session.scalars(query)}
    return found
