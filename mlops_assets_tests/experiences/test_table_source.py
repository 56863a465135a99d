"""A database table as a source of executions."""

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from mlops_assets.experiences import table_source
from mlops_assets.experiences.execution_source import SourceBatch
from mlops_assets.experiences.identity import IdentityRules
from mlops_assets.experiences.table_source import TableSource
from mlops_assets.foundation.errors import InputError, TransientError

QUERY = "SELECT * FROM runs ORDER BY started_at, rowid"
ROWS: list[tuple[object, ...]] = [
    ("pays", "passed", "2026-01-20T02:00:00Z", 9, "shop", "firefox 120.0", 150.5, 1, 1),
    ("pays", "error", "2026-01-20T03:00:00+01:00", 10, "shop", "firefox 121.0", None, None, None),
    ("logs in", "skipped", "2026-01-20 04:00:00", 10, "shop", None, 0, 0, 0),
]
COLUMNS = "test_name, status, started_at, cycle_id, suite, project, duration_ms, retries, flaky"


def database(tmp_path: Path, rows: list[tuple[object, ...]] = ROWS) -> str:
    path = tmp_path / "runs.db"
    with sqlite3.connect(path) as connection:
        connection.execute(f"CREATE TABLE IF NOT EXISTS runs ({COLUMNS})")
        connection.executemany(f"INSERT INTO runs VALUES ({', '.join('?' * 9)})", rows)
    connection.close()
    return f"sqlite:///{path}"


def read(url: str, query: str = QUERY, known: frozenset[str] = frozenset()) -> list[SourceBatch]:
    return list(TableSource(url, query, IdentityRules()).batches(known))


def test_columns_are_read_by_name(tmp_path: Path) -> None:
    """Optional columns may be missing or empty; run ids sort as numbers."""
    (batch,) = read(database(tmp_path), "SELECT * FROM runs ORDER BY rowid")
    rows = batch.executions.to_pylist()
    assert [(r["test_id"], r["status"], r["cycle_id"], r["duration_ms"], r["retries"], r["flaky"]) for r in rows] == [
        ("shop › pays [firefox]", "passed", "0000000009", 150.5, 1, True),
        ("shop › pays [firefox]", "failed", "0000000010", 0.0, 0, False),
        ("shop › logs in", "skipped", "0000000010", 0.0, 0, False),
    ]
    assert rows[1]["started_at"].astimezone(UTC) == datetime(2026, 1, 20, 2, tzinfo=UTC)
    (bare,) = read(database(tmp_path, []), "SELECT test_name, status, started_at, cycle_id FROM runs")
    assert bare.executions["framework"].to_pylist() == ["table"] * 3


def test_known_chunks_are_skipped_and_a_grown_table_keeps_its_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second read of a table of millions must cost no parsing and no second copies."""
    monkeypatch.setattr(table_source, "_CHUNK_ROWS", 2)
    again = ("pays", "passed", "2026-01-20T05:00:00Z", 10, "shop", "firefox 121.0", 1, 0, 0)
    batches = read(database(tmp_path))
    url = database(tmp_path, [again])
    known = frozenset(batch.source_hash for batch in batches)
    fresh = read(url, known=known)
    everything = [r for batch in read(url) for r in batch.executions["execution_id"].to_pylist()]
    assert len(batches) == 2
    assert len(set(everything)) == 4
    assert [r for batch in fresh for r in batch.executions["execution_id"].to_pylist()] == everything[2:]
    assert [r for batch in batches for r in batch.executions["execution_id"].to_pylist()] == everything[:3]


def test_bad_rows_are_put_aside_with_their_number(tmp_path: Path) -> None:
    """One odd row must not cost the table."""
    bad: list[tuple[object, ...]] = [
        ("a", "purple", "2026-01-20T02:00:00Z", 1, "", "", 1, 0, 0),
        (None, "passed", "2026-01-20T02:00:00Z", 1, "", "", 1, 0, 0),
        ("a", "passed", None, 1, "", "", 1, 0, 0),
        ("a", "passed", "2026-01-20T02:00:00Z", 1, "", "", 1, -1, 0),
    ]
    (batch,) = read(database(tmp_path, bad + ROWS), "SELECT * FROM runs ORDER BY rowid")
    assert [(p.line, p.reason) for p in batch.quarantined] == [
        (1, "unknown_status"), (2, "empty_cell"), (3, "empty_cell"), (4, "bad_count"),
    ]  # fmt: skip
    assert batch.executions.num_rows == 3


def test_an_empty_result_says_so(tmp_path: Path) -> None:
    """No rows at all must not look like success."""
    (batch,) = read(database(tmp_path), "SELECT * FROM runs WHERE 1 = 0")
    assert [p.reason for p in batch.quarantined] == ["no_rows"]


def test_queries_are_taken_as_written(tmp_path: Path) -> None:
    """Colons and percent signs are no parameters."""
    query = "SELECT *, ':x' AS note FROM runs WHERE test_name LIKE 'pa%' AND started_at NOT LIKE '%:99:%'"
    (batch,) = read(database(tmp_path), query)
    assert batch.executions.num_rows == 2


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT test_name, status FROM runs", "without started_at, cycle_id"),
        ("SELECT * FROM nowhere", "no such table.*MLOPS_SOURCE_QUERY"),
        ("SELEKT", "syntax"),
    ],
)
def test_a_query_that_fails_says_why(tmp_path: Path, query: str, message: str) -> None:
    """A schema change must name the columns."""
    with pytest.raises(InputError, match=message):
        read(database(tmp_path), query)


def test_a_missing_sqlite_file_is_not_made(tmp_path: Path) -> None:
    """SQLite makes an empty database of every typing error."""
    path = tmp_path / "nowhere.db"
    with pytest.raises(InputError, match="no such SQLite file"):
        read(f"sqlite:///{path}")
    assert not path.exists()


def test_bad_urls_are_named_without_their_password() -> None:
    """Messages go to logs."""
    with pytest.raises(InputError, match="is not a URL"):
        TableSource("no url", QUERY, IdentityRules())
    with pytest.raises(InputError, match="klingon"):
        read("klingon://me:s3cret@host/x")
    with pytest.raises(TransientError) as caught:
        read("postgresql://me:s3cret@127.0.0.1:1/x")
    assert "s3cret" not in str(caught.value)
    assert "***" in str(caught.value)


def test_postgresql_is_read(new_postgres_database: object) -> None:
    """The driver's own types (timestamps with zone, booleans, numerics) must come out right."""
    assert callable(new_postgres_database)
    url = new_postgres_database()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE runs AS SELECT 'pays'::text AS test_name, 'passed' AS status, "
                "timestamptz '2026-01-20 03:00:00+01' AS started_at, 7 AS cycle_id, "
                "12.5::numeric AS duration_ms, true AS flaky"
            )
        )
    engine.dispose()
    query = "SELECT * FROM runs WHERE test_name LIKE '%ay%' AND started_at > '2026-01-01'::timestamptz"
    (batch,) = read(url.replace("postgresql+psycopg2", "postgresql"), query)
    (row,) = batch.executions.to_pylist()
    assert (row["duration_ms"], row["flaky"], row["cycle_id"]) == (12.5, True, "0000000007")
    assert row["started_at"].astimezone(UTC) == datetime(2026, 1, 20, 2, tzinfo=UTC)


def test_as_of_is_now() -> None:
    """A table grows: its age is told by the clock."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert TableSource("sqlite:///x.db", QUERY, IdentityRules()).as_of(now) == now
