"""Each statistic against scipy, a closed form, or the verified examples of the requirements."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance

from mlops_assets.monitoring import divergence

_P, _Q = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.3, 0.3])


def test_psi_by_hand() -> None:
    """Without clipping it is the plain sum."""
    expected = -0.1 * math.log(0.8) + 0.1 * math.log(1.5)
    assert divergence.psi(_P, _Q) == pytest.approx(expected)
    assert divergence.psi(_P, _P) == 0.0


def test_psi_of_everything_out_of_range() -> None:
    """The architecture's own code returns 0.006 and 0.0 for these: half, and all, of the rows beyond the reference."""
    tenths = np.full(10, 0.1)
    half = np.append(np.full(9, 0.05), 0.55)
    everything = np.append(np.zeros(9), 1.0)
    assert divergence.psi(tenths, half) == pytest.approx(1.08, abs=0.02)
    assert divergence.psi(tenths, everything) == pytest.approx(8.28, abs=0.01)


def test_clipped_shares_sum_to_one() -> None:
    """Every source adds epsilon and never divides by the new sum."""
    shares = divergence.clipped(np.array([1.0, 0.0, 0.0]))
    assert shares.sum() == pytest.approx(1.0)
    assert shares.min() == pytest.approx(1e-4, rel=1e-3)


def test_bias_and_error_of_psi_by_simulation() -> None:
    """With 100 rows unchanged traffic has a PSI of 0.19 on average: a critical alarm out of nothing."""
    random = np.random.default_rng(10)
    p = np.full(10, 0.1)
    ours, theirs = random.multinomial(2000, p, 4000) / 2000, random.multinomial(1000, p, 4000) / 1000
    found = np.mean([divergence.psi(a, b) for a, b in zip(ours, theirs, strict=True)])
    assert found == pytest.approx(divergence.psi_bias(p, p, 2000, 1000), rel=0.05)
    q = np.array([0.03, 0.05, 0.08, 0.09, 0.1, 0.1, 0.11, 0.12, 0.14, 0.18])
    drifted = random.multinomial(1000, q, 4000) / 1000
    spread = np.std([divergence.psi(a, b) for a, b in zip(ours, drifted, strict=True)])
    assert spread == pytest.approx(divergence.psi_error(p, q, 2000, 1000), rel=0.1)


def test_jensen_shannon_as_scipy() -> None:
    """A distance over 1 or of the wrong base cannot be compared with anybody's."""
    assert divergence.jensen_shannon(_P, _Q) == pytest.approx(distance.jensenshannon(_P, _Q, base=2))
    assert divergence.jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1.0


def test_chi_square_as_scipy_with_unequal_sides() -> None:
    """The handbook's call raises unless both sides have the same total."""
    table = divergence.pooled_table(_P, _Q, 1000, 300)
    expected = stats.chi2_contingency(table, correction=False)
    assert divergence.chi_square(table) == pytest.approx((expected.statistic, expected.pvalue))


def test_small_cells_are_pooled_and_empty_ones_dropped() -> None:
    """A new category with an expected 0 gives an infinite statistic and p = 0."""
    p, q = np.array([0.5, 0.49, 0.006, 0.004, 0.0, 0.0]), np.array([0.5, 0.49, 0.004, 0.003, 0.0, 0.003])
    table = divergence.pooled_table(p, q, 1000, 1000)
    np.testing.assert_allclose(table, [[500, 490, 6, 4], [500, 490, 4, 6]])
    statistic, p_value = divergence.chi_square(table)
    assert math.isfinite(statistic)
    assert 0 < p_value <= 1
    tiny = divergence.pooled_table(np.array([0.6, 0.399, 0.001]), np.array([0.6, 0.399, 0.001]), 1000, 1000)
    assert tiny.tolist() == [[600, 400], [600, 400]]
    assert divergence.chi_square(np.array([[10.0], [20.0]])) == (0.0, 1.0)


def test_new_cells_are_significant_beside_a_large_reference() -> None:
    """Ten rows of a new category among 1,000 are pooled away by chi-square: ten of 1e5 + 1e3 all on one side are not."""
    p, q = np.array([1.0, 0.0]), np.array([0.99, 0.01])
    assert divergence.new_cells_p(p, q, 1e5, 1e3) == pytest.approx((1 / 101) ** 10)
    assert divergence.new_cells_p(p, p, 1e5, 1e3) == 1.0


def test_cramers_v_is_that_of_equal_sides() -> None:
    """V of the counts falls to nothing beside a large reference, for the same change."""
    equal = np.array([_P * 1000, _Q * 1000]).astype(int)
    assert divergence.cramers_v(_P, _Q) == pytest.approx(stats.contingency.association(equal, method="cramer"))


def test_cramers_v_bound_by_simulation() -> None:
    """A bound above the truth too often is no bound."""
    random = np.random.default_rng(11)
    truth = divergence.cramers_v(_P, _Q)
    ours, theirs = random.multinomial(800, _P, 3000) / 800, random.multinomial(500, _Q, 3000) / 500
    bounds = [divergence.cramers_v_bound(a, b, 800, 500, 1.645) for a, b in zip(ours, theirs, strict=True)]
    assert 0.02 < np.mean(np.array(bounds) > truth) < 0.07


@pytest.mark.parametrize("decimals", [8, 0])
def test_kolmogorov_smirnov_as_scipy(decimals: int) -> None:
    """Ties have to be taken on both sides of the jump."""
    random = np.random.default_rng(12)
    x, y = np.round(random.normal(size=900), decimals), np.round(random.normal(0.3, 1.5, 700), decimals)
    expected = stats.ks_2samp(x, y, method="asymp")
    found, variance = divergence.kolmogorov_smirnov(np.sort(x), np.sort(y))
    assert found == pytest.approx(expected.statistic, abs=1e-12)
    # scipy refines the asymptotic distribution for finite samples.
    assert math.log(divergence.kolmogorov_p(found, 900, 700)) == pytest.approx(math.log(expected.pvalue), rel=0.05)
    assert 0 < variance <= 0.25


def test_wasserstein_as_scipy() -> None:
    """A distance in another unit than sigma's is another number for every column."""
    random = np.random.default_rng(13)
    x, y = np.sort(random.normal(size=5000)), np.sort(random.normal(0.2, 1.3, 3000))
    assert divergence.wasserstein(x, y) == pytest.approx(stats.wasserstein_distance(x, y), rel=0.01)
    assert divergence.wasserstein(x, x + 2) == pytest.approx(2.0)
    assert math.isnan(divergence.wasserstein(x, np.array([np.inf])))


def test_benjamini_hochberg_as_scipy() -> None:
    """Six columns at 0.05 each are a false alarm in every fourth check."""
    p_values = np.array([0.04, 0.001, 0.3, 0.01, 0.9, 0.02])
    np.testing.assert_allclose(divergence.benjamini_hochberg(p_values), stats.false_discovery_control(p_values))
    assert divergence.benjamini_hochberg(np.array([])).tolist() == []
