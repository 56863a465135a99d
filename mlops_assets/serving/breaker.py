"""A circuit breaker as a pure state machine: time is passed in, in monotonic seconds."""

from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "open", "half_open"]


@dataclass
class CircuitBreaker:
    """Opens after `failures` refused or late calls in a row, for `open_seconds`; then one call at a time tries again.

    Source: Nygard, Release It! (2007), chapter 5.
    """

    failures: int
    open_seconds: float
    _in_a_row: int = 0
    _opened_at: float | None = None
    _probing_since: float | None = None

    def state(self, now: float) -> State:
        """Return closed (calls pass), open (none does) or half_open (one may try)."""
        if self._opened_at is None:
            return "closed"
        return "open" if now - self._opened_at < self.open_seconds else "half_open"

    def allow(self, now: float) -> bool:
        """Whether a call may be made now; in half_open only the first asker gets through, until it reports back.

        A probe that never reports is given up after `open_seconds`.
        """
        state = self.state(now)
        if state != "half_open":
            return state == "closed"
        if self._probing_since is not None and now - self._probing_since < self.open_seconds:
            return False
        self._probing_since = now
        return True

    def succeeded(self) -> None:
        """A call was answered in time."""
        self._in_a_row, self._opened_at, self._probing_since = 0, None, None

    def failed(self, now: float) -> None:
        """A call was refused, or not answered in time."""
        self._in_a_row += 1
        if self._opened_at is not None or self._in_a_row >= self.failures:
            self._opened_at, self._probing_since = now, None
