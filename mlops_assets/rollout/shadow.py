"""What the shadow stage has found: the candidate's answers to the champion's requests, beside the champion's own.

Latencies are compared like with like. A request's latency is mostly waiting for features and the log, a shadow's is of
evaluation alone, so while a rollout is in the shadow its champion is asked there as well, in the same passes; both count on
the requests that both answered. What the candidate would do is its greedy action, so it is compared with the champion's
greedy one, also where the champion explored. Accuracy and value are those of both on the same decisions; the bounds of their
difference are from a bootstrap over users, whose decisions are correlated. Each bound is 95 % at one look, and every tick
looks: the shadow spares users the clearly worse, proof that holds at every look is that of the stages with users.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Engine, and_, case, func, null, or_, select
from sqlalchemy.orm import Session, aliased

from mlops_assets.evaluation.intervals import cluster_bootstrap, cluster_sums, ratio
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.tables import OutcomeRecord, PredictionRecord, ShadowPredictionRecord
from mlops_assets.rollout.advance import ShadowFindings
from mlops_assets.rollout.state import RolloutState

if TYPE_CHECKING:
    import pandas as pd

# Shadows are asked behind the answer; both are in the database some 100 ms later. Time of the machine.
LAG = timedelta(seconds=2)
_SEED = 20260105
# Two-sided; each end is a one-sided bound at 95 %.
_CONFIDENCE = 0.90
# Of fewer, resamples say little about users who were not there: the bounds would be too close.
_FEWEST_USERS = 30
# Resamples, and how many users are drawn in all of them: the bounds of very many are close whatever the resamples' number.
_SAMPLES, _FEWEST_SAMPLES, _DRAWN = 1000, 200, 20_000_000
_PERCENTILE = 0.95


@dataclass(frozen=True)
class _Bounds:
    """One-sided bounds of a mean gain, each at 95 %; None with too few users."""

    lower: float | None = None
    upper: float | None = None


def shadow_findings(engine: Engine, state: RolloutState, spec: AgentSpec, until: datetime) -> ShadowFindings:
    """Return what requests have shown since the rollout is in the shadow.

    Args:
        engine: operational database.
        state: the rollout, in its shadow stage.
        spec: of its agent.
        until: time of the last decision that counts, on the clock of the decisions: `LAG` ago, lest requests that the
            candidate is just being asked count as unanswered.
    """
    frame = _read(engine, state, until)
    if not len(frame):
        return ShadowFindings()
    answered = frame[frame["candidate"].notna()]
    legal = answered["candidate"].between(0, len(spec.actions) - 1)
    timed = answered[answered["champion_ms"].notna()]
    labelled = answered[legal & answered["best_action"].notna()]
    right = {who: (labelled[who] == labelled["best_action"]).to_numpy(dtype=float) for who in ("candidate", "champion")}
    accuracy_gain = _bounds(right["candidate"] - right["champion"], labelled["user"])
    value_gain = _value_gain(labelled, spec)
    return ShadowFindings(
        requests=len(frame),
        answered=len(answered),
        agreement=float((answered["candidate"] == answered["champion"]).mean()) if len(answered) else None,
        illegal=int((~legal).sum()),
        request_ms=_percentile(frame["request_ms"]),
        champion_ms=_percentile(timed["champion_ms"]),
        candidate_ms=_percentile(timed["candidate_ms"]),
        labelled=len(labelled),
        champion_accuracy=float(right["champion"].mean()) if len(labelled) else None,
        candidate_accuracy=float(right["candidate"].mean()) if len(labelled) else None,
        accuracy_gain_lower=accuracy_gain.lower,
        accuracy_gain_upper=accuracy_gain.upper,
        value_gain_lower=value_gain.lower,
        value_gain_upper=value_gain.upper,
    )


def _read(engine: Engine, state: RolloutState, until: datetime) -> "pd.DataFrame":
    import pandas as pd

    prediction, outcome = PredictionRecord, OutcomeRecord
    candidate, champion = aliased(ShadowPredictionRecord), aliased(ShadowPredictionRecord)
    # JSON is slow to read. The greedy action is the one that was taken, unless another was explored; equal actions have
    # equal rewards.
    differs = or_(prediction.explored, candidate.action != prediction.action)
    query = (
        select(
            # Nobody knows whose it was: a user of its own.
            func.coalesce(prediction.user_hash, prediction.prediction_id).label("user"),
            prediction.action.label("champion"),
            case((prediction.explored, prediction.q_values), else_=null()).label("q_values"),
            prediction.latency_ms.label("request_ms"),
            candidate.action.label("candidate"),
            candidate.latency_ms.label("candidate_ms"),
            champion.latency_ms.label("champion_ms"),
            outcome.best_action,
            outcome.action_values.is_not(null()).label("valued"),
            case((differs, outcome.action_values), else_=null()).label("action_values"),
        )
        .outerjoin(candidate, _asked(candidate, state, state.candidate))
        .outerjoin(champion, _asked(champion, state, state.champion))
        .outerjoin(outcome, outcome.prediction_id == prediction.prediction_id)
        .where(
            prediction.experiment == state.name,
            prediction.treatment_share == 0.0,
            prediction.model_version == state.champion,
            prediction.event_time <= until,
        )
    )
    with read_transaction(engine) as session:
        begin = _begin(session, state)
        rows = session.execute(query if begin is None else query.where(prediction.event_time > begin)).all()
    frame = pd.DataFrame(rows, columns=[column["name"] for column in query.column_descriptions])
    explored = frame["q_values"].notna()
    if explored.any():
        frame.loc[explored, "champion"] = [int(np.argmax(values)) for values in frame.loc[explored, "q_values"]]
    return frame


def _begin(session: Session, state: RolloutState) -> datetime | None:
    """Time of the last decision with users of the candidate, where the rollout has come back to the shadow.

    It is on the clock of the decisions, which the ledger's times need not be on.
    """
    query = select(func.max(PredictionRecord.event_time)).where(
        PredictionRecord.experiment == state.name, PredictionRecord.treatment_share > 0.0
    )
    return session.scalar(query)


def _asked(shadow: type[ShadowPredictionRecord], state: RolloutState, version: str) -> ColumnElement[bool]:
    return and_(
        shadow.prediction_id == PredictionRecord.prediction_id,
        shadow.model_name == state.model_name,
        shadow.model_version == version,
    )


def _value_gain(labelled: "pd.DataFrame", spec: AgentSpec) -> _Bounds:
    """Bounds of the reward gained, as a share of its range; none where no action's reward is known."""
    known = labelled[labelled["valued"].to_numpy(dtype=bool)]
    gain = np.zeros(len(known))
    differing = np.flatnonzero((known["candidate"] != known["champion"]).to_numpy())
    if len(differing):
        rows = known.iloc[differing]
        values = np.array(rows["action_values"].tolist(), dtype=np.float64)
        gain[differing] = _of(values, rows["candidate"]) - _of(values, rows["champion"])
    return _bounds(gain / (spec.reward_high - spec.reward_low), known["user"])


def _of(values: NDArray[np.float64], actions: "pd.Series[Any]") -> NDArray[np.float64]:
    return np.asarray(values[np.arange(len(values)), actions.to_numpy(dtype=int)])


def _bounds(gains: NDArray[np.float64], users: "pd.Series[Any]") -> _Bounds:
    """Bounds of the mean over decisions, whole users resampled."""
    import pandas as pd

    numbers, names = pd.factorize(users)
    if len(names) < _FEWEST_USERS:
        return _Bounds()
    found = cluster_bootstrap(
        cluster_sums(np.column_stack([gains, np.ones(len(gains))]), numbers),
        ratio,
        samples=min(_SAMPLES, max(_FEWEST_SAMPLES, _DRAWN // len(names))),
        confidence=_CONFIDENCE,
        seed=_SEED,
    )
    return _Bounds(found.low, found.high)


def _percentile(values: "pd.Series[Any]") -> float | None:
    known = values.dropna()
    return float(known.quantile(_PERCENTILE)) if len(known) else None
