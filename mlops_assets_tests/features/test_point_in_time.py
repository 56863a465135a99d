"""The point-in-time join: never a newer value, never an expired one, always the newest valid one."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.features.point_in_time import NO_ROW, microseconds, newest_rows, point_in_time_rows, take_rows
from mlops_assets.features.views import AGENT_CONTEXT_FEATURES, TEST_EXECUTION_FEATURES
from mlops_assets_tests.features.samples import MONDAY, entities, rows_of

VIEW = AGENT_CONTEXT_FEATURES
DAY = 86_400_000_000

SOURCE = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40), st.integers(0, 2)), max_size=30, unique=True)
DECISIONS = st.lists(st.tuples(st.sampled_from("abcx"), st.integers(-2, 60)), min_size=1, max_size=30)


@settings(max_examples=200, deadline=None)
@given(source=SOURCE, decisions=DECISIONS)
def test_no_decision_sees_a_newer_or_expired_value(
    source: list[tuple[str, int, int]], decisions: list[tuple[str, int]]
) -> None:
    """A value from after the decision makes offline accuracy a fiction."""
    rows = rows_of(
        VIEW,
        [{"key": k, "at": at / 2, "created": MONDAY + timedelta(days=at / 2, hours=c)} for k, at, c in source],
    )
    asked = entities([("t", key, at / 2) for key, at in decisions])
    times = microseconds(asked["event_time"])
    found = point_in_time_rows(VIEW, rows, asked["agent_id"], times)
    for (key, _), time, row in zip(decisions, times.tolist(), found.tolist(), strict=True):
        valid = [
            (stamp, created, position)
            for position, (own, stamp, created) in enumerate(
                zip(
                    rows["agent_id"].to_pylist(),
                    microseconds(rows["event_timestamp"]).tolist(),
                    microseconds(rows["created"]).tolist(),
                    strict=True,
                )
            )
            if own == key and stamp <= time and time - stamp <= 7 * DAY
        ]
        assert row == (max(valid)[2] if valid else NO_ROW)


def test_the_bulk_join_equals_pandas_on_many_rows() -> None:
    """The sorted search and pandas' own as-of join disagree on some corner that small examples miss."""
    rng = np.random.default_rng(3)
    view = TEST_EXECUTION_FEATURES
    keys, at = rng.integers(0, 300, 20_000), rng.integers(0, 200, 20_000)
    source = pd.DataFrame({"key": keys, "at": at}).drop_duplicates().assign(value=lambda f: np.arange(len(f)))
    rows = rows_of(
        view,
        [{"key": f"t{k}", "at": a, "failure_count": v} for k, a, v in source.itertuples(index=False, name=None)],
    )
    asked_keys, asked_at = rng.integers(0, 320, 50_000), np.sort(rng.uniform(-5, 260, 50_000))
    times = (asked_at * DAY).astype(np.int64) + int(MONDAY.timestamp()) * 1_000_000
    found = point_in_time_rows(view, rows, pa.chunked_array([[f"t{k}" for k in asked_keys]]), times)
    values = take_rows(view, rows, found)["test_execution_features__failure_count"].to_pandas()
    left = pd.DataFrame({"key": asked_keys, "time": times})
    right = source.assign(time=source["at"] * DAY + int(MONDAY.timestamp()) * 1_000_000).sort_values("time")
    expected = pd.merge_asof(left, right, on="time", by="key", tolerance=30 * DAY)["value"]
    assert expected.isna().any()
    pd.testing.assert_series_equal(values, expected, check_names=False, check_dtype=False)


def test_nothing_to_join_gives_no_rows() -> None:
    """The first day of a new installation has decisions and no features."""
    asked = entities([("t", "a", 1.0)])
    found = point_in_time_rows(VIEW, VIEW.schema.empty_table(), asked["agent_id"], microseconds(asked["event_time"]))
    assert found.tolist() == [NO_ROW]
    assert take_rows(VIEW, VIEW.schema.empty_table(), found)["agent_context_features__recent_reward"].to_pylist() == [
        None
    ]
    assert (
        point_in_time_rows(
            VIEW, rows_of(VIEW, [{"key": "a", "at": 0}]), asked["agent_id"][:0], np.empty(0, np.int64)
        ).size
        == 0
    )


def test_the_newest_row_of_each_key_is_kept() -> None:
    """The online store gets yesterday's row because it stood last in the file."""
    rows = rows_of(
        VIEW,
        [
            {"key": "b", "at": 3, "recent_reward": 3.0},
            {"key": "a", "at": 2, "recent_reward": 2.0},
            {"key": "b", "at": 1, "recent_reward": 1.0},
            {"key": "a", "at": 2, "recent_reward": 9.0, "created": MONDAY + timedelta(days=5)},
        ],
    )
    newest = newest_rows(VIEW, rows)
    assert dict(zip(newest["agent_id"].to_pylist(), newest["recent_reward"].to_pylist(), strict=True)) == {
        "a": 9.0,
        "b": 3.0,
    }
    assert newest_rows(VIEW, VIEW.schema.empty_table()).num_rows == 0
