"""The dispatcher on real receivers that are away, slow or refuse: everything arrives once, in order, and nothing is held back."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select, update

from mlops_assets.foundation.clock import FixedClock, SystemClock
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.errors import StorageError
from mlops_assets.foundation.leases import lease
from mlops_assets.foundation.policies import AlertingPolicy
from mlops_assets.foundation.settings import load_settings
from mlops_assets.foundation.tables import AlertChannelRecord, AlertDelivery
from mlops_assets.monitoring import delivery
from mlops_assets.monitoring.alerts import acknowledge
from mlops_assets.monitoring.channels import Send, alert_channels
from mlops_assets.monitoring.delivery import Dispatcher, Sent
from mlops_assets.monitoring.findings import Routing
from mlops_assets.monitoring.waiting import waiting
from mlops_assets.monitoring.wording import NoticeMessage
from mlops_assets_tests.foundation.mailbox import running
from mlops_assets_tests.monitoring.alerting import KEY, NOW, finding, gone, limits, outbox, policy, routing, see
from mlops_assets_tests.monitoring.receivers import ROUTING_KEY, Answer, Mail, PagerDuty, Sentry, Slack, receiving

TICK = timedelta(seconds=30)


@dataclass
class Town:
    """One deployment whose receivers are real, and whose time is the test's."""

    engine: Engine
    policy: AlertingPolicy = field(default_factory=lambda: policy(delivery=limits(answer_seconds=1.0)))
    clock: FixedClock = field(default_factory=lambda: FixedClock(NOW))
    _channels: dict[Any, Send] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.slack, self.pagerduty, self.sentry = (kind(self.clock.now) for kind in (Slack, PagerDuty, Sentry))
        self.mail = Mail()

    def channels(self) -> dict[Any, Send]:
        if not self._channels:
            self._channels = self.opened()
        return self._channels

    def opened(self) -> dict[Any, Send]:
        environ = {
            "MLOPS_SLACK_WEBHOOK": self.slack.url,
            "MLOPS_PAGERDUTY_ROUTING_KEY": ROUTING_KEY,
            "MLOPS_PAGERDUTY_URL": self.pagerduty.url,
            "MLOPS_SENTRY_DSN": self.sentry.dsn,
            "MLOPS_SMTP_URL": self.mail.url,
            "MLOPS_ALERT_RECIPIENTS": "ml-alerts@company.com",
        }
        return dict(alert_channels(load_settings(environ), self.policy))

    @property
    def routing(self) -> Routing:
        return Routing(self.policy, frozenset(self.channels()))

    def tick(self) -> list[Sent]:
        return Dispatcher(self.engine, self.routing, self.channels(), self.clock, "tests").tick()

    def see(self, severity: str = "CRITICAL", key: str = KEY, **changes: Any) -> None:
        see(self.engine, finding(severity, key, **changes), self.routing, self.clock.now())

    def arrived(self) -> dict[str, list[str]]:
        """Ids of the notices that came, by channel, in their order."""
        slack = [one["id"] for one in self.slack.taken]
        pagerduty = [one["payload"]["custom_details"]["notice"] for one in self.pagerduty.taken if "payload" in one]
        return {
            "slack_alerts": slack,
            "pagerduty": pagerduty,
            "sentry": [one["event_id"] for one in self.sentry.taken],
            "email": [one["Message-ID"][1:].split("@")[0] for one in self.mail.mails],
        }

    def expected(self) -> dict[str, list[str]]:
        """Ids of the notices that were written, by channel, in their order."""
        rows = outbox(self.engine)
        return {
            channel: [
                row.message["id"]
                for row in rows
                if row.channel == channel and (channel != "pagerduty" or row.kind not in {"recovered", "acknowledged"})
            ]
            for channel in ("slack_alerts", "pagerduty", "sentry", "email")
        }

    def in_order(self, channel: str) -> bool:
        """Whether the notices of each key came in the order in which they were written."""
        key_of = {row.message["id"]: row.dedupe_key for row in outbox(self.engine)}
        came, written = self.arrived()[channel], self.expected()[channel]
        return all(
            [one for one in came if key_of[one] == key] == [one for one in written if key_of[one] == key]
            for key in set(key_of.values())
        )

    def resting(self) -> dict[str, AlertChannelRecord]:
        with read_transaction(self.engine) as session:
            return {one.channel: one for one in session.scalars(select(AlertChannelRecord))}


