"""Anytime-valid tests of two arms: evidence that may be looked at after every request, with exact error rates.

A user comes into the treatment with a known share w, and has an outcome y in [0, 1] (failed or not, correct or not, a
mean of such). For a limit `p_treatment <= ratio * p_control + delta` on the arms' means, a bet pays

    f(control, y) = a_c + b_c y,    f(treatment, y) = a_t + b_t y,

with b_c = -w ratio b_t / (1 - w) and (1 - w) a_c + w a_t + w b_t delta = 1. Its expectation is then
1 + w b_t (p_treatment - ratio p_control - delta): at most 1 while the limit is kept, if b_t >= 0, whatever the two rates
are and however they drift. So the product of bets, each chosen before its users are seen, is an e-process: by Ville's
inequality it reaches 1 / alpha with a probability of at most alpha, at any number of looks. No distribution and no
sample size is approximated.

Which bet to take is a matter of power only: the likelihood ratio of an expected alternative against the nearest rates
within the limit has this very form (the reverse information projection of Grünwald, de Heide and Koolen, Safe Testing,
2024; for equal rates Turner, Ly and Grünwald, 2024). Alternatives of several sizes are bet on side by side.

One bet a user: a user's requests are correlated, and once the arm of a user is known, more of the same user say nothing
about the arm that is not the user's own.

A limit of ratio 0 is a fixed rate; the control is not looked at, and everybody may be in the treatment.

Harm may begin late, after bets that lost while all was well. So a stake can be placed bit by bit: each part is bet from
its own beginning on, what is held back stays what it is, and the sum of all is an e-process like any other.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlops_assets.foundation.errors import InputError

Float = NDArray[np.float64]
# Rates are kept away from 0 and 1, where a likelihood ratio has no value.
_EDGE = 1e-9
_BISECTIONS = 32
# The smallest rates that are bet on, as parts of the limit's.
LOWEST_PARTS = (0.5, 0.25, 0.1)
# Where nothing is known of the rates yet, half a success in one user: what the first batch is bet with, that is nothing.
_PRIOR_USERS, _PRIOR_SUCCESSES = 1.0, 0.5


@dataclass(frozen=True)
class Limit:
    """`p_treatment <= ratio * p_control + delta`; with `above`, its other side: `p_treatment >= ...`.

    With a ratio of 0 the limit is the rate `delta`, between 0 and 1.
    """

    ratio: float = 1.0
    delta: float = 0.0
    above: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no limit."""
        low = 0.0 if self.fixed else -1.0
        if not (self.ratio >= 0.0 and low < self.delta < 1.0):
            raise InputError(
                f"a limit of ratio {self.ratio} and delta {self.delta} is none; the ratio is above 0, such as 1.5, and the "
                "delta between -1 and 1, such as 0.02; with a ratio of 0 the delta is the allowed rate, such as 0.05"
            )

    @property
    def fixed(self) -> bool:
        """Whether the limit is a rate by itself, whatever the control has."""
        return self.ratio == 0.0

    def at(self, control: ArrayLike) -> Float:
        """Return the treatment's rate on the limit."""
        on_limit: Float = np.clip(self.ratio * np.asarray(control) + self.delta, _EDGE, 1.0 - _EDGE)
        return on_limit


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of one arm's users in one batch: the distinct values in [0, 1] and how many users had each."""

    values: tuple[float, ...] = ()
    users: tuple[int, ...] = ()

    @classmethod
    def of(cls, outcomes: ArrayLike) -> "Outcomes":
        """Count outcomes (N,).

        Raises:
            InputError: one is not in [0, 1].
        """
        array = np.asarray(outcomes, dtype=np.float64)
        if array.size and not (np.min(array) >= 0.0 and np.max(array) <= 1.0):
            wrong = array[~((array >= 0.0) & (array <= 1.0))][0]
            raise InputError(f"an outcome is {wrong}; expected 0 to 1: divide by the largest possible value first")
        values, users = np.unique(array, return_counts=True)
        return cls(tuple(values.tolist()), tuple(users.tolist()))

    @classmethod
    def counted(cls, users: int, successes: int) -> "Outcomes":
        """`successes` of `users` had 1, the others 0.

        Raises:
            InputError: these are no counts.
        """
        if not 0 <= successes <= users:
            raise InputError(f"{successes} successes of {users} users cannot be; expected 0 <= successes <= users")
        return cls((0.0, 1.0), (users - successes, successes))

    @property
    def total(self) -> int:
        """Users."""
        return sum(self.users)

    @property
    def sum(self) -> float:
        """Sum of the outcomes."""
        return float(np.dot(self.values, self.users))


