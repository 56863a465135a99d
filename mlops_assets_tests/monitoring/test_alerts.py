"""The store of alerts on both engines: one alert of each key, and each change with what is told of it."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Barrier

import pytest
from sqlalchemy import Engine, func, select

from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.policies import ChannelName
from mlops_assets.foundation.tables import AlertRecord, AuditEvent
from mlops_assets.monitoring.alerts import (
    acknowledge,
    alerts,
    announce,
    escalate,
    newest_alert,
    raise_alert,
    report,
)
from mlops_assets.monitoring.findings import Finding, Routing
from mlops_assets_tests.monitoring.alerting import KEY, NOW, finding, gone, outbox, routing, see, told

TO = routing()


def at(minutes: float) -> datetime:
    return NOW + timedelta(minutes=minutes)


def test_the_life_of_an_alert(engine: Engine) -> None:
    """What is kept, listed and told differ, and people look for an alert that is over."""
    first = see(engine, finding(), TO, at(0))
    see(engine, finding(title="Error rate 0.014"), TO, at(5))
    see(engine, finding("CRITICAL", title="Error rate 0.2"), TO, at(6))
    (now,) = alerts(engine)
    assert (now.id, now.finding.title, now.finding.details) == (first.id, "Error rate 0.2", {"value": 0.013})
    assert (now.state.severity, now.state.status, now.state.occurrences) == ("CRITICAL", "open", 3)
    assert (now.state.raised_at, now.state.last_seen_at, now.state.told_at) == (at(0), at(6), at(6))
    acknowledge(engine, first.id, user="ana@company.com", routing=TO, now=at(7))
    assert gone(engine, KEY, TO, at(8)) is None
    ended = gone(engine, KEY, TO, at(20), note="traffic went back")
    assert ended is not None
    assert (ended.id, ended.state.recovered_at, ended.state.acknowledged_by) == (first.id, at(20), "ana@company.com")
    assert alerts(engine) == []
    assert [one.state.status for one in alerts(engine, open_only=False)] == ["recovered"]
    assert told(engine, "log") == ["raised", "worsened", "acknowledged", "recovered"]
    assert told(engine, "slack_alerts") == ["raised", "worsened", "recovered"]
    assert told(engine, "pagerduty") == ["worsened", "acknowledged", "recovered"]
    assert told(engine, "slack") == []
    rows = outbox(engine)
    assert [row.number for row in rows if row.channel == "pagerduty"] == [2, 3, 4]
    assert {row.dedupe_key for row in rows} == {KEY}
    assert rows[-1].message["note"] == "traffic went back"
    # The same notice has the same id on every channel, and no two have one.
    ids = {(row.number, row.message["id"]) for row in rows}
    assert len(ids) == len({identity for _, identity in ids}) == 4
    assert len({row.message["incident"] for row in rows}) == 1


def test_a_new_alert_of_a_key_is_another_incident(engine: Engine) -> None:
    """PagerDuty takes the second outage for the first one, which it has closed."""
    one = see(engine, finding(), TO, at(0))
    gone(engine, KEY, TO, at(20))
    two = see(engine, finding(), TO, at(21))
    assert one.id != two.id
    assert two.state.occurrences == 1
    assert len({row.message["incident"] for row in outbox(engine)}) == 2


def test_what_is_rolled_back_is_not_told(engine: Engine) -> None:
    """People are told of a finding whose check failed and was not kept."""

    def check() -> None:
        with transaction(engine) as session:
            raise_alert(session, finding(), TO, NOW)
            raise RuntimeError("the check failed")

    with pytest.raises(RuntimeError, match="the check failed"):
        check()
    assert alerts(engine, open_only=False) == []
    assert outbox(engine) == []


def test_quiet_hours_hold_back_and_let_go(engine: Engine) -> None:
    """A warning wakes people; or what got worse at night waits behind it until the morning, or overtakes it."""
    night, morning = datetime(2026, 1, 5, 23, 0, tzinfo=NOW.tzinfo), datetime(2026, 1, 6, 6, 0, tzinfo=NOW.tzinfo)
    see(engine, finding(), TO, night)
    see(engine, finding(key="another"), TO, night)
    due = {(row.dedupe_key, row.channel): row.due_at for row in outbox(engine)}
    assert due[KEY, "slack_alerts"] == due[KEY, "sentry"] == morning
    assert due[KEY, "log"] == night
    see(engine, finding("CRITICAL"), TO, night + timedelta(minutes=10))
    rows = [row for row in outbox(engine) if row.channel == "slack_alerts"]
    assert [(row.dedupe_key, row.kind, row.due_at) for row in rows] == [
        (KEY, "raised", night + timedelta(minutes=10)),
        ("another", "raised", morning),
        (KEY, "worsened", night + timedelta(minutes=10)),
    ]


def test_escalation_is_once_and_not_for_what_is_looked_after(engine: Engine) -> None:
    """Two dispatchers call everybody twice, or somebody who works on it is called again."""
    for key in ("b", "a", "known", "warning"):
        see(engine, finding("WARNING" if key == "warning" else "CRITICAL", key), TO, at(0))
    acknowledge(engine, "known", user="ana", routing=TO, now=at(1))
    assert escalate(engine, TO, at(14.9)) == []
    assert [one.finding.key for one in escalate(engine, TO, at(15))] == ["a", "b"]
    assert escalate(engine, TO, at(16)) == []
    rows = [row for row in outbox(engine) if row.kind == "escalated"]
    assert {row.channel for row in rows} == {"log", "slack_alerts", "email", "pagerduty"}
    assert {row.message["escalated"] for row in rows} == {True}


@pytest.mark.parametrize("which", [7, "nothing"])
def test_acknowledging_nothing_is_refused(engine: Engine, which: int | str) -> None:
    """Somebody acknowledges an alert with a typo in its number, and the right one escalates."""
    with pytest.raises(InputError, match=rf"there is no alert '?{which}'?; `alerts` lists those that go on"):
        acknowledge(engine, which, user="ana", routing=TO, now=NOW)


def test_acknowledging_what_is_over_is_refused(engine: Engine) -> None:
    """The number of an alert that is over acknowledges the next one of its key, which nobody has seen."""
    old = see(engine, finding(), TO, at(0))
    gone(engine, KEY, TO, at(30))
    for which in (old.id, KEY):
        with pytest.raises(
            InputError, match=r"alert 1 \(execution-agent-dqn:error_rate\) recovered at 2026-01-05 12:30"
        ):
            acknowledge(engine, which, user="ana", routing=TO, now=at(31))
    new = see(engine, finding(), TO, at(32))
    with pytest.raises(InputError, match="recovered"):
        acknowledge(engine, old.id, user="ana", routing=TO, now=at(33))
    assert acknowledge(engine, new.id, user="ana", routing=TO, now=at(34)).state.acknowledged_by == "ana"


def test_who_was_first_stays(engine: Engine) -> None:
    """The second one takes the alert away from who works on it, or the trail has two who do."""
    see(engine, finding("CRITICAL"), TO, at(0))
    acknowledge(engine, KEY, user="ana", routing=TO, now=at(1))
    again = acknowledge(engine, KEY, user="bob", routing=TO, now=at(2))
    assert (again.state.acknowledged_by, again.state.acknowledged_at) == ("ana", at(1))
    with read_transaction(engine) as session:
        (event,) = session.scalars(select(AuditEvent)).all()
    assert (event.event_type, event.user, event.model_name) == ("alert_acknowledged", "ana", "execution-agent-dqn")
    assert event.details == {"alert": 1, "key": KEY, "severity": "CRITICAL"}


def test_one_look_is_one_report(engine: Engine) -> None:
    """What is found and what is over are written by halves; or a key in both is raised and ended at once."""
    see(engine, finding(key="over"), TO, at(0))
    with transaction(engine) as session:
        changed = report(session, [finding(key="z"), finding(key="a")], ["over", "never", "z"], TO, at(30))
    assert [(one.finding.key, one.state.status) for one in changed] == [
        ("a", "open"),
        ("over", "recovered"),
        ("z", "open"),
    ]


def test_what_happened_is_told_once_for_ever(engine: Engine) -> None:
    """A training that is done is told at every tick, or stays open as if somebody had to do something."""
    done = finding("INFO", "trained:run-1", title="Training completed: 1.2.0")

    def tell(channels: tuple[ChannelName, ...] | None, to: Routing = TO) -> bool:
        with transaction(engine) as session:
            return announce(session, done, to, NOW, channels=channels) is not None

    assert [tell(None), tell(None)] == [True, False]
    assert alerts(engine) == []
    assert sorted(row.channel for row in outbox(engine)) == ["log", "slack"]
    assert {row.kind for row in outbox(engine)} == {"raised"}
    with transaction(engine) as session:
        announce(session, finding("INFO", "other"), routing("log", "email"), NOW, channels=("email", "slack"))
    assert sorted(row.channel for row in outbox(engine) if row.dedupe_key == "other") == ["email", "log"]


def test_the_newest_of_a_key(engine: Engine) -> None:
    """What was told of a run is looked up in an alert of last year."""
    see(engine, finding(), TO, at(0))
    gone(engine, KEY, TO, at(20))
    second = see(engine, finding(title="again"), TO, at(21))
    with transaction(engine) as session:
        assert newest_alert(session, "nothing") is None
        assert newest_alert(session, KEY) == second


def test_two_writers_at_once(engine: Engine) -> None:
    """Two checks find the same at once: two alerts of one key, a count that is short, or an error for one of them."""
    writers, times = 4, 6
    barrier = Barrier(writers)

    def write(number: int) -> None:
        barrier.wait()
        for step in range(times):
            severity = "CRITICAL" if (number + step) % 3 == 0 else "WARNING"
            with transaction(engine) as session:
                # In different orders of the keys: `report` sorts them, or they would wait for each other.
                keys = ["a", "b", "c"] if number % 2 else ["c", "b", "a"]
                report(session, [finding(severity, key) for key in keys], [], TO, at(step))

    with ThreadPoolExecutor(writers) as pool:
        for result in [pool.submit(write, number) for number in range(writers)]:
            result.result(timeout=60)
    assert sorted((one.finding.key, one.state.occurrences) for one in alerts(engine)) == [
        (key, writers * times) for key in "abc"
    ]
    for key in "abc":
        numbers = [row.number for row in outbox(engine) if row.dedupe_key == key and row.channel == "log"]
        # In the order of id, without a gap; raised once, and worse at most once.
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) <= 2
    with read_transaction(engine) as session:
        assert session.scalar(select(func.count()).select_from(AlertRecord)) == 3


def test_two_who_acknowledge_at_once(engine: Engine) -> None:
    """Both are told that it is theirs."""
    see(engine, finding("CRITICAL"), TO, NOW)
    barrier = Barrier(2)

    def take(user: str) -> str | None:
        barrier.wait()
        return acknowledge(engine, KEY, user=user, routing=TO, now=at(1)).state.acknowledged_by

    with ThreadPoolExecutor(2) as pool:
        said = set(pool.map(take, ("ana", "bob"), timeout=60))
    assert len(said) == 1
    assert told(engine, "pagerduty") == ["raised", "acknowledged"]


def test_numbers_that_are_none_are_refused(engine: Engine) -> None:
    """A NaN in the details is no JSON, and PostgreSQL would refuse it with a message about a token."""
    bad = Finding("k", finding().severity, "t", "b", "s", details={"value": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        see(engine, bad, TO, NOW)
    assert alerts(engine) == []
