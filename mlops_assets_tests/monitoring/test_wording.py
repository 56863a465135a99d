"""What people read: enough to act on, and one id by which a notice that came twice is known."""

from datetime import timedelta

from sqlalchemy import Engine

from mlops_assets.monitoring.alerts import alerts
from mlops_assets.monitoring.wording import NoticeMessage, as_read, headline, message_of
from mlops_assets_tests.monitoring.alerting import KEY, NOW, finding, gone, outbox, routing, see


def test_what_is_read(sqlite_engine: Engine) -> None:
    """Without the count and the time nobody knows whether it goes on."""
    see(sqlite_engine, finding(), routing(), NOW)
    see(sqlite_engine, finding("CRITICAL", title="Error rate 0.2"), routing(), NOW + timedelta(minutes=1))
    gone(sqlite_engine, KEY, routing(), NOW + timedelta(minutes=30), note="run 7 succeeded")
    first, worse, end = (
        NoticeMessage.model_validate(row.message) for row in outbox(sqlite_engine) if row.channel == "log"
    )
    assert [headline(one) for one in (first, worse, end)] == [
        "WARNING: Error rate 0.013 (execution-agent-dqn)",
        "WORSE, NOW CRITICAL: Error rate 0.2 (execution-agent-dqn)",
        "RECOVERED, WAS CRITICAL: Error rate 0.2 (execution-agent-dqn)",
    ]
    read = as_read(end)
    assert read.text.splitlines() == [
        "RECOVERED, WAS CRITICAL: Error rate 0.2 (execution-agent-dqn)",
        "error rate is 0.013, at or above 0.01",
        "run 7 succeeded",
        "seen 2 times since 2026-01-05 12:00:00 UTC",
        f"alert 1, notice 3, 2026-01-05 12:30:00 UTC, id {end.id}",
    ]
    assert read.subject == read.text.splitlines()[0]
    assert read.message_id == f"<{end.id}@alerts.mlops-assets>"
    assert "seen once since" in as_read(first).text


def test_a_title_of_several_lines_is_one_line(sqlite_engine: Engine) -> None:
    """A line break in a subject ends the head of the e-mail, and no server takes it."""
    see(sqlite_engine, finding(title="Error\r\nrate"), routing(), NOW)
    (row, *_) = outbox(sqlite_engine)
    assert headline(NoticeMessage.model_validate(row.message)) == "WARNING: Error rate (execution-agent-dqn)"


def test_ids_are_the_same_in_every_process(sqlite_engine: Engine) -> None:
    """A notice that is sent twice, by two processes, could not be known as one; two alerts would be taken for one."""
    see(sqlite_engine, finding(), routing(), NOW)
    (alert,) = alerts(sqlite_engine)
    one, again = (message_of(alert, "raised", 1, NOW, "") for _ in range(2))
    assert (one.id, one.incident) == (again.id, again.incident)
    assert one.id != message_of(alert, "repeated", 2, NOW, "").id
    assert len(one.id) == len(one.incident) == 32
    assert {row.message["id"] for row in outbox(sqlite_engine)} == {one.id}
