"""Fixed-sample comparisons against scipy, statsmodels and published numbers."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_effectsize, proportions_ztest
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from mlops_assets.experiments.frequentist import compare_means, compare_rates, holm, required_sample_size
from mlops_assets.foundation.errors import InputError


def test_welch_is_welch() -> None:
    """Student's test with Welch's error (B-42) is wrong where arms differ in size and spread, as in a 5 % test."""
    random = np.random.default_rng(0)
    control, treatment = random.normal(1.0, 1.0, 900), random.normal(1.2, 3.0, 50)
    found = compare_means(control, treatment, alpha=0.1)
    reference = CompareMeans(DescrStatsW(treatment), DescrStatsW(control))
    assert found.p_value == pytest.approx(reference.ttest_ind(usevar="unequal")[1])
    assert (found.low, found.high) == pytest.approx(reference.tconfint_diff(alpha=0.1, usevar="unequal"))
    pooled = np.sqrt((899 * control.var(ddof=1) + 49 * treatment.var(ddof=1)) / 948)
    assert found.cohens_d == pytest.approx((treatment.mean() - control.mean()) / pooled)


@pytest.mark.parametrize(("control", "treatment"), [([1.0], [2.0, 3.0]), ([1.0, 1.0], [1.0, 1.0])])
def test_what_is_not_defined_is_none(control: list[float], treatment: list[float]) -> None:
    """No spread divides by zero (B-42); zero as the answer would say that nothing differs."""
    found = compare_means(control, treatment)
    assert (found.p_value, found.low, found.high, found.cohens_d) == (None, None, None, None)
    assert found.difference == pytest.approx(np.mean(treatment) - np.mean(control))


@pytest.mark.parametrize("counts", [(100, 1000, 130, 1100), (1, 2000, 30, 2000), (480, 500, 460, 500)])
def test_rates_are_those_of_statsmodels(counts: tuple[int, int, int, int]) -> None:
    """A t-test on zeros and ones, or an interval that leaves 0..1."""
    found = compare_rates(*counts)
    interval = confint_proportions_2indep(counts[2], counts[3], counts[0], counts[1], method="newcomb")
    assert (found.low, found.high) == pytest.approx(interval)
    assert found.p_value == pytest.approx(proportions_ztest([counts[0], counts[2]], [counts[1], counts[3]])[1])
    assert found.cohens_h == pytest.approx(proportion_effectsize(found.treatment_rate, found.control_rate))


def test_few_counts_are_tested_exactly() -> None:
    """The normal approximation calls three failures in a hundred significant."""
    found = compare_rates(0, 100, 3, 100)
    assert found.p_value == pytest.approx(stats.fisher_exact([[0, 100], [3, 97]]).pvalue)
    assert compare_rates(0, 50, 0, 50).p_value is None


def test_several_arms_are_held_to_one_error_rate() -> None:
    """With three arms one in seven tests is won by chance (B-24)."""
    values = [0.01, 0.04, 0.03, 0.005]
    assert holm(values) == pytest.approx(multipletests(values, method="holm")[1])
    assert holm([]) == []


def test_the_planned_size_has_the_planned_power() -> None:
    """The formula for one sample gives half the users, and a power of 0.51 (B-41)."""
    # R: power.prop.test(p1=.1, p2=.11, power=.8) gives 14,751 with another variance.
    assert required_sample_size(0.1, 0.1) == (14745, 14745)
    control, treatment = required_sample_size(0.02, 0.5, power=0.9, alpha=0.01, treatment_share=0.05)
    power = NormalIndPower().power(
        proportion_effectsize(0.03, 0.02), nobs1=treatment, alpha=0.01, ratio=control / treatment
    )
    assert power == pytest.approx(0.9, abs=1e-3)
    assert control / treatment == pytest.approx(19, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"baseline": 0.6, "mde": 0.7}, "gives a rate of 1.02"),
        ({"mde": 0.0}, "found by no number of users"),
        ({"power": 1.0}, "power is 1.0"),
        ({"treatment_share": 0.0}, "treatment_share is 0.0"),
    ],
)
def test_plans_that_are_none_are_refused(arguments: dict[str, float], message: str) -> None:
    """NaN or a division by zero is the answer (B-41)."""
    with pytest.raises(InputError, match=message):
        required_sample_size(**arguments)


def test_arms_without_users_are_refused() -> None:
    """The mean of nothing is NaN, and goes into a report."""
    with pytest.raises(InputError, match="control arm has no users"):
        compare_means([], [1.0])
    with pytest.raises(InputError, match="the treatment arm has the value inf"):
        compare_means([1.0], [1.0, float("inf")])
    with pytest.raises(InputError, match="0 successes of 0 users"):
        compare_rates(0, 0, 1, 2)
