"""From any answer to the data that made it: decision, feature values, model version, training snapshot, outcome."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Engine, select

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.tables import (
    ModelVersionRecord,
    OutcomeRecord,
    PredictionRecord,
    ShadowPredictionRecord,
    SnapshotRecord,
)

_HIDDEN = {"state", "q_values"}


def explain_prediction(
    engine: Engine, prediction_id: str, unshipped: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Return everything known about one served decision, JSON-able but for its times; None for an unknown one.

    `unshipped` is its log row where it is not in the database yet. What today's catalogue has no names for, since it has
    another number of them or the agent no more, goes by its position ("0", "1", ...), and `catalogue_changed` says so.

    Raises:
        StorageError: the database does not answer.
    """
    with read_transaction(engine) as session:
        record = session.get(PredictionRecord, prediction_id)
        if record is None and unshipped is None:
            return None
        row = (
            {c.name: getattr(record, c.name) for c in PredictionRecord.__table__.columns} if record else unshipped or {}
        )
        outcome = session.scalars(
            select(OutcomeRecord).where(OutcomeRecord.prediction_id == prediction_id)
        ).one_or_none()
        shadows = session.scalars(
            select(ShadowPredictionRecord).where(ShadowPredictionRecord.prediction_id == prediction_id)
        ).all()
        version = session.scalars(
            select(ModelVersionRecord).where(
                ModelVersionRecord.model_name == row["model_name"], ModelVersionRecord.semver == row["model_version"]
            )
        ).one_or_none()
        snapshot = (
            None
            if version is None
            else session.scalars(
                select(SnapshotRecord).where(
                    SnapshotRecord.agent == row["agent"], SnapshotRecord.data_hash == version.data_hash
                )
            ).one_or_none()
        )
    spec = AGENTS.get(row["agent"])
    state_fields, actions = (spec.state_fields, spec.actions) if spec else ((), ())
    state = np.frombuffer(row["state"], dtype="<f4").tolist()
    return {
        **{name: value for name, value in row.items() if name not in _HIDDEN},
        **_answer(actions, row["action"], row["q_values"]),
        "features": _named(state_fields, state),
        "catalogue_changed": (len(state), len(row["q_values"])) != (len(state_fields), len(actions)),
        "model": _model(row, version),
        "training_snapshot": _snapshot(snapshot),
        "outcome": _outcome(outcome),
        "shadows": [
            {"model_version": s.model_version, "action": s.action, **_answer(actions, s.action, s.q_values)}
            for s in shadows
        ],
    }


def _answer(actions: Sequence[str], action: int, q_values: Sequence[float]) -> dict[str, Any]:
    named = _named(actions, q_values)
    return {"action_name": list(named)[action], "q_values": named}


def _named(names: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """Values by name, or by position where the names are those of another catalogue."""
    known = names if len(names) == len(values) else [str(i) for i in range(len(values))]
    return dict(zip(known, values, strict=True))


def _model(row: Mapping[str, Any], version: ModelVersionRecord | None) -> dict[str, Any]:
    facts = {"name": row["model_name"], "version": row["model_version"], "alias": row["model_alias"]}
    if version is None:
        return facts
    return {
        **facts,
        "stage": version.stage,
        "mlflow_version": version.mlflow_version,
        "mlflow_run_id": version.run_id,
        "training_hash": version.training_hash,
        "data_hash": version.data_hash,
        "card": f"/models/{version.model_name}/{version.semver}/card",
    }


def _snapshot(record: SnapshotRecord | None) -> dict[str, Any] | None:
    if record is None:
        return None
    names = ("data_hash", "dvc_md5", "source", "rows", "first_event", "last_event", "label_cutoff", "status")
    return {name: getattr(record, name) for name in names}


def _outcome(record: OutcomeRecord | None) -> dict[str, Any] | None:
    if record is None:
        return None
    names = ("reward", "done", "best_action", "action_values", "occurred_at", "received_at")
    return {name: getattr(record, name) for name in names}
