"""Time as a parameter: functions take a `Clock` (or a `now`), nothing reads the wall clock by itself."""

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Protocol

from mlops_assets.foundation.errors import SettingsError


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """Return the current time, aware, in UTC."""
        ...

    @property
    def speed(self) -> float:
        """Seconds that pass on it in one of the machine's, for what takes as long as the machine needs."""
        ...


class SystemClock:
    """The machine's clock."""

    speed: ClassVar[float] = 1.0

    def now(self) -> datetime:
        """Return the current time, aware, in UTC."""
        return datetime.now(UTC)


@dataclass(frozen=True)
class ShiftedClock:
    """The machine's clock, moved by `offset`: the time of a closed history that goes on from its end."""

    offset: timedelta
    speed: ClassVar[float] = 1.0

    def now(self) -> datetime:
        """Return the shifted time, aware, in UTC."""
        return datetime.now(UTC) + self.offset


@dataclass
class FixedClock:
    """A clock that stands still until it is set: tests, replays of the past."""

    instant: datetime
    speed: ClassVar[float] = 1.0

    def now(self) -> datetime:
        """Return the instant that was set."""
        return self.instant


@dataclass(frozen=True)
class ScaledClock:
    """A clock that was at `start` when the machine's was at `anchor`, and goes `speed` times as fast.

    Every process that is given the same three tells the same time: days of a rollout pass in a minute, with the same code.
    """

    start: datetime
    anchor: datetime
    speed: float

    def now(self) -> datetime:
        """Return the scaled time, aware, in UTC."""
        return self.start + self.speed * (datetime.now(UTC) - self.anchor)

    def __str__(self) -> str:
        """Write it as `parse_clock` reads it."""
        return f"{self.start.isoformat()}@{self.anchor.isoformat()}*{self.speed:g}"


def parse_clock(text: str) -> ScaledClock:
    """Read `<start>@<anchor>*<speed>`: two instants with their UTC offsets, and how much faster than the machine's it goes.

    Raises:
        SettingsError: it is none.
    """
    found = re.fullmatch(r"(?P<start>[^@*]+)@(?P<anchor>[^@*]+)\*(?P<speed>[^@*]+)", text)
    try:
        if found is None:
            raise ValueError("three parts are expected")  # noqa: TRY301 - one message for all that is wrong
        start, anchor = (datetime.fromisoformat(found[name]) for name in ("start", "anchor"))
        speed = float(found["speed"])
        if start.tzinfo is None or anchor.tzinfo is None:
            raise ValueError("an instant has no UTC offset")  # noqa: TRY301
        if not (math.isfinite(speed) and speed > 0.0):
            raise ValueError("the speed has to be a positive number")  # noqa: TRY301
        clock = ScaledClock(start.astimezone(UTC), anchor.astimezone(UTC), speed)
        clock.now()
    except (ValueError, OverflowError) as error:
        raise SettingsError(
            f"{text!r} is no clock ({error}); write <start>@<anchor>*<speed>, such as "
            "2026-01-05T08:00:00+00:00@2026-01-01T00:00:00+00:00*3600"
        ) from None
    return clock


def deployment_clock(text: str | None) -> Clock:
    """Return the clock of a deployment: the machine's, unless its settings (`Settings.clock`) have another.

    Raises:
        SettingsError: they have something that is none.
    """
    return SystemClock() if text is None else parse_clock(text)
