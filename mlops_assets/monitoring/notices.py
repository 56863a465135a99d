"""What people are told of an alert, and when: pure, with the time passed in. Where it is kept is `alerts.py`'s business."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from mlops_assets.foundation.policies import AlertingPolicy, QuietHours
from mlops_assets.monitoring.severity import Severity

Status = Literal["open", "acknowledged", "recovered"]
NoticeKind = Literal["raised", "worsened", "repeated", "escalated", "acknowledged", "recovered"]


@dataclass(frozen=True)
class AlertState:
    """What is known of one alert; `severity` is the highest it had, `told_at` when people were, or will be, last told."""

    severity: Severity
    status: Status
    occurrences: int
    raised_at: datetime
    last_seen_at: datetime
    told_at: datetime
    critical_at: datetime | None = None
    escalated_at: datetime | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    recovered_at: datetime | None = None


@dataclass(frozen=True)
class Seen:
    """It is there, and so bad now."""

    severity: Severity


@dataclass(frozen=True)
class Acknowledged:
    """A person looks after it."""

    user: str


@dataclass(frozen=True)
class Gone:
    """It is not there now. `for_good`: and will not be back by chance, so that it has not to stay away first."""

    for_good: bool = False


@dataclass(frozen=True)
class Passed:
    """Nothing happened but time."""


Event = Seen | Acknowledged | Gone | Passed


@dataclass(frozen=True)
class Notice:
    """Something to be told, not before `due_at`."""

    kind: NoticeKind
    due_at: datetime


def notice(
    state: AlertState | None, event: Event, policy: AlertingPolicy, now: datetime
) -> tuple[AlertState | None, Notice | None]:
    """Return what becomes of an alert by an event, and what people are told of it.

    - Seen for the first time: told. Seen again: counted, and told once the cooldown is over. Worse than ever: told at once,
      also when somebody acknowledged what it was before, and it waits for acknowledgement again.
    - Acknowledged: counted and not told. The pager is told that somebody has it.
    - CRITICAL and unacknowledged for `escalation_minutes`: escalated, once.
    - Gone for `settle_minutes`, or for good: recovered, told once.
    - INFO and WARNING wait for the end of quiet hours; the cooldown begins then.

    Args:
        state: the alert that goes on, None when there is none.
        event: what happened.
        policy: of the profile.
        now: time of the event.
    """
    if state is None or state.status == "recovered":
        return _first(event, policy, now) if isinstance(event, Seen) else (state, None)
    if isinstance(event, Seen):
        return _again(state, event.severity, policy, now)
    if isinstance(event, Acknowledged):
        return _acknowledged(state, event.user, now)
    if isinstance(event, Gone):
        return _gone(state, event, policy, now)
    return _passed(state, policy, now)


def quiet_until(quiet: QuietHours | None, now: datetime) -> datetime | None:
    """Return when the quiet hours of `now` end, None when there are none now."""
    if quiet is None:
        return None
    begin, end = quiet.hours
    local = now.astimezone(ZoneInfo(quiet.timezone))
    inside = begin <= local.hour < end if begin < end else local.hour >= begin or local.hour < end
    if not inside:
        return None
    day = local.date() + timedelta(days=1 if local.hour >= end else 0)
    return datetime(day.year, day.month, day.day, end, tzinfo=local.tzinfo).astimezone(now.tzinfo)


def _told(severity: Severity, kind: NoticeKind, policy: AlertingPolicy, now: datetime) -> Notice:
    held = None if severity is Severity.CRITICAL else quiet_until(policy.quiet_hours, now)
    return Notice(kind, held or now)


def _first(event: Seen, policy: AlertingPolicy, now: datetime) -> tuple[AlertState, Notice]:
    told = _told(event.severity, "raised", policy, now)
    critical_at = now if event.severity is Severity.CRITICAL else None
    return AlertState(event.severity, "open", 1, now, now, told.due_at, critical_at), told


def _again(
    state: AlertState, severity: Severity, policy: AlertingPolicy, now: datetime
) -> tuple[AlertState, Notice | None]:
    seen = replace(state, occurrences=state.occurrences + 1, last_seen_at=max(now, state.last_seen_at))
    if severity.rank > state.severity.rank:
        told = _told(severity, "worsened", policy, now)
        critical_at = now if severity is Severity.CRITICAL else None
        worse = replace(seen, severity=severity, critical_at=critical_at, told_at=told.due_at)
        return replace(worse, status="open", acknowledged_at=None, acknowledged_by=None), told
    if state.status == "acknowledged" or now - state.told_at < timedelta(minutes=policy.cooldown_minutes):
        return seen, None
    told = _told(state.severity, "repeated", policy, now)
    return replace(seen, told_at=told.due_at), told


def _acknowledged(state: AlertState, user: str, now: datetime) -> tuple[AlertState, Notice | None]:
    if state.status == "acknowledged":
        return state, None
    known = replace(state, status="acknowledged", acknowledged_at=now, acknowledged_by=user)
    return known, Notice("acknowledged", now)


def _gone(state: AlertState, event: Gone, policy: AlertingPolicy, now: datetime) -> tuple[AlertState, Notice | None]:
    if not event.for_good and now - state.last_seen_at < timedelta(minutes=policy.settle_minutes):
        return state, None
    return replace(state, status="recovered", recovered_at=now), _told(state.severity, "recovered", policy, now)


def _passed(state: AlertState, policy: AlertingPolicy, now: datetime) -> tuple[AlertState, Notice | None]:
    waited = timedelta(minutes=policy.escalation_minutes)
    if state.status != "open" or state.critical_at is None or state.escalated_at is not None:
        return state, None
    if now - state.critical_at < waited:
        return state, None
    return replace(state, escalated_at=now, told_at=now), Notice("escalated", now)
