"""Lines on their way to a store that may be slow or away: appended to segment files by one thread, read by another.

A line is safe from `kill -9` once it is written. Each process has a folder of its own with a lock in it; the folder of a
dead process is taken over by a living one. What the lines mean is not known here.
"""

import fcntl
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from mlops_assets.foundation.files import storage_errors

_SEGMENT_BYTES = 8 * 1024 * 1024
_LOCK = ".lock"
_log = logging.getLogger(__name__)


class JournalFolder:
    """The journal of one process: segments `000001.jsonl`, ...; one writer, one reader, in any thread each."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        self._lock = descriptor
        self._file: int | None = None
        self._number = max((int(path.stem) for path in folder.glob("*.jsonl")), default=0)
        self._written = 0
        # The last segment, and how much of it the writer will not take back; None: all, for its process is dead. One
        # value, since reader and writer are threads.
        self._committed: tuple[int, int | None] = (self._number, None)
        self._read_number = 0
        self._offset = 0

    @classmethod
    def create(cls, root: Path) -> "JournalFolder":
        """Make a new folder below `root`.

        Raises:
            StorageError: it cannot be written.
        """
        folder = root / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        with storage_errors(folder):
            # The lock first, in a folder that no other process looks at yet.
            hidden = root / f".{folder.name}"
            hidden.mkdir(parents=True)
            descriptor = os.open(hidden / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            hidden.rename(folder)
        return cls(folder, descriptor)

    def append(self, lines: str) -> None:
        """Write whole lines, ASCII only, with one call to the operating system.

        Raises:
            StorageError: the disk is full or read-only; nothing of these lines counts as written.
        """
        data = lines.encode("ascii")
        with storage_errors(self.folder):
            if self._file is None or self._written > _SEGMENT_BYTES:
                self._next_segment()
            before = self._written
            try:
                while data:
                    count = os.write(self._descriptor(), data)
                    data, self._written = data[count:], self._written + count
            except OSError:
                os.ftruncate(self._descriptor(), before)
                self._written = before
                raise
        self._committed = (self._number, self._written)

    def read(self, most: int) -> list[str]:
        """Return up to `most` whole lines from where the last `done` left off; an empty list when there is none."""
        # Before reading: a segment that is closed by now gets no line after we have looked.
        writing, end = self._committed
        for path in self._unread():
            number = int(path.stem)
            if number > writing:  # made since
                break
            lines = self._lines(path, most, end if number == writing else None)
            if lines or number == writing:
                return lines
            self._offset, self._read_number = 0, number
            path.unlink()
        return []

    def done(self, lines: list[str]) -> None:
        """The lines that `read` gave are where they belong."""
        self._offset += sum(map(len, lines))

    def close(self, *, remove: bool) -> None:
        """End the journal; with `remove` also its folder, once everything is read."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if remove:
            shutil.rmtree(self.folder)
        os.close(self._lock)

    def _unread(self) -> Iterator[Path]:
        paths = sorted(self.folder.glob("*.jsonl"), key=lambda path: int(path.stem))
        return (path for path in paths if int(path.stem) > self._read_number)

    def _lines(self, path: Path, most: int, end: int | None) -> list[str]:
        with path.open("rb") as file:
            position = file.seek(self._offset)
            lines: list[str] = []
            while len(lines) < most and (end is None or position < end):
                line = file.readline()
                # A last line without its end: cut off when its process was killed.
                if not line.endswith(b"\n"):
                    break
                lines.append(line.decode("ascii"))
                position += len(line)
        return lines

    def _next_segment(self) -> None:
        finished, self._file = self._file, None
        if finished is not None:
            os.close(finished)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL
        self._file = os.open(self.folder / f"{self._number + 1:06d}.jsonl", flags, 0o600)
        self._number, self._written = self._number + 1, 0
        self._committed = (self._number, 0)

    def _descriptor(self) -> int:
        if self._file is None:
            raise ValueError("the journal has no open segment")
        return self._file


def abandoned_journals(root: Path) -> Iterator[JournalFolder]:
    """Take over the folders whose processes are dead, one at a time; whoever gets one reads and removes it."""
    for folder in sorted(path for path in root.glob("*-*") if path.is_dir() and not path.name.startswith(".")):
        try:
            descriptor = os.open(folder / _LOCK, os.O_RDWR)
        except FileNotFoundError:  # removed since by another process
            continue
        except OSError as error:
            # Of another user, say: the others are shipped, and this one is said at every look.
            _log.error("the journal %s cannot be taken over: %s", folder, error)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        if not (folder / _LOCK).exists():  # taken over, read and removed between the two calls
            os.close(descriptor)
            continue
        yield JournalFolder(folder, descriptor)
