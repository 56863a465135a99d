"""What the prediction log says about the last hours, and about an experiment: counts, latencies, outcomes, by arm."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Engine, Row, case, func, select
from sqlalchemy.orm import Session

from mlops_assets.experiments.decisions import judged_best_action
from mlops_assets.experiments.experiments import Experiment
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.tables import OutcomeRecord, PredictionRecord

_PERCENTILES = {"latency_p50_ms": 0.50, "latency_p95_ms": 0.95, "latency_p99_ms": 0.99}


Grouping = Literal["agent", "model_version", "variant"]


def monitoring_status(
    engine: Engine,
    start: datetime,
    end: datetime,
    *,
    by: Sequence[Grouping] = ("agent", "model_version", "variant"),
    agent: str | None = None,
) -> list[dict[str, Any]]:
    """Summarise the decisions with `start <= event_time < end`, one entry for each agent, version and variant.

    `mean_reward` and `accuracy` (share of labelled decisions that were the best) are over decisions with an outcome,
    None where there is none: unknown is not zero. `failed`: the candidate failed on the request, and the champion answered.
    `mean_missing_features`: entries of the state for which a default stood.

    Args:
        engine: operational database.
        start: aware.
        end: aware.
        by: what decisions have in common that are summarised together.
        agent: of one agent; None for all.

    Raises:
        StorageError: the database does not answer.
    """
    inside = [PredictionRecord.event_time >= start, PredictionRecord.event_time < end]
    if agent is not None:
        inside.append(PredictionRecord.agent == agent)
    columns = [getattr(PredictionRecord, name) for name in by]
    with read_transaction(engine) as session:
        groups = _grouped(session, columns, inside)
        return [
            {
                **{name: getattr(group, name) for name in by},
                **_figures(group),
                **_latencies(
                    session,
                    [*inside, *(column == getattr(group, column.key) for column in columns)],
                    group.predictions,
                ),
            }
            for group in groups
        ]


def experiment_status(engine: Engine, experiment: Experiment) -> dict[str, Any]:
    """Summarise an experiment: its split, and per variant decisions, users, and what came of them.

    Raises:
        StorageError: the database does not answer.
    """
    with read_transaction(engine) as session:
        groups = _grouped(session, [PredictionRecord.variant], [PredictionRecord.experiment == experiment.name])
    return {
        "name": experiment.name,
        "agent": experiment.agent,
        "status": experiment.status,
        "treatment_alias": experiment.treatment_alias,
        "treatment_share": experiment.treatment_share,
        "treatments": {arm: vars(one) for arm, one in experiment.treatments.items()},
        "created_at": experiment.created_at,
        "variants": {group.variant: _figures(group) for group in groups},
    }


def _grouped(session: Session, by: Sequence[Any], where: Sequence[ColumnElement[bool]]) -> Sequence[Row[Any]]:
    best = judged_best_action()
    correct = case((best == PredictionRecord.action, 1.0), else_=0.0)
    query = (
        select(
            *by,
            func.count().label("predictions"),
            func.count(PredictionRecord.user_hash.distinct()).label("users"),
            func.sum(case((PredictionRecord.status == "degraded", 1), else_=0)).label("degraded"),
            func.count(PredictionRecord.fallback).label("fallbacks"),
            func.sum(case((PredictionRecord.fallback == "failed", 1), else_=0)).label("failed"),
            func.sum(case((PredictionRecord.cached.is_(True), 1), else_=0)).label("cached"),
            func.avg(func.json_array_length(PredictionRecord.missing_features)).label("mean_missing_features"),
            func.avg(PredictionRecord.confidence).label("mean_confidence"),
            func.avg(PredictionRecord.latency_ms).label("latency_mean_ms"),
            func.count(OutcomeRecord.id).label("outcomes"),
            func.avg(OutcomeRecord.reward).label("mean_reward"),
            func.count(best).label("labelled"),
            func.avg(case((best.is_not(None), correct))).label("accuracy"),
        )
        .outerjoin(OutcomeRecord, OutcomeRecord.prediction_id == PredictionRecord.prediction_id)
        .where(*where)
        .group_by(*by)
        .order_by(*by)
    )
    return session.execute(query).all()


def _figures(group: Row[Any]) -> dict[str, Any]:
    counts = ("predictions", "users", "degraded", "fallbacks", "failed", "cached", "outcomes", "labelled")
    means = ("mean_missing_features", "mean_confidence", "latency_mean_ms", "mean_reward", "accuracy")
    found: dict[str, Any] = {name: int(getattr(group, name)) for name in counts}
    for name in means:
        value = getattr(group, name)
        found[name] = None if value is None else float(value)
    return found


def _latencies(session: Session, where: Sequence[ColumnElement[bool]], count: int) -> dict[str, float]:
    """Exact percentiles (nearest rank: the smallest with at least that share at or below it), read by position."""
    query = select(PredictionRecord.latency_ms).where(*where).order_by(PredictionRecord.latency_ms)
    ranks = {name: math.ceil(share * count) - 1 for name, share in _PERCENTILES.items()}
    return {name: float(session.scalars(query.offset(rank).limit(1)).one()) for name, rank in ranks.items()}
