"""Independent rows of dependent ones, against the closed form of the intraclass correlation."""

import numpy as np
import pytest

from mlops_assets.foundation.errors import InputError
from mlops_assets.monitoring.design_effect import cluster_codes, design_effect


def test_independent_rows_are_worth_themselves() -> None:
    """An effect found where there is none costs the power to see drift."""
    random = np.random.default_rng(1)
    cells, clusters = random.integers(0, 11, 50_000), random.integers(0, 5000, 50_000)
    assert 1.0 <= design_effect(cells, clusters, 11) < 1.2
    assert design_effect(cells, np.arange(50_000), 11) == 1.0


def test_copies_count_once() -> None:
    """Twenty equal rows of every user taken for twenty users would make noise a certainty."""
    random = np.random.default_rng(2)
    cells = np.repeat(random.integers(0, 2, 4000), 20)
    assert design_effect(cells, np.repeat(np.arange(4000), 20), 2) == pytest.approx(20, rel=0.01)


@pytest.mark.parametrize("correlation", [0.05, 0.3])
def test_closed_form_of_two_cells(correlation: float) -> None:
    """With two cells it is Kish's 1 + (size - 1) x correlation."""
    random = np.random.default_rng(3)
    size, strength = 10, 1 / correlation - 1
    rates = random.beta(0.4 * strength, 0.6 * strength, 40_000)
    cells = (random.random((40_000, size)) < rates[:, None]).astype(np.intp).ravel()
    effect = design_effect(cells, np.repeat(np.arange(40_000), size), 2)
    assert effect == pytest.approx(1 + (size - 1) * correlation, rel=0.05)


def test_few_clusters_count_as_rows() -> None:
    """The variance of three clusters is no estimate: each is one row."""
    assert design_effect(np.arange(300) % 7, np.arange(300) % 3, 7) == 100.0


def test_one_used_cell_has_no_variance() -> None:
    """A constant column must not divide by nothing."""
    assert design_effect(np.zeros(100, dtype=np.intp), np.arange(100) % 10, 3) == 1.0


def test_clusters_of_other_rows_are_refused() -> None:
    """Clusters of another length would be matched to the wrong rows."""
    assert cluster_codes(np.array(["b", "a", "b"]), 3).tolist() == [1, 0, 1]
    with pytest.raises(InputError, match=r"shape \(2,\), but there are 3 rows"):
        cluster_codes(np.array(["a", "b"]), 3)