@pytest.fixture
def town(engine: Engine) -> Iterator[Town]:
    made = Town(engine)
    with receiving(made.slack, made.pagerduty, made.sentry), running(made.mail):
        yield made


def happens(town: Town, minute: float) -> None:
    """What goes wrong, and what is seen, at a minute of Show 7."""
    if minute == 5:
        town.slack.stop()  # for an hour
    if minute == 65:
        town.slack.start()
    if minute == 10:
        town.pagerduty.standing = Answer(500)
    if minute == 20:
        town.pagerduty.standing = Answer()
        town.pagerduty.answers.append(Answer(429, {"Retry-After": "900"}))
    town.sentry.standing = Answer(delay_seconds=0.05 if 28 <= minute < 34 else 0.0)
    town.mail.taking = not 40 <= minute < 43
    if minute % 6 == 0 and minute <= 72:
        for key in ("a", "b"):
            town.see("WARNING" if minute < 12 else "CRITICAL", key, title=f"{key} at {minute:g}")
        town.see("CRITICAL", f"new at {minute:g}")
    if minute == 45:
        acknowledge(town.engine, "a", user="ana", routing=town.routing, now=town.clock.now())
    if minute == 80:
        gone(town.engine, "a", town.routing, town.clock.now(), for_good=True)


@pytest.mark.slow
def test_an_hour_away_slow_500_and_429(town: Town) -> None:
    """Show 7: an alert is lost, comes twice, or overtakes another of its key; or one bad receiver holds back the others."""
    lags: dict[str, list[float]] = {"sentry": [], "email": []}
    for step in range(180):
        town.clock.instant = NOW + step * TICK
        happens(town, step / 2)
        town.tick()
        late = [row for row in outbox(town.engine) if row.delivered_at is None]
        for channel, found in lags.items():
            found += [(town.clock.now() - row.created_at) / TICK for row in late if row.channel == channel]
    arrived, expected = town.arrived(), town.expected()
    for channel, ids in expected.items():
        assert len(ids) >= 15
        # All, each once.
        assert sorted(arrived[channel]) == sorted(ids), channel
        assert town.in_order(channel), channel
    assert [row for row in outbox(town.engine) if row.delivered_at is None] == []
    # A slow Sentry kept nobody waiting to the next tick, and three minutes without mail cost mails alone some minutes.
    assert lags["sentry"] == []
    assert 0 < max(lags["email"]) <= 20
    # Asked for a quarter of an hour, PagerDuty had it.
    (asked,) = [at for at, status in town.pagerduty.requests if status == 429]
    after = next(at for at, _ in town.pagerduty.requests if at > asked)
    assert timedelta(seconds=900) <= after - asked <= timedelta(seconds=900) + TICK
    # 10 minutes of 500: tried after 15 s, 30 s, 1, 2, 4 and 5 minutes, at the next tick each.
    assert 4 <= sum(status == 500 for _, status in town.pagerduty.requests) <= 8
    # PagerDuty heard that somebody has it, and that it is over, in this order.
    incident = next(row.message["incident"] for row in outbox(town.engine) if row.dedupe_key == "a")
    assert town.pagerduty.incidents[incident][-2:] == ["acknowledge", "resolve"]
    assert town.resting() == {}


def test_waits_double_up_to_the_longest(town: Town) -> None:
    """A dead receiver is asked every half minute for ever, or a receiver that is back waits for hours."""
    town.slack.stop()
    town.see("WARNING")
    waits = []
    for _ in range(7):
        town.tick()
        rest = town.resting()["slack_alerts"]
        waits.append((rest.not_before - town.clock.now()).total_seconds())
        assert rest.failing_since == NOW
        town.clock.instant = rest.not_before - timedelta(milliseconds=1)
        assert town.tick() == []
        town.clock.instant = rest.not_before
    assert waits == [15.0, 30.0, 60.0, 120.0, 240.0, 300.0, 300.0]
    (row,) = [row for row in outbox(town.engine) if row.channel == "slack_alerts"]
    assert (row.attempts, row.delivered_at) == (7, None)
    assert row.problem == "the Slack webhook did not take the message (URLError); see MLOPS_SLACK_WEBHOOK"
    (left,) = waiting(town.engine, town.channels())
    assert str(left).startswith("slack_alerts: 1 notice waits until 2026-01-05 12:")
    town.slack.start()
    (sent,) = town.tick()
    assert (sent.channel, sent.attempts, sent.problem) == ("slack_alerts", 8, None)
    assert town.resting() == {}


