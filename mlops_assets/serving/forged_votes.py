"""Votes under a token that is not valid, on the audit trail: the first of a burst at once, later ones as a count.

Whoever guesses tokens must neither fill the trail nor hold up the database, so such a vote as a rule writes nothing:
it is counted in memory, in a bounded space, and a thread writes one summary at a time.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from mlops_assets.foundation.clock import Clock, SystemClock
from mlops_assets.foundation.database import lock_name, transaction
from mlops_assets.foundation.errors import MlopsError
from mlops_assets.foundation.tables import AuditEvent
from mlops_assets.governance.approval_events import MODEL_WIDTH, REFUSED, VERSION_WIDTH, audit_refusal, clean
from mlops_assets.governance.approval_state import ApprovalRefusedError
from mlops_assets.serving.poll import Poll

SUMMARY_SECONDS: Final = 10.0
# Distinct addresses, and distinct versions, that a summary names.
NAMED: Final = 20
_ADDRESS_WIDTH: Final = 64
_STOP_SECONDS: Final = 5.0
_USER: Final = "unknown"
_LOCK: Final = "forged votes"
# Tokens and the trail live in real time, also where decisions take place in that of the data.
_CLOCK: Final = SystemClock()
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Named:
    """Distinct names, at most `NAMED` of them, in the order in which they came; `more` tells that there were others."""

    names: tuple[tuple[str, ...], ...]
    more: bool = False

    def __add__(self, other: "Named") -> "Named":
        """Return the names of both."""
        names = tuple(dict.fromkeys(self.names + other.names))
        if names == self.names and other.more <= self.more:
            return self
        return Named(names[:NAMED], self.more or other.more or len(names) > NAMED)


@dataclass(frozen=True)
class Tally:
    """What is kept of any number of tries; `versions` are pairs of model and version as they were asked for."""

    tries: int
    first_at: datetime
    last_at: datetime
    addresses: Named
    versions: Named

    @classmethod
    def of(cls, model_name: str, version: str, address: str, at: datetime) -> "Tally":
        """Return the tally of one try; what the client made up is cut to what the trail holds."""
        asked = (clean(model_name, MODEL_WIDTH), clean(version, VERSION_WIDTH))
        return cls(1, at, at, Named(((clean(address, _ADDRESS_WIDTH),),)), Named((asked,)))

    def __add__(self, other: "Tally") -> "Tally":
        """Return the tally of both."""
        return Tally(
            self.tries + other.tries,
            min(self.first_at, other.first_at),
            max(self.last_at, other.last_at),
            self.addresses + other.addresses,
            self.versions + other.versions,
        )

    @property
    def subject(self) -> tuple[str, str]:
        """Model and version, each empty where several were asked for."""
        if self.versions.more:
            return "", ""
        models, versions = ({pair[i] for pair in self.versions.names} for i in (0, 1))
        model = models.pop() if len(models) == 1 else ""
        return model, versions.pop() if model and len(versions) == 1 else ""


@dataclass(frozen=True)
class Batch:
    """Tries that one event tells of; `at` is when the database was first given it, None before."""

    batch_id: str
    tally: Tally
    summary: bool
    at: datetime | None = None

    def details(self) -> dict[str, Any]:
        """Return what the event says besides reason and message."""
        tally = self.tally
        said: dict[str, Any] = {"channel": "http", "batch": self.batch_id, "tries": tally.tries}
        if not self.summary:
            return {**said, "address": tally.addresses.names[0][0], "tried_at": tally.first_at}
        return {
            **said,
            "first_at": tally.first_at,
            "last_at": tally.last_at,
            "addresses": [address for (address,) in tally.addresses.names],
            "more_addresses": tally.addresses.more,
            "versions": [{"model": model, "version": version} for model, version in tally.versions.names],
            "more_versions": tally.versions.more,
        }


class ForgedVotes:
    """Counts the tries of one server process and puts them on the audit trail.

    A burst begins with a try after `SUMMARY_SECONDS` without any, once all earlier ones are on the trail. What the
    database does not take stays counted. A commit whose answer was lost is looked up before its tries are written again.

    Args:
        engine: of the operational database.
        clock: time of the events.
        monotonic: seconds by which a burst ends.
    """

    def __init__(
        self, engine: Engine, *, clock: Clock = _CLOCK, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._monotonic = monotonic
        # Held for the time of an addition, never while the database is asked: the event loop waits for it.
        self._counting = threading.Lock()
        self._writing = threading.Lock()
        self._counted: Tally | None = None
        self._given: Batch | None = None
        self._last_try = -math.inf
        self._poll = Poll("audit trail of forged votes", self.write, 1000.0 * SUMMARY_SECONDS)

    def start(self) -> None:
        """Start writing summaries; the database has to be migrated."""
        self._poll.start()

    def count(self, model_name: str, version: str, address: str) -> Batch | None:
        """Count one try; nothing is written here.

        Returns:
            The first try of a burst, for `write_first`; None for a later one.
        """
        tally = Tally.of(model_name, version, address, self._clock.now())
        now = self._monotonic()
        with self._counting:
            quiet = now - self._last_try >= SUMMARY_SECONDS
            self._last_try = now
            if quiet and self._counted is None and self._given is None:
                self._given = Batch(uuid4().hex, tally, summary=False)
                return self._given
            self._counted = _sum(self._counted, tally)
            return None

    def write_first(self, first: Batch) -> None:
        """Write the first try of a burst, unless it is under way already; when that fails it is left to `write`."""
        if not self._writing.acquire(blocking=False):
            return
        try:
            if self._given is first:
                self._deliver()
        except (MlopsError, SQLAlchemyError) as error:
            _log.error("a vote under a forged token is not on the audit trail yet: %s", error)
        finally:
            self._writing.release()

    def write(self) -> None:
        """Write all that is not on the trail: one summary, and before it a first try that nobody wrote.

        Raises:
            StorageError: the database does not take it; the counts are kept.
        """
        with self._writing:
            if self._given is not None and self._given.at is None:
                self._deliver()
            if self.unwritten:
                self._deliver()

    def stop(self) -> None:
        """Stop, and write the rest within a bound; what is not on the trail then is in the log."""
        self._poll.stop()
        if not self.unwritten:
            return
        # A thread that ends with the process: a database that stands still must not keep it.
        rest = threading.Thread(target=self._write_rest, name="forged-votes-rest", daemon=True)
        rest.start()
        rest.join(_STOP_SECONDS)
        if left := self.unwritten:
            _log.error("the server ends with %d votes under forged tokens that are not on the audit trail", left)

    @property
    def unwritten(self) -> int:
        """Number of tries that are not known to be on the trail."""
        with self._counting:
            given = 0 if self._given is None else self._given.tally.tries
            return given + (0 if self._counted is None else self._counted.tries)

    def _write_rest(self) -> None:
        try:
            self.write()
        except (MlopsError, SQLAlchemyError) as error:
            _log.error("the last votes under forged tokens cannot be written: %s", error)

    def _deliver(self) -> None:
        with transaction(self._engine) as session:
            # Until a transaction whose commit was not answered has ended, one way or the other.
            lock_name(session, _LOCK)
            batch = self._next(session)
            if batch is not None:
                _append(session, batch)
        with self._counting:
            self._given = None

    def _next(self, session: Session) -> Batch | None:
        """Choose what is written: a new first try alone, else all that is counted, with what is not on the trail."""
        given, now = self._given, self._clock.now()
        if given is not None and given.at is None:
            with self._counting:
                self._given = replace(given, at=now)
                return self._given
        lost = None if given is None or _on_trail(session, given) else given.tally
        with self._counting:
            tally, self._counted = _sum(lost, self._counted), None
            self._given = None if tally is None else Batch(uuid4().hex, tally, summary=True, at=now)
            return self._given


def _sum(one: Tally | None, other: Tally | None) -> Tally | None:
    if one is None or other is None:
        return one or other
    return one + other


def _append(session: Session, batch: Batch) -> None:
    refusal = ApprovalRefusedError("forged_token", "the token is unknown, expired or revoked")
    model_name, version = batch.tally.subject
    at = batch.at
    if at is None:
        raise ValueError(f"batch {batch.batch_id} has no time; it is set when the batch is chosen")
    audit_refusal(session, model_name, version, _USER, refusal, batch.details(), at)


def _on_trail(session: Session, batch: Batch) -> bool:
    found = session.scalars(
        select(AuditEvent).where(
            AuditEvent.model_name == batch.tally.subject[0],
            AuditEvent.occurred_at == batch.at,
            AuditEvent.event_type == REFUSED,
        )
    )
    return any(event.details.get("batch") == batch.batch_id for event in found)