@dataclass(frozen=True)
class Batch:
    """Users whose outcomes came in between two looks, all assigned with the same treatment share."""

    share: float
    control: Outcomes
    treatment: Outcomes


@dataclass(frozen=True)
class Evidence:
    """An e-process against one limit: what it has found so far, and all that it needs to go on; plain numbers.

    `sizes` are the expected rates of the treatment as multiples of the distance `effect` from the limit; `weights` are the
    parts of the stake that each gets. The effect is relative to the control's rate when `relative`; None is the limit's own
    distance from the control's rate, so that a size of 1 expects the treatment to be as the control is. `held_back` is the
    part of the stake that is not placed yet, after `placings` of it; `log_wealth` is that of the rest.
    """

    limit: Limit
    effect: float | None
    relative: bool = True
    sizes: tuple[float, ...] = (1.0, 2.0, 4.0)
    weights: tuple[float, ...] = (0.7, 0.2, 0.1)
    log_wealth: tuple[float, ...] = (0.0, 0.0, 0.0)
    control_users: float = 0.0
    control_sum: float = 0.0
    treatment_users: float = 0.0
    treatment_sum: float = 0.0
    held_back: float = 0.0
    placings: int = 0

    @property
    def log_e(self) -> float:
        """Natural logarithm of the e-value: evidence that the limit is broken; 3.0 refutes it at 5 %."""
        placed = float(np.logaddexp.reduce(np.asarray(self.log_wealth) + np.log(self.weights)))
        return placed if self.held_back == 0.0 else float(np.logaddexp(placed, np.log(self.held_back)))

    def placed_again(self) -> "Evidence":
        """Return the evidence with half of the stake placed, or, after the first time, with one part more of the rest.

        The k-th part is 1 / (2 k (k + 1)) of the stake: there is always something left for harm that begins later.
        """
        if self.placings == 0:
            log_half = math.log(0.5)
            return replace(self, log_wealth=tuple(one + log_half for one in self.log_wealth), held_back=0.5, placings=1)
        part = 0.5 / (self.placings * (self.placings + 1))
        log_wealth = tuple(float(np.logaddexp(one, math.log(part))) for one in self.log_wealth)
        return replace(self, log_wealth=log_wealth, held_back=self.held_back - part, placings=self.placings + 1)

    def rejects(self, alpha: float) -> bool:
        """Whether the limit is refuted: of those that keep it, at most a share `alpha` is ever refuted, at any look."""
        return self.log_e >= -np.log(alpha)

    def updated(self, batch: Batch) -> "Evidence":
        """Return the evidence after one more batch. Bets are chosen from the batches before it.

        Raises:
            InputError: the share is not between 0 and 1, both excluded: without both arms nothing can be compared. Only a
                fixed limit needs no control.
        """
        if not (0.0 < batch.share < 1.0 or (self.limit.fixed and batch.share == 1.0)):
            raise InputError(f"the treatment's share is {batch.share}; a comparison needs one between 0 and 1")
        control = (self.control_sum + _PRIOR_SUCCESSES) / (self.control_users + _PRIOR_USERS)
        log_wealth = list(self.log_wealth)
        if self.control_users or self.limit.fixed:
            sizes = np.asarray(self.sizes)
            step = self._step(control)
            expected = self.limit.at(control) + (-sizes if self.limit.above else sizes) * step
            if self.limit.above:
                # At a rate of 0, the bet is lost with the first failure.
                expected = np.maximum(expected, self.limit.at(control) * np.asarray(LOWEST_PARTS))
            a_c, b_c, a_t, b_t = bets(self.limit, batch.share, control, expected)
            for outcomes, a, b in ((batch.control, a_c, b_c), (batch.treatment, a_t, b_t)):
                if outcomes.total:
                    paid = np.log(a[:, None] + b[:, None] * np.asarray(outcomes.values)) @ np.asarray(outcomes.users)
                    log_wealth = [before + float(more) for before, more in zip(log_wealth, paid, strict=True)]
        return replace(
            self,
            log_wealth=tuple(log_wealth),
            control_users=self.control_users + batch.control.total,
            control_sum=self.control_sum + batch.control.sum,
            treatment_users=self.treatment_users + batch.treatment.total,
            treatment_sum=self.treatment_sum + batch.treatment.sum,
        )

    def _step(self, control: float) -> float:
        if self.effect is None:
            return abs(float(self.limit.at(control)) - control)
        return self.effect * (control if self.relative else 1.0)


