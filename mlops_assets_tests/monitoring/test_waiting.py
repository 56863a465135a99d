"""What waits, and why, as people read it."""

from datetime import timedelta

from sqlalchemy import Engine

from mlops_assets.foundation.database import transaction
from mlops_assets.foundation.tables import AlertChannelRecord
from mlops_assets.monitoring.waiting import waiting
from mlops_assets_tests.monitoring.alerting import NOW, finding, routing, see


def test_why_it_waits(engine: Engine) -> None:
    """Nobody hears of anything, and nobody can see why."""
    see(engine, finding(), routing("log", "slack_alerts", "sentry"), NOW)
    see(engine, finding(key="another"), routing("slack_alerts"), NOW)
    with transaction(engine) as session:
        since, until = NOW - timedelta(minutes=2), NOW + timedelta(minutes=5)
        session.add(
            AlertChannelRecord(
                channel="slack_alerts", failures=3, failing_since=since, not_before=until, problem="it answered 500"
            )
        )
    assert [str(one) for one in waiting(engine, ["log", "slack_alerts"])] == [
        "log: 1 notice waits until 2026-01-05 12:00:00 UTC",
        "sentry: 1 notice waits until 2026-01-05 12:00:00 UTC: it is not set here; see docs/alerts.md",
        "slack_alerts: 2 notices wait until 2026-01-05 12:05:00 UTC: it answered 500 (3 tries since 2026-01-05 11:58 UTC)",
    ]


def test_nothing_waits(engine: Engine) -> None:
    """An empty list is not everything told of channels that do not exist."""
    assert waiting(engine, ["log"]) == []
