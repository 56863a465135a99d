"""The statistics of a column together: against scipy, with missing values, and with dependent rows."""

import math

import numpy as np
import pytest
from scipy import stats

from mlops_assets.foundation.profiles import load_profile
from mlops_assets.monitoring.design_effect import INDEPENDENT, Dependence
from mlops_assets.monitoring.drift_statistics import column_statistics
from mlops_assets.monitoring.reference_columns import freeze_categories, freeze_numbers

_POLICY = load_profile("aiwebtest").drift


def test_numbers_as_scipy() -> None:
    """A sampled reference must not change what is found."""
    random = np.random.default_rng(20)
    x, y = random.normal(size=40_000), random.normal(0.3, 1.2, 3000)
    found = column_statistics("x", freeze_numbers(x, _POLICY, INDEPENDENT), y)
    assert found.ks == pytest.approx(stats.ks_2samp(x, y).statistic, abs=1e-4)
    assert found.wasserstein_sigmas == pytest.approx(stats.wasserstein_distance(x, y) / x.std(), rel=0.01)
    assert (found.mean, found.sigma) == (pytest.approx(y.mean()), pytest.approx(y.std()))
    # Of two normals it is d^2 / 2 (1 + 1/s^2) + ...; deciles lose a little of it.
    true = (0.3**2 * (1 + 1 / 1.44) + (1.44 - 1) + (1 / 1.44 - 1)) / 2
    assert 0.7 * true < found.psi < 1.1 * true


def test_categories_as_scipy() -> None:
    """Unequal totals, which the handbook's call refuses."""
    random = np.random.default_rng(21)
    names = np.array(["a", "b", "c"])
    x, y = random.choice(names, 5000, p=[0.5, 0.3, 0.2]), random.choice(names, 700, p=[0.4, 0.3, 0.3])
    found = column_statistics("k", freeze_categories(x, "text", _POLICY, INDEPENDENT), y)
    table = [[int(np.sum(side == name)) for name in names] for side in (x, y)]
    expected = stats.chi2_contingency(table, correction=False)
    assert found.chi_square == pytest.approx(expected.statistic)
    assert found.chi_square_p == pytest.approx(expected.pvalue)
    assert (found.ks, found.wasserstein_sigmas, found.unseen) == (None, None, {})


def test_rows_beyond_the_reference_count() -> None:
    """The architecture's code gives 0.0 and "OK" where every row lies outside of the reference."""
    random = np.random.default_rng(22)
    frozen = freeze_numbers(random.random(10_000), _POLICY, INDEPENDENT)
    half = np.concatenate([random.random(500), 5 + random.random(500)])
    assert column_statistics("x", frozen, half).psi == pytest.approx(1.09, abs=0.08)
    beyond = column_statistics("x", frozen, 5 + random.random(1000))
    assert (beyond.psi, beyond.ks) == (pytest.approx(8.28, abs=0.01), 1.0)


def test_a_constant_column_is_no_error() -> None:
    """A constant feature raises in the architecture's code; one that stays constant has not drifted, one that moves has."""
    frozen = freeze_numbers(np.full(2000, 4.0), _POLICY, INDEPENDENT)
    same, other = (column_statistics("x", frozen, np.full(1000, value)) for value in (4.0, 3.0))
    assert (same.psi, same.ks, same.p_value, same.wasserstein_sigmas) == (0.0, 0.0, 1.0, None)
    assert other.psi > 1
    assert other.ks == 1.0
    assert other.p_value < 1e-6


def test_missing_values_are_a_cell() -> None:
    """NaN that is ignored hides a feature that stopped coming."""
    random = np.random.default_rng(23)
    frozen = freeze_numbers(random.normal(size=5000), _POLICY, INDEPENDENT)
    burst = random.normal(size=2000)
    burst[:500] = np.nan
    found = column_statistics("x", frozen, burst)
    assert found.missing_rate == 0.25
    assert found.psi > 1
    gone = column_statistics("x", frozen, np.full(2000, np.nan))
    assert (gone.ks, gone.ks_p, gone.mean, gone.missing_rate) == (None, None, None, 1.0)
    assert gone.psi > 5


def test_the_precision_of_the_column_does_not_matter() -> None:
    """The same values as float32, float64 and objects are the same distribution."""
    values = np.round(np.random.default_rng(24).normal(size=4000), 1)
    frozen = freeze_numbers(values, _POLICY, INDEPENDENT)
    for same in (values, values.astype(np.float32), values.astype(object)):
        found = column_statistics("x", frozen, same)
        assert (found.psi, found.ks) == (0.0, 0.0)


def test_dependent_rows_are_worth_less() -> None:
    """Ten copies of each row make any noise significant."""
    random = np.random.default_rng(25)
    frozen = freeze_numbers(random.normal(size=20_000), _POLICY, INDEPENDENT)
    copies = np.repeat(random.normal(size=300), 10)
    naive = column_statistics("x", frozen, copies)
    honest = column_statistics("x", frozen, copies, dependence=Dependence(np.repeat(np.arange(300), 10)))
    told = column_statistics("x", frozen, copies, effective_rows=300)
    assert naive.effective_rows == 3000
    assert 200 < honest.effective_rows <= 300
    assert told.effective_rows == 300
    assert naive.p_value < told.p_value <= honest.p_value
    assert naive.psi == honest.psi == told.psi
    assert math.isclose(told.psi_bias, 9 * (1 / 20_000 + 1 / 300))


def test_dependence_of_the_reference_is_taken_over() -> None:
    """Without clusters the current rows are as dependent as those that were frozen."""
    random = np.random.default_rng(26)
    episodes = np.repeat(np.arange(2000), 5)
    frozen = freeze_numbers(np.repeat(random.normal(size=2000), 5), _POLICY, Dependence(episodes))
    found = column_statistics("x", frozen, np.repeat(random.normal(size=400), 5))
    assert found.effective_rows == pytest.approx(2000 / frozen.design_effect)
    assert found.reference_effective_rows == pytest.approx(10_000 / frozen.design_effect)
    assert found.effective_rows < 450


def test_p_values_are_uniform_at_most() -> None:
    """A test that finds 10 % of nothing at 5 % breaks every budget of false alarms."""
    random = np.random.default_rng(27)
    frozen = freeze_numbers(random.normal(size=10_000), _POLICY, INDEPENDENT)
    p_values = np.array([column_statistics("x", frozen, random.normal(size=1000)).p_value for _ in range(400)])
    assert np.mean(p_values < 0.05) < 0.09
    assert np.mean(p_values < 0.5) < 0.56


def test_named_new_categories_are_bounded() -> None:
    """A column that turns to ids must not put a million names into a database row."""
    frozen = freeze_categories(np.array(["a", "b"] * 1000), "text", _POLICY, INDEPENDENT)
    found = column_statistics("k", frozen, np.array([f"id-{i:04}" for i in range(3000)]))
    assert found.unseen is not None
    assert (len(found.unseen), found.unseen_categories, found.unseen_rows) == (20, 3000, 3000)
