"""The adjusted comparison against a linear regression, and against what is true in simulations."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import statsmodels.api as sm

from mlops_assets.experiments.cuped import AdjustedComparison, CoMoments, compare_adjusted
from mlops_assets.experiments.frequentist import compare_means

Users = tuple[list[float], list[float | None]]


def users(
    random: np.random.Generator, count: int, more: float = 0.0, *, spread: float = 0.05, absent: float = 0.3
) -> Users:
    """Outcomes of users, and what they had before: new ones, who are another sort of user, had nothing."""
    own = random.beta(1.5, 6.0, count)
    new = random.random(count) < absent
    before = np.clip(own + random.normal(0.0, 0.05, count), 0.0, 1.0)
    outcomes = own + more + 0.1 * new + random.normal(0.0, spread, count)
    return outcomes.tolist(), [None if one else float(x) for one, x in zip(new, before, strict=True)]


def adjusted(control: Users, treatment: Users) -> AdjustedComparison:
    """Compare them."""
    found = compare_adjusted(CoMoments.of(*control), CoMoments.of(*treatment))
    assert found is not None
    return found


def regression(control: Users, treatment: Users) -> tuple[float, float, float, float]:
    """Difference, slope, and half the width of the robust and the plain interval, by statsmodels."""
    outcomes = np.array(control[0] + treatment[0])
    before = control[1] + treatment[1]
    seen = np.array([x is not None for x in before], dtype=float)
    treated = np.repeat([0.0, 1.0], [len(control[0]), len(treatment[0])])
    columns = np.column_stack([np.ones_like(seen), treated, [0.0 if x is None else x for x in before], seen])
    if seen.all():
        # Else it is the intercept once more.
        columns = columns[:, :3]
    plain = sm.OLS(outcomes, columns).fit()
    widths = [np.ptp(fit.conf_int()[1]) / 2 for fit in (plain.get_robustcov_results("HC2"), plain)]
    return float(plain.params[1]), float(plain.params[2]), *map(float, widths)


def test_it_is_the_regression_on_arm_and_covariates() -> None:
    """The adjustment takes a part of the treatment's effect with it."""
    random = np.random.default_rng(0)
    control, treatment = users(random, 3000), users(random, 400, 0.02, spread=0.15)
    found = adjusted(control, treatment)
    difference, slope, robust, plain = regression(control, treatment)
    assert (found.means.difference, found.slope) == pytest.approx((difference, slope))
    assert found.means.low is not None
    # Arms of unequal spread and size: each arm's own error, not the pooled one.
    assert found.means.difference - found.means.low == pytest.approx(robust, rel=0.02)
    assert robust > 1.3 * plain
    assert found.users_before == sum(x is not None for x in control[1] + treatment[1])
    unadjusted = compare_means(control[0], treatment[0])
    assert unadjusted.low is not None
    assert unadjusted.high is not None
    assert found.means.high is not None
    ratio = (found.means.high - found.means.low) / (unadjusted.high - unadjusted.low)
    assert found.variance_reduction == pytest.approx(1 - ratio**2)
    assert 0.2 < found.variance_reduction < 0.9
    few = users(random, 30), users(random, 30, 0.02)
    small = adjusted(*few)
    assert small.means.low is not None
    assert small.means.difference - small.means.low == pytest.approx(regression(*few)[3], rel=0.05)


@pytest.mark.parametrize("count", [60, 400])
def test_it_is_unbiased_and_its_interval_covers(count: int) -> None:
    """Less noise is bought with a wrong answer, or the interval is narrower than what is known."""
    random = np.random.default_rng(count)
    true, runs = 0.03, 1500
    found = [adjusted(users(random, 3 * count), users(random, count, true)) for _ in range(runs)]
    errors = np.array([one.means.difference - true for one in found])
    assert abs(errors.mean()) < 3.5 * errors.std() / np.sqrt(runs)
    covered = sum((one.means.low or 1.0) <= true <= (one.means.high or -1.0) for one in found)
    assert abs(covered / runs - 0.95) < 3.5 * np.sqrt(0.05 * 0.95 / runs)
    plain = [compare_means(users(random, 3 * count)[0], users(random, count)[0]).difference for _ in range(runs)]
    promised = float(np.mean([one.variance_reduction for one in found]))
    assert 1.0 - errors.var() / np.var(plain) == pytest.approx(promised, abs=0.1)


def test_users_who_were_not_there_cost_nothing() -> None:
    """They are left out, which loses them; or get a zero, which makes of new users very good ones."""
    random = np.random.default_rng(4)
    control, treatment = users(random, 2000, absent=0.5), users(random, 2000, absent=0.5)
    assert adjusted(control, treatment).variance_reduction > 0.3
    nobody: Users = (control[0], [None] * 2000)
    assert compare_adjusted(CoMoments.of(*nobody), CoMoments.of(treatment[0], [None] * 2000)) is None
    everybody = users(random, 2000, absent=0.0), users(random, 2000, absent=0.0)
    found = adjusted(*everybody)
    assert found.means.difference == pytest.approx(regression(*everybody)[0])
    assert found.users_before == 4000


def test_what_explains_nothing_changes_nothing() -> None:
    """A metric that was 0 for everybody divides by zero."""
    random = np.random.default_rng(5)
    outcomes = random.random(50).tolist(), random.random(40).tolist()
    arms = [CoMoments.of(one, [0.0] * len(one)) for one in outcomes]
    assert compare_adjusted(*arms) is None
    assert compare_adjusted(CoMoments(), arms[1]) is None
    assert compare_adjusted(CoMoments.of([0.5], [0.5]), CoMoments.of([0.5], [0.4])) is None
    assert compare_adjusted(CoMoments.of([0.5, 0.1], [0.5, 0.3]), CoMoments.of([0.2], [0.4])) is None


def test_parts_of_arms_are_the_whole_also_through_json() -> None:
    """Over many looks the adjustment drifts away from that of all users."""
    random = np.random.default_rng(6)
    outcomes, before = users(random, 500)
    whole = CoMoments()
    for begin, end in ((0, 1), (1, 1), (1, 300), (300, 500)):
        whole = whole.plus(CoMoments.of(outcomes[begin:end], before[begin:end]))
    direct = CoMoments.of(outcomes, before)
    assert (whole.users, whole.seen) == (direct.users, direct.seen)
    np.testing.assert_allclose(whole.means, direct.means)
    np.testing.assert_allclose(whole.products, direct.products)
    assert CoMoments.from_document(json.loads(json.dumps(asdict(whole)))) == whole
