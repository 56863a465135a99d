"""Columns as they come: which kind one is of, and its values sorted or counted in one pass."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mlops_assets.foundation.errors import InputError

Kind = Literal["number", "text", "bool"]
# Values that a row is sampled to for Kolmogorov-Smirnov and Wasserstein: D is exact to 1/20,000.
SAMPLE = 10_000
# Up to here single precision knows every whole number.
_EXACT_BELOW = 2**24
# Numbers in a standard deviation that single precision has to tell apart.
_STEPS = 1000


@dataclass(frozen=True)
class SortedNumbers:
    """A numeric column: what is there in ascending order, and how many rows have nothing."""

    values: NDArray[np.floating[Any]]
    missing: int

    @property
    def rows(self) -> int:
        """Rows, the missing ones among them."""
        return len(self.values) + self.missing

    def sample(self, size: int = SAMPLE) -> NDArray[np.floating[Any]]:
        """Quantiles at the middles of `size` equal parts; the values themselves where they are fewer."""
        count = len(self.values)
        if count <= size:
            return self.values
        return self.values[((np.arange(size) + 0.5) * count / size).astype(np.intp)]

    def counts(self, edges: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """Rows of each cell (E+2,): up to and with edge 0, 1, ... E-1, above all, missing."""
        below = np.searchsorted(self.values, edges, side="right")
        return np.diff(below, prepend=0, append=[len(self.values), self.rows])

    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation of the finite values; NaN without any."""
        low = np.searchsorted(self.values, -np.inf, side="right")
        finite = self.values[low : np.searchsorted(self.values, np.inf, side="left")]
        if not len(finite):
            return float("nan"), float("nan")
        # The square of what is larger than 1e154 is infinite.
        with np.errstate(over="ignore"):
            return float(finite.mean(dtype=np.float64)), float(finite.std(dtype=np.float64))


def kind_of(name: str, values: NDArray[np.generic]) -> Kind:
    """Tell the kind of a column from its type; of objects, from the objects.

    Raises:
        InputError: not one-dimensional, or neither numbers, texts nor booleans.
    """
    if values.ndim != 1:
        raise InputError(f"column {name!r} has shape {values.shape}; drift is measured on columns of shape (rows,)")
    by_type: dict[str, Kind] = {"b": "bool", "i": "number", "u": "number", "f": "number", "U": "text"}
    if values.dtype.kind in by_type:
        return by_type[values.dtype.kind]
    if values.dtype.kind == "O":
        return _kind_of_objects(name, values)
    raise InputError(
        f"column {name!r} has type {values.dtype}; give numbers, texts or booleans (of a time, what matters of it)"
    )


def _kind_of_objects(name: str, values: NDArray[np.generic]) -> Kind:
    types = {type(value) for value in values.tolist()} - {type(None)}
    if types <= {float, int} and types:
        return "number"
    if types <= {bool, np.bool_} and types:
        return "bool"
    # A missing text is None, or the NaN that data frames put there.
    if types <= {str, float, np.str_}:
        return "text"
    raise InputError(
        f"column {name!r} mixes {', '.join(sorted(kind.__name__ for kind in types))}; give one kind of value"
    )


def sort_numbers(values: NDArray[np.generic], dtype: DTypeLike) -> SortedNumbers:
    """Copy a numeric column as `dtype` and sort it; NaN and None are missing."""
    # What is too large for the type is infinite, and sorts as the largest.
    with np.errstate(over="ignore"):
        copy = values.astype(dtype)
    copy.sort()
    # NaN sorts behind everything else.
    there = int(np.searchsorted(copy, np.nan, side="left"))
    return SortedNumbers(copy[:there], len(copy) - there)


def needed_dtype(values: NDArray[np.generic]) -> DTypeLike:
    """Single precision where it leaves a thousand steps in a standard deviation; double otherwise."""
    wide = values.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    if not len(finite):
        return np.float32
    lowest, highest = float(finite.min()), float(finite.max())
    largest = max(abs(lowest), abs(highest))
    if lowest == highest:
        return np.float32 if largest < _EXACT_BELOW else np.float64
    with np.errstate(over="ignore"):
        enough = largest * float(np.finfo(np.float32).eps) * _STEPS <= float(finite.std())
    return np.float32 if enough and largest < float(np.finfo(np.float32).max) else np.float64


def count_categories(values: NDArray[np.generic]) -> tuple[dict[str, int], int]:
    """Rows of each category by its text, and rows with none (None or NaN)."""
    if values.dtype.kind == "b":
        true = int(np.count_nonzero(values))
        counted: dict[Any, int] = {True: true, False: len(values) - true}
    elif values.dtype.kind in "iuf":
        found, counts = np.unique(values, return_counts=True)
        counted = dict(zip(found.tolist(), counts.tolist(), strict=True))
    else:
        counted = Counter(values.tolist())
    missing = sum(count for value, count in counted.items() if is_missing(value))
    return {category_name(v): count for v, count in counted.items() if count and not is_missing(v)}, missing


def category_name(value: object) -> str:
    """Text of a category; a whole number is the same as an integer and as a float."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def nothing_there(values: NDArray[np.generic]) -> bool:
    """Whether every row is missing: of such a column no kind can be told."""
    if values.dtype.kind == "f":
        return bool(np.isnan(values).all())
    return len(values) == 0 or (values.dtype.kind == "O" and all(map(is_missing, values.tolist())))


def is_missing(value: object) -> bool:
    """Whether a value is None or NaN."""
    return value is None or value != value  # noqa: PLR0124 - NaN of any type
