"""Decisions of an experiment as the prediction log has them, with what came of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Select, SQLColumnExpression, Text, and_, case, cast, null, select
from sqlalchemy.orm import Session, aliased

from mlops_assets.experiments.metrics import MetricScale, Pair, user_means
from mlops_assets.foundation.tables import OutcomeRecord, PredictionRecord, ShadowPredictionRecord

if TYPE_CHECKING:
    import pandas as pd

KEYS_A_QUERY = 5_000


@dataclass(frozen=True)
class Drawn:
    """Which decisions belong to a split of the users, and what the log says of it: arm, traffic share, versions of the arms."""

    where: tuple[ColumnElement[bool], ...]
    variant: SQLColumnExpression[Any]
    treatment_share: SQLColumnExpression[Any]
    arms: SQLColumnExpression[Any]


def drawn_by(experiment: str) -> Drawn:
    """Return those of an experiment or rollout."""
    one = PredictionRecord
    return Drawn((one.experiment == experiment,), one.variant, one.treatment_share, one.arms)


def decisions(
    session: Session, drawn: Drawn, begin: datetime | None, end: datetime, scale: MetricScale
) -> "pd.DataFrame":
    """Return a split's decisions with their outcomes, in their order of time: those after `begin`, up to `end`.

    Of users who are known, with the columns that `metrics.first_windows` takes on this scale; those of a pair, actions and
    ms in the shadow, where everybody had the treatment.
    """
    import pandas as pd  # half a second: what reads no decisions does without

    prediction, outcome = PredictionRecord, OutcomeRecord
    query = (
        select(
            prediction.user_hash,
            prediction.event_time,
            drawn.variant.label("variant"),
            drawn.treatment_share.label("treatment_share"),
            prediction.action,
            prediction.fallback,
            prediction.latency_ms,
            # As text: thousands of decisions have the same arms, which are read once.
            cast(drawn.arms, Text).label("arms"),
            outcome.reward,
            judged_best_action(),
            *(getattr(prediction, column) for column in scale.slices),
        )
        .outerjoin(outcome, outcome.prediction_id == prediction.prediction_id)
        .where(*drawn.where, prediction.event_time <= end, prediction.user_hash.is_not(None))
        .order_by(prediction.event_time, prediction.prediction_id)
    )
    if begin is not None:
        query = query.where(prediction.event_time > begin)
    if scale.pair is not None:
        query = _with_pair(query, scale.pair)
    rows = session.execute(query).all()
    frame = pd.DataFrame(rows, columns=[column["name"] for column in query.column_descriptions])
    arms = {text: json.loads(text) for text in frame["arms"].dropna().unique()}
    frame["arms"] = pd.Series([arms.get(text) for text in frame["arms"]], index=frame.index, dtype=object)
    return frame[frame["treatment_share"].notna()] if len(frame) else frame


def judged_best_action() -> Any:
    """Return the column `best_action`, NULL where the action was explored: that says nothing of the version's own choice.

    Which decisions are explored is drawn without looking, so the rest is no worse a sample; counted as wrong, they would keep
    every version of a deployment that explores below its floor.
    """
    explored = PredictionRecord.explored
    return case((explored, null()), else_=OutcomeRecord.best_action).label("best_action")


def _with_pair(query: Select[Any], pair: Pair) -> Select[Any]:
    """Add what both versions answered in the shadow to decisions of the treatment for everybody."""
    for name, version in (("first", pair.first), ("second", pair.second)):
        asked = aliased(ShadowPredictionRecord)
        same = and_(
            asked.prediction_id == PredictionRecord.prediction_id,
            asked.model_name == pair.model_name,
            asked.model_version == version,
            PredictionRecord.treatment_share == 1.0,
        )
        columns = asked.action.label(f"{name}_action"), asked.latency_ms.label(f"{name}_ms")
        query = query.add_columns(*columns).outerjoin(asked, same)
    return query


def metrics_before(
    session: Session, experiment: str, users: Sequence[str], days: float, scale: MetricScale
) -> dict[str, dict[str, float]]:
    """Return metrics of users in the days before the experiment's first decision, of those who were there."""
    if not (users and days):
        return {}
    import pandas as pd

    prediction, outcome = PredictionRecord, OutcomeRecord
    first = session.execute(
        select(prediction.agent, prediction.event_time)
        .where(prediction.experiment == experiment)
        .order_by(prediction.event_time)
        .limit(1)
    ).one()
    begin = first.event_time - timedelta(days=days)
    columns = (
        prediction.user_hash, prediction.agent, prediction.action, prediction.fallback, prediction.latency_ms,
        outcome.reward, judged_best_action(),
    )  # fmt: skip
    found: dict[str, dict[str, float]] = {}
    for start in range(0, len(users), KEYS_A_QUERY):
        query = (
            select(*columns)
            .outerjoin(outcome, outcome.prediction_id == prediction.prediction_id)
            .where(
                prediction.user_hash.in_(users[start : start + KEYS_A_QUERY]),
                prediction.event_time >= begin,
                prediction.event_time < first.event_time,
            )
        )
        frame = pd.DataFrame(session.execute(query).all(), columns=[column.name for column in columns])
        # Here and not in the query: SQLite would read the agent's whole days for it, and not by user.
        rows = frame[frame["agent"] == first.agent]
        found.update(user_means(rows, scale))
    return found
