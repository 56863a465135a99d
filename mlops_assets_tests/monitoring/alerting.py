"""Findings, policies and times for tests of alerts."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, select

from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.policies import AlertingPolicy, ChannelName, DeliveryLimits
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.tables import AlertDelivery
from mlops_assets.monitoring.alerts import raise_alert, recover
from mlops_assets.monitoring.findings import Alert, Finding, Routing
from mlops_assets.monitoring.severity import Severity

# A Monday, outside quiet hours.
NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
KEY = "execution-agent-dqn:error_rate"
ALL: tuple[ChannelName, ...] = ("log", "slack", "slack_alerts", "email", "pagerduty", "sentry")


def policy(**changes: Any) -> AlertingPolicy:
    return load_profile("aiwebtest").alerting.model_copy(update=changes)


def limits(**changes: float) -> DeliveryLimits:
    return policy().delivery.model_copy(update=changes)


def routing(*channels: ChannelName, **changes: Any) -> Routing:
    return Routing(policy(**changes), frozenset(channels or ALL))


def finding(severity: str = "WARNING", key: str = KEY, **changes: Any) -> Finding:
    values = {
        "title": "Error rate 0.013",
        "body": "error rate is 0.013, at or above 0.01",
        "source": "performance",
        "agent": "execution",
        "model_name": "execution-agent-dqn",
        "details": {"value": 0.013},
        **changes,
    }
    return Finding(key=key, severity=Severity(severity), **values)


def see(engine: Engine, found: Finding, to: Routing, now: datetime) -> Alert:
    with transaction(engine) as session:
        return raise_alert(session, found, to, now)


def gone(engine: Engine, key: str, to: Routing, now: datetime, **options: Any) -> Alert | None:
    with transaction(engine) as session:
        return recover(session, key, to, now, **options)


def outbox(engine: Engine) -> list[AlertDelivery]:
    with read_transaction(engine) as session:
        return list(session.scalars(select(AlertDelivery).order_by(AlertDelivery.id)))


def told(engine: Engine, channel: str) -> list[str]:
    return [row.kind for row in outbox(engine) if row.channel == channel]
