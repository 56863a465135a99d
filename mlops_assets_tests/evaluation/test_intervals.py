"""Intervals and tests, against scipy, closed forms and published tables."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mlops_assets.evaluation.intervals import (
    cluster_bootstrap,
    cluster_numbers,
    cluster_sums,
    mcnemar,
    proportion_sample_size,
    ratio,
    wilson,
)
from mlops_assets.foundation.errors import InputError


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(counts: tuple[int, int]) -> None:
    """A home-made formula with one wrong sign looks plausible for years."""
    successes, trials = counts
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    found = wilson(successes, trials, 0.95)
    assert found.estimate == successes / trials
    assert found.low == pytest.approx(expected.low, abs=1e-12)
    assert found.high == pytest.approx(expected.high, abs=1e-12)


@pytest.mark.parametrize("counts", [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_what_is_no_proportion(counts: tuple[int, int]) -> None:
    """Zero trials are unknown, not 0 %."""
    with pytest.raises(InputError):
        wilson(*counts, 0.95)


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_bootstrap_of_single_decisions_is_scipys(method: str) -> None:
    """With one decision in each cluster it is the ordinary bootstrap of a mean, skewed data included."""
    values = np.random.default_rng(1).lognormal(size=80)
    found = cluster_bootstrap(
        np.stack([values, np.ones(80)], axis=1),
        ratio,
        samples=20_000,
        confidence=0.95,
        seed=2,
        method=method,  # type: ignore[arg-type]
    )
    expected = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=20_000,
        confidence_level=0.95,
        method="BCa" if method == "bca" else "percentile",
        rng=3,
    ).confidence_interval
    width = expected.high - expected.low
    assert found.estimate == pytest.approx(values.mean())
    assert found.low == pytest.approx(expected.low, abs=0.03 * width)
    assert found.high == pytest.approx(expected.high, abs=0.03 * width)


def test_bca_and_percentile_differ_on_skewed_data() -> None:
    """If they agreed here, the correction would do nothing."""
    values = np.random.default_rng(1).lognormal(sigma=1.5, size=30)
    pairs = np.stack([values, np.ones(30)], axis=1)
    bca = cluster_bootstrap(pairs, ratio, samples=5000, confidence=0.95, seed=2)
    percentile = cluster_bootstrap(pairs, ratio, samples=5000, confidence=0.95, seed=2, method="percentile")
    assert bca.low is not None
    assert percentile.low is not None
    assert bca.low > percentile.low
    assert (bca.high or 0) > (percentile.high or 0)


def test_dependent_decisions_widen_the_interval() -> None:
    """Forty decisions of one episode are not forty independent ones; taken as such, the interval is far too narrow."""
    random = np.random.default_rng(0)
    episode = np.repeat(np.arange(60), 40)
    correct = np.repeat(random.random(60) < 0.7, 40).astype(np.float64)
    by_episode = cluster_sums(np.stack([correct, np.ones_like(correct)], axis=1), episode)
    alone = np.stack([correct, np.ones_like(correct)], axis=1)
    wide = cluster_bootstrap(by_episode, ratio, samples=1000, confidence=0.95, seed=1)
    narrow = cluster_bootstrap(alone, ratio, samples=1000, confidence=0.95, seed=1)
    assert wide.estimate == narrow.estimate
    assert (wide.high or 0) - (wide.low or 0) > 4 * ((narrow.high or 0) - (narrow.low or 0))


def test_coverage() -> None:
    """A 90 % interval that holds the truth in half of all cases decides wrongly all the time."""
    random = np.random.default_rng(5)
    hits = 0
    for trial in range(200):
        effects = random.normal(0, 1, size=40)
        sizes = random.integers(1, 6, size=40)
        sums = effects * sizes + random.normal(0, np.sqrt(sizes))
        found = cluster_bootstrap(
            np.stack([sums, sizes.astype(np.float64)], axis=1), ratio, samples=400, confidence=0.9, seed=trial
        )
        hits += (found.low or 0) <= 0 <= (found.high or 0)
    assert 168 <= hits <= 194


def test_same_seed_same_interval() -> None:
    """Evidence that changes by itself cannot be bound to a decision."""
    pairs = np.random.default_rng(0).random((50, 2))
    first, second, other = (
        cluster_bootstrap(pairs, ratio, samples=300, confidence=0.95, seed=seed) for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resamples are drawn in blocks to bound memory; a block boundary must not lose or repeat one."""
    pairs = np.random.default_rng(0).random((50, 2))
    whole = cluster_bootstrap(pairs, ratio, samples=100, confidence=0.95, seed=1)
    monkeypatch.setattr("mlops_assets.evaluation.intervals._BLOCK_ENTRIES", 50 * 7)
    assert cluster_bootstrap(pairs, ratio, samples=100, confidence=0.95, seed=1) == whole


