"""Leases with a heartbeat: one holder of a resource at a time, also when a holder's whole process tree was killed.

Kept in the operational database, because Dagster keeps the pool slot of a run whose process tree is gone.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine, or_, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from mlops_assets.foundation.clock import Clock
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.errors import StorageError, TransientError
from mlops_assets.foundation.tables import Lease

RELEASED = ""
_POLL_SECONDS = 1.0
_BEATS_PER_TTL = 3
_log = logging.getLogger(__name__)


class LeaseHeldError(TransientError):
    """Somebody else holds the resource."""


class LeaseLostError(TransientError):
    """The lease ran out and somebody else took it: what was done since then must not be published."""


@dataclass(frozen=True)
class LeaseToken:
    """Proof of one acquisition; `token` is a fencing number, greater than that of every earlier holder."""

    resource: str
    holder: str
    token: int
    expires_at: datetime


def acquire(engine: Engine, resource: str, holder: str, *, ttl_seconds: float, now: datetime) -> LeaseToken:
    """Take `resource` until `now + ttl_seconds`: when it is free, expired, or held by the same `holder` (a restart).

    `holder` names one worker, such as a run and its step; the token of an earlier acquisition is worthless afterwards.

    Raises:
        LeaseHeldError: somebody else holds it; the message names holder and expiry.
    """
    expires_at = now + timedelta(seconds=ttl_seconds)
    try:
        with transaction(engine) as session:
            taken = session.scalars(
                update(Lease)
                .where(Lease.resource == resource, or_(Lease.expires_at <= now, Lease.holder == holder))
                .values(holder=holder, token=Lease.token + 1, acquired_at=now, expires_at=expires_at)
                .returning(Lease.token)
            ).one_or_none()
            if taken is not None:
                return LeaseToken(resource, holder, taken, expires_at)
            current = session.get(Lease, resource)
            if current is None:
                session.add(Lease(resource=resource, holder=holder, token=1, acquired_at=now, expires_at=expires_at))
                return LeaseToken(resource, holder, 1, expires_at)
    except IntegrityError:  # another first holder was a moment faster
        with read_transaction(engine) as session:
            current = session.get_one(Lease, resource)
    raise LeaseHeldError(
        f"{resource} is held by {current.holder} until {current.expires_at.isoformat(timespec='seconds')}; "
        "wait for it, or try again after that instant if the holder is dead"
    )


def renew(engine: Engine, lease: LeaseToken, *, ttl_seconds: float, now: datetime) -> LeaseToken:
    """Extend a lease to `now + ttl_seconds`; late is fine as long as nobody else took it.

    Raises:
        LeaseLostError: somebody else holds the resource by now.
    """
    expires_at = now + timedelta(seconds=ttl_seconds)
    with transaction(engine) as session:
        renewed = session.scalars(
            update(Lease)
            .where(Lease.resource == lease.resource, Lease.token == lease.token, Lease.holder == lease.holder)
            .values(expires_at=expires_at)
            .returning(Lease.token)
        ).one_or_none()
        if renewed is None:
            current = session.get(Lease, lease.resource)
            owner = "nobody" if current is None else f"{current.holder} (token {current.token})"
            raise LeaseLostError(
                f"{lease.resource}: {lease.holder} (token {lease.token}) lost its lease to {owner}; "
                "throw the result away and start again"
            )
    return LeaseToken(lease.resource, lease.holder, lease.token, expires_at)


def release(engine: Engine, lease: LeaseToken, *, now: datetime) -> None:
    """Give the resource back; nothing happens when somebody else holds it by now.

    The row stays, with holder `RELEASED`, so that tokens keep growing.
    """
    with transaction(engine) as session:
        session.execute(
            update(Lease)
            .where(Lease.resource == lease.resource, Lease.token == lease.token, Lease.holder == lease.holder)
            .values(holder=RELEASED, expires_at=now)
        )


class HeldLease:
    """A lease under heartbeat, as `lease` gives it to its block."""

    def __init__(self, engine: Engine, token: LeaseToken, *, ttl_seconds: float, clock: Clock) -> None:
        self._engine = engine
        self._token = token
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._failure: Exception | None = None
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name=f"lease {token.resource}", daemon=True)

    @property
    def resource(self) -> str:
        """What is held."""
        return self._token.resource

    @property
    def holder(self) -> str:
        """Who holds it."""
        return self._token.holder

    @property
    def token(self) -> int:
        """Fencing number: greater than that of every earlier holder."""
        return self._token.token

    def ensure_held(self) -> None:
        """Renew now: call before publishing what was done under the lease.

        Raises:
            LeaseLostError: somebody else holds the resource by now.
            StorageError: the database does not answer.
        """
        if self._failure is not None:
            raise LeaseLostError(f"{self.resource}: the heartbeat of {self.holder} stopped") from self._failure
        renew(self._engine, self._token, ttl_seconds=self._ttl_seconds, now=self._clock.now())

    def _beat(self) -> None:
        while not self._stop.wait(self._ttl_seconds / _BEATS_PER_TTL):
            try:
                renew(self._engine, self._token, ttl_seconds=self._ttl_seconds, now=self._clock.now())
            except (StorageError, DBAPIError) as error:
                # Two more beats fit into the time that is left; if they fail too, a new holder's token decides.
                _log.warning("lease of %s not renewed, next try follows: %s", self.resource, error)
            except Exception as error:  # noqa: BLE001 - a thread has no caller: `ensure_held` raises it there
                self._failure = error
                return

    def start(self) -> None:
        """Start the heartbeat."""
        self._heart.start()

    def stop(self) -> None:
        """Stop the heartbeat and wait until its last beat has ended."""
        self._stop.set()
        self._heart.join()

    def give_back(self) -> None:
        """Release the resource."""
        release(self._engine, self._token, now=self._clock.now())


def _acquire_within(
    wait_seconds: float, engine: Engine, resource: str, holder: str, ttl_seconds: float, clock: Clock
) -> LeaseToken:
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            return acquire(engine, resource, holder, ttl_seconds=ttl_seconds, now=clock.now())
        except LeaseHeldError:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
            time.sleep(min(_POLL_SECONDS, left))


@contextmanager
def lease(
    engine: Engine, resource: str, holder: str, ttl_seconds: float, clock: Clock, *, wait_seconds: float = 0.0
) -> Iterator[HeldLease]:
    """Hold `resource` for the block, renewed by a thread three times in each `ttl_seconds`, released at its end.

    After `kill -9` the lease runs out by itself within `ttl_seconds`: who waits a little longer than that (`wait_seconds`)
    gets a dead holder's lease. A clean end checks once more that it is held.

    Raises:
        LeaseHeldError: somebody else holds it; the message names holder and expiry.
        LeaseLostError: at the block's end, when somebody else took it meanwhile.
    """
    token = _acquire_within(wait_seconds, engine, resource, holder, ttl_seconds, clock)
    held = HeldLease(engine, token, ttl_seconds=ttl_seconds, clock=clock)
    held.start()
    try:
        yield held
        held.ensure_held()
    finally:
        held.stop()
        held.give_back()
