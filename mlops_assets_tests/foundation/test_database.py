"""The operational database: engines, transactions, migrations, on SQLite and PostgreSQL."""

import sqlite3
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import Engine, inspect, make_url, select, text
from sqlalchemy.exc import IntegrityError, StatementError

from mlops_assets.foundation.database import (
    create_operational_engine,
    current_revision,
    read_transaction,
    transaction,
    upgrade,
)
from mlops_assets.foundation.errors import SettingsError, StorageError
from mlops_assets.foundation.tables import Base, IngestedSource, Lease, ModelVersionRecord, QuarantinedRow
from mlops_assets_tests.conftest import NewPostgresDatabase
from mlops_assets_tests.foundation.processes import increment, run_together, upgrade_database

NOW = datetime(2026, 1, 5, 12, 30, 15, 123456, tzinfo=UTC)


def _source(key: str) -> IngestedSource:
    return IngestedSource(source_hash=key, source_file="a.xml", kind="junit", rows=1, quarantined=0, ingested_at=NOW)


def _version(semver: str, run_id: str) -> ModelVersionRecord:
    major, minor, patch = (int(part) for part in semver.split("."))
    return ModelVersionRecord(
        model_name="m",
        semver=semver,
        major=major,
        minor=minor,
        patch=patch,
        run_id=run_id,
        training_hash="t",
        data_hash="d",
        created_at=NOW,
        updated_at=NOW,
    )


