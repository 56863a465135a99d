"""Gauges of drift, alerts and rollouts, as the operational database has them. Those of decisions are `serving/metrics.py`.

What is not known has no series: a model whose champion was never checked, or a statistic that a check could not compute.
A count that is known to be nothing is 0.
"""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy import and_, case, func, or_, select
from sqlalchemy.orm import Session

from mlops_assets.foundation.agents import AGENTS, AgentSpec
from mlops_assets.foundation.tables import AlertDelivery, AlertRecord, DriftCheckRecord, ModelVersionRecord
from mlops_assets.monitoring.drift_bands import ORDER
from mlops_assets.monitoring.summary import SEVERITIES
from mlops_assets.rollout.ledger import newest_states_within

# `retrying`: tried, and not taken yet. `delivered` holds also what was folded into a later notice.
DELIVERY_STATUSES: Final = ("delivered", "waiting", "retrying")


def monitoring_families(session: Session, now: datetime) -> list[Metric]:
    """Read every gauge of this room in the caller's transaction.

    The queries are as many as the agents, and some: they do not grow with checks, alerts or steps.

    Args:
        session: one consistent view of the operational database.
        now: time of the scrape, from which ages are counted.
    """
    checks = [check for spec in AGENTS.values() if (check := _champions_check(session, spec)) is not None]
    return [
        *_columns(checks),
        *_checks(checks, now),
        _open_alerts(session),
        *_deliveries(session, now),
        _rollouts(session),
    ]


def _champions_check(session: Session, spec: AgentSpec) -> DriftCheckRecord | None:
    """The newest check of the version that is in production; None where it has none, whatever was found of others."""
    check, version = DriftCheckRecord, ModelVersionRecord
    of_champion = and_(version.model_name == check.model_name, version.semver == check.model_version)
    query = (
        select(check)
        .join(version, of_champion)
        .where(check.agent == spec.name, check.model_name == spec.registered_model, version.stage == "Production")
        .order_by(check.window_end.desc(), check.id.desc())
    )
    return session.scalars(query.limit(1)).one_or_none()


def _columns(checks: Sequence[DriftCheckRecord]) -> list[Metric]:
    psi = _gauge(
        "model_drift_psi", "Population stability index of a column in the champion's newest drift check.", "feature"
    )
    ks = _gauge("model_drift_ks", "Kolmogorov-Smirnov's D of a column in the champion's newest drift check.", "feature")
    for check in checks:
        columns: dict[str, dict[str, Any]] = check.document.get("columns", {})
        for feature, statistics in columns.items():
            _add(psi, [check.model_name, feature], statistics.get("psi"))
            _add(ks, [check.model_name, feature], statistics.get("ks"))
    return [psi, ks]


def _checks(checks: Sequence[DriftCheckRecord], now: datetime) -> list[Metric]:
    score = GaugeMetricFamily(
        "model_drift_score",
        "Combined drift score of the predictions, 0 to 1, in the champion's newest check.",
        labels=["model_type", "model_version"],
    )
    drop = _gauge(
        "model_accuracy_drop_percent", "Drop of accuracy that is certain, in percent of the champion's own baseline."
    )
    verdict = _gauge(
        "model_drift_verdict", "1 for the verdict of the champion's newest check.", "model_version", "verdict"
    )
    age = _gauge("model_drift_check_age_seconds", "Time since the champion's newest drift check.")
    rows = _gauge("model_decisions_checked", "Decisions that the champion's newest drift check looked at.")
    for check in checks:
        name = check.model_name
        _add(score, [check.agent, check.model_version], check.combined)
        _add(drop, [name], None if check.accuracy_drop_rel is None else 100.0 * check.accuracy_drop_rel)
        for one in ORDER:
            _add(verdict, [name, check.model_version, one], float(one == check.verdict))
        _add(age, [name], (now - check.checked_at).total_seconds())
        _add(rows, [name], check.rows)
    return [score, drop, verdict, age, rows]


def _open_alerts(session: Session) -> Metric:
    family = GaugeMetricFamily(
        "mlops_alerts_open", "Alerts that have not recovered, acknowledged or not.", labels=["severity"]
    )
    query = (
        select(AlertRecord.severity, func.count())
        .where(AlertRecord.status != "recovered")
        .group_by(AlertRecord.severity)
    )
    counts = {**dict.fromkeys(SEVERITIES, 0), **{str(severity): count for severity, count in session.execute(query)}}
    for severity, count in counts.items():
        _add(family, [severity], count)
    return family


def _deliveries(session: Session, now: datetime) -> list[Metric]:
    """The outbox by channel; a channel that never had a notice has no series."""
    counts = GaugeMetricFamily(
        "mlops_alert_deliveries",
        "Notices in the outbox of alerts: " + ", ".join(DELIVERY_STATUSES) + ".",
        labels=["channel", "status"],
    )
    oldest = GaugeMetricFamily(
        "mlops_alert_oldest_waiting_seconds",
        "Time since the oldest undelivered notice was due, 0 where none is.",
        labels=["channel"],
    )
    row = AlertDelivery
    undelivered = row.delivered_at.is_(None)
    # A try that was refused moves `due_at`; then the time since it was written is what is left.
    due = case((row.attempts == 0, row.due_at), else_=row.created_at)
    query = select(
        row.channel,
        func.sum(case((undelivered, 0), else_=1)),
        func.sum(case((and_(undelivered, row.attempts == 0), 1), else_=0)),
        func.sum(case((and_(undelivered, row.attempts > 0), 1), else_=0)),
        # What quiet hours hold back waits for nobody.
        func.min(case((and_(undelivered, or_(row.attempts > 0, row.due_at <= now)), due), else_=None)),
    ).group_by(row.channel)
    for channel, *numbers, since in session.execute(query.order_by(row.channel)):
        for status, number in zip(DELIVERY_STATUSES, numbers, strict=True):
            _add(counts, [channel, status], number)
        _add(oldest, [channel], 0.0 if since is None else (now - since).total_seconds())
    return [counts, oldest]


def _rollouts(session: Session) -> Metric:
    family = _gauge("mlops_rollout_share", "Share of the users that the candidate of a rollout under way has.", "stage")
    for state in newest_states_within(session):
        if state.active:
            _add(family, [state.model_name, state.stage], state.share)
    return family


def _gauge(name: str, description: str, *labels: str) -> GaugeMetricFamily:
    """A gauge of models."""
    return GaugeMetricFamily(name, description, labels=["model_name", *labels])


def _add(family: GaugeMetricFamily, labels: Sequence[str], value: float | None) -> None:
    """Add one sample, unless its value is not known."""
    if value is not None and math.isfinite(value):
        family.add_metric(labels, float(value))
