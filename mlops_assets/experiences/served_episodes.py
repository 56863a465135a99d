"""Which served episodes have become whole since a position in the outcomes, and the position after them.

Arithmetic on what was read; the reading is in `prediction_log.py`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlops_assets.foundation.errors import InputError

Int64 = NDArray[np.int64]
Mask = NDArray[np.bool_]
IdRange = tuple[int, int]

# A number handed out this much earlier belongs to a transaction that has ended: one waits 60 s for a lock at most.
_LATE_COMMIT_US: Final = 600 * 1_000_000


class Arrivals(NamedTuple):
    """Outcomes that were not there at a position, (N,), by ascending number, and when each was received."""

    ids: Int64
    received_at_us: Int64

    def until(self, outcome_id: int) -> "Arrivals":
        """Return those up to a number."""
        kept = self.ids <= outcome_id
        return Arrivals(self.ids[kept], self.received_at_us[kept])


class LoggedSteps(NamedTuple):
    """Every prediction of some episodes, (N,): whose step it is, and the outcome's number (0: none yet) and `done`."""

    episode: Int64
    step: Int64
    outcome_id: Int64
    done: Mask


@dataclass(frozen=True)
class Position:
    """How far the outcomes were read.

    `outcome_id` is the highest number read, `received_at_us` its time. `open_ids` are ranges (first, last) of lower
    numbers that were not there: PostgreSQL hands a number out before its row can be seen, so a lower one may show up
    later. A range is given up once an outcome behind it is ten minutes older than the newest.
    """

    outcome_id: int = 0
    received_at_us: int = 0
    open_ids: tuple[IdRange, ...] = ()

    @classmethod
    def parse(cls, cursor: str | None) -> "Position":
        """Read a cursor; None is the beginning.

        Raises:
            InputError: it is not one of the prediction log's.
        """
        if cursor is None:
            return cls()
        try:
            found = json.loads(cursor)
            ranges = tuple((int(first), int(last)) for first, last in found["open_ids"])
            return cls(int(found["outcome_id"]), int(found["received_at_us"]), ranges)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{cursor!r} is no cursor of the prediction log (outcome_id, received_at_us, open_ids); "
                "read from the beginning instead"
            ) from error

    def to_cursor(self) -> str:
        """Write the position as JSON."""
        return json.dumps(
            {"outcome_id": self.outcome_id, "received_at_us": self.received_at_us, "open_ids": self.open_ids}
        )

    def covers(self, outcome_ids: Int64) -> Mask:
        """Tell which outcomes were read on the way here; 0 is no outcome."""
        return (outcome_ids > 0) & (outcome_ids <= self.outcome_id) & ~self.is_open(outcome_ids)

    def is_open(self, outcome_ids: Int64) -> Mask:
        """Tell which numbers are among the open ones."""
        first, last = np.array(self.open_ids, dtype=np.int64).reshape(-1, 2).T
        place = np.searchsorted(first, outcome_ids, side="right") - 1
        return (place >= 0) & (outcome_ids <= np.append(last, -1)[place])

    def after(self, arrivals: Arrivals) -> "Position":
        """Return the position once these outcomes are read as well."""
        highest, received_at_us = self.outcome_id, self.received_at_us
        if len(arrivals.ids) and arrivals.ids[-1] > highest:
            highest, received_at_us = int(arrivals.ids[-1]), int(arrivals.received_at_us[-1])
        settled_before_us = received_at_us - _LATE_COMMIT_US
        settled = int(arrivals.ids[arrivals.received_at_us < settled_before_us].max(initial=0))
        if self.received_at_us < settled_before_us:
            settled = max(settled, self.outcome_id)
        ranges = _without([*self.open_ids, (self.outcome_id + 1, highest)], arrivals.ids)
        return Position(highest, received_at_us, tuple(found for found in ranges if found[1] > settled))


def whole_since(
    log: LoggedSteps, position: Position, arrivals: Arrivals, *, max_rows: int
) -> tuple[NDArray[np.int64], Arrivals]:
    """Find the episodes that the arrived outcomes complete.

    An episode is whole when its steps are 0..n-1, each with an outcome, and the last outcome, no other, is `done`. Of
    several predictions for one step, the one with the lowest outcome number counts.

    Args:
        log: every prediction of every episode that an arrived outcome belongs to.
        position: where the last reading ended; what was whole there was delivered.
        arrivals: the outcomes since.
        max_rows: decisions to return at most; one episode is returned whatever its length.

    Returns:
        Rows of `log`, episode by episode in the order of completion, by step; and the arrivals up to the last of them,
        all if everything fitted.
    """
    rows, completed_by = _newly_whole(log, position, arrivals)
    if len(rows) <= max_rows:
        return rows, arrivals
    fitting = int(np.searchsorted(completed_by, completed_by[max_rows]))
    arrivals = arrivals.until(int(completed_by[max(fitting - 1, 0)]))
    return _newly_whole(log, position, arrivals)[0], arrivals


def _newly_whole(log: LoggedSteps, position: Position, arrivals: Arrivals) -> tuple[Int64, Int64]:
    """Rows of the episodes that are whole now and were not before, and per row what completed its episode."""
    old, new = position.covers(log.outcome_id), np.isin(log.outcome_id, arrivals.ids)
    rows = _whole(log, old | new)
    rows = rows[~np.isin(log.episode[rows], log.episode[_whole(log, old)])]
    if not len(rows):
        return rows, rows
    first = np.flatnonzero(log.step[rows] == 0)
    completed_by = np.maximum.reduceat(np.where(new, log.outcome_id, 0)[rows], first)
    completed_by = np.repeat(completed_by, np.diff(np.append(first, len(rows))))
    order = np.lexsort((log.step[rows], completed_by))
    return rows[order], completed_by[order]


def _whole(log: LoggedSteps, usable: Mask) -> Int64:
    """Rows of whole episodes, by episode and step, when only the `usable` rows have an outcome."""
    outcome = np.where(usable, log.outcome_id, np.iinfo(np.int64).max)
    order = np.lexsort((outcome, log.step, log.episode))
    episode, step = log.episode[order], log.step[order]
    other = np.diff(episode, prepend=-1) != 0
    chosen = order[other | (np.diff(step, prepend=-1) != 0)]
    episode = log.episode[chosen]
    first = np.flatnonzero(np.diff(episode, prepend=-1))
    lengths = np.diff(np.append(first, len(episode)))
    expected = np.arange(len(episode)) - np.repeat(first, lengths)
    is_last = np.zeros(len(episode), dtype=np.bool_)
    is_last[first + lengths - 1] = True
    sound = usable[chosen] & (log.step[chosen] == expected) & (log.done[chosen] == is_last)
    whole = np.logical_and.reduceat(sound, first) if len(first) else np.empty(0, dtype=np.bool_)
    return chosen[np.repeat(whole, lengths)]


def _without(ranges: Iterable[IdRange], ids: Int64) -> list[IdRange]:
    """Take numbers, ascending, out of ranges."""
    left: list[IdRange] = []
    for first, last in ranges:
        inside = ids[np.searchsorted(ids, first) : np.searchsorted(ids, last, side="right")]
        edges = np.concatenate([[first - 1], inside, [last + 1]])
        gaps: list[Any] = np.flatnonzero(np.diff(edges) > 1).tolist()
        left += [(int(edges[gap]) + 1, int(edges[gap + 1]) - 1) for gap in gaps]
    return left
