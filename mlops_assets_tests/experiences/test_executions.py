"""The store of executions."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.experiences.execution_rows import (
    Row,
    RowError,
    execution_id,
    executions_table,
    padded,
    parse_status,
    parse_time,
)
from mlops_assets.experiences.executions import append_executions, find_executions, read_executions
from mlops_assets.experiences.identity import IdentityRules
from mlops_assets.experiences.schema import EXECUTIONS
from mlops_assets.foundation import files
from mlops_assets.foundation.errors import InputError, StorageError
from mlops_assets.foundation.paths import ArtifactPaths

NOON = datetime(2026, 1, 20, 12, tzinfo=UTC)
RULES = IdentityRules()


def row(name: str, *, at: datetime = NOON, cycle: str = "c1", ordinal: int = 0, **values: Any) -> Row:
    defaults: dict[str, Any] = {
        "framework": "junit",
        "status": "passed",
        "duration_ms": 5.0,
        "retries": 0,
        "flaky": False,
    }
    return Row(
        identity=RULES.identity("s", name, ""),
        test_name=name,
        started_at=at,
        cycle_id=cycle,
        ordinal=ordinal,
        **{**defaults, **values},
    )


def table(*rows: Row) -> pa.Table:
    return executions_table(rows, source_file="f.xml", source_hash="0" * 64)


@pytest.fixture
def paths(tmp_path: Path) -> ArtifactPaths:
    return ArtifactPaths(tmp_path)


def test_rows_come_back_sorted_and_once(paths: ArtifactPaths) -> None:
    """Features and replay rely on the order of time, and a second append must add nothing."""
    late = row("b", at=NOON + timedelta(days=2), cycle="c2")
    assert append_executions(paths, table(late, row("a"))) == 2
    files_before = sorted(paths.executions.rglob("*"))
    assert append_executions(paths, table(row("a"), late)) == 0
    assert append_executions(paths, table(row("a"), row("new", at=NOON - timedelta(hours=1)))) == 1
    read = read_executions(paths)
    assert read.schema == EXECUTIONS
    assert read["test_name"].to_pylist() == ["new", "a", "b"]
    assert set(files_before) <= set(paths.executions.rglob("*"))
    assert (paths.executions / "event_date=2026-01-22").is_dir()


def test_the_same_row_twice_in_one_table_is_stored_once(paths: ArtifactPaths) -> None:
    """Two files of one run may be stored together."""
    assert append_executions(paths, table(row("a"), row("a"))) == 1
    assert read_executions(paths).num_rows == 1


def test_rows_that_start_together_keep_their_order_in_the_cycle(paths: ArtifactPaths) -> None:
    """CI histories have minutes for times; the row order is what breaks ties in the metric."""
    names = [f"t{i}" for i in (5, 3, 9, 1, 7)]
    append_executions(paths, table(*(row(name, ordinal=place) for place, name in enumerate(names))))
    assert read_executions(paths)["test_name"].to_pylist() == names


def test_reading_a_span_includes_its_start_and_not_its_end(paths: ArtifactPaths) -> None:
    """Daily features must see each execution in exactly one day."""
    midnight = datetime(2026, 1, 21, tzinfo=UTC)
    append_executions(
        paths, table(row("a", at=midnight - timedelta(microseconds=1)), row("b", at=midnight, cycle="c2"))
    )
    assert read_executions(paths, end=midnight)["test_name"].to_pylist() == ["a"]
    assert read_executions(paths, start=midnight)["test_name"].to_pylist() == ["b"]
    assert read_executions(paths, start=midnight, end=midnight).num_rows == 0


def test_columns_are_chosen_and_unknown_ones_named(paths: ArtifactPaths) -> None:
    """A misspelt column must not be an empty one."""
    append_executions(paths, table(row("a")))
    assert read_executions(paths, columns=["status", "test_id"]).to_pylist() == [
        {"status": "passed", "test_id": "s › a"}
    ]
    with pytest.raises(InputError, match=r"no column verdict.*status"):
        read_executions(paths, columns=["verdict"])


def test_an_empty_store_reads_as_an_empty_table(paths: ArtifactPaths) -> None:
    """The first run of a fresh machine reads before anything was written."""
    assert read_executions(paths).schema == EXECUTIONS
    assert read_executions(paths, columns=["test_id"]).num_rows == 0
    assert append_executions(paths, table()) == 0
    assert not paths.executions.exists()


def test_other_columns_types_and_empty_cells_are_refused(paths: ArtifactPaths) -> None:
    """A half-filled table must not reach the store, where nobody could take it out again."""
    good = table(row("a"))
    with pytest.raises(InputError, match="lacks the columns \\['status'\\]"):
        append_executions(paths, good.drop_columns(["status"]))
    holes = pa.array([None], pa.string())
    with pytest.raises(InputError, match="empty cells in suite"):
        append_executions(paths, good.set_column(good.schema.get_field_index("suite"), "suite", holes))
    words = pa.array(["soon"])
    with pytest.raises(InputError, match="other types"):
        append_executions(paths, good.set_column(good.schema.get_field_index("duration_ms"), "duration_ms", words))
    assert not paths.executions.exists()


def test_stored_rows_are_found_by_id_also_across_midnight(paths: ArtifactPaths) -> None:
    """Two reports of one run may date its start before and after midnight: it is one execution."""
    midnight = datetime(2026, 1, 21, tzinfo=UTC)
    append_executions(paths, table(row("a", at=midnight - timedelta(seconds=2))))
    again = table(row("a", at=midnight + timedelta(seconds=2)))
    assert find_executions(paths, again, columns=["status"]).to_pylist() == [{"status": "passed"}]
    assert append_executions(paths, again) == 0


def test_a_full_disk_is_a_typed_error_and_a_rerun_completes(
    paths: ArtifactPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a part must never be read; the sync is where a full disk shows."""

    def full(_path: Path) -> None:
        raise OSError(28, "No space left on device")

    rows = table(row("a"), row("b", at=NOON + timedelta(days=1), cycle="c2"))
    with monkeypatch.context() as patched:
        patched.setattr(files, "_sync", full)
        with pytest.raises(StorageError, match="disk is full"):
            append_executions(paths, rows)
    assert read_executions(paths).num_rows == 0
    assert append_executions(paths, rows) == 2


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=40), st.integers(1, 5))
def test_any_split_into_appends_stores_the_same(
    tmp_path_factory: pytest.TempPathFactory, hours: list[int], pieces: int
) -> None:
    """A crash and a rerun, or other batch sizes, must not change what is read."""
    rows = [row(f"t{i}", at=NOON + timedelta(hours=hour), ordinal=i) for i, hour in enumerate(hours)]
    whole, split = (ArtifactPaths(tmp_path_factory.mktemp("store")) for _ in range(2))
    append_executions(whole, table(*rows))
    for piece in range(pieces):
        append_executions(split, table(*rows[piece::pieces], *rows[:1]))
    columns = [name for name in EXECUTIONS.names if name != "cycle_started_at"]
    assert read_executions(split, columns=columns).equals(read_executions(whole, columns=columns))


