"""Time as a parameter: functions take a `Clock` (or a `now`), nothing reads the wall clock by itself."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """Return the current time, aware, in UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the current time, aware, in UTC."""
        return datetime.now(UTC)


@dataclass(frozen=True)
class ShiftedClock:
    """The machine's clock, moved by `offset`: the time of a closed history that goes on from its end."""

    offset: timedelta

    def now(self) -> datetime:
        """Return the shifted time, aware, in UTC."""
        return datetime.now(UTC) + self.offset


@dataclass
class FixedClock:
    """A clock that stands still until it is set: tests, replays of the past."""

    instant: datetime

    def now(self) -> datetime:
        """Return the instant that was set."""
        return self.instant
