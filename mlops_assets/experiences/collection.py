"""From a source's batches to the store: read since the last success, keep bad rows out, drop repeats, write parts.

The store of one agent and source only grows; which of its rows make a snapshot is decided in `window.py`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Engine, func, insert, select
from sqlalchemy.orm import Session

from mlops_assets.experiences.environment import ExperienceBatch, ExperienceSource
from mlops_assets.experiences.parts import (
    Part,
    first_by_key,
    list_parts,
    read_part,
    row_keys,
    sorted_rows,
    split_by_day,
    write_part,
)
from mlops_assets.experiences.row_checks import BadRow, check_experiences, check_labels, check_requirement_texts
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.files import digest
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.tables import ExperienceCursor, QuarantinedRow

# Gives parts of a sensible size where a source hands out small batches; 64-float states of so many rows take 25 MiB.
_GROUP_ROWS = 100_000
_QUARANTINE_CHUNK = 10_000
DECISION_ORDER = ("event_time", "episode_id", "step")
_TEXT_KEY = ("requirement_id", "text", "area")
_LABEL_KEY = ("experience_id", "label_time")


@dataclass(frozen=True)
class StoreFolders:
    """Where the parts of one agent and source lie; two sources never share a folder, so their rows never mix."""

    decisions: Path
    labels: Path
    requirement_texts: Path


@dataclass(frozen=True)
class Collected:
    """What one collection added: rows stored, rows that were there already, rows kept out, and the position reached."""

    rows: int
    repeated: int
    quarantined: int
    cursor: str | None


def store_folders(paths: ArtifactPaths, agent: str, source: str) -> StoreFolders:
    """Return the folders of one agent and source; nothing is created."""
    folder = f"source={quote(source, safe='')}"
    return StoreFolders(
        decisions=paths.experiences(agent) / folder,
        labels=paths.labels(agent) / folder,
        requirement_texts=paths.requirement_texts(agent) / folder,
    )


def collect_batches(
    source: ExperienceSource, spec: AgentSpec, *, paths: ArtifactPaths, engine: Engine, as_of: datetime, now: datetime
) -> Collected:
    """Read everything after the stored position into the store.

    The position moves in one transaction with the quarantine rows, after the parts it stands for are on disk: a crash
    in between makes the next collection write the same parts again, which changes nothing.

    Raises:
        InputError: the source's schema changed, or it cannot be read.
        StorageError: the disk is full or read-only.
    """
    folders = store_folders(paths, spec.name, source.name)
    position = _stored_position(engine, spec.name, source.name) if list_parts(folders.decisions) else None
    collected = Collected(rows=0, repeated=0, quarantined=0, cursor=position)
    for group in _groups(source.batches(spec, position), spec, as_of=as_of, source_file=_label(spec.name, source.name)):
        stored = _store(group, folders)
        _commit(engine, spec.name, source.name, group, now)
        collected = Collected(
            rows=collected.rows + stored,
            repeated=collected.repeated + group.rows - stored,
            quarantined=collected.quarantined + len(group.bad),
            cursor=group.cursor,
        )
    return collected


def quarantined_rows(engine: Engine, agent: str, source: str) -> int:
    """Count the rows of one agent and source that were ever kept out."""
    with read_transaction(engine) as session:
        query = select(func.count()).where(QuarantinedRow.source_file == _label(agent, source))
        return session.execute(query).scalar_one()


def _label(agent: str, source: str) -> str:
    return f"experiences/{agent}/{source}"


@dataclass
class _Group:
    """Consecutive batches that are stored together, checked, with their bad rows keyed by batch and table."""

    cursor: str
    decisions: list[pa.Table] = field(default_factory=list)
    labels: list[pa.Table] = field(default_factory=list)
    texts: list[pa.Table] = field(default_factory=list)
    bad: list[tuple[str, BadRow]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(table.num_rows for table in self.decisions)


def _groups(
    batches: Iterable[ExperienceBatch], spec: AgentSpec, *, as_of: datetime, source_file: str
) -> Iterator[_Group]:
    group: _Group | None = None
    for batch in batches:
        group = group or _Group(cursor=batch.cursor)
        group.cursor = batch.cursor
        for name, rows, into in (
            ("experiences", check_experiences(batch.experiences, spec, as_of=as_of), group.decisions),
            ("labels", check_labels(batch.labels, spec), group.labels),
            ("requirement_texts", check_requirement_texts(batch.requirement_texts), group.texts),
        ):
            into.append(rows.table)
            if rows.bad:
                key = digest({"source": source_file, "table": name, "cursor": batch.cursor})
                group.bad += [(key, row) for row in rows.bad]
        if group.rows >= _GROUP_ROWS:
            yield group
            group = None
    if group is not None:
        yield group


def _store(group: _Group, folders: StoreFolders) -> int:
    """Write the parts of a group and return how many decisions were new."""
    _store_texts(folders.requirement_texts, pa.concat_tables(group.texts), _first_day(group))
    labels = first_by_key(pa.concat_tables(group.labels), _LABEL_KEY)
    _store_new(folders.labels, labels, time_column="label_time", key=_LABEL_KEY, order=("label_time", "experience_id"))
    decisions = first_by_key(pa.concat_tables(group.decisions), ("experience_id",))
    return _store_new(
        folders.decisions, decisions, time_column="event_time", key=("experience_id",), order=DECISION_ORDER
    )


def _store_new(folder: Path, table: pa.Table, *, time_column: str, key: Sequence[str], order: Sequence[str]) -> int:
    new = 0
    for day, rows in split_by_day(table, time_column):
        fresh = _without_known(rows, list_parts(folder, start=day, end=day), key)
        new += fresh.num_rows
        if fresh.num_rows:
            write_part(folder, day, sorted_rows(fresh, order))
    return new


def _without_known(rows: pa.Table, parts: Sequence[Part], key: Sequence[str]) -> pa.Table:
    """Drop rows that a part holds already: delivered twice, or by a collection that was killed before its commit."""
    if not parts:
        return rows
    known = pa.concat_arrays([row_keys(read_part(part, key), key) for part in parts])
    return rows.filter(pc.invert(pc.is_in(row_keys(rows, key), value_set=known)))


def _store_texts(folder: Path, texts: pa.Table, day: date) -> None:
    fresh = _without_known(first_by_key(texts, _TEXT_KEY), list_parts(folder), _TEXT_KEY)
    if fresh.num_rows:
        # Under the day of the first decision that came with them, so that a reworded text can replace the older one.
        write_part(folder, day, sorted_rows(fresh, _TEXT_KEY))


def _first_day(group: _Group) -> date:
    firsts = [pc.min(table["event_time"]).as_py() for table in group.decisions if table.num_rows]
    return min(firsts).date() if firsts else date.min


def _stored_position(engine: Engine, agent: str, source: str) -> str | None:
    with read_transaction(engine) as session:
        stored = session.get(ExperienceCursor, (agent, source))
        return None if stored is None else stored.position


def _commit(engine: Engine, agent: str, source: str, group: _Group, now: datetime) -> None:
    with transaction(engine) as session:
        _quarantine(session, group.bad, source_file=_label(agent, source), now=now)
        stored = session.get(ExperienceCursor, (agent, source))
        if stored is None:
            session.add(ExperienceCursor(agent=agent, source=source, position=group.cursor, updated_at=now))
        else:
            stored.position, stored.updated_at = group.cursor, now


def _quarantine(session: Session, bad: Sequence[tuple[str, BadRow]], *, source_file: str, now: datetime) -> None:
    keys = {key for key, _ in bad}
    listed = {
        (row.source_hash, row.line)
        for key in keys
        for row in session.execute(
            select(QuarantinedRow.source_hash, QuarantinedRow.line).where(QuarantinedRow.source_hash == key)
        )
    }
    new = [
        {
            "source_file": source_file,
            "source_hash": key,
            "line": row.line,
            "reason": row.reason,
            "excerpt": row.excerpt,
            "quarantined_at": now,
        }
        for key, row in bad
        if (key, row.line) not in listed
    ]
    for start in range(0, len(new), _QUARANTINE_CHUNK):
        session.execute(insert(QuarantinedRow), new[start : start + _QUARANTINE_CHUNK])
