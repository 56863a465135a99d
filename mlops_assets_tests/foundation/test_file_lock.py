"""The file lock: one holder at a time, free at once when the holder dies."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mlops_assets.foundation.errors import StorageError, TransientError
from mlops_assets.foundation.file_lock import file_lock
from mlops_assets_tests.foundation.locking import count_up, lock_and_die
from mlops_assets_tests.foundation.processes import run_together


def _take(path: Path, wait_seconds: float = 0.0) -> None:
    with file_lock(path, wait_seconds=wait_seconds):
        pass


def test_processes_take_turns(tmp_path: Path) -> None:
    """Two runs that rewrite one folder's index at once: one of the two entries is lost."""
    (tmp_path / "counter").write_text("0")
    assert run_together(count_up, [(tmp_path, 20)] * 3) == [0, 0, 0]
    assert (tmp_path / "counter").read_text() == "60"


def test_a_killed_holder_frees_the_lock_at_once(tmp_path: Path) -> None:
    """A lock file that has to be removed by hand after `kill -9` stops every rerun."""
    assert run_together(lock_and_die, [(tmp_path,)]) == [-signal.SIGKILL]
    assert (tmp_path / "lock").exists()
    _take(tmp_path / "lock")


def test_a_held_lock_is_refused_with_the_holders_process_id(tmp_path: Path) -> None:
    """Without a name nobody knows which process to wait for; retried, since it may be free on the next try."""
    path = tmp_path / "new folder" / "lock"
    with file_lock(path):
        begin = time.monotonic()
        with pytest.raises(TransientError, match=f"process {os.getpid()} holds the lock {path}: wait for it"):
            _take(path, 0.3)
        assert 0.3 <= time.monotonic() - begin < 5
    _take(path)


def test_a_waiter_gets_the_lock_when_it_is_given_back(tmp_path: Path) -> None:
    """Threads of one process are told apart as well, and a short wait is no failure."""
    order: list[str] = []
    inside = threading.Event()

    def hold() -> None:
        with file_lock(tmp_path / "lock"):
            inside.set()
            time.sleep(0.3)
            order.append("holder")

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(10)
    with file_lock(tmp_path / "lock", wait_seconds=30):
        order.append("waiter")
    thread.join()
    assert order == ["holder", "waiter"]


def test_a_failure_inside_gives_the_lock_back(tmp_path: Path) -> None:
    """The next run would wait ten minutes for a lock that nobody needs, and the failure itself must be seen."""

    def fail() -> None:
        with file_lock(tmp_path / "lock"):
            raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        fail()
    _take(tmp_path / "lock")


def test_programs_started_under_the_lock_do_not_keep_it(tmp_path: Path) -> None:
    """DVC is started under the lock: a grandchild that lives on must not hold what its parent gave back."""
    with file_lock(tmp_path / "lock"):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        _take(tmp_path / "lock")
    finally:
        child.kill()
        child.wait()


def test_locks_of_two_files_are_independent(tmp_path: Path) -> None:
    """Two agents' snapshots must not wait for each other."""
    with file_lock(tmp_path / "a"):
        _take(tmp_path / "b")


def test_a_path_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    """`NotADirectoryError` from deep inside tells nobody which setting to change."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="is a file, not a folder: remove that file or point MLOPS_HOME elsewhere"):
        _take(tmp_path / "file" / "folder" / "lock")


def test_a_full_disk_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the holder's process id needs a block of disk: the raw OSError was not retried and gave no advice."""

    def full(_descriptor: int, _data: bytes, _offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(StorageError, match="disk is full: free space"):
            _take(tmp_path / "lock")
    _take(tmp_path / "lock")
