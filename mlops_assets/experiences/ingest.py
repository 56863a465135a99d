"""From any source into the store of executions, exactly once: parquet first, then the books, so that a crash heals.

What is read and put aside is recorded in `IngestedSource` and `QuarantinedRow`; sources know nothing of either.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Engine, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from mlops_assets.experiences.execution_rows import excerpt
from mlops_assets.experiences.execution_source import ExecutionSource, Quarantine, SourceBatch
from mlops_assets.experiences.executions import append_executions, find_executions
from mlops_assets.experiences.parts import first_by_key
from mlops_assets.experiences.schema import EXECUTIONS
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.tables import IngestedSource, QuarantinedRow

# Small files share parts: a thousand reports of a day are one parquet file and one transaction, not a thousand.
_FLUSH_ROWS = 50_000
_FLUSH_BATCHES = 500
# Times without a zone are read as UTC; the farthest zones are 14 hours off.
_CLOCK_TOLERANCE = timedelta(hours=14)
# One broken export may have a million bad lines; these many of each reason are listed, all are counted.
_LISTED_PER_REASON = 200
_SAME_DURATION_MS = 1.0


@dataclass(frozen=True)
class IngestReport:
    """What one ingest did.

    `rows`: new executions stored. `repeated`: executions that were stored already (a grown history, a second report of
    one run). `quarantined`: put aside or flagged, by reason in `reasons`. `first`..`last`: span of the executions read.
    """

    rows: int
    repeated: int
    files_read: int
    files_skipped: int
    quarantined: int
    reasons: dict[str, int]
    first: datetime | None
    last: datetime | None


class _Known:
    """Hashes that need no second look; counts how often one was met."""

    def __init__(self, hashes: Iterable[str]) -> None:
        self._hashes = set(hashes)
        self.met = 0

    def __contains__(self, source_hash: object) -> bool:
        found = source_hash in self._hashes
        self.met += found
        return found

    def add(self, source_hash: str) -> None:
        self._hashes.add(source_hash)


@dataclass
class _Tally:
    rows: int = 0
    repeated: int = 0
    files: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    first: datetime | None = None
    last: datetime | None = None


def ingest(source: ExecutionSource, *, paths: ArtifactPaths, engine: Engine, now: datetime) -> IngestReport:
    """Store what `source` has that is not stored yet, and write down what was put aside.

    Executions later than the source's "now" are put aside. So are executions that contradict a stored one of the same
    cycle and test: the first report of a run counts.

    Raises:
        InputError: the source itself cannot be read; nothing of it is stored.
        StorageError: disk full or read-only, database away; what was stored is whole, a second call does the rest.
    """
    latest = source.as_of(now) + _CLOCK_TOLERANCE
    with read_transaction(engine) as session:
        known = _Known(session.scalars(select(IngestedSource.source_hash)))
    tally = _Tally()
    pending: list[SourceBatch] = []
    rows = 0
    for batch in source.batches(known):
        known.add(batch.source_hash)
        pending.append(_without_future(batch, latest))
        rows += batch.executions.num_rows
        if rows >= _FLUSH_ROWS or len(pending) >= _FLUSH_BATCHES:
            _store(pending, source.kind, paths, engine, now, tally)
            pending, rows = [], 0
    _store(pending, source.kind, paths, engine, now, tally)
    return IngestReport(
        rows=tally.rows,
        repeated=tally.repeated,
        files_read=tally.files,
        files_skipped=known.met,
        quarantined=tally.reasons.total(),
        reasons=dict(sorted(tally.reasons.items())),
        first=tally.first,
        last=tally.last,
    )


def _without_future(batch: SourceBatch, latest: datetime) -> SourceBatch:
    table = batch.executions
    if table.num_rows == 0:
        return batch
    future = pc.greater(table["started_at"], pa.scalar(latest, EXECUTIONS.field("started_at").type))
    if not pc.any(future).as_py():
        return batch
    late = table.filter(future).select(["test_id", "started_at"]).to_pylist()
    aside = tuple(
        Quarantine(
            None,
            "future_timestamp",
            excerpt(f"{row['test_id']} starts {row['started_at']:%Y-%m-%d %H:%M:%S}Z, later than now: set the clock"),
        )
        for row in late
    )
    return SourceBatch(
        batch.source_file, batch.source_hash, table.filter(pc.invert(future)), (*batch.quarantined, *aside)
    )


def _store(
    batches: list[SourceBatch], kind: str, paths: ArtifactPaths, engine: Engine, now: datetime, tally: _Tally
) -> None:
    if not batches:
        return
    everything = pa.concat_tables([EXECUTIONS.empty_table(), *(batch.executions for batch in batches)])
    contradictions = _contradictions(paths, everything)
    new = append_executions(paths, everything)
    with transaction(engine) as session:
        for batch in batches:
            quarantined = (*batch.quarantined, *contradictions.get(batch.source_hash, ()))
            _write_books(session, batch, quarantined, kind, now)
            tally.reasons.update(quarantine.reason for quarantine in quarantined)
    contradicting = sum(map(len, contradictions.values()))
    tally.files += len(batches)
    tally.rows += new
    tally.repeated += everything.num_rows - new - contradicting
    if everything.num_rows:
        span = pc.min_max(everything["started_at"]).as_py()
        tally.first = min(filter(None, (tally.first, span["min"])))
        tally.last = max(filter(None, (tally.last, span["max"])))


def _contradictions(paths: ArtifactPaths, table: pa.Table) -> dict[str, list[Quarantine]]:
    """Rows that tell another story of an execution than the stored row, or an earlier one of `table`; by source."""
    columns = ("execution_id", "status", "duration_ms", "source_file")
    stored = find_executions(paths, table, columns=columns)
    first = first_by_key(pa.concat_tables([stored, table.select(list(columns))]), ["execution_id"])
    if first.num_rows == table.num_rows and stored.num_rows == 0:
        return {}
    place = pc.index_in(table["execution_id"], value_set=first["execution_id"].combine_chunks())
    earlier = first.take(place)
    same_status = pc.equal(table["status"], earlier["status"]).to_numpy(zero_copy_only=False)
    gap = np.abs(table["duration_ms"].to_numpy() - earlier["duration_ms"].to_numpy())
    found: dict[str, list[Quarantine]] = {}
    for index in np.flatnonzero(~same_status | (gap > _SAME_DURATION_MS)).tolist():
        row = table.slice(index, 1).to_pylist()[0]
        kept = earlier.slice(index, 1).to_pylist()[0]
        message = (
            f"cycle {row['cycle_id']} has {row['test_id']} already from {kept['source_file']} ({kept['status']}, "
            f"{kept['duration_ms']:.0f} ms); this one says {row['status']}, {row['duration_ms']:.0f} ms: "
            "give every run a run id of its own"
        )
        found.setdefault(row["source_hash"], []).append(Quarantine(None, "duplicate_run", excerpt(message)))
    return found


def _write_books(
    session: Session, batch: SourceBatch, quarantined: tuple[Quarantine, ...], kind: str, now: datetime
) -> None:
    table = batch.executions
    span = pc.min_max(table["started_at"]).as_py() if table.num_rows else {"min": None, "max": None}
    entry = {
        "source_hash": batch.source_hash,
        "source_file": excerpt(batch.source_file),
        "kind": kind,
        "rows": table.num_rows,
        "quarantined": len(quarantined),
        "first_event": span["min"],
        "last_event": span["max"],
        "ingested_at": now,
    }
    rows = [
        {
            "source_file": entry["source_file"],
            "source_hash": batch.source_hash,
            "line": item.line,
            "reason": item.reason,
            "excerpt": item.excerpt,
            "quarantined_at": now,
        }
        for item in _listed(quarantined)
    ]
    _insert_new(session, IngestedSource.__table__, [entry])
    _insert_new(session, QuarantinedRow.__table__, rows)


def _listed(quarantined: tuple[Quarantine, ...]) -> list[Quarantine]:
    """One entry for each (line, reason), which is the key of the books; the rest is counted in the last one."""
    groups: dict[tuple[int | None, str], list[Quarantine]] = {}
    per_reason: Counter[str] = Counter()
    for item in quarantined:
        key = (item.line, item.reason)
        if key not in groups and per_reason[item.reason] >= _LISTED_PER_REASON:
            key = (None, item.reason)
        per_reason[item.reason] += key not in groups
        groups.setdefault(key, []).append(item)
    return [
        items[0] if len(items) == 1 else Quarantine(line, reason, f"{items[0].excerpt} (and {len(items) - 1} more)")
        for (line, reason), items in groups.items()
    ]


def _insert_new(session: Session, table: Any, rows: list[dict[str, Any]]) -> None:
    """Insert the rows whose keys are free: another ingest of the same files at the same time may have been first."""
    if not rows:
        return
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    session.execute(dialect.insert(table).on_conflict_do_nothing(), rows)
