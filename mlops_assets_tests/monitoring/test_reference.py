"""The frozen reference as bytes: the same everywhere, and refused where damaged."""

import hashlib
from typing import Any

import numpy as np
import pytest

from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.monitoring.reference import Reference
from mlops_assets.monitoring.reference_columns import CategoricalReference, NumericReference

_POLICY = load_profile("aiwebtest").drift


def _columns(rows: int = 2000) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(7)
    return {
        "duration": random.lognormal(size=rows),
        "action": random.integers(0, 5, rows),
        "flag": random.random(rows) < 0.3,
        "kind": np.array(["ui", "api", None], dtype=object)[random.integers(0, 3, rows)],
        "clock": 1.7e18 + random.normal(size=rows) * 1e9,
        "empty": np.full(rows, np.nan),
    }


def test_bytes_read_back_the_same() -> None:
    """A reference that changes on its way through a file finds drift where there is none."""
    reference = Reference.freeze(_columns(), _POLICY, categorical=["action"])
    again = Reference.from_bytes(reference.to_bytes())
    assert again.to_bytes() == reference.to_bytes()
    assert list(again.columns) == ["action", "clock", "duration", "empty", "flag", "kind"]
    for name, column in reference.columns.items():
        read = again.columns[name]
        assert type(read) is type(column)
        for field, value in vars(column).items():
            np.testing.assert_array_equal(getattr(read, field), value)
    clock = again.columns["clock"]
    assert isinstance(clock, NumericReference)
    assert (clock.edges.dtype, clock.sample.dtype) == (np.float64, np.float64)
    action = again.columns["action"]
    assert isinstance(action, CategoricalReference)
    assert set(action.categories) == {"0", "1", "2", "3", "4"}


def test_the_hash_is_of_the_content() -> None:
    """The order of the columns is no content; a value is."""
    columns = _columns()
    reference = Reference.freeze(columns, _POLICY)
    assert reference.content_hash == hashlib.sha256(reference.to_bytes()).hexdigest()
    assert Reference.freeze(dict(reversed(columns.items())), _POLICY).content_hash == reference.content_hash
    columns["duration"] = columns["duration"] * 1.01
    assert Reference.freeze(columns, _POLICY).content_hash != reference.content_hash


def test_the_size_is_bounded() -> None:
    """A reference of a million rows must not be a copy of them."""
    random = np.random.default_rng(8)
    reference = Reference.freeze({"x": random.normal(size=200_000)}, _POLICY)
    assert len(reference.to_bytes()) < 50_000


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:0],
        lambda data: b"pickle" + data,
        lambda data: data[:-1],
        lambda data: data[:40],
        lambda data: data + b"\0",
        lambda data: data.replace(b'"sigma"', b'"smega"', 1),
        lambda data: data.replace(b'"columns"', b'"colours"', 1),
    ],
)
def test_damaged_bytes_are_refused(damage: Any) -> None:
    """Half a file compares with half of the columns and calls the rest gone."""
    data = damage(Reference.freeze(_columns(), _POLICY).to_bytes())
    with pytest.raises(InputError, match=r"drift reference"):
        Reference.from_bytes(data)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "of one length"),
        ({"a": np.zeros(0)}, "no rows"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "'b': 3"),
    ],
)
def test_columns_that_are_no_table_are_refused(columns: dict[str, Any], message: str) -> None:
    """Columns of different length are rows of different decisions."""
    with pytest.raises(InputError, match=message):
        Reference.freeze(columns, _POLICY)


def test_unknown_categorical_names_are_refused() -> None:
    """A misspelt name leaves the actions' numbers to be averaged."""
    with pytest.raises(InputError, match="'acton'"):
        Reference.freeze(_columns(), _POLICY, categorical=["acton"])
