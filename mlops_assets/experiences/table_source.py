"""Any SQL database as a source of executions: a SQLAlchemy URL and a query whose columns are named like ours.

Needed columns: `test_name`, `status`, `started_at`, `cycle_id`. Read when present: `suite`, `project`, `framework`,
`duration_ms`, `retries`, `flaky`. A row is one finished execution, its attempts joined. The query runs as it is
written, read-only on SQLite and PostgreSQL; let it order by time, so that what was read before is recognised.
"""

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

from mlops_assets.experiences.execution_rows import (
    Row,
    RowError,
    excerpt,
    executions_table,
    padded,
    parse_count,
    parse_duration_ms,
    parse_status,
    parse_time,
)
from mlops_assets.experiences.execution_source import Quarantine, SourceBatch
from mlops_assets.experiences.identity import IdentityRules, clean
from mlops_assets.foundation.database import make_read_only
from mlops_assets.foundation.errors import InputError, TransientError

_NEEDED = ("test_name", "status", "started_at", "cycle_id")
_OPTIONAL = ("suite", "project", "framework", "duration_ms", "retries", "flaky")
# Rows in memory at a time, and rows a batch: known chunks are skipped, so they must not depend on the machine.
_CHUNK_ROWS = 20_000


class TableSource:
    """The rows of one query, in chunks.

    `url`: any SQLAlchemy URL whose driver is installed; `postgresql://` is read as psycopg 2. The password is never
    stored or shown.
    """

    kind = "table"

    def __init__(self, url: str, query: str, rules: IdentityRules) -> None:
        """Parse the URL; nothing is opened before `batches`.

        Raises:
            InputError: the URL is not a URL.
        """
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise InputError(
                "the table source's URL is not a URL; use <dialect>+<driver>://<user>:<password>@<host>/<database>"
            ) from None
        if parsed.drivername in {"postgres", "postgresql"}:
            parsed = parsed.set(drivername="postgresql+psycopg2")
        self._url = parsed
        self._query = query
        self._rules = rules
        self._shown = parsed.render_as_string(hide_password=True)
        self._file = f"{self._shown}#{sha256(query.encode()).hexdigest()[:8]}"

    def as_of(self, now: datetime) -> datetime:
        """Tables are written all the time: now is now."""
        return now

    def batches(self, known: Container[str]) -> Iterator[SourceBatch]:
        """Yield the query's rows in chunks of 20,000; a chunk whose content is known is not parsed.

        Raises:
            InputError: unknown driver, missing SQLite file, a query that fails, or a result without the needed columns.
            TransientError: the database does not answer.
        """
        engine = self._engine()
        chunk_reader = _ChunkReader(self._rules, self._file)
        try:
            for names, first, chunk in self._chunks(engine):
                source_hash = _content_hash(names, chunk)
                if source_hash in known:
                    chunk_reader.skip(names, chunk)
                else:
                    yield chunk_reader.read(names, first, chunk, source_hash)
        finally:
            engine.dispose()

    def _engine(self) -> Engine:
        if self._url.get_backend_name() == "sqlite" and not Path(self._url.database or "").is_file():
            # Connecting would make an empty one.
            raise InputError(f"table source {self._shown}: no such SQLite file; correct MLOPS_SOURCE_URL")
        try:
            return create_engine(self._url)
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            raise InputError(f"table source {self._shown}: {error}; install its driver or use another one") from error

    def _chunks(self, engine: Engine) -> Iterator[tuple[tuple[str, ...], int, Sequence[Sequence[Any]]]]:
        """Yield (column names, number of the first row, rows)."""
        with self._errors(), engine.connect() as connection:
            make_read_only(connection)
            connection.execution_options(stream_results=True, no_parameters=True)
            result = connection.exec_driver_sql(self._query)
            names = tuple(map(str.lower, result.keys()))
            missing = [name for name in _NEEDED if name not in names]
            if missing:
                raise InputError(
                    f"table source {self._shown}: the query gives {', '.join(names)}, without {', '.join(missing)}; "
                    f"needed are {', '.join(_NEEDED)}, optional are {', '.join(_OPTIONAL)}"
                )
            first = 1
            for chunk in result.partitions(_CHUNK_ROWS):
                yield names, first, chunk
                first += len(chunk)
            if first == 1:
                yield names, first, ()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OperationalError as error:
            if self._url.get_backend_name() == "sqlite":
                raise InputError(f"table source {self._shown}: {error.orig}; correct MLOPS_SOURCE_QUERY") from error
            raise TransientError(
                f"table source {self._shown}: {str(error.orig).strip()}; make the database answer, then try again"
            ) from error
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", error)).strip()
            raise InputError(f"table source {self._shown}: {reason}; correct MLOPS_SOURCE_QUERY") from error


