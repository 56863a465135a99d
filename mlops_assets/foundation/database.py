"""Connection, transactions and migrations of the operational database: SQLite by default, PostgreSQL by URL.

The tables are in `tables/`, the migrations in `migrations/`.
"""

import hashlib
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from mlops_assets.foundation.errors import SettingsError, StorageError
from mlops_assets.foundation.files import storage_errors
from mlops_assets.foundation.tables import Base

if TYPE_CHECKING:
    from alembic.config import Config

# Long enough to sit out another writer's migration or ingest transaction on a busy laptop.
_LOCK_WAIT_SECONDS = 60
_LOCK_POLL_SECONDS = 0.02
_CONNECT_SECONDS = 10
_SILENCE_SECONDS = 10
_MIGRATIONS = Path(__file__).parent / "migrations"
# Keys of PostgreSQL advisory locks are one namespace per database; "mlops" in ASCII, then a number.
_MIGRATION_LOCK = 0x6D6C6F7073 * 256 + 1
_READ_ONLY = "operational_read_only"
_WRITE_REFUSALS = {
    "database or disk is full": "the disk is full: free space there or point MLOPS_HOME to a larger disk",
    "readonly database": "the database is read-only: make file and folder writable or point MLOPS_HOME elsewhere",
    "read-only transaction": "the server accepts reads only: point MLOPS_DATABASE_URL to the primary server",
    "unable to open database file": "the file cannot be opened: make its folder writable or point MLOPS_HOME elsewhere",
    "file is not a database": "the file is something else: move it away or point MLOPS_DATABASE_URL elsewhere",
    "disk image is malformed": "the file is damaged: restore it from a backup",
    "database is locked": f"another process held the write lock for {_LOCK_WAIT_SECONDS} s: end it or try again",
    "lock timeout": f"another process held a lock for {_LOCK_WAIT_SECONDS} s: end it or try again",
    "no space left on device": "the server's disk is full: free space there",
    "connection refused": "no server answers there: start it or correct MLOPS_DATABASE_URL",
    "password authentication failed": "user or password is wrong: correct MLOPS_DATABASE_URL",
    'fatal:  database "': "the database does not exist: create it or correct MLOPS_DATABASE_URL",
    "could not translate host name": "the host is unknown: correct MLOPS_DATABASE_URL",
    "server closed the connection": "the server went away: try again once it is back",
    "terminating connection": "the server went away: try again once it is back",
    "connection has been closed": "the server went away: try again once it is back",
    "the database system is": "the server is starting or stopping: try again once it is up",
    "timeout expired": f"no server answered within {_CONNECT_SECONDS} s: start it or correct MLOPS_DATABASE_URL",
    "deadlock detected": "two transactions waited for each other: try again",
}

