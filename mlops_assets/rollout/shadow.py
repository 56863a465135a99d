"""What the shadow stage has found: the candidate's answers to the champion's requests, beside the champion's own.

Latencies are compared like with like: while a rollout is in the shadow, its champion is asked there as well, in the same
passes. What the candidate would do is its greedy action, so it is compared with the champion's greedy one, also where the
champion explored. Accuracy and value are those of both on the same decisions, with one-sided bounds from a bootstrap over
users, whose decisions are correlated.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sqlalchemy import Engine, and_, case, null, select
from sqlalchemy.orm import aliased

from mlops_assets.evaluation.intervals import cluster_bootstrap
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.tables import OutcomeRecord, PredictionRecord, ShadowPredictionRecord
from mlops_assets.rollout.advance import ShadowFindings
from mlops_assets.rollout.state import RolloutState

_SAMPLES = 1000
_SEED = 20260105
# Two-sided; its lower end is a one-sided bound at 95 %.
_CONFIDENCE = 0.90
_PERCENTILE = 0.95


def shadow_findings(engine: Engine, state: RolloutState, spec: AgentSpec) -> ShadowFindings:
    """Return what a rollout's requests without users of the candidate have shown so far."""
    frame = _read(engine, state)
    if not len(frame):
        return ShadowFindings()
    answered = frame[frame["candidate"].notna()]
    candidate = answered["candidate"].to_numpy(dtype=int)
    legal = (candidate >= 0) & (candidate < len(spec.actions))
    labelled = answered[answered["best_action"].notna().to_numpy() & legal]
    right = {who: (labelled[who] == labelled["best_action"]).to_numpy(dtype=float) for who in ("candidate", "champion")}
    return ShadowFindings(
        requests=len(frame),
        answered=len(answered),
        agreement=float((candidate == answered["champion"].to_numpy(dtype=int)).mean()) if len(answered) else None,
        illegal=int((~legal).sum()),
        request_ms=_percentile(frame["request_ms"]),
        champion_ms=_percentile(frame["champion_ms"]),
        candidate_ms=_percentile(answered["candidate_ms"]),
        labelled=len(labelled),
        champion_accuracy=float(right["champion"].mean()) if len(labelled) else None,
        candidate_accuracy=float(right["candidate"].mean()) if len(labelled) else None,
        accuracy_gain_lower=_lower(right["candidate"] - right["champion"], labelled["user"]),
        value_gain_lower=_value_gain(labelled, spec),
    )


def _read(engine: Engine, state: RolloutState) -> pd.DataFrame:
    prediction, outcome = PredictionRecord, OutcomeRecord
    candidate, champion = aliased(ShadowPredictionRecord), aliased(ShadowPredictionRecord)
    query = (
        select(
            prediction.prediction_id,
            prediction.user_hash.label("user"),
            prediction.action.label("champion"),
            # The greedy action is the one that was taken, where nothing was explored: Q-values are slow to read.
            case((prediction.explored.is_(True), prediction.q_values), else_=null()).label("q_values"),
            prediction.latency_ms.label("request_ms"),
            candidate.action.label("candidate"),
            candidate.latency_ms.label("candidate_ms"),
            champion.latency_ms.label("champion_ms"),
            outcome.best_action,
            outcome.action_values,
        )
        .outerjoin(candidate, _asked(candidate, state, state.candidate))
        .outerjoin(champion, _asked(champion, state, state.champion))
        .outerjoin(outcome, outcome.prediction_id == prediction.prediction_id)
        .where(prediction.experiment == state.name, prediction.treatment_share == 0.0)
    )
    with read_transaction(engine) as session:
        rows = session.execute(query).all()
    frame = pd.DataFrame(rows, columns=[column["name"] for column in query.column_descriptions])
    explored = frame["q_values"].notna()
    if explored.any():
        frame.loc[explored, "champion"] = [int(np.argmax(values)) for values in frame.loc[explored, "q_values"]]
    # Nobody knows whose it was: each is a user of its own.
    frame["user"] = frame["user"].fillna(frame["prediction_id"])
    return frame


def _asked(shadow: Any, state: RolloutState, version: str) -> Any:
    return and_(
        shadow.prediction_id == PredictionRecord.prediction_id,
        shadow.model_name == state.model_name,
        shadow.model_version == version,
    )


def _value_gain(labelled: pd.DataFrame, spec: AgentSpec) -> float | None:
    """Lower bound of the reward gained, as a share of its range; None where no action's reward is known."""
    known = labelled[labelled["action_values"].notna()]
    if not len(known):
        return None
    values = np.array(known["action_values"].tolist(), dtype=float)
    rows = np.arange(len(known))
    gain = values[rows, known["candidate"].to_numpy(dtype=int)] - values[rows, known["champion"].to_numpy(dtype=int)]
    return _lower(gain / (spec.reward_high - spec.reward_low), known["user"])


def _lower(gains: NDArray[np.float64], users: pd.Series) -> float | None:
    """One-sided 95 % lower bound of the mean over decisions, users resampled; None with too few users."""
    if not len(gains):
        return None
    sums = pd.DataFrame({"gain": gains, "decisions": 1.0}).groupby(users.to_numpy()).sum().to_numpy(dtype=np.float64)
    if (sums[:, 0] == sums[0, 0]).all() and not sums[0, 0]:
        # The same answers to everything: nothing varies that could be resampled.
        return 0.0 if len(sums) > 1 else None
    return cluster_bootstrap(
        sums, lambda total: total[..., 0] / total[..., 1], samples=_SAMPLES, confidence=_CONFIDENCE, seed=_SEED
    ).low


def _percentile(values: pd.Series) -> float | None:
    known = values.dropna()
    return float(known.quantile(_PERCENTILE)) if len(known) else None
