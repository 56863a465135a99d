"""The newest hours beside the whole window: sudden drift at once, and no evening for a drift."""

from typing import Any

import numpy as np
import pytest

from mlops_assets.foundation.profiles import load_profile
from mlops_assets.monitoring.drift_verdict import check_drift
from mlops_assets.monitoring.drift_windows import DriftWindows, Rows, check_windows
from mlops_assets.monitoring.reference import Reference

POLICY = load_profile("aiwebtest").drift
AN_HOUR = 1000
SEASON = 0.8
HOUR = np.timedelta64(1, "h")
END = np.datetime64("2026-03-10T00:00:00", "us")


def hours(first: int, last: int, *, shift_at: int = 10_000, shift: float = 2.0, season: float = 0.0) -> Rows:
    """Hours from `first` to before `last`, counted from two days before END."""
    hour = np.repeat(np.arange(first, last), AN_HOUR)
    random = np.random.default_rng([first, last])
    columns: dict[str, np.ndarray[Any, Any]] = {
        "a": random.normal(size=len(hour)) + season * np.cos(2 * np.pi * hour / 24) + shift * (hour >= shift_at),
        "b": random.choice(np.array(["x", "y"]), len(hour), p=[0.7, 0.3]),
        "confidence": random.beta(8, 2, len(hour)),
    }
    at = END - 48 * HOUR + np.arange(len(hour)) * (HOUR.astype("timedelta64[us]") // AN_HOUR) + first * HOUR
    return Rows(columns, at.astype("datetime64[us]"), None)


def check(window: Rows, history: Rows | None = None, **changes: Any) -> DriftWindows:
    """Against fourteen days of the same season, shifted by none of it; `history` is what lies before the window."""
    season = changes.pop("season", 0.0)
    reference = Reference.freeze(hours(0, 24 * 14, season=season).columns, POLICY)

    def read(begin: np.datetime64, until: np.datetime64) -> Rows:
        assert until - begin <= 24 * HOUR
        before = hours(0, 24, season=season) if history is None else history
        inside = (before.event_time >= begin) & (before.event_time < until)
        columns = {name: values[inside] for name, values in before.columns.items()}
        return Rows(columns, before.event_time[inside], None)

    policy = POLICY.model_copy(update=changes)
    return check_windows(reference, window, END, 24.0, policy, read=read, confidence_column="confidence")


def test_a_sudden_drift_is_critical_at_the_next_check() -> None:
    """Twelve hours pass until half of a day's window has drifted."""
    found = check(hours(24, 48, shift_at=47))
    assert (found.drift.verdict, found.newest, found.hours) == ("critical", True, 1.0)
    assert [one.column for one in found.drift.findings] == ["a"]
    assert [one.verdict for one in found.drift.columns] == ["critical", "ok", "ok"]
    assert found.drift.rows == AN_HOUR
    assert found.drift.recommendation == "Retrain now."
    whole = check(hours(24, 48, shift_at=47), newest_min_hours=None)
    assert (whole.drift.verdict, whole.newest, whole.hours) == ("ok", False, 24.0)


def test_an_evening_is_no_drift() -> None:
    """Each evening differs from the day, and somebody is woken by it."""
    window = hours(24, 48, season=SEASON)
    newest = window.last(AN_HOUR * 3)
    reference = Reference.freeze(hours(0, 24 * 14, season=SEASON).columns, POLICY)
    assert check_drift(reference, newest.columns, POLICY).verdict in {"warning", "critical"}
    found = check(window, season=SEASON, newest_min_hours=3.0)
    assert (found.drift.verdict, found.newest) == ("ok", False)
    drifted = check(hours(24, 48, season=SEASON, shift_at=45), season=SEASON, newest_min_hours=3.0)
    assert (drifted.drift.verdict, drifted.newest, drifted.hours) == ("critical", True, 3.0)


def test_without_a_day_before_the_newest_hours_say_nothing() -> None:
    """On its first day a version is ill each evening."""
    window = hours(24, 48, shift_at=47)
    assert check(window, history=hours(0, 0)).drift.verdict == "ok"
    few = hours(0, 24)
    assert check(window, history=few.last(POLICY.min_rows - 1)).drift.verdict == "ok"


def test_a_drift_of_the_whole_window_is_the_whole_windows() -> None:
    """Numbers of a part are shown where the whole says the same."""
    found = check(hours(24, 48, shift_at=0))
    assert (found.drift.verdict, found.newest, found.drift.rows) == ("critical", False, 24 * AN_HOUR)


def test_half_of_the_false_alarms_are_each_windows() -> None:
    """Two looks raise two alarms, and the promise of `alpha` is broken."""
    window = hours(24, 48)
    half = check_drift(
        Reference.freeze(hours(0, 24 * 14).columns, POLICY),
        window.columns,
        POLICY.model_copy(update={"alpha": POLICY.alpha / 2}),
        confidence_column="confidence",
    )
    assert check(window).drift == half


@pytest.mark.parametrize("rows", [0, 100, POLICY.min_rows])
def test_few_rows_are_one_window(rows: int) -> None:
    """The whole window is compared with a part that is the same rows."""
    found = check(hours(24, 48).last(rows))
    assert not found.newest
    assert found.drift.verdict == ("ok" if rows == POLICY.min_rows else "insufficient_data")
