"""Columns as they come: kinds, missing values, precision."""

from typing import Any

import numpy as np
import pytest

from mlops_assets.foundation.errors import InputError
from mlops_assets.monitoring.column_values import (
    SortedNumbers,
    count_categories,
    kind_of,
    needed_dtype,
    sort_numbers,
)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.zeros(2, dtype=np.float32), "number"),
        (np.zeros(2, dtype=np.int32), "number"),
        (np.zeros(2, dtype=np.uint8), "number"),
        (np.zeros(2, dtype=bool), "bool"),
        (np.array(["a", "b"]), "text"),
        (np.array(["a", None, float("nan")], dtype=object), "text"),
        (np.array([True, None], dtype=object), "bool"),
        (np.array([1.5, None, 2], dtype=object), "number"),
        (np.array([None, None], dtype=object), "text"),
    ],
)
def test_kinds(values: np.ndarray[Any, Any], kind: str) -> None:
    """The handbook knows only float64 and int64: int32 and float32 columns would never be checked."""
    assert kind_of("c", values) == kind


@pytest.mark.parametrize(
    "values",
    [np.zeros((2, 2)), np.array(["2026-01-01"], dtype="datetime64[D]"), np.array([1, "a"], dtype=object)],
)
def test_other_columns_are_refused_by_name(values: np.ndarray[Any, Any]) -> None:
    """A column that is silently left out looks stable for ever."""
    with pytest.raises(InputError, match="'when'"):
        kind_of("when", values)


def test_missing_numbers_are_counted_not_sorted_in() -> None:
    """NaN in the last bin would be the largest value."""
    numbers = sort_numbers(np.array([3.0, np.nan, np.inf, 1.0, None], dtype=object), np.float32)
    assert (numbers.values.tolist(), numbers.missing, numbers.rows) == ([1.0, 3.0, np.inf], 2, 5)
    assert numbers.counts(np.array([1.0, 2.0], dtype=np.float32)).tolist() == [1, 0, 2, 2]
    assert numbers.moments() == (2.0, 1.0)


def test_the_column_itself_is_left_as_it_is() -> None:
    """Sorting in place would shuffle the caller's rows."""
    values = np.array([3, 1, 2], dtype=np.float32)
    sort_numbers(values, np.float32)
    assert values.tolist() == [3, 1, 2]


def test_precision_is_doubled_only_where_it_is_needed() -> None:
    """A nanosecond clock in single precision is a constant; a float in double costs twice the memory."""
    random = np.random.default_rng(0)
    assert needed_dtype(random.normal(size=1000)) == np.float32
    assert needed_dtype(1.7e18 + random.normal(size=1000) * 1e9) == np.float64
    assert needed_dtype(np.full(5, 1.7e9)) == np.float64
    assert needed_dtype(np.full(5, 0.1)) == np.float32
    assert needed_dtype(np.array([1e300, -1e300])) == np.float64
    assert needed_dtype(np.array([np.nan])) == np.float32


def test_sample_is_bounded_and_has_the_quantiles() -> None:
    """A reference that keeps every row is as large as the table."""
    sample = SortedNumbers(np.arange(100_000, dtype=np.float64), 0).sample()
    assert len(sample) == 10_000
    assert np.median(sample) == pytest.approx(50_000, abs=10)


def test_categories_are_counted_by_name() -> None:
    """The same action as 1 and as 1.0 would be a new category in every row."""
    assert count_categories(np.array(["b", "a", None, float("nan"), "b"], dtype=object)) == ({"b": 2, "a": 1}, 2)
    assert count_categories(np.array([1, 2, 1])) == ({"1": 2, "2": 1}, 0)
    assert count_categories(np.array([1.0, 2.0, np.nan])) == ({"1": 1, "2": 1}, 1)
    assert count_categories(np.array([True, True])) == ({"True": 2}, 0)
