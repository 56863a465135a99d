"""Off-peak windows: whether now is one, and when the next one opens. Pure."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from mlops_assets.foundation.policies import OffPeak


def inside(window: OffPeak, now: datetime) -> bool:
    """Tell whether `now` lies in the window."""
    begin, end = window.hours
    hour = now.astimezone(ZoneInfo(window.timezone)).hour
    return begin <= hour < end if begin < end else hour >= begin or hour < end


def next_opening(window: OffPeak, now: datetime) -> datetime:
    """Return when the window opens next after `now`, in UTC; an hour that the clocks skip is the one after it."""
    zone = ZoneInfo(window.timezone)
    local = now.astimezone(zone)
    for days in range(3):
        day = (local + timedelta(days=days)).date()
        opening = datetime(day.year, day.month, day.day, window.hours[0], tzinfo=zone).astimezone(UTC)
        if opening > now:
            return opening
    raise AssertionError(f"no opening of {window} within two days of {now}")


def may_wait(window: OffPeak, deadline: datetime, now: datetime) -> bool:
    """Tell whether what is due by `deadline` may wait: now is no window, and one opens before the deadline."""
    return not inside(window, now) and next_opening(window, now) < deadline
