"""Offline rows on disk: whole months replaced, nothing else touched."""

from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_assets.features.offline import (
    count_rows,
    create_view_folder,
    groups_of,
    read_rows,
    replace_rows,
    view_folder,
)
from mlops_assets.features.views import AGENT_CONTEXT_FEATURES
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets_tests.features.samples import MONDAY, rows_of

VIEW = AGENT_CONTEXT_FEATURES


def rewards(table: pa.Table) -> list[tuple[str, int, float]]:
    """Key, day and value of the rows."""
    return [(r["agent_id"], (r["event_timestamp"] - MONDAY).days, r["recent_reward"]) for r in table.to_pylist()]


def put(paths: ArtifactPaths, group: str, rows: list[tuple[str, int, float]], start: int) -> None:
    """Replace a group's rows from day `start` on."""
    table = rows_of(VIEW, [{"key": key, "at": at, "recent_reward": value} for key, at, value in rows])
    replace_rows(paths, VIEW, group, table, start=MONDAY + timedelta(days=start))


def test_rows_from_the_start_on_are_replaced_and_others_stay(paths: ArtifactPaths) -> None:
    """A refresh of the last days loses older months, later leftovers, or another group's rows."""
    put(paths, "one", [("a", 1, 1.0), ("a", 25, 2.0), ("a", 40, 3.0), ("a", 90, 4.0)], start=0)
    put(paths, "two", [("b", 40, 5.0)], start=0)
    put(paths, "one", [("a", 41, 6.0)], start=40)
    assert rewards(read_rows(paths, VIEW)) == [("a", 1, 1.0), ("a", 25, 2.0), ("a", 41, 6.0), ("b", 40, 5.0)]
    assert rewards(read_rows(paths, VIEW, groups=["two"])) == [("b", 40, 5.0)]
    assert groups_of(paths, VIEW) == ("one", "two")
    assert count_rows(paths, VIEW) == 4


def test_reading_a_span_takes_both_its_ends(paths: ArtifactPaths) -> None:
    """A row exactly at midnight is the rule here, not the exception."""
    put(paths, "one", [("a", day, float(day)) for day in range(60)], start=0)
    found = read_rows(paths, VIEW, start=MONDAY + timedelta(days=20), end=MONDAY + timedelta(days=31))
    assert [day for _, day, _ in rewards(found)] == list(range(20, 32))
    assert read_rows(paths, VIEW, columns=["agent_id"]).column_names == ["agent_id"]


def test_an_empty_view_still_has_its_schema(paths: ArtifactPaths) -> None:
    """Feast's DuckDB store fails on a folder without a file."""
    create_view_folder(paths, VIEW)
    files = list(view_folder(paths, VIEW).glob("*.parquet"))
    assert [pq.read_schema(file).names for file in files] == [VIEW.schema.names]
    assert read_rows(paths, VIEW).schema == VIEW.schema
    assert count_rows(paths, VIEW) == 0


def test_rows_that_do_not_belong_are_refused_before_anything_is_written(paths: ArtifactPaths) -> None:
    """A half-replaced month is found by nobody."""
    put(paths, "one", [("a", 5, 1.0)], start=0)
    with pytest.raises(InputError, match="older than 2026-01-11"):
        put(paths, "one", [("a", 5, 2.0), ("a", 7, 3.0)], start=6)
    with pytest.raises(InputError, match="expected"):
        replace_rows(paths, VIEW, "one", pa.table({"agent_id": ["a"]}), start=MONDAY)
    assert rewards(read_rows(paths, VIEW)) == [("a", 5, 1.0)]


def test_a_damaged_file_is_named_with_what_to_do(paths: ArtifactPaths) -> None:
    """A traceback of the parquet reader says neither which file nor what now."""
    put(paths, "one", [("a", 5, 1.0)], start=0)
    next(view_folder(paths, VIEW).glob("one-*.parquet")).write_bytes(b"PAR1")
    with pytest.raises(InputError, match="delete the folder"):
        read_rows(paths, VIEW)
