"""Journal files: whole lines, in order, each read until it is done; nothing of a dead process is lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlops_assets.foundation.errors import StorageError
from mlops_assets.serving import journal as module
from mlops_assets.serving.journal import JournalFolder, abandoned_journals


def _read_all(journal: JournalFolder, most: int = 3) -> list[str]:
    found: list[str] = []
    while lines := journal.read(most):
        found += lines
        journal.done(lines)
    return found


def test_lines_come_back_once_and_in_order_over_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the change of a file a line is lost, or read twice."""
    monkeypatch.setattr(module, "_SEGMENT_BYTES", 100)
    journal = JournalFolder.create(tmp_path)
    written: list[str] = []
    read: list[str] = []
    for i in range(60):
        line = f"{i}:{'x' * (i % 30)}\n"
        journal.append(line)
        written.append(line)
        if i % 7 == 0:
            read += _read_all(journal)
    read += _read_all(journal)
    assert read == written
    # Only the segment that is written to is left.
    assert len(list(journal.folder.glob("*.jsonl"))) == 1
    journal.close(remove=True)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_done_is_read_again(tmp_path: Path) -> None:
    """The database refuses once, and the rows are gone."""
    journal = JournalFolder.create(tmp_path)
    journal.append("1\n2\n3\n")
    assert journal.read(2) == ["1\n", "2\n"]
    assert journal.read(2) == ["1\n", "2\n"]
    journal.done(["1\n"])
    assert journal.read(2) == ["2\n", "3\n"]
    journal.close(remove=False)


def test_a_line_that_a_killed_process_left_half_is_no_line(tmp_path: Path) -> None:
    """Half a line goes into the database as a row."""
    dead = JournalFolder.create(tmp_path)
    dead.append("whole\n")
    (path,) = dead.folder.glob("*.jsonl")
    with path.open("a") as file:
        file.write("whole as well\nhal")
    dead.close(remove=False)
    (left,) = abandoned_journals(tmp_path)
    assert _read_all(left) == ["whole\n", "whole as well\n"]
    left.close(remove=True)


def test_what_a_write_may_still_take_back_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk takes the first lines of a write and not the last: they are shipped, and then others at their place."""
    journal = JournalFolder.create(tmp_path)
    read: list[str] = []
    real, room = os.write, [6, 0, 6, 0]

    def filling_up(descriptor: int, data: bytes) -> int:
        left = room.pop(0)
        if left:
            return real(descriptor, data[:left])
        read.extend(_read_all(journal))
        raise OSError(28, "No space left on device")

    for written in ("first\n", "second\n"):
        monkeypatch.setattr(os, "write", filling_up)
        with pytest.raises(StorageError, match="the disk is full"):
            journal.append("one\ntwo\nthree\n")
        monkeypatch.setattr(os, "write", real)
        journal.append(written)
    assert [*read, *_read_all(journal)] == ["first\n", "second\n"]
    journal.close(remove=False)


def test_a_full_disk_is_said_and_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails in its middle leaves half a row in front of the next one."""
    journal = JournalFolder.create(tmp_path)
    journal.append("one\n")
    real, calls = os.write, []

    def failing(descriptor: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) == 1:
            return real(descriptor, data[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", failing)
    with pytest.raises(StorageError, match="the disk is full"):
        journal.append("two\n")
    monkeypatch.setattr(os, "write", real)
    journal.append("three\n")
    assert _read_all(journal) == ["one\n", "three\n"]
    journal.close(remove=False)


_WRITER = """
import sys, time
from pathlib import Path
from mlops_assets.serving.journal import JournalFolder
journal = JournalFolder.create(Path(sys.argv[1]))
journal.append("left\\nbehind\\n")
print("written", flush=True)
time.sleep(60)
"""


def test_only_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    """Two processes ship one journal, or nobody ships that of a killed one."""
    command = [sys.executable, "-c", _WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        own = JournalFolder.create(tmp_path)
        assert list(abandoned_journals(tmp_path)) == []
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 5
    taken = list(abandoned_journals(tmp_path))
    while not taken and time.monotonic() < deadline:
        taken = list(abandoned_journals(tmp_path))
    (left,) = taken
    assert list(abandoned_journals(tmp_path)) == []
    assert _read_all(left) == ["left\n", "behind\n"]
    left.close(remove=True)
    own.close(remove=True)
    assert list(tmp_path.iterdir()) == []
