"""One frozen column: bins, categories, what has to be seen later."""

import numpy as np
import pytest

from mlops_assets.foundation.profiles import load_profile
from mlops_assets.monitoring.column_values import sort_numbers
from mlops_assets.monitoring.design_effect import INDEPENDENT, Dependence
from mlops_assets.monitoring.reference_columns import freeze_categories, freeze_numbers, magnitude

_POLICY = load_profile("aiwebtest").drift


def test_bins_hold_equal_shares() -> None:
    """Edges off by one row leave the first bin without its minimum."""
    column = freeze_numbers(np.arange(1000.0), _POLICY, INDEPENDENT)
    np.testing.assert_allclose(column.shares, [0.1] * 10 + [0.0])
    assert (column.mean, column.scale) == (499.5, 500.0)
    assert column.sigma == pytest.approx(np.arange(1000.0).std())


def test_heaps_have_bins_of_their_own() -> None:
    """Duplicate quantiles stop the handbook's R code, and a constant feature the architecture's."""
    zeros = np.concatenate([np.zeros(700), np.arange(1.0, 301.0)])
    column = freeze_numbers(zeros, _POLICY, INDEPENDENT)
    assert len(np.unique(column.edges)) == len(column.edges)
    assert column.shares[:2].tolist() == [0.0, 0.7]
    constant = freeze_numbers(np.full(1000, 3.0), _POLICY, INDEPENDENT)
    assert constant.shares.tolist() == [0.0, 1.0, 0.0, 0.0]
    assert sort_numbers(np.array([2.9, 3.0, 3.1]), np.float32).counts(constant.edges).tolist() == [1, 1, 1, 0]


def test_equal_widths_have_open_ends() -> None:
    """The architecture's bins drop what lies outside of the reference: half of the rows far off are no drift."""
    column = freeze_numbers(
        np.linspace(0, 1, 1001) ** 2, _POLICY.model_copy(update={"psi_binning": "equal_width"}), INDEPENDENT
    )
    np.testing.assert_allclose(column.edges, np.arange(1, 10) / 10, rtol=1e-6)
    assert sort_numbers(np.array([-5.0, 7.0]), np.float32).counts(column.edges)[[0, -2]].tolist() == [1, 1]


def test_missing_and_infinite_values() -> None:
    """An infinite value in the mean makes every later comparison infinite."""
    column = freeze_numbers(np.array([np.nan, np.inf, -np.inf, 1.0, 3.0, 0.0, 2.0, np.nan]), _POLICY, INDEPENDENT)
    assert (column.missing_rate, column.present_rows, column.mean, column.scale) == (0.25, 6, 1.5, 2.0)
    empty = freeze_numbers(np.full(10, np.nan), _POLICY, INDEPENDENT)
    assert (len(empty.edges), len(empty.sample), empty.shares.tolist()) == (0, 0, [0.0, 1.0])
    assert np.isnan(empty.mean)


def test_cells_of_rows_are_those_of_the_counts() -> None:
    """The design effect of other cells than those tested is another column's."""
    random = np.random.default_rng(5)
    values = np.where(random.random(5000) < 0.1, np.nan, random.poisson(2.0, 5000))
    column = freeze_numbers(values, _POLICY, INDEPENDENT)
    counted = np.bincount(column.cells(values), minlength=len(column.shares)) / 5000
    np.testing.assert_allclose(counted, column.shares)
    names = np.array(["a", "b", None, "a", float("nan"), "c"], dtype=object)
    few = freeze_categories(names, "text", _POLICY.model_copy(update={"max_categories": 2}), INDEPENDENT)
    assert (few.categories, few.others) == (("a", "b"), ("c",))
    np.testing.assert_allclose(np.bincount(few.cells(names), minlength=5) / 6, few.shares)
    assert few.cells(np.array(["new", "c"])).tolist() == [3, 2]


def test_columns_of_ids_are_open() -> None:
    """Every id is new every day: that is no finding."""
    ids = np.array([f"id-{i}" for i in range(2000)])
    column = freeze_categories(ids, "text", _POLICY, INDEPENDENT)
    counts, unseen = column.counts(np.array(["id-new", "id-0"]))
    assert (column.is_open, unseen, int(counts.sum())) == (True, {}, 2)
    assert len(column.categories) == _POLICY.max_categories


def test_dependence_is_kept() -> None:
    """A reference of few long episodes is taken for as many rows."""
    values = np.repeat(np.random.default_rng(6).normal(size=1000), 10)
    column = freeze_numbers(values, _POLICY, Dependence(np.repeat(np.arange(1000), 10)))
    # At least ten; the largest of several estimated effects lies above it.
    assert 10 <= column.design_effect < 13


def test_magnitude_leaves_zeros_out() -> None:
    """A column that is mostly 0 has a median of 0, which no unit changes."""
    assert magnitude(np.array([0.0, 0.0, 0.0, -20.0, 10.0, np.inf])) == 15.0
