"""States unlike a reference's are told from those like it."""

import numpy as np

from mlops_assets.monitoring.unseen_states import SeenStates

RANDOM = np.random.default_rng(5)


def states(rows: int, random: np.random.Generator) -> np.ndarray:
    """Two correlated fields, a switch that follows the first, and a constant."""
    first = random.normal(size=rows)
    second = 0.95 * first + 0.05 * random.normal(size=rows)
    return np.stack([first, second, first > 0, np.ones(rows)], axis=1).astype(np.float32)


REFERENCE = states(8000, RANDOM)
SEEN = SeenStates.of(REFERENCE, np.arange(8000), 0.99, 1)


def test_the_same_source_is_seen() -> None:
    """The quantile is that of the states the centres were fitted on, so that all others look strange."""
    assert abs(SEEN.share - 0.01) < 0.002
    assert abs(SEEN.unseen(states(8000, np.random.default_rng(9))).mean() - 0.01) < 0.006


def test_a_combination_that_never_occurs_is_unseen() -> None:
    """Every field is in its range, so nothing is noticed."""
    strange = np.array([[1.0, -1.0, 1.0, 1.0], [-1.0, -1.0, 1.0, 1.0]], dtype=np.float32)
    assert SEEN.unseen(strange).all()


def test_a_field_out_of_its_range_is_unseen() -> None:
    """A constant that is another one has no variance to be measured by."""
    other = REFERENCE[:50].copy()
    other[:, 3] = 2.0
    assert SEEN.unseen(other).all()


def test_distances_do_not_depend_on_units() -> None:
    """Milliseconds count a million times what seconds do."""
    scaled = REFERENCE * np.array([1000.0, 1.0, 1.0, 1.0], dtype=np.float32)
    same = SeenStates.of(scaled, np.arange(8000), 0.99, 1)
    np.testing.assert_allclose(same.distances(scaled[:100]), SEEN.distances(REFERENCE[:100]), rtol=1e-3, atol=1e-4)


def test_distance_by_brute_force() -> None:
    """The blockwise expansion of the square, which is fast, is wrong."""
    points = (REFERENCE[:20000] - SEEN.mean) @ SEEN.whitening
    brute = np.sqrt(((points[:200, None] - SEEN.centres) ** 2).sum(axis=2)).min(axis=1)
    np.testing.assert_allclose(SEEN.distances(REFERENCE[:200]), brute, atol=1e-6)
