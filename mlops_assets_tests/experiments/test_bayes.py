"""Bayesian comparison against closed forms and against draws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betaln

from mlops_assets.experiments.bayes import Posterior, compare_rates, expected_excess, lift_quantile, prob_greater
from mlops_assets.foundation.errors import InputError

PARAMETER = st.integers(1, 60)


def closed_form(first: Posterior, second: Posterior) -> float:
    """P(first > second) for whole-number parameters (Miller, Formulas for Bayesian A/B testing, 2015)."""
    terms = (
        betaln(second.a + i, first.b + second.b)
        - math.log(first.b + i)
        - betaln(1 + i, first.b)
        - betaln(second.a, second.b)
        for i in range(int(first.a))
    )
    return math.fsum(math.exp(term) for term in terms)


@given(a=PARAMETER, b=PARAMETER, c=PARAMETER, d=PARAMETER)
def test_the_probability_is_the_closed_form(a: int, b: int, c: int, d: int) -> None:
    """A hundred thousand draws are right to three digits, and other ones every time (B-40)."""
    first, second = Posterior(a, b), Posterior(c, d)
    assert prob_greater(first, second) == pytest.approx(closed_form(first, second), abs=1e-8)
    assert prob_greater(first, second) + prob_greater(second, first) == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize(
    "counts", [(1, 100_000, 3, 1_000), (50_000, 100_000, 50_300, 100_000), (999_000, 1_000_000, 99_950, 100_000)]
)
def test_large_and_unequal_arms_are_as_exact(counts: tuple[int, int, int, int]) -> None:
    """Nodes that are laid for the wide posterior step over the narrow one."""
    first = Posterior.of(*counts[:2])
    second = Posterior.of(*counts[2:])
    # Independent of it: the narrow one over a fine grid of its own quantiles.
    from scipy import stats

    levels = (np.arange(200_000) + 0.5) / 200_000
    reference = float(np.mean(stats.beta.cdf(stats.beta.ppf(levels, first.a, first.b), second.a, second.b)))
    assert prob_greater(first, second) == pytest.approx(reference, abs=1e-7)


def test_losses_and_lift_are_those_of_draws() -> None:
    """A decision by expected loss takes the sign of the wrong arm."""
    control, treatment = Posterior.of(100, 1000), Posterior.of(120, 1000)
    random = np.random.default_rng(0)
    drawn_c, drawn_t = (random.beta(one.a, one.b, 1_000_000) for one in (control, treatment))
    found = compare_rates(control, treatment)
    assert found.prob_treatment_better == pytest.approx((drawn_t > drawn_c).mean(), abs=2e-3)
    assert found.expected_loss_treatment == pytest.approx(np.maximum(drawn_c - drawn_t, 0).mean(), abs=5e-6)
    assert found.expected_loss_control == pytest.approx(np.maximum(drawn_t - drawn_c, 0).mean(), abs=5e-5)
    low, high = np.quantile(drawn_t / drawn_c - 1, [0.025, 0.975])
    assert (found.lift_low, found.lift_high) == (pytest.approx(low, abs=2e-3), pytest.approx(high, abs=3e-3))
    assert lift_quantile(control, treatment, 0.5) == pytest.approx(np.median(drawn_t / drawn_c - 1), abs=1e-3)


def test_equal_counts_decide_nothing() -> None:
    """An A/A test favours an arm."""
    same = Posterior.of(37, 500)
    found = compare_rates(same, same)
    assert found.prob_treatment_better == pytest.approx(0.5, abs=1e-10)
    assert found.expected_loss_control == pytest.approx(found.expected_loss_treatment, abs=1e-12)
    assert expected_excess(same, same) > 0.0
    assert found.lift_low < 0.0 < found.lift_high


def test_more_successes_than_trials_are_refused() -> None:
    """A posterior of negative failures gives numbers that look like any others (B-40)."""
    with pytest.raises(InputError, match="5 successes of 4 trials"):
        Posterior.of(5, 4)