def _content_hash(names: Sequence[str], chunk: Sequence[Sequence[Any]]) -> str:
    hasher = sha256("\x1f".join(names).encode())
    for values in chunk:
        hasher.update("\x1f".join(map(str, values)).encode("utf-8", "replace"))
        hasher.update(b"\x1e")
    return hasher.hexdigest()


class _ChunkReader:
    """Turns chunks into batches; remembers what a later chunk needs of the earlier ones."""

    def __init__(self, rules: IdentityRules, source_file: str) -> None:
        self._rules = rules
        self._file = source_file
        self._seen: Counter[tuple[str, str]] = Counter()
        self._starts: dict[str, int] = {}

    def read(self, names: Sequence[str], first: int, chunk: Sequence[Sequence[Any]], source_hash: str) -> SourceBatch:
        rows: list[Row] = []
        problems: list[Quarantine] = []
        for number, values in enumerate(chunk, start=first):
            try:
                rows.append(self._row(dict(zip(names, values, strict=True))))
            except RowError as error:
                problems.append(error.quarantine(number, f"row {number}"))
        if not chunk:
            problems.append(Quarantine(None, "no_rows", excerpt("the query gives no row")))
        table = executions_table(rows, source_file=self._file, source_hash=source_hash, cycle_starts=self._starts)
        return SourceBatch(self._file, source_hash, table, tuple(problems))

    def skip(self, names: Sequence[str], chunk: Sequence[Sequence[Any]]) -> None:
        """Count a known chunk's executions, so that the ordinals after it are those of the first time."""
        cycle, test = names.index("cycle_id"), names.index("test_name")
        suite, project = (names.index(name) if name in names else None for name in ("suite", "project"))
        for values in chunk:
            identity = self._rules.identity(
                _text(values[suite]) if suite is not None else "",
                _text(values[test]),
                _text(values[project]) if project is not None else "",
            )
            self._seen[padded(_text(values[cycle])), identity.test_id] += 1

    def _row(self, cells: dict[str, Any]) -> Row:
        name, run = clean(_text(cells["test_name"])), padded(_text(cells["cycle_id"]))
        started_at = parse_time(cells["started_at"])
        if not name or not run or started_at is None:
            raise RowError("empty_cell", "test_name, cycle_id and started_at must all have a value")
        identity = self._rules.identity(_text(cells.get("suite")), name, _text(cells.get("project")))
        status, flaky = parse_status(cells["status"])
        row = Row(
            identity=identity,
            test_name=name,
            framework=clean(_text(cells.get("framework"))) or "table",
            status=status,
            started_at=started_at,
            duration_ms=parse_duration_ms(cells.get("duration_ms"), unit_ms=1.0),
            retries=parse_count(cells.get("retries"), "retries"),
            flaky=flaky or _text(cells.get("flaky")).strip().lower() in {"1", "true", "t"},
            cycle_id=run,
            ordinal=self._seen[run, identity.test_id],
        )
        self._seen[run, identity.test_id] += 1
        return row


def _text(value: object) -> str:
    return "" if value is None else str(value)
