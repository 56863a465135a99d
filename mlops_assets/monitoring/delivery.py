"""The dispatcher: sends what is due in the outbox of alerts, in order of each channel and key, and loses nothing.

One process at a time sends on a channel, and each channel by itself, so that one that is slow or away holds back nothing
else. A notice is marked as begun before it is sent and as taken right after: killed in between, it is sent once more,
with the same id.
"""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from mlops_assets.foundation.clock import Clock, SystemClock
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.errors import StorageError
from mlops_assets.foundation.leases import HeldLease, LeaseHeldError, LeaseLostError, lease
from mlops_assets.foundation.policies import ChannelName
from mlops_assets.foundation.posting import NotTakenError
from mlops_assets.foundation.settings import Settings
from mlops_assets.foundation.tables import AlertChannelRecord, AlertDelivery
from mlops_assets.monitoring.alerts import escalate
from mlops_assets.monitoring.channels import Send, alert_channels, alert_routing
from mlops_assets.monitoring.findings import Routing
from mlops_assets.monitoring.notices import NoticeKind
from mlops_assets.monitoring.wording import NoticeMessage, headline

# So long after a crash another process goes on; a heartbeat renews it meanwhile.
_LEASE_SECONDS = 30.0
# So long after a look at the lease it is ours without another look.
_SURE_SECONDS = 1.0
# A receiver may ask for more, and is believed up to here.
_LONGEST_WAIT_SECONDS = 86400.0
_GRACE_SECONDS = 5.0
# Between a receiver's yes and our mark lies the one window for a notice that comes twice: a database that blinks must not open it.
_MARK_TRIES, _MARK_PAUSE_SECONDS = 5, 0.5
_UNDER_WAY = "was being sent when this was written: if nobody is sending it now, it may be there already"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sent:
    """One notice that was tried; `problem` says why it waits, None once it was taken."""

    channel: str
    alert: int
    number: int
    kind: NoticeKind
    headline: str
    attempts: int
    problem: str | None = None

    def __str__(self) -> str:
        """Say which, and what became of it."""
        told = f"{self.channel}: {self.headline}"
        tries = "try" if self.attempts == 1 else "tries"
        return told if self.problem is None else f"{told} waits after {self.attempts} {tries}: {self.problem}"


@dataclass(frozen=True)
class _Row:
    id: int
    alert_id: int
    key: str
    kind: str
    number: int
    due_at: datetime