def test_too_little_data_gives_no_interval() -> None:
    """One episode says nothing about the next, and none says nothing at all."""
    one = cluster_bootstrap(np.array([[3.0, 4.0]]), ratio, samples=100, confidence=0.95, seed=0)
    assert (one.estimate, one.low, one.high) == (0.75, None, None)
    with pytest.raises(InputError, match="not one episode"):
        cluster_bootstrap(np.empty((0, 2)), ratio, samples=100, confidence=0.95, seed=0)
    undefined = cluster_bootstrap(np.array([[1.0, 1.0], [0.0, 0.0]]), ratio, samples=100, confidence=0.95, seed=0)
    assert (undefined.estimate, undefined.low) == (1.0, None)


def test_constant_data_give_a_point() -> None:
    """Every decision right is no reason to divide by a spread of zero."""
    found = cluster_bootstrap(np.ones((20, 2)), ratio, samples=100, confidence=0.95, seed=0)
    assert (found.estimate, found.low, found.high) == (1.0, 1.0, 1.0)


def test_clusters_are_numbered_and_summed() -> None:
    """An episode whose rows are not adjacent is still one episode."""
    numbers = cluster_numbers(np.array(["b", "a", "b", "c"], dtype=object))
    assert numbers.tolist() == [1, 0, 1, 2]
    sums = cluster_sums(np.array([[1.0, 1.0], [2.0, 1.0], [4.0, 1.0], [8.0, 1.0]]), numbers)
    assert sums.tolist() == [[2.0, 1.0], [5.0, 2.0], [8.0, 1.0]]
    assert cluster_sums(np.array([True, False, True, True]), numbers).tolist() == [[0.0], [2.0], [1.0]]


def test_mcnemar() -> None:
    """The exact p-value of the textbook's 10 against 2, and no division by zero when nothing differs."""
    assert mcnemar(10, 2) == pytest.approx(2 * sum(math.comb(12, k) for k in range(3)) / 2**12)
    assert mcnemar(2, 10) == mcnemar(10, 2)
    assert mcnemar(0, 0) == 1.0


def test_sample_size_counts_both_groups() -> None:
    """Without the factor 2 the test has half of its power: 14,745 per group, and R's power.prop.test says 14,751."""
    size = proportion_sample_size(0.10, 0.11, confidence=0.95, power=0.8)
    assert size == 14_745
    assert size == proportion_sample_size(0.11, 0.10, confidence=0.95, power=0.8)
    assert abs(size - 14_751) / 14_751 < 0.001


def test_sample_size_has_the_power_it_promises() -> None:
    """Simulated: the share of tests that find a true difference of 5 points."""
    size = proportion_sample_size(0.80, 0.85, confidence=0.95, power=0.8)
    random = np.random.default_rng(3)
    first, second = random.binomial(size, 0.80, 4000) / size, random.binomial(size, 0.85, 4000) / size
    pooled = (first + second) / 2
    z = (second - first) / np.sqrt(2 * pooled * (1 - pooled) / size)
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("rates", [(0.5, 0.5), (0.99, 1.01), (-0.1, 0.5), (math.nan, 0.5)])
def test_sample_size_refuses_impossible_rates(rates: tuple[float, float]) -> None:
    """A rate above 1 gave NaN users, and an effect of 0 a division by zero."""
    with pytest.raises(InputError):
        proportion_sample_size(*rates, confidence=0.95, power=0.8)
