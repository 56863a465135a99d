"""When a rollout may start or advance: hours of the day, and days on which nobody deploys."""

from datetime import datetime
from typing import get_args
from zoneinfo import ZoneInfo

from mlops_assets.foundation.policies import DeploymentCalendar, Weekday


def closed(calendar: DeploymentCalendar, now: datetime) -> str | None:
    """Return why nothing may start or advance at `now`, None when it may."""
    local = now.astimezone(ZoneInfo(calendar.timezone))
    day: Weekday = get_args(Weekday)[local.weekday()]
    if day in calendar.blocked_days:
        return f"nothing starts or advances on a {day.capitalize()} ({local:%Y-%m-%d %H:%M} {calendar.timezone})"
    if calendar.hours is not None and not calendar.hours[0] <= local.hour < calendar.hours[1]:
        begin, end = calendar.hours
        return (
            f"it is {local:%H:%M} {calendar.timezone}; rollouts start and advance from {begin:02d}:00 to {end:02d}:00"
        )
    return None
