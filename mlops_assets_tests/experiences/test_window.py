"""The window: a cut episode, a decision twice or a label from the future would each bias everything trained on it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.experiences.collection import StoreFolders
from mlops_assets.experiences.parts import read_part, write_daily_parts
from mlops_assets.experiences.schema import experience_schema, label_schema
from mlops_assets.experiences.window import Window, select_window
from mlops_assets.foundation.errors import InputError
from mlops_assets_tests.experiences.synthetic import AGENT, START

Episode = tuple[int, int]  # first hour after START, decisions (one an hour)
FAR = START + timedelta(days=400)


def _decisions(episodes: list[Episode], prefix: str = "") -> pa.Table:
    rows = [
        {
            "experience_id": f"{prefix}{number}-{step}",
            "agent_id": "app",
            "test_id": "test",
            "requirement_id": "",
            "episode_id": f"{prefix}{number:03d}",
            "step": step,
            "event_time": START + timedelta(hours=hour + step, seconds=number),
            "state": [0.0, 0.0, 0.0],
            "action": 0,
            "reward": 0.0,
            "done": step == length - 1,
            "propensity": 1.0,
            "ui_framework": "react",
            "browser": "chromium",
            "test_type": "e2e",
        }
        for number, (hour, length) in enumerate(episodes)
        for step in range(length)
    ]
    return pa.Table.from_pylist(rows, schema=experience_schema(AGENT))


def _store(folder: Path, *tables: pa.Table) -> StoreFolders:
    folders = StoreFolders(folder / "decisions", folder / "labels", folder / "texts")
    for table in tables:
        write_daily_parts(folders.decisions, table, time_column="event_time")
    return folders


def _rows(window: Window | None) -> list[dict[str, object]]:
    if window is None:
        return []
    tables = [read_part(taken.part) if taken.rows is None else taken.rows for taken in window.decisions]
    return pa.concat_tables(tables).to_pylist()


def _expected(episodes: list[Episode], max_rows: int) -> set[str]:
    """The newest whole episodes that fit, one by one, until one does not."""
    kept: set[str] = set()
    total = 0
    for number, (_, length) in sorted(enumerate(episodes), key=lambda e: e[1][0] * 3600 + e[0], reverse=True):
        total += length
        if total > max_rows:
            break
        kept |= {f"{number}-{step}" for step in range(length)}
    return kept


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 240), st.integers(1, 30)), min_size=1, max_size=12),
    st.integers(30, 150),
)
def test_the_newest_whole_episodes_and_nothing_else(episodes: list[Episode], max_rows: int) -> None:
    """Prevents: an episode cut in the middle, an older one kept before a newer one, or more rows than the window."""
    with TemporaryDirectory() as folder:
        window = select_window(_store(Path(folder), _decisions(episodes)), max_rows=max_rows, max_days=None, as_of=FAR)
        rows = _rows(window)
    assert {str(row["experience_id"]) for row in rows} == _expected(episodes, max_rows)
    assert window is not None
    assert window.rows == len(rows) <= max_rows
    times = [row["event_time"] for row in rows]
    assert (window.first_event, window.last_event) == (min(times), max(times))  # type: ignore[type-var]


def test_parts_that_are_taken_whole_are_not_copied(tmp_path: Path) -> None:
    """Prevents: a snapshot that rewrites a million rows to drop a few."""
    folders = _store(tmp_path, _decisions([(0, 4), (12, 4), (24, 4), (48, 4)]))
    window = select_window(folders, max_rows=12, max_days=None, as_of=FAR)
    assert window is not None
    assert [(taken.count, taken.rows is None) for taken in window.decisions] == [(4, False), (4, True), (4, True)]


def test_days_limit_the_window_by_whole_episodes(tmp_path: Path) -> None:
    """Prevents: experience older than the policy's days, or the half of an episode that straddles the limit."""
    folders = _store(tmp_path, _decisions([(0, 3), (23, 3), (25, 3), (30, 3)]))
    window = select_window(folders, max_rows=100, max_days=2, as_of=START + timedelta(days=3, minutes=10))
    assert {row["episode_id"] for row in _rows(window)} == {"002", "003"}
    assert select_window(folders, max_rows=100, max_days=1, as_of=FAR) is None
    everything = select_window(folders, max_rows=100, max_days=90, as_of=START + timedelta(days=3))
    assert everything is not None
    assert everything.rows == 12


def test_an_id_that_lies_in_two_days_counts_once(tmp_path: Path) -> None:
    """Prevents: a decision that its source delivered again with a later time being learned from twice."""
    table = _decisions([(0, 2), (24, 2)])
    again = table.slice(0, 1).set_column(6, "event_time", table["event_time"].slice(3, 1))
    window = select_window(_store(tmp_path, table, again), max_rows=100, max_days=None, as_of=FAR)
    rows = _rows(window)
    assert sorted(str(row["experience_id"]) for row in rows) == ["0-0", "0-1", "1-0", "1-1"]
    assert next(row["event_time"] for row in rows if row["experience_id"] == "0-0") == START


def test_an_episode_larger_than_the_window_is_named(tmp_path: Path) -> None:
    """Prevents: an empty snapshot without a word."""
    with pytest.raises(
        InputError, match=r"episode '000' has 9 decisions, more than the window of 5: raise window_rows"
    ):
        select_window(_store(tmp_path, _decisions([(0, 9)])), max_rows=5, max_days=None, as_of=FAR)


def test_an_empty_store_has_no_window(tmp_path: Path) -> None:
    """Prevents: a crash where nothing was collected yet."""
    assert select_window(_store(tmp_path), max_rows=5, max_days=None, as_of=FAR) is None


def _label(name: str, event: datetime, known: datetime) -> dict[str, object]:
    return {
        "experience_id": name,
        "best_action": 0,
        "action_values": [0.0] * 4,
        "event_time": event,
        "label_time": known,
    }


def test_labels_are_those_known_at_the_cutoff(tmp_path: Path) -> None:
    """Prevents: a label that was not known yet, on the very day of the cutoff, leaking into training."""
    folders = _store(tmp_path, _decisions([(0, 3)]))
    known = [START + timedelta(days=1, hours=hour) for hour in (1, 2, 3)]
    labels = pa.Table.from_pylist(
        [_label(f"0-{i}", START, time) for i, time in enumerate(known)]
        + [_label("old", START - timedelta(days=3), START - timedelta(days=2))],
        schema=label_schema(AGENT),
    )
    write_daily_parts(folders.labels, labels, time_column="label_time")

    def names(as_of: datetime) -> list[str]:
        window = select_window(folders, max_rows=9, max_days=None, as_of=as_of)
        assert window is not None
        tables = [read_part(taken.part) if taken.rows is None else taken.rows for taken in window.labels]
        return [name for table in tables for name in table["experience_id"].to_pylist()]

    assert names(known[0] - timedelta(microseconds=1)) == []
    assert names(known[1]) == ["0-0", "0-1"]
    assert names(datetime(2027, 1, 1, tzinfo=UTC)) == ["0-0", "0-1", "0-2"]
