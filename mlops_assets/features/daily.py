"""Exact sums over windows of UTC days, per key: the arithmetic under both feature tables, not what is summed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

MICROSECONDS_PER_DAY = 86_400_000_000
_EPOCH = date(1970, 1, 1)
# Day numbers lie between 0 (1970) and 2932896 (9999); keys times this span stay far inside 64 bits.
_DAY_SPAN = 1 << 22

Int64 = NDArray[np.int64]


def day_number(day: date) -> int:
    """Days since 1970-01-01."""
    return (day - _EPOCH).days


def encode(column: pa.ChunkedArray) -> tuple[Int64, pa.Array]:
    """Replace texts by their rank among the distinct texts (N,), and give those in order; independent of row order."""
    names = pc.unique(column)
    names = names.take(pc.sort_indices(names))
    return np.asarray(pc.index_in(column, value_set=names).to_numpy(), dtype=np.int64), names


@dataclass(frozen=True)
class DailySums:
    """Sums per key and day, sorted by key and day, of the days on which something happened.

    Sums are whole numbers: the difference of two running totals is then the same whether the totals start years ago
    or at the start of the window, so a day computed alone equals the day of a full computation bit for bit.
    """

    keys: Int64
    days: Int64
    last_event: Int64
    _totals: Mapping[str, Int64]

    @classmethod
    def of(cls, keys: Int64, days: Int64, columns: Mapping[str, Int64]) -> "DailySums":
        """Sum `columns` (N,) of events by key and day; events are sorted by key, then day."""
        position = keys * _DAY_SPAN + days
        first = np.flatnonzero(np.diff(position, prepend=-1))
        last = np.append(first[1:], len(position))[: len(first)] - 1
        totals = {
            name: np.concatenate(([0], np.cumsum(values)))[np.append(first, len(position))]
            for name, values in columns.items()
        }
        return cls(keys=keys[first], days=days[first], last_event=last, _totals=totals)

    def window(self, keys: Int64, days: Int64, length: int) -> dict[str, Int64]:
        """Sums of the `length` days that end with `days` (M,), per queried key (M,)."""
        position = self.keys * _DAY_SPAN + self.days
        end = np.searchsorted(position, keys * _DAY_SPAN + days, side="right")
        begin = np.searchsorted(position, keys * _DAY_SPAN + days - length, side="right")
        return {name: totals[end] - totals[begin] for name, totals in self._totals.items()}

    def active(self, first_day: int, last_day: int, length: int) -> tuple[Int64, Int64, Int64]:
        """Every (key, day) from `first_day` to `last_day` with an event within the `length` days that end with it.

        Returns:
            Keys (M,), days (M,) and the number of the newest event up to the end of that day (M,).
        """
        until = np.append(self.days[1:] - 1, last_day)
        until[:-1][self.keys[1:] != self.keys[:-1]] = last_day
        begin = np.maximum(self.days, first_day)
        end = np.minimum(np.minimum(until, self.days + length - 1), last_day)
        counts = np.maximum(end - begin + 1, 0)
        source = np.repeat(np.arange(len(self.days)), counts)
        offset = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.keys[source], begin[source] + offset, self.last_event[source]


def share(numerator: Int64, denominator: Int64, scale: float = 1.0) -> NDArray[np.float32]:
    """`numerator / (denominator * scale)` (M,), NaN where the denominator is 0: no event is not a rate of 0."""
    quotient = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator * scale, out=quotient, where=denominator > 0)
    return quotient.astype(np.float32)