def test_a_message_that_is_refused_holds_back_its_own_key_only(town: Town) -> None:
    """One message that a receiver does not take stops every alert of the channel, or is given up."""
    town.slack.answers.append(Answer(400))
    town.see("WARNING", "bad")
    town.see("CRITICAL", "bad")
    town.see("WARNING", "good")
    tried = [one.problem for one in town.tick() if one.channel == "slack_alerts"]
    assert len(town.slack.taken) == 1
    assert tried == ["the Slack webhook did not take the message: it answered 400; see MLOPS_SLACK_WEBHOOK", None]
    assert town.resting() == {}
    # What is told of the same key waits behind it, in this tick and in the next ones.
    town.tick()
    assert len(town.slack.taken) == 1
    town.clock.instant += timedelta(seconds=15)
    town.tick()
    assert [one["text"].split(":")[0] for one in town.slack.taken] == ["WARNING", "WARNING", "WORSE, NOW CRITICAL"]


def test_one_that_never_answers_holds_back_only_itself(town: Town) -> None:
    """Everybody waits for a receiver that hangs, in every tick."""
    town.policy = policy(delivery=limits(answer_seconds=0.3))
    town.slack.standing = Answer(delay_seconds=10.0)
    for key in "abcd":
        town.see("CRITICAL", key)
    began = time.monotonic()
    tried = town.tick()
    assert time.monotonic() - began < 8.0
    assert len([one for one in tried if one.channel == "sentry" and one.problem is None]) == 4
    (late,) = [one for one in tried if one.channel == "slack_alerts"]
    assert "did not take the message" in str(late.problem)


def test_a_slow_one_goes_on_in_the_next_tick(town: Town) -> None:
    """A tick lasts as long as the backlog of the slowest receiver."""
    town.policy = policy(delivery=limits(answer_seconds=1.0, tick_seconds=0.25))
    town.slack.standing = Answer(delay_seconds=0.1)
    for number in range(8):
        town.see("WARNING", f"{number}")
    first = [one for one in town.tick() if one.channel == "slack_alerts"]
    assert 1 <= len(first) < 8
    for _ in range(8):
        town.tick()
    assert sorted(town.arrived()["slack_alerts"]) == sorted(town.expected()["slack_alerts"])


def test_one_dispatcher_a_channel(town: Town) -> None:
    """Two processes send the same notice, each once."""
    town.see("WARNING")
    with lease(town.engine, "alerts:slack_alerts", "another", 30, SystemClock()):
        assert {one.channel for one in town.tick()} == {"log", "sentry"}
    assert [one.channel for one in town.tick()] == ["slack_alerts"]


def test_two_dispatchers_at_once(town: Town) -> None:
    """What one has begun is begun by the other as well."""
    town.slack.standing = Answer(delay_seconds=0.02)
    for number in range(10):
        town.see("WARNING", f"{number}")
    routes, channels = town.routing, town.channels()
    rounds = [
        threading.Thread(
            target=lambda name: [Dispatcher(town.engine, routes, channels, town.clock, name).tick() for _ in range(4)],
            args=(f"dispatcher {number}",),
        )
        for number in range(3)
    ]
    for one in rounds:
        one.start()
    for one in rounds:
        one.join()
    town.tick()
    assert sorted(town.arrived()["slack_alerts"]) == sorted(town.expected()["slack_alerts"])
    assert {row.attempts for row in outbox(town.engine)} == {1}


def test_who_stood_still_sends_nothing_again(engine: Engine) -> None:
    """A process that was stopped for a minute goes on with its list, all of which another one has sent."""
    sent: list[int] = []
    to = routing("log")
    for number in range(3):
        see(engine, finding("INFO", f"{number}"), to, NOW)

    def stands_still(message: NoticeMessage) -> None:
        sent.append(message.alert)
        with transaction(engine) as session:
            session.execute(update(AlertDelivery).where(AlertDelivery.alert_id == 2).values(delivered_at=NOW))

    Dispatcher(engine, to, {"log": stands_still}, FixedClock(NOW), "tests").tick()
    assert sent == [1, 3]


