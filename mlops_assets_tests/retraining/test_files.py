"""Files that arrive: each content once, nothing half-written, nothing lost by a crash."""

import os
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from sqlalchemy import Engine

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.files import sha256_file
from mlops_assets.foundation.policies import FileWatch
from mlops_assets.foundation.tables import IngestedSource
from mlops_assets.retraining.files import Arrival, arrivals, signals_of, taken
from mlops_assets_tests.retraining.triggers import NOW, hours

WATCH = FileWatch(directories=("data/raw", "data/processed"), patterns=(".csv", ".parquet"), settle_seconds=60.0)
MINUTE = hours(1 / 60)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "home" / "data" / "raw"
    made.mkdir(parents=True)
    return made


def look(engine: Engine, folder: Path, at: datetime) -> list[Arrival]:
    return arrivals(engine, WATCH, folder.parents[1], at)


def take(engine: Engine, found: list[Arrival]) -> list[str]:
    """Take files as the sensor does; returns the triggers' reasons, of one agent."""
    with transaction(engine) as session:
        asked = signals_of(session, found)
        taken(session, found)
    assert len(asked) % len(AGENTS) == 0
    return [one.reason for one in asked if one.agent == "execution"]


def write(path: Path, rows: int, end: str = "\n") -> None:
    path.write_text("a,b\n" + "\n".join("1,2" for _ in range(rows)) + end, encoding="utf-8")


def test_a_file_is_taken_once(engine: Engine, folder: Path) -> None:
    """Every look trains again, or the first one takes what is still being copied."""
    write(folder / "runs.csv", 1500)
    (folder / "notes.txt").write_text("no data", encoding="utf-8")
    (folder / ".runs.csv").write_text("hidden\n", encoding="utf-8")
    assert look(engine, folder, NOW) == []
    assert look(engine, folder, NOW + MINUTE / 2) == []
    found = look(engine, folder, NOW + MINUTE)
    assert [(one.path.name, one.rows) for one in found] == [("runs.csv", 1500)]
    # A crash before it was taken loses nothing.
    assert look(engine, folder, NOW + MINUTE) == found
    assert take(engine, found) == ["file runs.csv arrived, 1,500 rows"]
    assert look(engine, folder, NOW + hours(1)) == []


def test_what_still_grows_is_not_taken(engine: Engine, folder: Path) -> None:
    """Half a file trains half a model; its other half is never read."""
    path = folder / "runs.csv"
    write(path, 10)
    for minute in range(5):
        assert look(engine, folder, NOW + minute * MINUTE) == []
        with path.open("a", encoding="utf-8") as file:
            file.write("1,2\n")
    assert look(engine, folder, NOW + 5 * MINUTE) == []
    (found,) = look(engine, folder, NOW + 6 * MINUTE)
    assert found.rows == 15


def test_a_parquet_file_has_to_be_whole(engine: Engine, folder: Path) -> None:
    """A writer that hangs for minutes leaves a file that looks finished."""
    path = folder / "runs.parquet"
    parquet.write_table(pa.table({"a": list(range(1234))}), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    look(engine, folder, NOW)
    assert look(engine, folder, NOW + 2 * MINUTE) == []
    path.write_bytes(whole)
    os.utime(path, ns=(1, 2))
    look(engine, folder, NOW + 3 * MINUTE)
    assert [one.rows for one in look(engine, folder, NOW + 5 * MINUTE)] == [1234]


def test_the_same_content_is_nothing_new(engine: Engine, folder: Path) -> None:
    """A copy, a second name, or what the experiences have read already trains once more."""
    write(folder / "runs.csv", 5)
    write(folder / "known.csv", 6)
    with transaction(engine) as session:
        session.add(
            IngestedSource(
                source_hash=sha256_file(folder / "known.csv"),
                source_file="known.csv",
                kind="csv",
                rows=6,
                quarantined=0,
                ingested_at=NOW,
            )
        )
    look(engine, folder, NOW)
    assert take(engine, look(engine, folder, NOW + MINUTE)) == ["file runs.csv arrived, 5 rows"]
    other = folder.parent / "processed" / "copy.csv"
    other.parent.mkdir()
    other.write_bytes((folder / "runs.csv").read_bytes())
    look(engine, folder, NOW + 2 * MINUTE)
    found = look(engine, folder, NOW + 3 * MINUTE)
    with read_transaction(engine) as session:
        keys = {one.dedupe_key for one in signals_of(session, found)}
    assert keys == {f"file:{agent}:{sha256_file(other)}" for agent in AGENTS}


def test_a_file_that_changed_is_new(engine: Engine, folder: Path) -> None:
    """A report that is appended to every day counts on its first day only."""
    path = folder / "runs.csv"
    write(path, 5)
    look(engine, folder, NOW)
    take(engine, look(engine, folder, NOW + MINUTE))
    write(path, 8, end="")
    look(engine, folder, NOW + hours(1))
    assert take(engine, look(engine, folder, NOW + hours(2))) == ["file runs.csv arrived, 8 rows"]


def test_folders_that_are_not_there_and_empty_files(engine: Engine, tmp_path: Path) -> None:
    """A deployment without files fails at every tick."""
    assert arrivals(engine, WATCH, tmp_path / "nowhere", NOW) == []
    folder = tmp_path / "data" / "raw"
    folder.mkdir(parents=True)
    (folder / "empty.csv").touch()
    arrivals(engine, WATCH, tmp_path, NOW)
    assert arrivals(engine, WATCH, tmp_path, NOW + hours(1)) == []
