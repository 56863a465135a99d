"""A drill's clock: the same time in every process that is given it, and nothing taken for a clock that is none."""

from datetime import UTC, datetime, timedelta

import pytest

from mlops_assets.foundation.clock import ScaledClock, ShiftedClock, SystemClock, deployment_clock, parse_clock
from mlops_assets.foundation.errors import SettingsError

START, ANCHOR = datetime(2026, 1, 5, 8, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)


def test_a_scaled_clock_goes_faster() -> None:
    """A rollout of 66 hours in a drill would take 66 hours."""
    anchor = datetime.now(UTC) - timedelta(seconds=10)
    passed = ScaledClock(START, anchor, 3600.0).now() - START
    assert timedelta(hours=10) <= passed < timedelta(hours=11)
    assert (SystemClock.speed, ShiftedClock(timedelta(days=-1)).speed) == (1.0, 1.0)


def test_every_process_tells_the_same_time() -> None:
    """A controller an hour ahead of its servers would pass a stage whose users had not come yet."""
    clock = ScaledClock(START, ANCHOR, 1800.0)
    again = parse_clock(str(clock))
    assert again == clock
    first, then, last = clock.now(), again.now(), clock.now()
    assert first <= then <= last
    assert deployment_clock(str(clock)) == clock
    assert isinstance(deployment_clock(None), SystemClock)


def test_an_offset_is_kept() -> None:
    """A clock told in Berlin's time would be an hour off."""
    clock = parse_clock("2026-01-05T09:00:00+01:00@2026-01-01T01:00:00+01:00*2")
    assert clock == ScaledClock(START, ANCHOR, 2.0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tomorrow", "three parts are expected"),
        ("2026-01-05T08:00:00+00:00@2026-01-01T00:00:00+00:00", "three parts are expected"),
        ("2026-01-05T08:00:00@2026-01-01T00:00:00+00:00*2", "no UTC offset"),
        ("2026-01-05T08:00:00+00:00@2026-01-01T00:00:00+00:00*0", "positive number"),
        ("2026-01-05T08:00:00+00:00@2026-01-01T00:00:00+00:00*nan", "positive number"),
        ("2026-01-05T08:00:00+00:00@1026-01-01T00:00:00+00:00*1e6", "is no clock"),
        ("2026-13-05T08:00:00+00:00@2026-01-01T00:00:00+00:00*2", "month"),
    ],
)
def test_what_is_no_clock_is_refused(text: str, reason: str) -> None:
    """A clock that stands still holds every rollout for ever."""
    with pytest.raises(SettingsError, match=reason):
        parse_clock(text)