@pytest.mark.parametrize("fold", [False, True])
def test_what_is_over_before_it_was_told(town: Town, fold: bool) -> None:
    """After an outage people read of fires that are out, one by one; or, folded, never of one that was."""
    town.policy = policy(delivery=limits(), fold_recovered=fold)
    town.see("CRITICAL", "told before")
    town.tick()
    town.slack.stop()
    town.see("CRITICAL", "short")
    for key in ("short", "told before"):
        gone(town.engine, key, town.routing, town.clock.now() + timedelta(minutes=20))
    town.clock.instant += timedelta(minutes=20)
    town.slack.start()
    town.tick()
    said = [one["text"].split(":")[0] for one in town.slack.taken]
    end = "RECOVERED, WAS CRITICAL"
    assert sorted(said) == sorted(
        ["CRITICAL", end, end] if fold else ["CRITICAL", end, "CRITICAL", "CRITICAL", end][1:]
    )
    rows = [row for row in outbox(town.engine) if row.channel == "slack_alerts" and row.dedupe_key == "short"]
    assert all(row.delivered_at is not None for row in rows)
    assert rows[0].problem == ("folded into notice 2" if fold else None)


def test_an_error_of_our_own_is_on_record(town: Town) -> None:
    """A bug in one channel stops the others, or lets the notice be forgotten."""

    def broken(_message: NoticeMessage) -> None:
        raise RuntimeError("a bug")

    town.see("WARNING")
    channels = {**town.channels(), "slack_alerts": broken}
    tried = Dispatcher(town.engine, town.routing, channels, town.clock, "tests").tick()
    assert {one.channel: one.problem for one in tried} == {
        "log": None,
        "sentry": None,
        "slack_alerts": "unexpected RuntimeError, see the log",
    }
    assert len([row for row in outbox(town.engine) if row.delivered_at is None]) == 1


def test_what_nobody_has_set_waits(town: Town) -> None:
    """A dispatcher without a setting throws away what another one, that has it, would send."""
    town.see("WARNING")
    alone = {"log": town.channels()["log"]}
    assert [one.channel for one in Dispatcher(town.engine, town.routing, alone, town.clock, "tests").tick()] == ["log"]  # type: ignore[arg-type]
    assert [str(one).split(" until")[0] for one in waiting(town.engine, alone)] == [
        "sentry: 1 notice waits",
        "slack_alerts: 1 notice waits",
    ]
    assert {one.channel for one in town.tick()} == {"sentry", "slack_alerts"}


def test_the_escalation_is_told_in_the_tick(town: Town) -> None:
    """An alert that nobody acknowledges escalates in a table."""
    town.see("CRITICAL")
    town.tick()
    town.clock.instant += timedelta(minutes=15)
    assert {one.channel for one in town.tick() if one.kind == "escalated"} == {
        "log",
        "slack_alerts",
        "email",
        "pagerduty",
    }
    assert town.tick() == []


def test_a_database_that_blinks_sends_nothing_twice(sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the receiver's yes and our mark the database is away for a moment, and the notice comes again."""
    sent: list[NoticeMessage] = []
    monkeypatch.setattr(delivery, "_MARK_PAUSE_SECONDS", 0.01)
    see(sqlite_engine, finding("INFO"), routing("log"), NOW)
    dispatcher = Dispatcher(sqlite_engine, routing("log"), {"log": sent.append}, FixedClock(NOW), "tests")
    whole, away = dispatcher._taken, [StorageError("away")] * 2

    def blinking(*arguments: Any) -> None:
        if away:
            raise away.pop()
        whole(*arguments)

    monkeypatch.setattr(dispatcher, "_taken", blinking)
    assert [one.problem for one in dispatcher.tick()] == [None]
    assert dispatcher.tick() == []
    assert len(sent) == 1
    away += [StorageError("away for good")] * 5
    see(sqlite_engine, finding("INFO", "other"), routing("log"), NOW)
    with pytest.raises(StorageError, match="away for good"):
        dispatcher.tick()
    (row,) = [row for row in outbox(sqlite_engine) if row.delivered_at is None]
    assert (row.attempts, row.problem) == (1, delivery._UNDER_WAY)
