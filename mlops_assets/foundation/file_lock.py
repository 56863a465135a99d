"""One process at a time at a folder of files: a lock that the operating system frees when its holder dies."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlops_assets.foundation.errors import TransientError
from mlops_assets.foundation.files import storage_errors

_POLL_SECONDS = 0.1


@contextmanager
def file_lock(path: Path, *, wait_seconds: float = 600.0) -> Iterator[None]:
    """Hold the exclusive lock of the file `path`, which is made when absent and never removed.

    Unlike a lease in the database it needs no time to live: after `kill -9` the next caller has it at once. It holds
    between processes and threads of one machine, and over NFS 4.

    Raises:
        TransientError: another process still held it after `wait_seconds`; the message names that process.
        StorageError: the file cannot be made.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(descriptor, path, time.monotonic() + wait_seconds)
        with storage_errors(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 32, 0).decode() or "unknown"
                raise TransientError(
                    f"process {holder} holds the lock {path}: wait for it to finish, or end it, and try again"
                ) from None
            time.sleep(_POLL_SECONDS)
        else:
            return