_MAKE_READ_ONLY: Mapping[str, Sequence[str]] = {
    "sqlite": ["PRAGMA query_only=ON"],
    "postgresql": ["SET TRANSACTION READ ONLY", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"],
}


def create_operational_engine(url: str) -> Engine:
    """Make the engine; nothing is opened or created before the first use.

    SQLite: write-ahead log, foreign keys on, every transaction but a `read_transaction` takes the write lock at its
    start (BEGIN IMMEDIATE), so that two writers queue instead of failing at commit. `postgresql://` is read as
    psycopg 2, the driver that Dagster's storage uses as well.

    Raises:
        SettingsError: the URL is no URL, or neither a SQLite file nor PostgreSQL.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "postgresql":
        return create_engine(
            parsed,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": _CONNECT_SECONDS,
                "application_name": "mlops_assets",
                # A host that vanishes closes no connection: without them, a reader waits for the kernel, a quarter of
                # an hour.
                "keepalives_idle": _SILENCE_SECONDS,
                "keepalives_interval": 1,
                "keepalives_count": _SILENCE_SECONDS,
                "tcp_user_timeout": 1000 * _SILENCE_SECONDS,
                "options": f"-c lock_timeout={_LOCK_WAIT_SECONDS}s -c timezone=UTC",
            },
        )
    engine = create_engine(parsed, connect_args={"timeout": _LOCK_WAIT_SECONDS})
    event.listen(engine, "do_connect", _make_folder)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _parse(url: str) -> URL:
    allowed = "use sqlite:///<file> or postgresql://<user>:<password>@<host>:<port>/<database>"
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise SettingsError(f"the database URL is not a URL; {allowed}") from None
    shown = parsed.render_as_string(hide_password=True)
    if parsed.drivername in {"postgres", "postgresql", "postgresql+psycopg2"}:
        return parsed.set(drivername="postgresql+psycopg2")
    if parsed.drivername in {"sqlite", "sqlite+pysqlite"}:
        if parsed.database in {None, "", ":memory:"}:
            raise SettingsError(f"the operational database {shown!r} would be lost with the process; {allowed}")
        return parsed
    raise SettingsError(f"the operational database cannot be {shown!r}; {allowed}")


def _make_folder(_dialect: object, _record: object, arguments: list[Any], _parameters: dict[str, Any]) -> None:
    folder = Path(arguments[0]).parent
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver must not open transactions by itself: `_begin_sqlite` chooses their kind, DDL included.
    connection.isolation_level = None
    _switch_to_write_ahead_log(connection)
    connection.execute("PRAGMA foreign_keys=ON")


def _switch_to_write_ahead_log(connection: sqlite3.Connection) -> None:
    deadline = time.monotonic() + _LOCK_WAIT_SECONDS
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            # Two first users of a new file: here, and only here, SQLite refuses at once instead of waiting.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_LOCK_POLL_SECONDS)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """Open a session in one write transaction: committed on a clean exit, rolled back on any exception.

    Objects stay readable after the commit. A violated unique key stays SQLAlchemy's IntegrityError.

    Raises:
        StorageError: the database cannot be reached or written; the message says what to do.
    """
    with storage_refusals(engine), Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def read_transaction(engine: Engine) -> Iterator[Session]:
    """Open a session for one consistent set of reads, which never waits for a writer.

    Raises:
        StorageError: the database cannot be reached; the message says what to do.
    """
    reading = engine.execution_options(**{_READ_ONLY: True})
    with storage_refusals(engine), Session(reading, expire_on_commit=False) as session, session.begin():
        if engine.dialect.name == "postgresql":
            session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        yield session


def lock_name(session: Session, name: str) -> None:
    """Let changes of one thing queue until the transaction ends: an advisory lock; SQLite has its own write lock."""
    if session.get_bind().dialect.name == "postgresql":
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def insert_missing(session: Session, record: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows of a table; one whose unique key is there already stays as it is, so that a second try is harmless."""
    if not rows:
        return
    # The table and not the class: for rows that are never read back, the object-relational layer is half of the time.
    table: Any = record.__table__
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    session.execute(dialect.insert(table).on_conflict_do_nothing(), [dict(row) for row in rows])


def make_read_only(connection: Connection) -> None:
    """Let whatever somebody else's query says change nothing, on SQLite and PostgreSQL; elsewhere it can.

    A transaction that is rolled back is not enough: SQLite commits a DROP at once, and a query may end its transaction.
    """
    for statement in _MAKE_READ_ONLY.get(connection.dialect.name, ()):
        connection.exec_driver_sql(statement)


@contextmanager
def storage_refusals(engine: Engine) -> Iterator[None]:
    """Turn the refusals of a database (full, read-only, locked, away) into a `StorageError` with advice."""
    try:
        yield
    # SQLAlchemy does not wrap what `_prepare_sqlite` raises, and a pool without a free connection raises its own.
    except (DBAPIError, sqlite3.DatabaseError, PoolTimeoutError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        reason = str(cause)
        advice = next((advice for sign, advice in _WRITE_REFUSALS.items() if sign in reason.lower()), None)
        if advice is None and _is_out_of_reach(cause):
            advice = "it cannot be reached now: try again, and see that the server is up and has free connections"
        if advice is None:
            raise
        shown = engine.url.render_as_string(hide_password=True)
        raise StorageError(f"operational database {shown}: {advice} ({reason.strip()})") from error


def _is_out_of_reach(cause: BaseException | None) -> bool:
    """Whether there is no connection, for whatever reason: the driver's errors from the server have a code."""
    kind = type(cause).__name__
    return isinstance(cause, PoolTimeoutError) or (
        kind in {"OperationalError", "InterfaceError"} and getattr(cause, "pgcode", "") is None
    )


def upgrade(engine: Engine) -> None:
    """Bring the schema to the newest revision, in one transaction; several processes may call it at once.

    Raises:
        StorageError: the database cannot be reached or written.
        SettingsError: the database was made by a newer version of this project.
    """
    from alembic import command
    from alembic.util.exc import CommandError

    with storage_refusals(engine), engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        config = _alembic_config()
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            shown = engine.url.render_as_string(hide_password=True)
            raise SettingsError(
                f"operational database {shown}: {error}; it was made by a newer version of this project: "
                "run that version, or point MLOPS_DATABASE_URL to another database"
            ) from error


def current_revision(engine: Engine) -> str | None:
    """Return the schema's revision, None for a database without one."""
    from alembic.migration import MigrationContext

    with storage_refusals(engine), engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _alembic_config() -> "Config":
    from alembic.config import Config

    config = Config()
    # Alembic reads % as interpolation, and a checkout's path may hold one.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config
