"""Where the rows of a batch come from: parquet files, an SQL query, or a snapshot; each becomes parquet files with a hash.

A query's rows are written to a temporary file first: what was hashed is then what is scored, and memory does not grow
with the table. What the columns mean is `batch_rows.py`'s business.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

from mlops_assets.experiences.execution_rows import RowError, parse_time
from mlops_assets.experiences.parts import list_parts
from mlops_assets.experiences.snapshot_files import DECISIONS, Snapshot
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.database import make_read_only
from mlops_assets.foundation.errors import InputError, TransientError
from mlops_assets.foundation.files import digest, storage_errors
from mlops_assets.serving.batch_rows import EVENT_TIME, REQUEST_ID, STATE, TEXT, check_columns, read_as, row_types

Source = Path | IO[bytes]
# Rows of a query in memory at a time, as Python objects.
_QUERY_ROWS = 20_000
_SNAPSHOT_COLUMNS = {
    "experience_id": REQUEST_ID, "agent_id": "agent_id", "test_id": "test_id", "event_time": EVENT_TIME,
    "state": STATE, "requirement_id": "requirement_id",
}  # fmt: skip


@dataclass(frozen=True)
class _File:
    """One parquet file, and the rows of each of its row groups."""

    source: Source
    groups: tuple[int, ...]
    stamp: tuple[int, ...]

    @property
    def rows(self) -> int:
        return sum(self.groups)


@dataclass(frozen=True)
class BatchInput:
    """Rows in a fixed order: those of the files, one after another.

    `content_hash` identifies the rows; `timed` says whether each has an event time, and so gets the features of that
    time. `columns` are the files' columns that are read, by the name that they are given; `texts` (columns
    `requirement_id`, `text`) resolves references to requirements where the rows hold no texts themselves.
    """

    spec: AgentSpec
    name: str
    content_hash: str
    files: tuple[_File, ...] = field(repr=False)
    columns: Mapping[str, str] = field(repr=False)
    texts: pa.Table | None = field(default=None, repr=False)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(file.rows for file in self.files)

    @property
    def timed(self) -> bool:
        """Whether the rows have event times."""
        return EVENT_TIME in self.columns.values()

    def changed(self) -> bool:
        """Whether a file was changed or replaced since it was opened."""
        return any(_stamp(file.source) != file.stamp for file in self.files)

    def chunks(self, chunk_rows: int, numbers: Sequence[int]) -> Iterator[tuple[int, pa.Table]]:
        """Yield (number, rows) of some chunks of `chunk_rows` rows, the last one shorter; `numbers` ascend.

        Row groups without a wanted row are not read, so that a resumed batch does not read what it has done.

        Raises:
            InputError: a file cannot be read any more.
        """
        for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
            wanted = [number for _, number in run]
            start, stop = wanted[0] * chunk_rows, min((wanted[-1] + 1) * chunk_rows, self.rows)
            yield from zip(wanted, _rechunked(self._batches(start, stop), chunk_rows), strict=True)

    def _batches(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows from number `start` to `stop`, in any portions."""
        begin = 0
        for file in self.files:
            groups, first = _overlapping(file.groups, begin, start, stop)
            begin += file.rows
            for batch in self._read(file.source, groups):
                low, high = max(start - first, 0), min(batch.num_rows, stop - first)
                if high > low:
                    yield batch.slice(low, high - low)
                first += batch.num_rows

    def _read(self, source: Source, groups: list[int]) -> Iterator[pa.RecordBatch]:
        if not groups:
            return
        try:
            with pq.ParquetFile(source) as file:
                for batch in file.iter_batches(row_groups=groups, columns=list(self.columns)):
                    yield self._renamed(batch)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{self.name}: {_shown(source)} cannot be read ({error}); write it again") from error

    def _renamed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        columns = {name: batch[stored] for stored, name in self.columns.items()}
        if self.texts is not None:
            found = pc.index_in(columns.pop("requirement_id"), value_set=self.texts["requirement_id"].combine_chunks())
            columns[TEXT] = self.texts["text"].combine_chunks().take(found)
        return read_as(pa.RecordBatch.from_pydict(columns), self.spec)


