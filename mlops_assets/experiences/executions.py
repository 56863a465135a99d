"""The store of test executions: immutable daily parquet parts, appended and read. Sources are elsewhere."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from mlops_assets.experiences.parts import first_by_key, list_parts, read_part, split_by_day, write_daily_parts
from mlops_assets.experiences.schema import EXECUTIONS
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.paths import ArtifactPaths

_ORDER = (("started_at", "ascending"), ("execution_id", "ascending"))
# Two reports of one run may name its start differently (before or after the web server came up), also around midnight.
_SAME_RUN = timedelta(days=1)


def append_executions(paths: ArtifactPaths, table: pa.Table) -> int:
    """Add the rows whose `execution_id` is not stored yet and return how many they are; a second call adds nothing.

    Raises:
        InputError: the table's columns are not those of `EXECUTIONS`.
        StorageError: the disk is full or read-only; what was written is whole, a second call adds the rest.
    """
    table = first_by_key(_checked(table), ["execution_id"])
    stored = find_executions(paths, table, columns=("execution_id",))["execution_id"]
    new = table.filter(pc.invert(pc.is_in(table["execution_id"], value_set=stored.combine_chunks())))
    write_daily_parts(paths.executions, new.sort_by(list(_ORDER)), time_column="started_at")
    return int(new.num_rows)


def find_executions(paths: ArtifactPaths, table: pa.Table, *, columns: Sequence[str]) -> pa.Table:
    """Return the stored rows that have an `execution_id` of `table` and start on the same days or a day off."""
    fields = [EXECUTIONS.field(name) for name in columns]
    empty = pa.schema(fields).empty_table()
    if table.num_rows == 0:
        return empty
    days = {day for day, _ in split_by_day(table.select(["started_at"]), "started_at")}
    near = {day + offset for day in days for offset in (-_SAME_RUN, timedelta(0), _SAME_RUN)}
    parts = [part for part in list_parts(paths.executions) if part.day in near]
    wanted = table["execution_id"].combine_chunks()
    found = [empty]
    for part in parts:
        ids = read_part(part, ["execution_id"])["execution_id"]
        hit = pc.is_in(ids, value_set=wanted)
        if pc.any(hit).as_py():
            found.append(read_part(part, columns).filter(hit).select(list(columns)).cast(empty.schema))
    return pa.concat_tables(found)


def read_executions(
    paths: ArtifactPaths,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Return stored executions with start <= `started_at` < end, sorted by (started_at, execution_id), each id once.

    Rows of one cycle that start together come in the order of their source. Without a stored row the table is empty.

    Raises:
        InputError: a column is unknown, or a stored part is damaged.
    """
    wanted = EXECUTIONS.names if columns is None else list(columns)
    unknown = sorted(set(wanted) - set(EXECUTIONS.names))
    if unknown:
        raise InputError(f"executions have no column {', '.join(unknown)}; they have {', '.join(EXECUTIONS.names)}")
    needed = [name for name in EXECUTIONS.names if name in {*wanted, "started_at", "execution_id"}]
    schema = pa.schema([EXECUTIONS.field(name) for name in needed])
    parts = list_parts(paths.executions, start=start and start.date(), end=end and end.date())
    tables = [read_part(part, needed).select(needed).cast(schema) for part in parts]
    table = pa.concat_tables([schema.empty_table(), *tables])
    if start is not None:
        table = table.filter(pc.greater_equal(table["started_at"], pa.scalar(start, schema.field("started_at").type)))
    if end is not None:
        table = table.filter(pc.less(table["started_at"], pa.scalar(end, schema.field("started_at").type)))
    return first_by_key(table.sort_by(list(_ORDER)), ["execution_id"]).select(wanted)


def _checked(table: pa.Table) -> pa.Table:
    if set(table.column_names) != set(EXECUTIONS.names):
        missing = sorted(set(EXECUTIONS.names) - set(table.column_names))
        extra = sorted(set(table.column_names) - set(EXECUTIONS.names))
        raise InputError(f"an executions table lacks the columns {missing} and has the unknown ones {extra}")
    nulls = [name for name in EXECUTIONS.names if table[name].null_count]
    if nulls:
        raise InputError(f"an executions table has empty cells in {', '.join(nulls)}; every column needs a value")
    try:
        return table.select(EXECUTIONS.names).cast(EXECUTIONS)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise InputError(f"an executions table has other types than its schema asks for: {error}") from error