def bets(limit: Limit, share: ArrayLike, control: ArrayLike, treatment: ArrayLike) -> tuple[Float, Float, Float, Float]:
    """Return (a_c, b_c, a_t, b_t) for expected rates of the two arms; no bet (1, 0, 1, 0) where these keep the limit.

    All arguments broadcast. Whatever the expected rates are, the result is a fair bet.
    """
    part, rate_c, rate_t = (np.asarray(one, dtype=np.float64) for one in np.broadcast_arrays(share, control, treatment))
    rate_c, rate_t = (np.clip(rate, _EDGE, 1.0 - _EDGE) for rate in (rate_c, rate_t))
    near_t = limit.at(rate_c if limit.fixed else _nearest(limit, part, rate_c, rate_t))
    a_t = (1.0 - rate_t) / (1.0 - near_t)
    b_t = rate_t / near_t - a_t
    if limit.fixed:
        better = b_t <= 0.0 if limit.above else b_t >= 0.0
        one, none = np.ones_like(a_t), np.zeros_like(b_t)
        return one, none, np.where(better, a_t, 1.0), np.where(better, b_t, 0.0)
    b_c = -part * limit.ratio * b_t / (1.0 - part)
    a_c = (1.0 - part * a_t - part * b_t * limit.delta) / (1.0 - part)
    sides = (a_c, a_c + b_c, a_t, a_t + b_t)
    fair = (b_t <= 0.0 if limit.above else b_t >= 0.0) & np.all([side > 0.0 for side in sides], axis=0)
    return np.where(fair, a_c, 1.0), np.where(fair, b_c, 0.0), np.where(fair, a_t, 1.0), np.where(fair, b_t, 0.0)


def _nearest(limit: Limit, share: Float, control: Float, treatment: Float) -> Float:
    """The control rate of the point on the limit that is nearest, in relative entropy, to the expected rates."""
    low = np.maximum(_EDGE, (-limit.delta + _EDGE) / limit.ratio)
    high = np.minimum(1.0 - _EDGE, (1.0 - _EDGE - limit.delta) / limit.ratio)
    other = np.clip((treatment - limit.delta) / limit.ratio, low, high)
    below, above = np.clip(np.minimum(control, other), low, high), np.clip(np.maximum(control, other), low, high)
    for _ in range(_BISECTIONS):
        middle = (below + above) / 2.0
        on_limit = limit.at(middle)
        slope = (1.0 - share) * (middle - control) / (middle * (1.0 - middle))
        slope = slope + share * limit.ratio * (on_limit - treatment) / (on_limit * (1.0 - on_limit))
        below, above = np.where(slope < 0.0, middle, below), np.where(slope < 0.0, above, middle)
    return (below + above) / 2.0