def parquet_input(path: Path, spec: AgentSpec) -> BatchInput:
    """Open a parquet file, or all `*.parquet` below a folder, in order of their paths.

    A folder may hold the inputs of several agents, as `<agent>.parquet` or a folder `<agent>/`: then those are taken.

    Raises:
        InputError: nothing is there, a file is no parquet, or its columns are not those of the agent.
    """
    own = next((each for each in (path / spec.name, path / f"{spec.name}.parquet") if each.exists()), path)
    if not own.exists():
        raise InputError(f"batch input {own} does not exist; point MLOPS_BATCH_INPUT to a parquet file or a folder")
    files = [own] if own.is_file() else sorted(file for file in own.rglob("*.parquet") if file.is_file())
    if not files:
        raise InputError(f"batch input {own} has no *.parquet file; point MLOPS_BATCH_INPUT to a folder that has some")
    columns = {file: check_columns(_schema(file), spec, str(file)) for file in files}
    first = columns[files[0]]
    for file, names in columns.items():
        if set(names) != set(first):
            odd = ", ".join(sorted({*names} ^ {*first}))
            raise InputError(
                f"batch input {file} differs from {files[0]} in the columns {odd}; give all files the same"
            )
    sources = _stamped(files)
    content = digest([_sha256(file) for file in files])
    return _input(spec, str(own), content, sources, dict.fromkeys(first))


def snapshot_input(snapshot: Snapshot, spec: AgentSpec) -> BatchInput:
    """Take the decisions of a snapshot, at their times; request ids are experience ids."""
    columns = dict(_SNAPSHOT_COLUMNS)
    texts = snapshot.requirement_texts() if spec.text_dimensions else None
    if texts is None:
        del columns["requirement_id"]
    files = [part.path for part in list_parts(snapshot.folder / DECISIONS)]
    name = f"snapshot {snapshot.data_hash}"
    return _input(spec, name, snapshot.data_hash, _stamped(files), columns, texts)


@contextmanager
def query_input(url: str, query: str, spec: AgentSpec, *, scratch: Path) -> Iterator[BatchInput]:
    """Read the rows of a query into a temporary file of the folder `scratch`, which is gone with the block.

    `url`: any SQLAlchemy URL whose driver is installed; `postgresql://` is read as psycopg 2. The query runs as it is
    written, read-only on SQLite and PostgreSQL; elsewhere in a transaction that is rolled back, which not everything is
    undone by: give a user there that may only read. Let it order its rows, so that a killed batch is resumed.

    Raises:
        InputError: no URL, unknown driver, missing SQLite file, a query that fails, wrong columns, a cell of a wrong type.
        TransientError: the database does not answer.
    """
    parsed = _parsed(url)
    shown = parsed.render_as_string(hide_password=True)
    with storage_errors(scratch):
        scratch.mkdir(parents=True, exist_ok=True)
    # Without a name: after `kill -9` nothing is left of it.
    with tempfile.TemporaryFile(dir=scratch) as file:
        engine = _engine(parsed, shown)
        try:
            columns = _spool(engine, query, spec, shown, file)
        finally:
            engine.dispose()
        file.seek(0)
        content = digest([hashlib.file_digest(file, "sha256").hexdigest()])
        yield _input(spec, f"query of {shown}", content, _stamped([file]), dict.fromkeys(columns))


