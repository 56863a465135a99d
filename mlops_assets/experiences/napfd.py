"""The metric of test prioritisation: NAPFD under a time budget. No history, no rewards here."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlops_assets.foundation.errors import InputError

BUDGET_SHARE: Final = 0.5
"""Share of a cycle's total duration that may be spent: NAPFD @ 50 %, as Spieker et al. (ISSTA 2017) report it."""

_TOLERANCE: Final = 1e-9
"""Of the budget: the rounding of summed floats must not keep a test out that fits exactly."""


def time_budget(durations: NDArray[np.float64]) -> float:
    """Return the time a cycle may spend, in the unit of `durations`, with the tolerance for rounding included."""
    return float(durations.sum()) * BUDGET_SHARE * (1.0 + _TOLERANCE)


def napfd(order: Sequence[int] | NDArray[np.int64], durations: NDArray[np.float64], failed: NDArray[np.bool_]) -> float:
    """Normalised average percentage of faults detected, when the tests run in `order` until the time budget is spent.

    A test that does not fit in what is left is passed over, later shorter ones may still run. Ranks count scheduled
    tests only, from 1. With n tests, m failing ones, d of them scheduled and p = d/m:
    `p - sum(ranks) / (m n) + p / (2 n)` (Qu, Cohen and Woolf, ICSM 2007; budget as in RETECS, Spieker et al., ISSTA
    2017).

    Args:
        order: positions in `durations`, first one first; tests that are not named are not run.
        durations: (n,) of all tests of the cycle, not negative; the budget is half of their sum.
        failed: (n,) true where the test failed.

    Returns:
        A number in 0..1; nan for a cycle without a failure, where the metric is undefined.

    Raises:
        InputError: the shapes differ or a duration is negative or not finite.
    """
    tests = len(durations)
    if len(failed) != tests:
        raise InputError(f"{tests} durations but {len(failed)} verdicts: one of each per test is needed")
    if tests and not (np.isfinite(durations).all() and float(durations.min()) >= 0.0):
        raise InputError("durations of a cycle must be finite and not negative; clean them before ranking")
    failures = int(failed.sum())
    if failures == 0:
        return float("nan")
    scheduled = [int(test) for test in order]
    return detection(scheduled, durations.tolist(), failed.tolist(), time_budget(durations)) / (tests * failures)


def detection(order: Sequence[int], durations: Sequence[float], failed: Sequence[bool], budget: float) -> float:
    """Return NAPFD times n m of a schedule: the sum over its scheduled failures of `n - rank + 1/2`.

    The plain inner loop of `napfd`, for callers that evaluate many schedules of one cycle and have checked it once.
    """
    left, rank, total = budget, 0, 0.0
    tests = len(durations) + 0.5
    for test in order:
        if durations[test] <= left:
            left -= durations[test]
            rank += 1
            if failed[test]:
                total += tests - rank
    return total


def order_by(*priorities: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return positions from the highest to the lowest first priority; the next ones break ties, then the row order."""
    return np.lexsort([-priority for priority in reversed(priorities)])