def test_execution_ids_sort_by_ordinal_and_tell_rows_apart() -> None:
    """The ids carry the order of a cycle's rows."""
    ids = [execution_id("c", ordinal, test) for ordinal, test in ((0, "z"), (1, "a"), (10, "b"))]
    assert ids == sorted(ids)
    assert len({execution_id(c, o, t) for c in "ab" for o in (0, 1) for t in "xy"}) == 8


def test_run_ids_that_are_numbers_sort_as_numbers() -> None:
    """Cycle 10 comes after cycle 9."""
    assert padded("9") < padded("10")
    assert padded("abc") == "abc"


def test_a_cycle_starts_with_its_first_row() -> None:
    """The budget and the honest history of a cycle begin there."""
    rows = table(row("a", at=NOON), row("b", at=NOON - timedelta(hours=1)), row("c", cycle="c2"))
    starts = [start.astimezone(UTC) for start in rows["cycle_started_at"].to_pylist()]
    assert starts == [NOON - timedelta(hours=1), NOON - timedelta(hours=1), NOON]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("passed", "expected", "flaky", "OK"), "passed"),
        (("failure", "error", "broken", "unexpected", "timedOut", "interrupted"), "failed"),
        (("pending", "skipped", "other", "unknown"), "skipped"),
    ],
)
def test_statuses_of_all_runners(words: tuple[str, ...], status: str) -> None:
    """A verdict that is misread is a wrong label for ever."""
    assert {parse_status(word) for word in words} <= {(status, False), (status, True)}
    assert parse_status("flaky") == ("passed", True)
    with pytest.raises(RowError, match="purple"):
        parse_status("purple")


@pytest.mark.parametrize(
    "value",
    [
        "2022-06-01T10:43:10.159Z",
        "2022-06-01 10:43:10.159",
        "2022-06-01T12:43:10.159+02:00",
        "1654080190159",
        1_654_080_190_159,
        1_654_080_190.159,
        datetime(2022, 6, 1, 10, 43, 10, 159_000),  # noqa: DTZ001 - what a database without zones gives
    ],
)
def test_times_in_all_notations(value: object) -> None:
    """`1654080190159` is also the basic form of an ISO time in the year 1654."""
    assert parse_time(value) == datetime(2022, 6, 1, 10, 43, 10, 159_000, tzinfo=UTC)


@pytest.mark.parametrize(
    "value", ["soon", "1654-08-01", 5, float("nan"), True, "9" * 14, datetime(1970, 1, 1, tzinfo=UTC)]
)
def test_times_that_cannot_be_are_refused(value: object) -> None:
    """1970 is a clock that was never set, and no test ran in 1654."""
    with pytest.raises(RowError):
        parse_time(value)