class Dispatcher:
    """Delivers the notices of one deployment.

    Args:
        engine: operational database.
        routing: for what escalates.
        channels: what sends, by channel; what waits for others goes on waiting.
        clock: time of alerts, of quiet hours and of the waits after failures.
        holder: names this process, and nothing else that may run at the same time.
    """

    def __init__(
        self, engine: Engine, routing: Routing, channels: Mapping[ChannelName, Send], clock: Clock, holder: str
    ) -> None:
        self._engine = engine
        self._routing = routing
        self._channels = channels
        self._clock = clock
        self._holder = holder

    def tick(self) -> list[Sent]:
        """Escalate what is late, then send what is due; return what was tried.

        It ends within the policy's `tick_seconds` plus one answer, also where no receiver answers.

        Raises:
            StorageError: the operational database does not answer.
        """
        limits = self._routing.policy.delivery
        escalate(self._engine, self._routing, self._clock.now())
        done: list[Sent] = []
        failed: list[Exception] = []
        turns = [
            threading.Thread(target=self._turn, args=(name, done, failed), name=f"alerts {name}", daemon=True)
            for name in self._due_channels()
        ]
        for turn in turns:
            turn.start()
        until = time.monotonic() + limits.tick_seconds + limits.answer_seconds + _GRACE_SECONDS
        for turn in turns:
            turn.join(max(0.0, until - time.monotonic()))
            if turn.is_alive():
                _log.error("%s is not done, and goes on", turn.name)
        if failed:
            # Nothing is lost by it: what is not marked as taken is sent by the next tick.
            raise failed[0]
        return list(done)

    def _due_channels(self) -> list[ChannelName]:
        query = select(AlertDelivery.channel).where(
            AlertDelivery.delivered_at.is_(None), AlertDelivery.due_at <= self._clock.now()
        )
        with read_transaction(self._engine) as session:
            due = set(session.scalars(query.distinct()))
        return [name for name in self._channels if name in due]

    def _turn(self, name: ChannelName, done: list[Sent], failed: list[Exception]) -> None:
        try:
            # A lease is a matter of the machine's time, whatever time the lifecycle is in.
            with lease(self._engine, f"alerts:{name}", self._holder, _LEASE_SECONDS, SystemClock()) as held:
                if not self._rests(name):
                    self._fold(name)
                    self._send_due(name, held, done)
        except (LeaseHeldError, LeaseLostError) as error:
            # Each notice is marked once it is taken: they go on where this one stopped.
            _log.info("delivered by somebody else: %s", error)
        except Exception as error:  # noqa: BLE001 - a thread has no caller: `tick` raises it
            failed.append(error)

    def _rests(self, name: ChannelName) -> bool:
        with read_transaction(self._engine) as session:
            found = session.get(AlertChannelRecord, name)
            return found is not None and self._clock.now() < found.not_before

    def _send_due(self, name: ChannelName, held: HeldLease, done: list[Sent]) -> None:
        now, blocked = self._clock.now(), set()
        held_at = time.monotonic()
        until = held_at + self._routing.policy.delivery.tick_seconds
        for row in _undelivered(self._engine, name):
            if row.due_at > now:
                blocked.add(row.key)
            if row.key in blocked:
                continue
            if time.monotonic() >= until:
                return
            if time.monotonic() - held_at > _SURE_SECONDS:
                # This process may have stood still, and somebody else goes on.
                held.ensure_held()
                held_at = time.monotonic()
            sent, channel_away = self._try(name, row)
            if sent is not None:
                done.append(sent)
                if channel_away:
                    return
                if sent.problem is not None:
                    blocked.add(row.key)

    def _try(self, name: ChannelName, row: _Row) -> tuple[Sent | None, bool]:
        """Send one notice; say also whether the channel takes no other either."""
        begun = self._begin(row)
        if begun is None:
            return None, False
        message, attempts = begun
        sent = Sent(name, row.alert_id, row.number, message.kind, headline(message), attempts)
        problem = self._send(name, message)
        if problem is None:
            self._mark(lambda session: self._taken(session, name, row))
            return sent, False
        self._mark(lambda session: self._failed(session, name, row, attempts, problem))
        return replace(sent, problem=str(problem)), not problem.refused

    def _send(self, name: ChannelName, message: NoticeMessage) -> NotTakenError | None:
        try:
            self._channels[name](message)
        except NotTakenError as error:
            return error
        except Exception as error:  # noqa: BLE001 - whatever it is, it is on record, and keeps no other alert back
            _log.error("%s cannot send notice %s of alert %s", name, message.number, message.alert, exc_info=True)
            return NotTakenError(f"unexpected {type(error).__name__}, see the log", refused=True)
        return None

    def _begin(self, row: _Row) -> tuple[NoticeMessage, int] | None:
        with transaction(self._engine) as session:
            record = session.get_one(AlertDelivery, row.id, with_for_update=True)
            if record.delivered_at is not None:
                return None
            record.attempts += 1
            record.problem = _UNDER_WAY
            return NoticeMessage.model_validate(record.message), record.attempts

    def _mark(self, change: Callable[[Session], None]) -> None:
        for left in reversed(range(_MARK_TRIES)):
            try:
                with transaction(self._engine) as session:
                    return change(session)
            except StorageError:
                if left == 0:
                    raise
                time.sleep(_MARK_PAUSE_SECONDS)
        return None

    def _taken(self, session: Session, name: ChannelName, row: _Row) -> None:
        record = session.get_one(AlertDelivery, row.id)
        record.delivered_at, record.problem = self._clock.now(), None
        resting = session.get(AlertChannelRecord, name)
        if resting is not None:
            session.delete(resting)

    def _failed(self, session: Session, name: ChannelName, row: _Row, attempts: int, error: NotTakenError) -> None:
        now, record = self._clock.now(), session.get_one(AlertDelivery, row.id)
        record.problem = str(error)
        if error.refused:
            record.due_at = now + self._wait(attempts, error)
            return
        resting = session.get(AlertChannelRecord, name)
        if resting is None:
            resting = AlertChannelRecord(channel=name, failures=0, failing_since=now)
            session.add(resting)
        resting.failures += 1
        resting.not_before = now + self._wait(resting.failures, error)
        resting.problem = str(error)

    def _wait(self, failures: int, error: NotTakenError) -> timedelta:
        limits = self._routing.policy.delivery
        # The power alone would overflow in the year in which nobody reads alerts.
        doubled = limits.retry_seconds * 2.0 ** min(failures - 1, 30)
        asked = min(error.retry_after_seconds or 0.0, _LONGEST_WAIT_SECONDS)
        return timedelta(seconds=max(min(doubled, limits.max_retry_seconds), asked))

    def _fold(self, name: ChannelName) -> None:
        """Where the policy says so, leave out what came before the end of an alert of which the channel was told nothing."""
        if not self._routing.policy.fold_recovered:
            return
        now = self._clock.now()
        rows = _undelivered(self._engine, name)
        ends = {row.alert_id: row for row in rows if row.kind == "recovered" and row.due_at <= now}
        if not ends:
            return
        with transaction(self._engine) as session:
            told = select(AlertDelivery.alert_id).where(
                AlertDelivery.channel == name,
                AlertDelivery.delivered_at.is_not(None),
                AlertDelivery.alert_id.in_(ends),
            )
            ends = {alert: row for alert, row in ends.items() if alert not in set(session.scalars(told))}
            for row in rows:
                end = ends.get(row.alert_id)
                if end is not None and row.id != end.id:
                    record = session.get_one(AlertDelivery, row.id)
                    record.delivered_at, record.problem = now, f"folded into notice {end.number}"


def open_dispatcher(settings: Settings, engine: Engine, clock: Clock) -> Dispatcher:
    """Return the dispatcher of a deployment, under a name that no other has: two that run at once never share a lease.

    Raises:
        SettingsError: a way is set to something else than its address.
    """
    routing = alert_routing(settings)
    holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    return Dispatcher(engine, routing, alert_channels(settings, routing.policy), clock, holder)


def _undelivered(engine: Engine, name: str) -> list[_Row]:
    columns = ("id", "alert_id", "dedupe_key", "kind", "number", "due_at")
    query = (
        select(*(getattr(AlertDelivery, column) for column in columns))
        .where(AlertDelivery.channel == name, AlertDelivery.delivered_at.is_(None))
        .order_by(AlertDelivery.id)
    )
    with read_transaction(engine) as session:
        return [_Row(*row) for row in session.execute(query)]
