"""Gauges of triggers, decisions and trainings, as the operational database has them."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import product
from typing import Any, Final, get_args

from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.tables import RetrainingEvaluationRecord, RetrainingRunRecord, TriggerSignalRecord
from mlops_assets.retraining.decide import Verdict
from mlops_assets.retraining.requests import RunStatus

_DECISIONS_DAYS: Final = 7


def retraining_families(session: Session, now: datetime) -> list[Metric]:
    """Read every gauge of this room in the caller's transaction, in four queries.

    Args:
        session: one consistent view of the operational database.
        now: time of the scrape, from which ages and days are counted.
    """
    return [_signals(session), _decisions(session, now), _runs(session), _last_success(session, now)]


def _signals(session: Session) -> Metric:
    record = TriggerSignalRecord
    query = select(record.agent, func.count()).where(record.settled_by.is_(None)).group_by(record.agent)
    return _family(
        "mlops_retraining_signals_pending",
        "Triggers that wait for a training.",
        ["agent"],
        _counts(session, query, ((agent,) for agent in AGENTS)),
    )


def _decisions(session: Session, now: datetime) -> Metric:
    record = RetrainingEvaluationRecord
    query = (
        select(record.agent, record.decision, func.count())
        .where(record.last_evaluated_at >= now - timedelta(days=_DECISIONS_DAYS))
        .group_by(record.agent, record.decision)
    )
    return _family(
        "mlops_retraining_decisions",
        f"Evaluations of triggers in the last {_DECISIONS_DAYS} days; in a row with the same outcome they are one.",
        ["agent", "outcome"],
        _counts(session, query, product(AGENTS, get_args(Verdict))),
    )


def _runs(session: Session) -> Metric:
    record = RetrainingRunRecord
    query = select(record.agent, record.status, func.count()).group_by(record.agent, record.status)
    return _family(
        "mlops_retraining_runs",
        "Trainings that were asked for, by what became of them.",
        ["agent", "status"],
        _counts(session, query, product(AGENTS, get_args(RunStatus))),
    )


def _last_success(session: Session, now: datetime) -> Metric:
    """An agent without a successful retraining has no series: its age is not known."""
    record = RetrainingRunRecord
    query = select(record.agent, func.max(record.ended_at)).where(record.status == "succeeded").group_by(record.agent)
    ages: dict[tuple[str, ...], float] = {
        (agent,): (now - ended).total_seconds() for agent, ended in session.execute(query) if ended is not None
    }
    return _family(
        "mlops_retraining_last_success_age_seconds", "Time since the last retraining that ended well.", ["agent"], ages
    )


def _counts(session: Session, query: Select[Any], known: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
    """Rows of labels and a count; what is known to be possible, and is not among them, is 0."""
    counts = dict.fromkeys(known, 0.0)
    for *labels, count in session.execute(query):
        counts[tuple(labels)] = float(count)
    return counts


def _family(
    name: str, description: str, labels: Sequence[str], values: Mapping[tuple[str, ...], float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, description, labels=labels)
    for key, value in values.items():
        family.add_metric(key, float(value))
    return family
