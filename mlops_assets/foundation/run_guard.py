"""A run's heartbeat in the operational database, and what happens to runs whose heart stopped.

Dagster keeps a run STARTED, and its pool slot taken, when the whole process is killed. Every run therefore holds a
lease that it renews; whoever finds an expired one reports that run once. Dagster itself is not known here: the caller
says how a dead run is reported.
"""

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, delete, select

from mlops_assets.foundation.clock import Clock
from mlops_assets.foundation.database import transaction
from mlops_assets.foundation.leases import RELEASED, lease
from mlops_assets.foundation.tables import Lease

# Reports a dead run by its id; False when the run is not known here, so that somebody else has to.
ReportDead = Callable[[str], bool]

_PREFIX = "dagster-run:"
# A lease is renewed three times in its 2/3 of the time to live, hence every 2/9. Five looks span 4/15, which is longer.
_LEASE_SHARE = 2 / 3
_LOOKS_PER_TTL = 15
_LOOKS_TO_BE_SURE = 5
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunGuard:
    """Keeps one run's lease alive and reports runs that lost theirs.

    A run counts as dead when nothing was heard of it for `ttl_seconds`, the last part of them under watch for longer
    than a heartbeat: a machine that slept, or a database that was locked for long, stops every heart at once.
    """

    engine: Engine
    clock: Clock
    ttl_seconds: float = 30.0

    @contextmanager
    def guard(self, run_id: str, report_dead: ReportDead) -> Iterator[None]:
        """Hold a lease of `run_id`; meanwhile, call `report_dead(other_run_id)` once for every run found dead.

        A run may have several processes at once (one per step), each with a lease of its own; it is dead when all that
        are left of them have expired. The call comes from a thread, inside a transaction of the operational database.
        What it raises is logged, and the run is reported again later.
        """
        resource = f"{_PREFIX}{run_id}:{uuid.uuid4().hex}"
        stop = threading.Event()
        watcher = Watcher(self, run_id, report_dead)
        thread = threading.Thread(target=watcher.watch, args=(stop,), name="run-guard", daemon=True)
        try:
            with lease(self.engine, resource, run_id, self.ttl_seconds * _LEASE_SHARE, self.clock):
                thread.start()
                try:
                    yield
                finally:
                    stop.set()
                    thread.join()
        finally:
            with transaction(self.engine) as session:
                session.execute(delete(Lease).where(Lease.resource == resource))


class Watcher:
    """One guard's view of the other runs, from look to look."""

    def __init__(self, guard: RunGuard, own_run_id: str, report_dead: ReportDead) -> None:
        self._guard = guard
        self._report_dead = report_dead
        self._own_or_unknown = {own_run_id}
        self._looks: dict[str, tuple[datetime, int]] = {}

    def watch(self, stop: threading.Event) -> None:
        """Look until `stop` is set."""
        while not stop.is_set():
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - this run's work does not hang on it, and the next look tries again
                _log.warning("dead runs not looked for, next try follows: %s: %s", type(error).__name__, error)
            stop.wait(self._guard.ttl_seconds / _LOOKS_PER_TTL)

    def look(self) -> None:
        """Look once; a run that was found silent often enough is reported.

        Raises:
            StorageError: the database does not answer.
        """
        # A write transaction, also for reading: while heartbeats wait for the write lock of SQLite, looks wait as well.
        with transaction(self._guard.engine) as session:
            leases = session.scalars(
                select(Lease).where(Lease.resource.startswith(_PREFIX), Lease.holder != RELEASED)
            ).all()
        now = self._guard.clock.now()
        self._looks = {
            each.resource: (each.expires_at, self._looks_at(each) + 1) for each in leases if each.expires_at < now
        }
        silent = {each.holder for each in leases} - self._own_or_unknown
        silent -= {each.holder for each in leases if self._looks_at(each) < _LOOKS_TO_BE_SURE}
        for run_id in sorted(silent):
            self._bury(run_id)

    def _looks_at(self, each: Lease) -> int:
        expires_at, looks = self._looks.get(each.resource, (each.expires_at, 0))
        return looks if expires_at == each.expires_at else 0

    def _bury(self, run_id: str) -> None:
        with transaction(self._guard.engine) as session:
            # Locked: of several watchers one reports, and the others find nothing afterwards.
            leases = session.scalars(
                select(Lease).where(Lease.resource.startswith(_PREFIX), Lease.holder == run_id).with_for_update()
            ).all()
            if not leases or max(each.expires_at for each in leases) >= self._guard.clock.now():
                return
            if not self._report_dead(run_id):
                self._own_or_unknown.add(run_id)
                return
            for each in leases:
                session.delete(each)
