"""Frozen arrays come back as they were, and nothing else comes back at all."""

import numpy as np
import pytest

from mlops_assets.foundation.errors import InputError
from mlops_assets.monitoring.frozen_arrays import from_bytes, to_bytes

ARRAYS = {
    "a": np.array([[1.0, np.nan], [np.inf, -0.0]]),
    "b": np.array([True, False, True]),
    "c": np.arange(3, dtype=np.int64),
    "d": np.array([1.5], dtype=np.float32),
    "e": np.zeros((0, 4)),
}


def test_there_and_back() -> None:
    """A type, a shape or a bit is lost."""
    numbers, arrays = from_bytes("kind-1", to_bytes("kind-1", {"x": 0.1, "y": None}, ARRAYS))
    assert numbers == {"x": 0.1, "y": None}
    assert set(arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        assert arrays[name].tobytes() == array.tobytes()


def test_equal_content_gives_equal_bytes() -> None:
    """The order of a dictionary, or the layout of an array in memory, changes the hash of a reference."""
    turned = {name: np.asfortranarray(ARRAYS[name]) for name in reversed(ARRAYS)}
    assert to_bytes("kind-1", {"x": 1, "y": 2}, ARRAYS) == to_bytes("kind-1", {"y": 2, "x": 1}, turned)


def test_objects_are_refused() -> None:
    """Reading a reference runs code that somebody put there."""
    with pytest.raises(InputError, match="type object cannot be frozen"):
        to_bytes("kind-1", {}, {"a": np.array([object()])})


@pytest.mark.parametrize("broken", [b"", b"x" * 100, "cut", "flipped"])
def test_broken_bytes_are_refused(broken: bytes | str) -> None:
    """Half a file is read as a reference of fewer decisions."""
    whole = to_bytes("kind-1", {}, ARRAYS)
    if broken == "cut":
        broken = whole[:-1]
    elif broken == "flipped":
        broken = whole[:-1] + bytes([whole[-1] ^ 1])
    assert isinstance(broken, bytes)
    with pytest.raises(InputError, match="no frozen kind-1"):
        from_bytes("kind-1", broken)


def test_another_kind_is_refused() -> None:
    """A calibration is read as a reference of health."""
    with pytest.raises(InputError, match="'kind-2', expected 'kind-1'"):
        from_bytes("kind-1", to_bytes("kind-2", {}, {}))
