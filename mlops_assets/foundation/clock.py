"""Time as a parameter: functions take a `Clock` (or a `now`), nothing reads the wall clock by itself."""

from dataclasses import dataclass
from datetime import UTC, datetime
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


@dataclass
class FixedClock:
    """A clock that stands still until it is set: tests, replays of the past."""

    instant: datetime

    def now(self) -> datetime:
        """Return the instant that was set."""
        return self.instant
