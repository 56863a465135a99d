"""A run's heartbeat in the operational database, and what happens to runs whose heart stopped.

Dagster keeps a run STARTED, and its pool slot taken, when the whole process is killed. Every run therefore holds a lease
that it renews; whoever finds an expired one reports that run once. Dagster itself is not known here: the caller says how
a dead run is reported.
"""

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Engine, delete, select

from mlops_assets.foundation.clock import Clock
from mlops_assets.foundation.database import transaction
from mlops_assets.foundation.leases import RELEASED, lease
from mlops_assets.foundation.tables import Lease

_PREFIX = "dagster-run:"


@dataclass(frozen=True)
class RunGuard:
    """Keeps one run's lease alive and reports runs that lost theirs.

    A run counts as dead `ttl_seconds` after its last heartbeat; three missed beats are a dead process, not a slow disk.
    """

    engine: Engine
    clock: Clock
    ttl_seconds: float = 15.0

    @contextmanager
    def guard(self, run_id: str, report_dead: Callable[[str], None]) -> Iterator[None]:
        """Hold a lease of `run_id`; meanwhile, call `report_dead(other_run_id)` once for every run found dead.

        A run may have several processes at once (one per step), each with a lease of its own.
        """
        stop = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(stop, report_dead), name="run-guard", daemon=True)
        resource = f"{_PREFIX}{run_id}:{uuid.uuid4().hex}"
        with lease(self.engine, resource, run_id, self.ttl_seconds, self.clock):
            self.reap(report_dead)
            watcher.start()
            try:
                yield
            finally:
                stop.set()
                watcher.join()
        with transaction(self.engine) as session:
            session.execute(delete(Lease).where(Lease.resource == resource))

    def reap(self, report_dead: Callable[[str], None]) -> list[str]:
        """Report every run whose lease has expired; the row is removed first, so that only one process reports it."""
        reported = []
        for resource, token in self._expired():
            with transaction(self.engine) as session:
                removed = session.execute(
                    delete(Lease).where(Lease.resource == resource, Lease.token == token)
                ).rowcount  # type: ignore[attr-defined]
            if removed:
                run_id = resource.removeprefix(_PREFIX).partition(":")[0]
                report_dead(run_id)
                reported.append(run_id)
        return reported

    def _expired(self) -> list[tuple[str, int]]:
        with transaction(self.engine) as session:
            rows = session.execute(
                select(Lease.resource, Lease.token).where(
                    Lease.resource.startswith(_PREFIX), Lease.holder != RELEASED, Lease.expires_at < self.clock.now()
                )
            )
            return [(resource, token) for resource, token in rows]

    def _watch(self, stop: threading.Event, report_dead: Callable[[str], None]) -> None:
        while not stop.wait(self.ttl_seconds / 3):
            self.reap(report_dead)
