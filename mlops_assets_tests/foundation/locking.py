"""Functions that run in processes of their own: holders of file locks and run guards, some of them killed."""

import os
import signal
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

from mlops_assets.foundation.clock import SystemClock
from mlops_assets.foundation.database import create_operational_engine
from mlops_assets.foundation.file_lock import file_lock
from mlops_assets.foundation.run_guard import RunGuard


def count_up(folder: Path, times: int, barrier: Barrier) -> None:
    """Read a number from a file, add one and write it back, `times` times."""
    counter = folder / "counter"
    barrier.wait()
    for _ in range(times):
        with file_lock(folder / "lock"):
            number = int(counter.read_text())
            time.sleep(0.001)
            counter.write_text(str(number + 1))


def lock_and_die(folder: Path, barrier: Barrier) -> None:
    """Take the lock, then `kill -9`."""
    barrier.wait()
    with file_lock(folder / "lock"):
        os.kill(os.getpid(), signal.SIGKILL)


def guard_and_die(url: str, run_id: str, ttl_seconds: float, barrier: Barrier) -> None:
    """Guard a run, then `kill -9`."""
    guard = RunGuard(create_operational_engine(url), SystemClock(), ttl_seconds)
    barrier.wait()
    with guard.guard(run_id, lambda _: True):
        os.kill(os.getpid(), signal.SIGKILL)


def guard_and_finish(url: str, run_id: str, ttl_seconds: float, barrier: Barrier) -> None:
    """Guard a run until it ends well."""
    engine = create_operational_engine(url)
    barrier.wait()
    with RunGuard(engine, SystemClock(), ttl_seconds).guard(run_id, lambda _: True):
        time.sleep(ttl_seconds / 10)
    engine.dispose()
