"""Anytime-valid tests of two arms: evidence that may be looked at after every request, with exact error rates.

Users have outcomes in [0, 1] (failed or not, correct or not, a mean of such). A bet on one of them pays at most 1 on average
while a limit is kept (`bets.py`). So the product of bets, each chosen before its users are seen, is an e-process: by Ville's
inequality it reaches 1 / alpha with a probability of at most alpha, at any number of looks. No distribution and no
sample size is approximated. Alternatives of several sizes are bet on side by side.

One bet a user: a user's requests are correlated, and once the arm of a user is known, more of the same user say nothing
about the arm that is not the user's own.

Harm may begin late, after bets that lost while all was well. So a stake can be placed bit by bit: each part is bet from
its own beginning on, what is held back stays what it is, and the sum of all is an e-process like any other.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from mlops_assets.experiments.bets import Bet, Limit, bet
from mlops_assets.foundation.errors import InputError

__all__ = ["LOWEST_PARTS", "Batch", "Evidence", "Limit", "Outcomes", "log_sum"]

# The smallest rates that are bet on, as parts of the limit's.
LOWEST_PARTS = (0.5, 0.25, 0.1)
# Where nothing is known of the rates yet, half a success in one user: what the first batch is bet with, that is nothing.
_PRIOR_USERS, _PRIOR_SUCCESSES = 1.0, 0.5


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
        listed = outcomes if isinstance(outcomes, list) else np.asarray(outcomes, dtype=np.float64).ravel().tolist()
        # Batches are small, and their outcomes a few distinct values: numpy's calls would cost more than the counting.
        users = Counter(listed)
        for one in users:
            if not 0.0 <= one <= 1.0:
                raise InputError(f"an outcome is {one}; expected 0 to 1: divide by the largest possible value first")
        values = sorted(users)
        return cls(tuple(float(one) for one in values), tuple(users[one] for one in values))

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
        return sum(value * users for value, users in zip(self.values, self.users, strict=True))


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
        terms = [one + math.log(part) for one, part in zip(self.log_wealth, self.weights, strict=True)]
        if self.held_back > 0.0:
            terms.append(math.log(self.held_back))
        return log_sum(terms)

    def placed_again(self) -> "Evidence":
        """Return the evidence with half of the stake placed, or, after the first time, with one part more of the rest.

        The k-th part is 1 / (2 k (k + 1)) of the stake: there is always something left for harm that begins later.
        """
        if self.placings == 0:
            log_half = math.log(0.5)
            return replace(self, log_wealth=tuple(one + log_half for one in self.log_wealth), held_back=0.5, placings=1)
        part = 0.5 / (self.placings * (self.placings + 1))
        log_wealth = tuple(log_sum((one, math.log(part))) for one in self.log_wealth)
        return replace(self, log_wealth=log_wealth, held_back=self.held_back - part, placings=self.placings + 1)

    def rejects(self, alpha: float) -> bool:
        """Whether the limit is refuted: of those that keep it, at most a share `alpha` is ever refuted, at any look."""
        return self.log_e >= -math.log(alpha)

    def updated(self, batch: Batch) -> "Evidence":
        """Return the evidence after one more batch. Bets are chosen from the batches before it.

        Raises:
            InputError: the share is not between 0 and 1, both excluded: without both arms nothing can be compared. Only a
                fixed limit needs no control.
        """
        if not (0.0 < batch.share < 1.0 or (self.limit.fixed and batch.share == 1.0)):
            raise InputError(f"the treatment's share is {batch.share}; a comparison needs one between 0 and 1")
        control = (self.control_sum + _PRIOR_SUCCESSES) / (self.control_users + _PRIOR_USERS)
        log_wealth = self.log_wealth
        if self.control_users or self.limit.fixed:
            log_wealth = tuple(
                before + _log_paid(bet(self.limit, batch.share, control, expected), batch)
                for before, expected in zip(log_wealth, self._expected(control), strict=True)
            )
        return replace(
            self,
            log_wealth=log_wealth,
            control_users=self.control_users + batch.control.total,
            control_sum=self.control_sum + batch.control.sum,
            treatment_users=self.treatment_users + batch.treatment.total,
            treatment_sum=self.treatment_sum + batch.treatment.sum,
        )

    def _expected(self, control: float) -> list[float]:
        """Rates of the treatment that are bet on, one a size."""
        on_limit = self.limit.rate_at(control)
        step = abs(on_limit - control) if self.effect is None else self.effect * (control if self.relative else 1.0)
        if not self.limit.above:
            return [on_limit + size * step for size in self.sizes]
        # At a rate of 0, the bet is lost with the first failure.
        return [
            max(on_limit - size * step, on_limit * part) for size, part in zip(self.sizes, LOWEST_PARTS, strict=True)
        ]


def log_sum(logs: Iterable[float]) -> float:
    """Logarithm of the sum of numbers that are given as logarithms."""
    terms = list(logs)
    most = max(terms)
    if math.isinf(most):
        return most
    return most + math.log(math.fsum(math.exp(one - most) for one in terms))


def _log_paid(paid: Bet, batch: Batch) -> float:
    a_c, b_c, a_t, b_t = paid
    total = 0.0
    for outcomes, a, b in ((batch.control, a_c, b_c), (batch.treatment, a_t, b_t)):
        for value, users in zip(outcomes.values, outcomes.users, strict=True):
            total += users * math.log(a + b * value)
    return total
