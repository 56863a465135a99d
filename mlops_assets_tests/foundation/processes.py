"""Real processes for tests of concurrency, forked from a small server that has imported what they need already."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from datetime import datetime
from multiprocessing.synchronize import Barrier
from typing import Any

from mlops_assets.foundation.audit import append_event
from mlops_assets.foundation.clock import SystemClock
from mlops_assets.foundation.database import create_operational_engine, transaction, upgrade
from mlops_assets.foundation.errors import TransientError
from mlops_assets.foundation.leases import acquire, lease
from mlops_assets.foundation.tables import Lease

_JOIN_SECONDS = 90
_CONTEXT = multiprocessing.get_context("forkserver")


def run_together(function: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> list[int | None]:
    """Run one process for each tuple of arguments, with a common start barrier as last argument; return exit codes."""
    # Alembic and the driver are imported inside functions, so they are named here.
    _CONTEXT.set_forkserver_preload(["__main__", __name__, "alembic.command", "psycopg2"])
    barrier = _CONTEXT.Barrier(len(arguments))
    processes = [_CONTEXT.Process(target=function, args=(*each, barrier)) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(_JOIN_SECONDS)
    return [process.exitcode for process in processes]


def upgrade_database(url: str, barrier: Barrier) -> None:
    """Bring the schema up."""
    engine = create_operational_engine(url)
    barrier.wait()
    upgrade(engine)
    engine.dispose()


def increment(url: str, resource: str, times: int, barrier: Barrier) -> None:
    """Read, add one and write back, `times` times."""
    engine = create_operational_engine(url)
    barrier.wait()
    for _ in range(times):
        with transaction(engine) as session:
            row = session.get_one(Lease, resource, with_for_update=True)
            row.token += 1
    engine.dispose()


def append_events(url: str, times: int, now: datetime, barrier: Barrier) -> None:
    """Append `times` audit events, each in a transaction of its own."""
    engine = create_operational_engine(url)
    barrier.wait()
    for _ in range(times):
        with transaction(engine) as session:
            append_event(
                session, event_type="model_approved", model_name="m", version="1", user="u", details={}, now=now
            )
    engine.dispose()


def hold_and_die(url: str, resource: str, ttl_seconds: float, barrier: Barrier) -> None:
    """Take a lease, then `kill -9`."""
    barrier.wait()
    with lease(create_operational_engine(url), resource, "killed", ttl_seconds, SystemClock()):
        os.kill(os.getpid(), signal.SIGKILL)


def acquire_or_exit(url: str, resource: str, holder: str, now: datetime, barrier: Barrier) -> None:
    """Exit with 0 when the lease was granted, with 3 when it was refused."""
    engine = create_operational_engine(url)
    barrier.wait()
    try:
        acquire(engine, resource, holder, ttl_seconds=600, now=now)
    except TransientError:
        raise SystemExit(3) from None
    finally:
        engine.dispose()
