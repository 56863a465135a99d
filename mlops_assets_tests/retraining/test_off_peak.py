"""Off-peak windows: over midnight, in other timezones, and when clocks change."""

from datetime import UTC, datetime

import pytest

from mlops_assets.foundation.policies import OffPeak
from mlops_assets.retraining.off_peak import inside, may_wait, next_opening

NIGHT = OffPeak(timezone="UTC", hours=(2, 4))
LATE = OffPeak(timezone="UTC", hours=(22, 3))
BERLIN = OffPeak(timezone="Europe/Berlin", hours=(2, 4))


def at(day: int, hour: int, minute: int = 0, month: int = 11) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize(
    ("window", "now", "open_now"),
    [
        (NIGHT, at(25, 1, 59), False),
        (NIGHT, at(25, 2), True),
        (NIGHT, at(25, 3, 59), True),
        (NIGHT, at(25, 4), False),
        (LATE, at(25, 23), True),
        (LATE, at(26, 2, 59), True),
        (LATE, at(26, 3), False),
        (BERLIN, at(25, 1), True),
        (BERLIN, at(25, 3), False),
    ],
)
def test_what_lies_inside(window: OffPeak, now: datetime, open_now: bool) -> None:
    """A training at the busiest hour, because the window was read in another timezone or ends before it begins."""
    assert inside(window, now) is open_now


@pytest.mark.parametrize(
    ("window", "now", "opening"),
    [
        (NIGHT, at(25, 1), at(25, 2)),
        (NIGHT, at(25, 2), at(26, 2)),
        (NIGHT, at(25, 12), at(26, 2)),
        (LATE, at(26, 2), at(26, 22)),
        (BERLIN, at(24, 12), at(25, 1)),
        # Clocks go from 02:00 to 03:00 on 29 March: 02:00 is 01:00 UTC, as 03:00 summer time is.
        (BERLIN, at(28, 12, month=3), at(29, 1, month=3)),
        (BERLIN, at(29, 12, month=3), at(30, 0, month=3)),
    ],
)
def test_the_next_opening(window: OffPeak, now: datetime, opening: datetime) -> None:
    """A deadline is missed since the window that was waited for was yesterday's."""
    assert next_opening(window, now) == opening


def test_what_may_wait() -> None:
    """What is due at noon waits for the next night, or what is due in two days is trained at noon."""
    assert may_wait(NIGHT, at(27, 12), at(25, 12))
    assert not may_wait(NIGHT, at(27, 12), at(26, 2, 30))
    assert not may_wait(NIGHT, at(26, 1), at(25, 12))
    assert not may_wait(NIGHT, at(26, 2), at(25, 12))
    assert not may_wait(NIGHT, at(25, 11), at(25, 12))
