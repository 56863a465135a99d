"""Offline rows on disk: parquet files by group and month in one folder a view, which is Feast's file source.

A group is one writer's share of a view: all tests, or one agent. What the rows mean is `tables.py`'s business.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlops_assets.features.views import EVENT_TIMESTAMP, ViewSpec
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.files import atomic_write
from mlops_assets.foundation.paths import ArtifactPaths

# Every view's folder holds a file without rows, so that readers of an empty view find its schema.
_SCHEMA_FILE = "schema.parquet"


def view_folder(paths: ArtifactPaths, view: ViewSpec) -> Path:
    """Folder of the view's parquet files."""
    return paths.features / "offline" / view.name


def midnight(day: date) -> datetime:
    """Start of a UTC day."""
    return datetime.combine(day, time(), tzinfo=UTC)


def create_view_folder(paths: ArtifactPaths, view: ViewSpec) -> None:
    """Make the view's folder with its schema file; harmless when it is there."""
    path = view_folder(paths, view) / _SCHEMA_FILE
    if not path.exists():
        with atomic_write(path) as temporary:
            pq.write_table(view.schema.empty_table(), temporary)


def replace_rows(paths: ArtifactPaths, view: ViewSpec, group: str, rows: pa.Table, *, start: datetime) -> None:
    """Replace the group's rows with an event time from `start` on by `rows`; earlier rows stay as they are.

    Each month's file is replaced as a whole; a reader sees it before or after, never in between.

    Raises:
        InputError: the columns are not the view's, or a row is older than `start`.
        StorageError: the disk is full or read-only.
    """
    rows = _checked(view, rows, start)
    create_view_folder(paths, view)
    later = {path: month for path, month in _files(paths, view, group).items() if month >= _month(start)}
    row_months = pc.strftime(rows[EVENT_TIMESTAMP], format="%Y-%m")
    for month in sorted({*later.values(), *pc.unique(row_months).to_pylist()}):
        path = view_folder(paths, view) / f"{group}-{month}.parquet"
        fresh = rows.filter(pc.equal(row_months, month))
        kept = _earlier(path, view, start) if path in later else view.schema.empty_table()
        table = pa.concat_tables([kept, fresh]).sort_by([(EVENT_TIMESTAMP, "ascending"), (view.key, "ascending")])
        if table.num_rows == 0:
            path.unlink(missing_ok=True)
            continue
        with atomic_write(path) as temporary:
            pq.write_table(table, temporary, compression="zstd", compression_level=1, use_dictionary=_texts(view))


def read_rows(
    paths: ArtifactPaths,
    view: ViewSpec,
    *,
    groups: Sequence[str] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Read the view's rows with `start <= event time <= end`, of some groups or of all."""
    names = list(columns) if columns is not None else view.schema.names
    wanted = list(dict.fromkeys([*names, EVENT_TIMESTAMP]))
    tables = [
        _read(path, view, wanted)
        for path, month in sorted(_files(paths, view, None).items())
        if (start is None or month >= _month(start))
        and (end is None or month <= _month(end))
        and (groups is None or _group(path) in groups)
    ]
    schema = pa.schema([view.schema.field(name) for name in wanted])
    table = pa.concat_tables([schema.empty_table(), *tables])
    if start is not None:
        table = table.filter(pc.greater_equal(table[EVENT_TIMESTAMP], pa.scalar(start, pa.timestamp("us", "UTC"))))
    if end is not None:
        table = table.filter(pc.less_equal(table[EVENT_TIMESTAMP], pa.scalar(end, pa.timestamp("us", "UTC"))))
    return table.select(names)


def groups_of(paths: ArtifactPaths, view: ViewSpec) -> tuple[str, ...]:
    """Names of the groups that have rows."""
    return tuple(sorted({_group(path) for path in _files(paths, view, None)}))


def count_rows(paths: ArtifactPaths, view: ViewSpec) -> int:
    """Number of offline rows, from the parquet footers."""
    return sum(int(pq.read_metadata(path).num_rows) for path in _files(paths, view, None))


def _files(paths: ArtifactPaths, view: ViewSpec, group: str | None) -> dict[Path, str]:
    found = view_folder(paths, view).glob("*-????-??.parquet")
    return {path: path.stem[-len("YYYY-MM") :] for path in found if group is None or _group(path) == group}


def _group(path: Path) -> str:
    return path.stem[: -len("-YYYY-MM")]


def _month(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%Y-%m")


def _texts(view: ViewSpec) -> list[str]:
    return [field.name for field in view.schema if pa.types.is_string(field.type)]


def _read(path: Path, view: ViewSpec, columns: Sequence[str]) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            table = file.read(columns=list(columns))
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{path} cannot be read as parquet ({error}); delete the folder {path.parent} and compute again"
        ) from error
    return table.select(columns).cast(pa.schema([view.schema.field(name) for name in columns]))


def _earlier(path: Path, view: ViewSpec, start: datetime) -> pa.Table:
    table = _read(path, view, view.schema.names)
    return table.filter(pc.less(table[EVENT_TIMESTAMP], pa.scalar(start, pa.timestamp("us", "UTC"))))


def _checked(view: ViewSpec, rows: pa.Table, start: datetime) -> pa.Table:
    if set(rows.column_names) != set(view.schema.names):
        raise InputError(f"{view.name}: rows have the columns {rows.column_names}, expected {view.schema.names}")
    rows = rows.select(view.schema.names).cast(view.schema)
    if rows.num_rows and pc.min(rows[EVENT_TIMESTAMP]).as_py() < start:
        oldest = pc.min(rows[EVENT_TIMESTAMP]).as_py()
        raise InputError(
            f"{view.name}: a row of {oldest.isoformat()} is older than {start.isoformat()}, where replacing starts"
        )
    return rows
