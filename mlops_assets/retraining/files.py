"""Files that arrive in watched folders: taken once by their content, and never while they are being written.

The cursor is the table `watched_file`: a file whose size and time of change are those of the last look is not read again.
A file counts as written when it was the same at two looks; a parquet file also has to end as one does.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.files import sha256_file
from mlops_assets.foundation.policies import FileWatch
from mlops_assets.foundation.tables import IngestedSource, WatchedFileRecord
from mlops_assets.retraining.signals import NewSignal

_LINES = {".csv": 1, ".jsonl": 0, ".ndjson": 0}
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Arrival:
    """One new file; `rows` None: they cannot be counted without reading it as what it is."""

    path: Path
    content_hash: str
    rows: int | None


@dataclass(frozen=True)
class _Seen:
    path: Path
    size: int
    changed_ns: int

    @property
    def key(self) -> str:
        return hashlib.sha256(os.fsencode(self.path)).hexdigest()


def arrivals(engine: Engine, watch: FileWatch, home: Path, now: datetime) -> list[Arrival]:
    """Look once, and return the files that are whole, new, and have not been taken in by the room of experiences.

    They are given at every look until `taken` is called: a crash in between loses none.
    """
    present = list(_present(watch, home))
    with read_transaction(engine) as session:
        known = {record.path_hash: record for record in session.scalars(select(WatchedFileRecord))}
    found, changed = [], []
    for seen in present:
        record = known.get(seen.key)
        same = record is not None and (record.bytes, record.changed_ns) == (seen.size, seen.changed_ns)
        if record is None or not same:
            changed.append(seen)
        elif record.content_hash is None and now - record.first_seen_at >= timedelta(seconds=watch.settle_seconds):
            arrival = _whole(seen)
            if arrival is not None:
                found.append(arrival)
    if changed:
        with transaction(engine) as session:
            for seen in changed:
                _note(session, seen, now)
    return found


def taken(session: Session, found: Sequence[Arrival]) -> None:
    """Move the cursor past files, in the transaction that stores their signals."""
    for arrival in found:
        key = _Seen(arrival.path, 0, 0).key
        record = session.get(WatchedFileRecord, key)
        if record is not None:
            record.content_hash = arrival.content_hash


def signals_of(session: Session, found: Sequence[Arrival]) -> list[NewSignal]:
    """Ask for a training of every agent on each new content; what was ingested already is not new."""
    hashes = [arrival.content_hash for arrival in found]
    ingested = set(session.scalars(select(IngestedSource.source_hash).where(IngestedSource.source_hash.in_(hashes))))
    asked = []
    for arrival in found:
        if arrival.content_hash in ingested:
            continue
        rows = "" if arrival.rows is None else f", {arrival.rows:,} rows"
        evidence = {} if arrival.rows is None else {"new_samples": float(arrival.rows)}
        for agent in AGENTS:
            key = f"file:{agent}:{arrival.content_hash}"
            asked.append(NewSignal(agent, "file_arrival", key, f"file {arrival.path.name} arrived{rows}", evidence))
    return asked


def _present(watch: FileWatch, home: Path) -> Iterator[_Seen]:
    for directory in watch.directories:
        for folder, _, names in os.walk(home / directory):
            for name in sorted(names):
                if name.startswith(".") or not name.lower().endswith(watch.patterns):
                    continue
                path = Path(folder) / name
                try:
                    state = path.stat()
                except FileNotFoundError:  # renamed or removed since it was listed: the next look finds it
                    continue
                yield _Seen(path, state.st_size, state.st_mtime_ns)


def _whole(seen: _Seen) -> Arrival | None:
    """Read the file; None when it changed meanwhile, is empty, or does not end as its kind does."""
    if seen.size == 0:
        return None
    try:
        content = sha256_file(seen.path)
        rows = _rows(seen.path)
        state = seen.path.stat()
    except (FileNotFoundError, _UnfinishedError):
        return None
    if (state.st_size, state.st_mtime_ns) != (seen.size, seen.changed_ns):
        return None
    return Arrival(seen.path, content, rows)


class _UnfinishedError(Exception):
    """The file is not whole yet."""


def _rows(path: Path) -> int | None:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        try:
            return int(parquet.read_metadata(path).num_rows)
        except (pa.ArrowInvalid, OSError) as error:
            raise _UnfinishedError(str(error)) from error
    if suffix not in _LINES:
        return None
    return max(0, _line_count(path) - _LINES[suffix])


def _line_count(path: Path) -> int:
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")


def _note(session: Session, seen: _Seen, now: datetime) -> None:
    record = session.get(WatchedFileRecord, seen.key)
    if record is None:
        record = WatchedFileRecord(path_hash=seen.key, path=str(seen.path))
        session.add(record)
    record.bytes, record.changed_ns = seen.size, seen.changed_ns
    record.first_seen_at, record.content_hash = now, None