def _input(
    spec: AgentSpec,
    name: str,
    content: str,
    sources: Mapping[Source, tuple[int, ...]],
    columns: Mapping[str, str | None],
    texts: pa.Table | None = None,
) -> BatchInput:
    files = []
    for source, stamp in sources.items():
        metadata = pq.read_metadata(source)
        groups = tuple(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
        files.append(_File(source, groups, stamp))
    return BatchInput(
        spec=spec,
        name=name,
        content_hash=content,
        files=tuple(files),
        columns={stored: given or stored for stored, given in columns.items()},
        texts=texts,
    )


def _overlapping(groups: tuple[int, ...], begin: int, start: int, stop: int) -> tuple[list[int], int]:
    """Return the row groups of a file with rows of `start`..`stop`, and the number of their first row.

    `begin` is the number of the file's first row.
    """
    wanted: list[int] = []
    first = begin
    for number, rows in enumerate(groups):
        if begin < stop and begin + rows > start:
            first = first if wanted else begin
            wanted.append(number)
        begin += rows
    return wanted, first


def _rechunked(batches: Iterator[pa.RecordBatch], chunk_rows: int) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for portion in batches:
        rest = portion
        while rows + rest.num_rows >= chunk_rows:
            taken = chunk_rows - rows
            yield pa.Table.from_batches([*waiting, rest.slice(0, taken)])
            waiting, rows, rest = [], 0, rest.slice(taken)
        if rest.num_rows:
            waiting.append(rest)
            rows += rest.num_rows
    if waiting:
        yield pa.Table.from_batches(waiting)


def _schema(file: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"batch input {file} is no readable parquet file ({error}); write it again") from error


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _stamped(sources: Sequence[Source]) -> dict[Source, tuple[int, ...]]:
    return {source: _stamp(source) for source in sources}


def _stamp(source: Source) -> tuple[int, ...]:
    """What changes when a file is written or replaced; () for a temporary file, which nobody else has."""
    if not isinstance(source, Path):
        return ()
    try:
        found = source.stat()
    except FileNotFoundError:
        return (0,)
    return found.st_ino, found.st_size, found.st_mtime_ns


def _shown(source: Source) -> str:
    return str(source) if isinstance(source, Path) else "its temporary file"


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise InputError(
            "the batch table's URL is not a URL; use <dialect>+<driver>://<user>:<password>@<host>/<database>"
        ) from None
    postgres = parsed.drivername in {"postgres", "postgresql"}
    return parsed.set(drivername="postgresql+psycopg2") if postgres else parsed


def _engine(url: URL, shown: str) -> Engine:
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        # Connecting would make an empty one.
        raise InputError(f"batch table {shown}: no such SQLite file; correct the URL")
    try:
        return create_engine(url)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise InputError(f"batch table {shown}: {error}; install its driver or use another one") from error


def _spool(engine: Engine, query: str, spec: AgentSpec, shown: str, file: IO[bytes]) -> tuple[str, ...]:
    """Write the query's rows to `file` as parquet and return the columns."""
    types = row_types(spec)
    with _query_errors(engine, shown), engine.connect() as connection:
        make_read_only(connection)
        connection.execution_options(stream_results=True, no_parameters=True)
        result = connection.exec_driver_sql(query)
        names = list(map(str.lower, result.keys()))
        columns = check_columns(pa.schema([(name, types.get(name, pa.null())) for name in names]), spec, shown)
        schema = pa.schema([(name, types[name]) for name in names])
        # A PythonFile, so that closing the writer leaves the file open.
        with pq.ParquetWriter(pa.PythonFile(file, mode="w"), schema, compression="zstd", compression_level=1) as writer:
            first = 1
            for rows in result.partitions(_QUERY_ROWS):
                writer.write_table(_cells(rows, schema, first, shown))
                first += len(rows)
    return columns


def _cells(rows: Sequence[Sequence[Any]], schema: pa.Schema, first: int, shown: str) -> pa.Table:
    arrays = []
    for position, name in enumerate(schema.names):
        values = []
        for number, row in enumerate(rows, start=first):
            try:
                values.append(_cell(name, row[position]))
            except (TypeError, ValueError, OverflowError, RowError) as error:
                raise InputError(f"batch table {shown}, row {number}: {name}: {error}; correct the query") from error
        arrays.append(pa.array(values, schema.field(name).type))
    return pa.table(arrays, schema=schema)


def _cell(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name == REQUEST_ID:
        return str(value)
    if name in {"agent_id", "test_id", TEXT}:
        if not isinstance(value, str):
            raise TypeError(f"{value!r} is a {type(value).__name__}, expected a text")
        return value
    if name == EVENT_TIME:
        return parse_time(value)
    if name == STATE:
        if not isinstance(value, list | tuple):
            raise ValueError(
                f"a {type(value).__name__}, expected a list of numbers; select one column a number instead"
            )
        return [None if each is None else _number(each) for each in value]
    return _number(value)


def _number(value: Any) -> float:
    if not isinstance(value, int | float | Decimal):
        raise TypeError(f"{value!r} is a {type(value).__name__}, expected a number")
    return float(value)


@contextmanager
def _query_errors(engine: Engine, shown: str) -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        if engine.dialect.name == "sqlite":
            raise InputError(f"batch table {shown}: {error.orig}; correct the query") from error
        raise TransientError(
            f"batch table {shown}: {str(error.orig).strip()}; make the database answer, then try again"
        ) from error
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error)).strip()
        raise InputError(f"batch table {shown}: {reason}; correct the query") from error
