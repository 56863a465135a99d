"""The desk: the names of the sources, and handlers that react in the same process."""

from datetime import timedelta

import pytest
from sqlalchemy import Engine

from mlops_assets.foundation.clock import FixedClock
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.policies import ChannelName
from mlops_assets.monitoring.alerts import alerts
from mlops_assets.monitoring.desk import AlertDesk
from mlops_assets.monitoring.findings import Alert
from mlops_assets_tests.monitoring.alerting import KEY, NOW, finding, outbox, routing


def desk_of(engine: Engine, *channels: ChannelName) -> tuple[AlertDesk, FixedClock]:
    clock = FixedClock(NOW)
    return AlertDesk(engine, routing(*channels), clock), clock


def test_handlers_hear_of_every_occurrence_once_it_is_written(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """A handler that pauses an experiment misses the alert, or one that fails keeps people from being told."""
    desk, clock = desk_of(engine)
    heard: list[tuple[str, int, int]] = []

    def pause(alert: Alert) -> None:
        heard.append((alert.state.status, alert.state.occurrences, len(alerts(engine, open_only=False))))

    def broken(_alert: Alert) -> None:
        raise RuntimeError("somebody else's bug")

    desk.register_alert_handler(broken)
    desk.register_alert_handler(pause)
    desk.raise_alert(finding())
    desk.raise_alert(finding())
    assert desk.acknowledge(KEY, "ana").state.acknowledged_by == "ana"
    assert desk.recover(KEY) is None
    clock.instant += timedelta(minutes=11)
    assert desk.recover(KEY, note="over") is not None
    assert heard == [("open", 1, 1), ("open", 2, 1), ("recovered", 2, 1)]
    assert caplog.text.count("an alert handler failed on alert 1") == 3


def test_alerts_by_title(engine: Engine) -> None:
    """MON-10: `send_alert(title, message, severity)` with the words of any source; twice is one alert."""
    desk, clock = desk_of(engine)
    first, again = (desk.send_alert("Drift Warning", f"psi {psi}", "medium") for psi in (0.21, 0.22))
    assert first is not None
    assert again is not None
    assert (first.id, first.state.severity) == (again.id, "WARNING")
    assert (again.state.occurrences, again.finding.body) == (2, "psi 0.22")
    worse = desk.send_alert("Drift Warning", "psi 0.4", "high")
    assert worse is not None
    assert worse.state.severity == "CRITICAL"
    clock.instant += timedelta(minutes=11)
    assert desk.send_alert("Drift Warning", "psi 0.01", "OK") is None
    assert alerts(engine) == []
    with pytest.raises(InputError, match="'terrible' is no severity"):
        desk.send_alert("title", "text", "terrible")


def test_notifications(engine: Engine) -> None:
    """What happened opens an alert that somebody has to close, or goes to every channel."""
    desk, clock = desk_of(engine, "log", "slack", "email")
    desk.send_slack_message("#ml-ops", "deploying\nversion 1.2.0")
    desk.send_notification("email", "done")
    desk.send_notification("email", "done")
    clock.instant += timedelta(seconds=1)
    desk.send_notification("email", "done")
    assert alerts(engine) == []
    rows = [(row.channel, row.message["title"], row.message["body"]) for row in outbox(engine) if row.channel != "log"]
    assert rows == [
        ("slack", "deploying", "deploying\nversion 1.2.0"),
        ("email", "done", "done"),
        ("email", "done", "done"),
    ]


@pytest.mark.parametrize(
    ("channel", "message", "problem"),
    [
        ("#general", "text", "'#general' is no channel"),
        ("pagerduty", "text", "channel pagerduty is not set here"),
        ("email", "text", "channel email is not set here"),
        ("slack", " ", "the message is empty"),
    ],
)
def test_what_would_reach_nobody_is_refused(sqlite_engine: Engine, channel: str, message: str, problem: str) -> None:
    """A message to a channel that is not there is taken for told."""
    desk, _ = desk_of(sqlite_engine, "log", "slack")
    with pytest.raises(InputError, match=problem):
        desk.send_notification(channel, message)
    with pytest.raises(InputError):
        desk.send_slack_message(channel, message)
    assert outbox(sqlite_engine) == []