def test_migrated_schema_equals_the_tables(engine: Engine) -> None:
    """A column added to a table without a migration works on a fresh test database and fails on every real one."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    assert set(inspect(engine).get_table_names()) == {*Base.metadata.tables, "alembic_version"}
    assert current_revision(engine) == "0013"


def test_upgrade_twice_changes_nothing(engine: Engine) -> None:
    """A restart would run the first migration again and die on its existing tables."""
    with transaction(engine) as session:
        session.add(_source("a"))
    upgrade(engine)
    with read_transaction(engine) as session:
        assert session.scalars(select(IngestedSource.source_hash)).all() == ["a"]


def test_downgrade_leaves_nothing_behind(engine: Engine) -> None:
    """A leftover function or table would make the next upgrade fail."""
    from alembic import command

    from mlops_assets.foundation.database import _alembic_config

    with engine.begin() as connection:
        config = _alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    assert current_revision(engine) is None
    upgrade(engine)
    assert current_revision(engine) == "0013"


def test_decisions_of_people_keep_their_evidence(engine: Engine) -> None:
    """After the upgrade an approval cannot be told from one on other evidence, and every version has to be asked again."""
    from alembic import command

    from mlops_assets.foundation.database import _alembic_config

    def migrate(revision: str, *, down: bool) -> None:
        with engine.begin() as connection:
            config = _alembic_config()
            config.attributes["connection"] = connection
            (command.downgrade if down else command.upgrade)(config, revision)

    keys = ("a" * 64, f"{'b' * 40}-votes-1", f"{'b' * 40}-void-1")
    migrate("0005", down=True)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO approval_request (id, model_name, semver, run_id, risk, reasons, author, "
                "required_approvers, min_approvals, report_hash, weights_hash, data_hash, evidence_hash, status, "
                "requested_at, expires_at, notified_by) VALUES (1, 'm', '1.0.0', 'r', 'low', '[]', 'a', '[]', 1, "
                "'r', 'w', 'd', :hash, 'approved', :now, :now, '[]')"
            ),
            {"hash": "b" * 64, "now": NOW.replace(tzinfo=None)},
        )
        for number, key in enumerate(keys, start=1):
            connection.execute(
                text(
                    "INSERT INTO decision (id, model_name, semver, run_id, risk, status, reasons, evidence_hash, "
                    "decided_at, decided_by) VALUES (:id, 'm', '1.0.0', 'r', 'low', :status, '[]', :key, :now, 'x')"
                ),
                {
                    "id": number,
                    "key": key,
                    "now": NOW.replace(tzinfo=None),
                    "status": "approved" if number < 3 else "pending",
                },
            )
    upgrade(engine)
    with read_transaction(engine) as session:
        found = session.execute(text("SELECT evidence_hash, request_id FROM decision ORDER BY id")).all()
    assert [tuple(row) for row in found] == [("a" * 64, None), ("b" * 64, 1), ("b" * 64, 1)]
    migrate("0005", down=True)
    with read_transaction(engine) as session:
        assert tuple(session.scalars(text("SELECT evidence_hash FROM decision ORDER BY id"))) == keys
    upgrade(engine)


def test_a_database_of_a_newer_version_is_refused(engine: Engine) -> None:
    """An old program on a new schema would write rows that the new one cannot read."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SettingsError, match=r"newer version .* MLOPS_DATABASE_URL"):
        upgrade(engine)


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_two_processes_upgrade_at_once(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Two lifecycles started together on an empty machine: one would die on `table already exists`."""
    if backend == "sqlite":
        url = f"sqlite:///{tmp_path / 'new' / 'operations.db'}"
    else:
        create: NewPostgresDatabase = request.getfixturevalue("new_postgres_database")
        url = create()
    assert run_together(upgrade_database, [(url,), (url,)]) == [0, 0]
    engine = create_operational_engine(url)
    assert current_revision(engine) == "0013"
    engine.dispose()


def test_transaction_commits_or_leaves_everything(engine: Engine) -> None:
    """Half a bookkeeping entry after an exception would make the rerun skip rows it never wrote."""

    def write_and_stop() -> None:
        with transaction(engine) as session:
            session.add(_source("a"))
            session.flush()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_and_stop()
    with transaction(engine) as session:
        session.add(_source("b"))
    with read_transaction(engine) as session:
        assert session.scalars(select(IngestedSource.source_hash)).all() == ["b"]


def test_unique_keys_make_a_second_try_harmless(engine: Engine) -> None:
    """Two registrations of one run would give two versions of one model."""
    with transaction(engine) as session:
        session.add(_version("1.0.0", "run"))
    for semver, run in (("1.0.0", "other"), ("1.1.0", "run")):
        with pytest.raises(IntegrityError), transaction(engine) as session:
            session.add(_version(semver, run))
    with transaction(engine) as session:
        stored = session.scalars(select(ModelVersionRecord)).one()
    assert (stored.id, stored.stage, stored.mlflow_version) == (1, "None", None)


def test_quarantine_of_a_whole_file_is_listed_once(engine: Engine) -> None:
    """NULL lines never collide in SQL: every rerun would list the same broken file again."""

    def row(line: int | None) -> QuarantinedRow:
        return QuarantinedRow(
            source_file="a", source_hash="a", line=line, reason="truncated", excerpt="", quarantined_at=NOW
        )

    with transaction(engine) as session:
        session.add_all([row(None), row(0), row(7)])
    with pytest.raises(IntegrityError), transaction(engine) as session:
        session.add(row(None))
    with read_transaction(engine) as session:
        assert session.scalars(select(QuarantinedRow.line).order_by(QuarantinedRow.id)).all() == [None, 0, 7]


def test_datetimes_come_back_equal_aware_and_in_utc(engine: Engine) -> None:
    """SQLite drops the zone: 14:30 in Berlin would come back as 14:30 UTC, and leases would last an hour longer."""
    berlin = NOW.astimezone(timezone(timedelta(hours=1)))
    with transaction(engine) as session:
        session.add(Lease(resource="r", holder="h", token=1, acquired_at=berlin, expires_at=NOW))
    with read_transaction(engine) as session:
        lease = session.scalars(select(Lease)).one()
        assert lease.acquired_at == lease.expires_at == NOW
        assert lease.acquired_at.tzinfo is UTC
        assert session.scalars(select(Lease.resource).where(Lease.expires_at <= NOW)).all() == ["r"]
        assert not session.scalars(select(Lease.resource).where(Lease.expires_at < berlin)).all()


def test_naive_datetimes_are_refused(engine: Engine) -> None:
    """A naive local time would be stored as if it were UTC."""
    with pytest.raises(StatementError, match="naive datetime"), transaction(engine) as session:
        session.add(Lease(resource="r", holder="h", token=1, acquired_at=datetime(2026, 1, 1), expires_at=NOW))  # noqa: DTZ001


def test_writers_of_several_processes_lose_no_update(engine: Engine) -> None:
    """With deferred transactions two SQLite writers read the same value, and one fails with `database is locked`."""
    with transaction(engine) as session:
        session.add(Lease(resource="counter", holder="h", token=0, acquired_at=NOW, expires_at=NOW))
    url = engine.url.render_as_string(hide_password=False)
    assert run_together(increment, [(url, "counter", 10)] * 2) == [0, 0]
    with read_transaction(engine) as session:
        assert session.get_one(Lease, "counter").token == 20


def test_readers_do_not_wait_for_a_writer(engine: Engine) -> None:
    """A status page that waits for an ingest of minutes looks like a crash."""
    with transaction(engine) as writing:
        writing.add(_source("a"))
        writing.flush()
        with read_transaction(engine) as reading:
            assert reading.scalars(select(IngestedSource)).all() == []


def test_readers_cannot_write_on_postgresql(postgres_engine: Engine) -> None:
    """A write inside a read transaction would be unserialised."""
    with pytest.raises(StorageError, match="reads only"), read_transaction(postgres_engine) as session:
        session.add(_source("a"))


def test_read_only_database_says_what_to_do(sqlite_engine: Engine) -> None:
    """A read-only store ended in a driver traceback without advice."""
    with sqlite_engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only=ON")
    advice = r"operations\.db: the database is read-only: .*MLOPS_HOME"
    with pytest.raises(StorageError, match=advice), transaction(sqlite_engine) as session:
        session.add(_source("a"))


def test_full_disk_says_what_to_do(sqlite_engine: Engine) -> None:
    """A full disk ended in a driver traceback without advice."""

    def fill() -> None:
        with transaction(sqlite_engine) as session:
            pages = session.execute(text("PRAGMA page_count")).scalar_one()
            session.execute(text(f"PRAGMA max_page_count={pages}"))
            row = _source("large")
            row.source_file = "x" * 1_000_000
            session.add(row)

    with pytest.raises(StorageError, match="disk is full: free space"):
        fill()


def test_absent_server_says_what_to_do_and_hides_the_password() -> None:
    """An error with the password in it ends in logs and tickets."""
    engine = create_operational_engine("postgresql://user:secret@127.0.0.1:1/db")
    with pytest.raises(StorageError, match="no server answers") as caught, transaction(engine) as session:
        session.add(_source("a"))
    assert "secret" not in str(caught.value)
    assert "MLOPS_DATABASE_URL" in str(caught.value)


def test_a_server_without_a_free_connection_is_out_of_reach(postgres_url: str) -> None:
    """A crowded server counts as a defect of the program, and nobody tries again."""
    admin = create_operational_engine(postgres_url)
    with transaction(admin) as session:
        session.execute(text("CREATE ROLE crowded LOGIN CONNECTION LIMIT 0"))
    engine = create_operational_engine(make_url(postgres_url).set(username="crowded").render_as_string())
    with (
        pytest.raises(StorageError, match=r"cannot be reached now.*too many connections"),
        transaction(engine) as session,
    ):
        session.execute(text("SELECT 1"))
    with transaction(admin) as session:
        session.execute(text("DROP ROLE crowded"))
    admin.dispose()


def test_absent_database_says_what_to_do(postgres_url: str) -> None:
    """The server answers, so `connection refused` would be the wrong advice."""
    engine = create_operational_engine(postgres_url.rpartition("/")[0] + "/absent")
    with pytest.raises(StorageError, match="the database does not exist: create it"):
        upgrade(engine)
    engine.dispose()


def test_a_file_that_is_no_database_says_what_to_do(tmp_path: Path) -> None:
    """SQLAlchemy does not wrap errors of the first pragmas: a bare `DatabaseError` reached the user."""
    path = tmp_path / "operations.db"
    path.write_text("not a database" * 100)
    with pytest.raises(StorageError, match=r"operations\.db: the file is something else: move it away"):
        upgrade(create_operational_engine(f"sqlite:///{path}"))


def test_a_home_below_a_file_says_what_to_do(tmp_path: Path) -> None:
    """`NotADirectoryError` names no setting."""
    (tmp_path / "home").touch()
    with pytest.raises(StorageError, match=r"a part of this path is a file.*MLOPS_HOME"):
        upgrade(create_operational_engine(f"sqlite:///{tmp_path / 'home' / 'state' / 'operations.db'}"))


def test_postgresql_scheme_means_psycopg2() -> None:
    """From SQLAlchemy 2.1 on `postgresql://` means psycopg 3, on which Dagster's storage fails."""
    for scheme in ("postgres", "postgresql", "postgresql+psycopg2"):
        engine = create_operational_engine(f"{scheme}://u:p@h/d")
        assert engine.url.drivername == "postgresql+psycopg2"
        assert engine.dialect.driver == "psycopg2"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://u:secret@h/d", r"'mysql://u:\*\*\*@h/d'; use sqlite:///"),
        ("postgresql+asyncpg://u@h/d", "asyncpg"),
        ("sqlite://", "lost with the process"),
        ("sqlite:///:memory:", "lost with the process"),
        ("operations.db", "not a URL; use sqlite:///"),
    ],
)
def test_other_databases_are_refused_with_the_choices(url: str, message: str) -> None:
    """An in-memory database loses the audit trail; another engine fails at the first JSON column."""
    with pytest.raises(SettingsError, match=message) as caught:
        create_operational_engine(url)
    assert "secret" not in str(caught.value)


def test_sqlite_file_appears_at_first_use_with_its_settings(tmp_path: Path) -> None:
    """Opening at construction would make folders while Dagster loads the definitions."""
    path = tmp_path / "deep" / "operations.db"
    engine = create_operational_engine(f"sqlite:///{path}")
    assert not path.parent.exists()
    with engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 60_000}
    engine.dispose()
    assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)
