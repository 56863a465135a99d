"""Fixed-sample comparisons: planned sizes, tests that may be looked at once, effect sizes, several arms.

Looked at again and again they do not keep their error rate: what decides along the way is in `sequential.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlops_assets.foundation.errors import InputError

_TWO = 2
# The normal approximation of a count; below it the chi-squared and z tests have another level than they say.
_SMALL_EXPECTED = 5.0


@dataclass(frozen=True)
class Moments:
    """What a test of means needs of the values of one arm: users, mean, sum of squared deviations from it."""

    users: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: ArrayLike) -> "Moments":
        """Sum up values (N,)."""
        array = np.asarray(values, dtype=np.float64)
        if not len(array):
            return cls()
        mean = float(array.mean())
        return cls(len(array), mean, float(((array - mean) ** 2).sum()))

    def plus(self, other: "Moments") -> "Moments":
        """Return the moments of both together (Chan, Golub and LeVeque, The American Statistician 1983)."""
        if not self.users or not other.users:
            return self if self.users else other
        users, apart = self.users + other.users, other.mean - self.mean
        squares = self.squares + other.squares + apart * apart * self.users * other.users / users
        return Moments(users, self.mean + apart * other.users / users, squares)

    @property
    def variance(self) -> float:
        """Unbiased variance; of two users or more."""
        return self.squares / (self.users - 1)


@dataclass(frozen=True)
class MeanComparison:
    """Treatment less control: difference with its confidence interval, Welch's t-test, Cohen's d.

    What is not defined (no spread in either arm, fewer than two users) is None, not zero.
    """

    control_mean: float
    treatment_mean: float
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    cohens_d: float | None


@dataclass(frozen=True)
class RateComparison:
    """Treatment less control of two rates: difference with its interval, two-sided p-value, Cohen's h.

    The interval is Newcombe's hybrid of Wilson intervals (Statistics in Medicine 1998, method 10). The p-value is of the
    pooled z-test, which equals the chi-squared test without correction; Fisher's exact one where an expected count is
    below 5.
    """

    control_rate: float
    treatment_rate: float
    difference: float
    low: float
    high: float
    p_value: float | None
    cohens_h: float


def compare_means(control: ArrayLike, treatment: ArrayLike, *, alpha: float = 0.05) -> MeanComparison:
    """Compare the means of one value a user (N,) and (M,) by Welch's t-test (Biometrika 1947).

    Raises:
        InputError: an arm has no users, or a value is not finite.
    """
    return compare_moments(
        Moments.of(_values(control, "control")), Moments.of(_values(treatment, "treatment")), alpha=alpha
    )


def compare_moments(control: Moments, treatment: Moments, *, alpha: float = 0.05) -> MeanComparison:
    """Compare means by Welch's t-test, of arms with a user each."""
    difference = treatment.mean - control.mean
    nothing = MeanComparison(control.mean, treatment.mean, difference, low=None, high=None, p_value=None, cohens_d=None)
    if min(control.users, treatment.users) < _TWO or max(control.squares, treatment.squares) == 0.0:
        return nothing
    from scipy import stats  # it takes as long to import as the rest of this room

    parts = control.variance / control.users, treatment.variance / treatment.users
    error = math.sqrt(sum(parts))
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (control.users - 1) + parts[1] ** 2 / (treatment.users - 1))
    wide = error * float(stats.t.isf(alpha / 2.0, freedom))
    pooled = math.sqrt((control.squares + treatment.squares) / (control.users + treatment.users - _TWO))
    return MeanComparison(
        control.mean,
        treatment.mean,
        difference,
        low=difference - wide,
        high=difference + wide,
        p_value=float(2.0 * stats.t.sf(abs(difference) / error, freedom)),
        cohens_d=difference / pooled,
    )


