"""Parts: a name that depends on more than the rows would break data hashes, a rewritten part would break snapshots."""

from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.experiences.parts import (
    first_by_key,
    list_parts,
    read_part,
    sorted_rows,
    split_by_day,
    write_daily_parts,
    write_part,
)
from mlops_assets.experiences.schema import TIMESTAMP
from mlops_assets.foundation.errors import InputError

DAY = date(2026, 1, 5)


def _table(ids: list[str], times: list[datetime] | None = None) -> pa.Table:
    times = times or [datetime(2026, 1, 5, tzinfo=UTC)] * len(ids)
    states = pa.FixedSizeListArray.from_arrays(pa.array([float(i) for i in range(2 * len(ids))], pa.float32()), 2)
    return pa.table({"id": pa.array(ids), "time": pa.array(times, TIMESTAMP), "state": states})


def test_the_name_is_the_content_and_chunks_do_not_matter(tmp_path: Path) -> None:
    """Prevents: one batch or two give other files for equal rows, so that two machines disagree on the data hash."""
    whole = _table(["a", "b", "c"])
    chunked = pa.concat_tables([whole.slice(0, 1), whole.slice(1)]).replace_schema_metadata({"pandas": "index"})
    first, second = write_part(tmp_path / "x", DAY, whole), write_part(tmp_path / "y", DAY, chunked)
    assert first.path.name == second.path.name
    assert first.path.parent.name == "event_date=2026-01-05"
    assert first.prefix == sha256(first.path.read_bytes()).hexdigest()[:12]
    assert first.verified_sha256() == sha256(first.path.read_bytes()).hexdigest()
    reordered = write_part(tmp_path / "x", DAY, whole.take([1, 0, 2]))
    assert reordered.path.name != first.path.name


def test_a_second_write_leaves_the_file_alone(tmp_path: Path) -> None:
    """Prevents: a part that snapshots link to is replaced under them."""
    part = write_part(tmp_path, DAY, _table(["a"]))
    before = part.path.stat()
    assert write_part(tmp_path, DAY, _table(["a"])) == part
    assert part.path.stat().st_ino == before.st_ino
    assert part.path.stat().st_mtime_ns == before.st_mtime_ns
    assert [path.name for path in part.path.parent.iterdir()] == [part.path.name]


def test_fixed_size_lists_and_times_come_back_as_written(tmp_path: Path) -> None:
    """Prevents: a state read back as a list of any length, a time read back without zone."""
    table = _table(["a", "b"])
    assert read_part(write_part(tmp_path, DAY, table)).equals(table)
    assert read_part(write_part(tmp_path, DAY, table), ("id",)).column_names == ["id"]


def test_days_are_utc_days(tmp_path: Path) -> None:
    """Prevents: the last microsecond of a day filed under the next one."""
    last = datetime(2026, 1, 5, 23, 59, 59, 999_999, tzinfo=UTC)
    first = datetime(2026, 1, 6, tzinfo=UTC)
    parts = write_daily_parts(tmp_path, _table(["a", "b", "c"], [first, last, first]), time_column="time")
    assert [part.day for part in parts] == [date(2026, 1, 5), date(2026, 1, 6)]
    assert [part.rows for part in parts] == [1, 2]
    assert list_parts(tmp_path, start=date(2026, 1, 6)) == parts[1:]
    assert list_parts(tmp_path, end=date(2026, 1, 5)) == parts[:1]
    assert list_parts(tmp_path / "none") == []


@given(st.lists(st.datetimes(datetime(1969, 12, 30), datetime(2100, 1, 1), timezones=st.just(UTC)), max_size=30))  # noqa: DTZ001
def test_splitting_by_day_loses_no_row(times: list[datetime]) -> None:
    """Prevents: rows lost or filed twice at the border of a day, before 1970 too."""
    table = _table([str(i) for i in range(len(times))], times)
    days = list(split_by_day(table, "time"))
    assert [day for day, _ in days] == sorted({time.date() for time in times})
    assert sorted(name for _, rows in days for name in rows["id"].to_pylist()) == sorted(table["id"].to_pylist())
    assert all(time.date() == day for day, rows in days for time in rows["time"].to_pylist())


def test_a_damaged_part_is_named_with_what_to_do(tmp_path: Path) -> None:
    """Prevents: a flipped bit on disk trained on silently, or a traceback of pyarrow."""
    part = write_part(tmp_path, DAY, _table(["a"]))
    part.path.write_bytes(part.path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(InputError, match=r"damaged.*restore"):
        part.verified_sha256()
    with pytest.raises(InputError, match=r"cannot be read as parquet.*restore"):
        read_part(part)


def test_sorting_and_first_by_key() -> None:
    """Prevents: the later of two rows with one key surviving, or an order that depends on the reader."""
    table = _table(["b", "a", "b", "c"])
    assert first_by_key(table, ("id",))["id"].to_pylist() == ["b", "a", "c"]
    assert first_by_key(table, ("id",))["state"].to_pylist()[0] == [0.0, 1.0]
    assert first_by_key(table, ("id", "time")).num_rows == 3
    assert sorted_rows(table, ("id",))["id"].to_pylist() == ["a", "b", "b", "c"]
    assert first_by_key(table.slice(0, 0), ("id",)).num_rows == 0
