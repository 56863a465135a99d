"""The deployment calendar: a rollout that starts on a Friday evening is watched by nobody."""

from datetime import UTC, datetime

import pytest

from mlops_assets.foundation.policies import DeploymentCalendar
from mlops_assets.rollout.calendar import closed

NIGHT = DeploymentCalendar(timezone="Europe/Berlin", hours=(4, 6), blocked_days=("friday",))


@pytest.mark.parametrize(
    ("moment", "reason"),
    [
        (datetime(2026, 1, 5, 3, 30, tzinfo=UTC), None),  # Monday, 04:30 there
        (datetime(2026, 1, 5, 4, 59, tzinfo=UTC), None),
        (datetime(2026, 1, 5, 5, 0, tzinfo=UTC), "from 04:00 to 06:00"),  # 06:00 there
        (datetime(2026, 1, 5, 2, 59, tzinfo=UTC), "from 04:00 to 06:00"),
        (datetime(2026, 1, 9, 3, 30, tzinfo=UTC), "on a Friday"),
        (datetime(2026, 1, 8, 23, 30, tzinfo=UTC), "on a Friday"),  # Thursday in UTC, Friday there
        (datetime(2026, 7, 6, 2, 30, tzinfo=UTC), None),  # in summer 04:30 there
    ],
)
def test_the_calendar_goes_by_its_own_timezone(moment: datetime, reason: str | None) -> None:
    """Hours in UTC would open the window at another time of the day, and twice a year move it."""
    found = closed(NIGHT, moment)
    assert found is None if reason is None else found is not None and reason in found


def test_without_hours_only_days_are_blocked() -> None:
    """A default window would keep every rollout of a laptop waiting for the night."""
    calendar = DeploymentCalendar(timezone="UTC", hours=None, blocked_days=())
    assert closed(calendar, datetime(2026, 1, 9, 17, tzinfo=UTC)) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"timezone": "Europe/Berlni"}, "no timezone"),
        ({"hours": (6, 4)}, "no window"),
        ({"hours": (4, 25)}, "no window"),
        (
            {"blocked_days": ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")},
            "nothing would ever start",
        ),
    ],
)
def test_a_calendar_that_is_none_is_refused(changes: dict[str, object], words: str) -> None:
    """It would be noticed by rollouts that never advance."""
    with pytest.raises(ValueError, match=words):
        DeploymentCalendar.model_validate({**NIGHT.model_dump(), **changes})