def compare_rates(
    control_successes: int, control_users: int, treatment_successes: int, treatment_users: int, *, alpha: float = 0.05
) -> RateComparison:
    """Compare two rates by counts of users.

    Raises:
        InputError: an arm has no users, or more successes than users.
    """
    for successes, users in ((control_successes, control_users), (treatment_successes, treatment_users)):
        if not 0 <= successes <= users or not users:
            raise InputError(
                f"{successes} successes of {users} users cannot be compared; expected 0 <= successes <= users and a user"
            )
    rates = control_successes / control_users, treatment_successes / treatment_users
    (low_c, high_c), (low_t, high_t) = (
        _wilson(control_successes, control_users, alpha),
        _wilson(treatment_successes, treatment_users, alpha),
    )
    difference = rates[1] - rates[0]
    return RateComparison(
        *rates,
        difference=difference,
        low=difference - math.hypot(rates[1] - low_t, high_c - rates[0]),
        high=difference + math.hypot(high_t - rates[1], rates[0] - low_c),
        p_value=_rates_p_value(control_successes, control_users, treatment_successes, treatment_users),
        cohens_h=_cohens_h(*rates),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values of several arms, in their order, by Holm's step-down (Scandinavian Journal of Statistics 1979)."""
    values = np.asarray(p_values, dtype=np.float64)
    if not len(values):
        return []
    order = np.argsort(values, kind="stable")
    factors = len(values) - np.arange(len(values))
    stepped = np.minimum(1.0, np.maximum.accumulate(values[order] * factors))
    adjusted = np.empty(len(values))
    adjusted[order] = stepped
    return [float(one) for one in adjusted]


def required_sample_size(
    baseline: float = 0.1, mde: float = 0.1, power: float = 0.8, alpha: float = 0.05, *, treatment_share: float = 0.5
) -> tuple[int, int]:
    """Return users of (control, treatment) with which a relative change `mde` of a rate is found, two-sided.

    By Cohen's h (Statistical Power Analysis, 1988, chapter 6); with equal arms n = 2 ((z_alpha/2 + z_power) / h)^2 each.

    Raises:
        InputError: the rates are none, there is no change to find, or power, level or share are no probabilities.
    """
    changed = baseline * (1.0 + mde)
    if not (0.0 < baseline < 1.0 and 0.0 < changed < 1.0):
        raise InputError(
            f"a baseline of {baseline} changed by {mde:+.1%} gives a rate of {changed:.4g}; both have to lie between 0 "
            "and 1: take a smaller change"
        )
    if mde == 0.0:
        raise InputError("a change of 0 is found by no number of users; take the smallest change that matters")
    for name, value in (("power", power), ("alpha", alpha), ("treatment_share", treatment_share)):
        if not 0.0 < value < 1.0:
            raise InputError(f"{name} is {value}; expected a number between 0 and 1")
    from scipy.special import ndtri

    effect = _cohens_h(baseline, changed)
    z = float(ndtri(1.0 - alpha / 2.0) + ndtri(power))
    # Variance of the difference of the transformed rates: 1 / n_control + 1 / n_treatment.
    total = (z / effect) ** 2 / (treatment_share * (1.0 - treatment_share))
    return math.ceil(total * (1.0 - treatment_share)), math.ceil(total * treatment_share)


def _values(outcomes: ArrayLike, arm: str) -> NDArray[np.float64]:
    array = np.asarray(outcomes, dtype=np.float64)
    if not len(array):
        raise InputError(f"the {arm} arm has no users; there is nothing to compare yet")
    if not np.isfinite(array).all():
        raise InputError(f"the {arm} arm has the value {array[~np.isfinite(array)][0]}; leave out users without one")
    return array


def _wilson(successes: int, users: int, alpha: float) -> tuple[float, float]:
    from scipy import stats

    interval = stats.binomtest(successes, users).proportion_ci(1.0 - alpha, method="wilson")
    return float(interval.low), float(interval.high)


def _rates_p_value(control: int, control_users: int, treatment: int, treatment_users: int) -> float | None:
    successes, users = control + treatment, control_users + treatment_users
    if successes in {0, users}:
        return None
    from scipy import stats

    table = np.array([[control, control_users - control], [treatment, treatment_users - treatment]])
    smallest = min(control_users, treatment_users) * min(successes, users - successes) / users
    if smallest < _SMALL_EXPECTED:
        return float(stats.fisher_exact(table).pvalue)
    return float(stats.chi2_contingency(table, correction=False).pvalue)


def _cohens_h(first: float, second: float) -> float:
    return 2.0 * (math.asin(math.sqrt(second)) - math.asin(math.sqrt(first)))
