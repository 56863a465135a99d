"""Outcomes of a CI cycle that the execution agent ordered and that was run: what to report for its decisions.

The prices are those of replayed cycles (`rewards.py`), so that served decisions and replayed ones teach the same.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlops_assets.experiences.replay.rewards import RUN_ORDER, CycleOutcome, PriorityClass, best_class, seat_order
from mlops_assets.foundation.errors import InputError


class DecisionOutcomes(NamedTuple):
    """Per decision, in step order: reward (n,), labelled best action (n,), exact action values (n, 4); points of NAPFD."""

    rewards: NDArray[np.float64]
    best_actions: NDArray[np.int64]
    action_values: NDArray[np.float64]


class _RunCycle(NamedTuple):
    durations: NDArray[np.float64]
    failed: NDArray[np.bool_]
    failure_rate_recent: NDArray[np.float64]
    expected_durations: NDArray[np.float64]


def run_order(
    actions: NDArray[np.int64], failure_rate_recent: NDArray[np.float64], expected_durations: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the positions of a cycle's tests in the order in which they are to be run; class SKIP is left out.

    HIGH first, then NORMAL, then LOW; within a class by recency-weighted failure rate (high first), then expected
    duration (short first), then position: the order that `cycle_outcomes` prices.

    Args:
        actions: (n,) class 0..3 of each test.
        failure_rate_recent: (n,) as sent in the decision's context.
        expected_durations: (n,) known before the cycle, in any unit: the context's `duration_share` will do.

    Raises:
        InputError: the shapes differ, or a value is out of its range.
    """
    actions = _actions(actions)
    rates = _numbers("failure_rate_recent", failure_rate_recent, len(actions))
    seats = seat_order(rates, _numbers("expected_durations", expected_durations, len(actions)))
    return np.concatenate([seats[actions[seats] == priority] for priority in RUN_ORDER])


def cycle_outcomes(
    actions: NDArray[np.int64],
    failed: NDArray[np.bool_],
    durations: NDArray[np.float64],
    *,
    failure_rate_recent: NDArray[np.float64],
    expected_durations: NDArray[np.float64],
) -> DecisionOutcomes:
    """Price the decisions of one cycle once its verdicts are known; all arrays are in the order of the steps.

    The rewards add up to 100 x NAPFD of `run_order`'s schedule; of a cycle without a failure, where NAPFD is undefined,
    they are all 0. Tests of class SKIP are priced too, so their verdicts are needed: from a later run of the whole suite,
    say. A test that never ran has no verdict, and its cycle no exact price.

    Args:
        actions: (n,) class 0..3 taken at each step.
        failed: (n,) verdict of each test.
        durations: (n,) ms that each test took.
        failure_rate_recent: (n,) as given to `run_order`.
        expected_durations: (n,) as given to `run_order`.

    Raises:
        InputError: the shapes differ, or a value is out of its range.
    """
    actions = _actions(actions)
    verdicts = np.asarray(failed)
    if verdicts.shape != actions.shape or verdicts.dtype != np.bool_:
        raise InputError(
            f"failed has shape {verdicts.shape} and type {verdicts.dtype}; expected {actions.shape} of bool: one verdict "
            "per decision, in the order of the steps"
        )
    cycle = _RunCycle(
        durations=_numbers("durations", durations, len(actions)),
        failed=verdicts,
        failure_rate_recent=_numbers("failure_rate_recent", failure_rate_recent, len(actions)),
        expected_durations=_numbers("expected_durations", expected_durations, len(actions)),
    )
    rewards, values = CycleOutcome(cycle).replay(np.arange(len(actions)), actions)
    return DecisionOutcomes(rewards, best_class(values), values)


def _actions(actions: NDArray[np.int64]) -> NDArray[np.int64]:
    found = np.asarray(actions)
    if found.ndim != 1 or not len(found) or found.dtype.kind not in "iu":
        raise InputError(f"actions have shape {found.shape} and type {found.dtype}; expected one whole number per test")
    wrong = found[(found < 0) | (found >= len(PriorityClass))]
    if len(wrong):
        names = ", ".join(f"{priority.value} {priority.name.lower()}" for priority in PriorityClass)
        raise InputError(f"action {wrong[0]} is no priority class; expected one of {names}")
    return found.astype(np.int64)


def _numbers(name: str, values: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    found = np.asarray(values, dtype=np.float64)
    if found.shape != (length,):
        raise InputError(
            f"{name} has shape {found.shape}; expected ({length},): one per decision, in order of the steps"
        )
    wrong = found[~(np.isfinite(found) & (found >= 0.0))]
    if len(wrong):
        raise InputError(f"{name} holds {wrong[0]}; expected finite numbers, not negative")
    return found
