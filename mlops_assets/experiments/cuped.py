"""The fixed-sample comparison with less noise: what a user's metric was before the experiment says a part of what it is in it.

CUPED (Deng, Xu, Kohavi and Walker, WSDM 2013): the difference of means, less what the arms differed by before, which is
chance alone, since users were drawn into arms without regard to it. It informs and decides nothing.

A user who was not there before has no such value; its place takes a second covariate, whether he was there. Both slopes are
estimated within the arms and pooled, so that the difference is that of a linear regression on arm and covariates. Errors are
each arm's own, as in Welch's test.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_assets.experiments.frequentist import MeanComparison, Moments, compare_moments

# Outcome, metric before (0 for whoever was not there), and whether there was one.
_COLUMNS = 3


@dataclass(frozen=True)
class CoMoments:
    """Of one arm's users, over outcome, metric before and whether there was one: means (3,), deviation products (3, 3)."""

    users: int = 0
    means: tuple[float, ...] = (0.0,) * _COLUMNS
    products: tuple[tuple[float, ...], ...] = field(default_factory=lambda: ((0.0,) * _COLUMNS,) * _COLUMNS)
    seen: int = 0

    @classmethod
    def of(cls, outcomes: list[float], before: list[float | None]) -> "CoMoments":
        """Sum up users: outcome, and the same metric before the experiment, None where there is none."""
        if not outcomes:
            return cls()
        rows = np.array(
            [(y, 0.0 if x is None else x, float(x is not None)) for y, x in zip(outcomes, before, strict=True)]
        )
        means = rows.mean(axis=0)
        apart = rows - means
        return cls(len(rows), tuple(means.tolist()), _tuples(apart.T @ apart), int(rows[:, 2].sum()))

    def plus(self, other: "CoMoments") -> "CoMoments":
        """Return the moments of both together."""
        if not self.users or not other.users:
            return self if self.users else other
        users, apart = self.users + other.users, np.subtract(other.means, self.means)
        means = np.add(self.means, apart * (other.users / users))
        between = np.outer(apart, apart) * (self.users * other.users / users)
        products = np.add(self.products, other.products) + between
        return CoMoments(users, tuple(means.tolist()), _tuples(products), self.seen + other.seen)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> "CoMoments":
        """Return what `asdict` gave, after its way through JSON."""
        products = tuple(tuple(row) for row in document["products"])
        return cls(document["users"], tuple(document["means"]), products, document["seen"])


@dataclass(frozen=True)
class AdjustedComparison:
    """Means as they would be had both arms been alike before. `slope`: of the outcome by the metric before.

    `variance_reduction`: share of the difference's variance that the adjustment takes away; below 0 where it adds some.
    `users_before`: of all users, those who were there before the experiment.
    """

    means: MeanComparison
    slope: float
    variance_reduction: float
    users_before: int


def compare_adjusted(control: CoMoments, treatment: CoMoments, *, alpha: float = 0.05) -> AdjustedComparison | None:
    """Compare means with the noise taken out; None where nobody was there before, or nothing can be estimated."""
    if not (control.users and treatment.users and control.seen + treatment.seen):
        return None
    unadjusted = compare_moments(_moments(control), _moments(treatment), alpha=alpha)
    if unadjusted.low is None or unadjusted.high is None:
        return None
    within = np.add(control.products, treatment.products)
    covariates = within[1:, 1:]
    slopes, _, rank, _ = np.linalg.lstsq(covariates, within[1:, 0], rcond=1e-9)
    users = control.users + treatment.users
    if rank == 0 or users <= 2 + rank:
        return None
    # Slopes that are fitted to the same users leave less than there is.
    fitted = (users - 2) / (users - 2 - int(rank))
    centre = (control.users * np.array(control.means) + treatment.users * np.array(treatment.means)) / users
    means = compare_moments(*(_without(arm, slopes, centre, fitted) for arm in (control, treatment)), alpha=alpha)
    if means.low is None or means.high is None:
        return None
    return AdjustedComparison(
        means,
        slope=float(slopes[0]),
        variance_reduction=1.0 - ((means.high - means.low) / (unadjusted.high - unadjusted.low)) ** 2,
        users_before=control.seen + treatment.seen,
    )


def _moments(arm: CoMoments) -> Moments:
    return Moments(arm.users, arm.means[0], arm.products[0][0])


def _without(arm: CoMoments, slopes: NDArray[np.float64], centre: NDArray[np.float64], fitted: float) -> Moments:
    """The arm's outcomes less what the covariates say of them."""
    products = np.array(arm.products)
    squares = products[0, 0] - 2.0 * slopes @ products[0, 1:] + slopes @ products[1:, 1:] @ slopes
    mean = arm.means[0] - float(slopes @ (np.array(arm.means)[1:] - centre[1:]))
    return Moments(arm.users, mean, max(0.0, float(squares) * fitted))


def _tuples(matrix: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in matrix.tolist())
