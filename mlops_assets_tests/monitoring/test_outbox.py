"""Rows of the outbox: which channels were told, and that what waits lets nothing overtake it."""

from datetime import timedelta

from sqlalchemy import Engine

from mlops_assets.foundation.database import transaction
from mlops_assets.foundation.tables import AlertDelivery
from mlops_assets.monitoring.notices import Notice
from mlops_assets.monitoring.outbox import channels_told, write_notice
from mlops_assets_tests.monitoring.alerting import NOW, finding, outbox, routing, see


def test_the_end_goes_to_who_was_told(engine: Engine) -> None:
    """A channel that got the escalation alone never hears that it is over."""
    alert = see(engine, finding(), routing("log", "slack_alerts"), NOW)
    with transaction(engine) as session:
        write_notice(session, alert, Notice("escalated", NOW), ("email",), NOW, "")
        assert channels_told(session, alert.id) == {"log", "slack_alerts", "email"}
        assert channels_told(session, alert.id + 1) == frozenset()


def test_what_was_refused_keeps_its_wait(engine: Engine) -> None:
    """A message that the receiver refuses is tried again at once, whenever something else is told of the same key."""
    alert = see(engine, finding(), routing("log", "slack_alerts"), NOW)
    later = NOW + timedelta(minutes=5)
    with transaction(engine) as session:
        for row in session.query(AlertDelivery):
            row.due_at = later
            row.attempts = 1 if row.channel == "log" else 0
        session.flush()
        write_notice(session, alert, Notice("repeated", NOW), ("log", "slack_alerts"), NOW, "")
    due = {row.channel: row.due_at for row in outbox(engine) if row.kind == "raised"}
    assert due == {"log": later, "slack_alerts": NOW}
