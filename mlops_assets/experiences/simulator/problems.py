"""The three agents' decision problems as numbers. What they have in common is in `problem.py`.

The numbers are chosen so that looking ahead pays (an agent that only looks at the next reward loses more than a tenth of
the optimal return), every action is the best one somewhere, and the best action is mostly several reward points ahead of
the second. Optimal returns are near 70 points.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from mlops_assets.experiences.simulator.problem import (
    DecisionProblem,
    Floats,
    Integers,
    ItemField,
    ItemProfile,
    SideField,
)
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import InputError


def problem_of(spec: AgentSpec) -> DecisionProblem:
    """Return the agent's problem, checked against the catalogue.

    Raises:
        InputError: no problem exists for this agent, or it does not fit the catalogue's entry.
    """
    builder = _BUILDERS.get(spec.name)
    if builder is None:
        raise InputError(
            f"no simulated problem for agent {spec.name!r}; there is one for {', '.join(_BUILDERS)}: add one to "
            "simulator/problems.py or take another experience source"
        )
    problem = builder(spec.discount)
    problem.check_against(spec)
    return problem


def _grid(*sizes: int) -> Integers:
    """Return the coordinates of every combination, (len(sizes), product), the last one running fastest."""
    return np.indices(sizes).reshape(len(sizes), -1).astype(np.int64)


def _shares(*factors: tuple[float, ...]) -> Floats:
    """Return the probability of every combination of independent factors, the last one running fastest."""
    shares = np.array([1.0])
    for factor in factors:
        shares = np.outer(shares, np.array(factor) / sum(factor)).ravel()
    return shares


def _spend(budget: Integers, units: Integers) -> tuple[NDArray[np.bool_], Integers]:
    """Return whether an action's units (A,) or (K, A) fit in the budget (S,), and the budget after it, (S, K or 1, A).

    What does not fit is refused: nothing happens, at a price.
    """
    fits = budget[:, None, None] >= units
    return fits, np.where(fits, budget[:, None, None] - units, budget[:, None, None])


def _raise(level: Integers, by: Integers, top: int) -> Integers:
    """Return a coverage level (S,) after it has risen `by`, (S, K, A), up to `top`."""
    return np.minimum(top, level[:, None, None] + by)


def _requirements(discount: float) -> DecisionProblem:
    """Depth per requirement: deep enough for its risk, but effort is limited, and an area tested once gives less."""
    effort_budget, levels = 6, 4
    sizes = (effort_budget + 1, levels, levels, levels)
    points, effort_price, long_price, overrun = 59.0, 7.6, 11.0, 12.0
    shallow = 0.1  # of the risk is covered, per share of the needed depth, when a test is not deep enough
    budget, *coverage = _grid(*sizes)
    area, risk, effort = _grid(3, 3, 2)
    depth = np.arange(4)
    units = np.array([0, 1, 2, 3]) + np.where(depth > 0, effort[:, None], 0)
    fits, spent = _spend(budget, units)
    after = [_raise(level, depth * (fits & (area[:, None] == j)), levels - 1) for j, level in enumerate(coverage)]
    here = np.stack(coverage)[area].T  # (S, K)
    covered = np.where(depth > risk[:, None], 1.0, shallow * depth / (risk[:, None] + 1))
    left = np.array([1.0, 0.85, 0.7, 0.5])[here][..., None]
    is_area = np.eye(3)[:, area]
    worth = np.array([0.48, 0.77, 1.0])
    gain = points * covered * left * fits
    return DecisionProblem(
        horizon=6,
        discount=discount,
        start=int(np.ravel_multi_index((effort_budget, 0, 0, 0), sizes)),
        item_probability=_shares((0.34, 0.36, 0.30), (0.44, 0.20, 0.36), (0.65, 0.35)),
        next_state=np.ravel_multi_index((spent, *after), sizes),
        gain=gain * worth[risk][:, None],
        cost=np.where(fits, effort_price * units + long_price * (effort[:, None] * (depth > 0)), overrun),
        # The business changes its mind: what was called risky is now what fails least.
        changed_gain=gain * worth[::-1][risk][:, None],
        profile=ItemProfile(area=area, risk=risk / 2, duration=effort.astype(float), flaky=np.zeros(len(area))),
        state_fields={
            "budget_left": budget / effort_budget,
            "coverage_forms": coverage[0] / (levels - 1),
            "coverage_navigation": coverage[1] / (levels - 1),
            "coverage_data": coverage[2] / (levels - 1),
        },
        item_fields={
            "requirement_risk": ItemField(np.array([0.2, 0.5, 0.85])[risk], jitter=0.08),
            "requirement_effort": ItemField(np.array([0.35, 0.85])[effort], jitter=0.12),
            "area_is_forms": ItemField(is_area[0]),
            "area_is_navigation": ItemField(is_area[1]),
            "area_is_data": ItemField(is_area[2]),
        },
        side_fields=_common_side_fields(complexity=effort.astype(float), confidence=risk / 2),
    )


def _generation(discount: float) -> DecisionProblem:
    """Kind of test per page: each page has a kind that finds most, and each kind saturates in a session."""
    calls, levels, kinds = 3, 3, 4
    points, call_price, overrun = 36.0, 1.2, 12.0
    sizes = (calls + 1, *(levels,) * kinds)
    budget, *saturation = _grid(*sizes)
    page, faults = _grid(4, 3)  # form-heavy, stateful, rich in semantics, plain
    # Share of the faults of each kind of page that happy_path, boundary, negative and accessibility tests find.
    affinity = np.array([[0.34, 1.0, 0.29, 0.1], [0.34, 0.15, 1.0, 0.1], [0.2, 0.1, 0.15, 1.0], [0.75, 0.1, 0.1, 0.15]])
    chance = np.array([0.16, 0.64, 1.0])[faults]
    units = np.array([0, 1, 1, 1, 1])
    fits, spent = _spend(budget, units)
    shape = (len(budget), len(page), kinds + 1)
    rises = np.eye(kinds + 1, dtype=np.int64)[1:]  # every kind but reuse saturates itself
    after = [_raise(level, rises[kind] * fits, levels - 1) for kind, level in enumerate(saturation)]
    fresh = np.array([1.0, 0.68, 0.11])[np.stack(saturation)].T  # (S, kinds)

    def gain(found: Floats) -> Floats:
        share = np.concatenate([np.zeros((len(page), 1)), found[page]], axis=1)
        remaining = np.concatenate([np.zeros((len(budget), 1)), fresh], axis=1)
        return points * chance[:, None] * share * remaining[:, None, :] * fits

    density = np.array([[0.85, 0.25, 0.2], [0.25, 0.85, 0.2], [0.2, 0.25, 0.85], [0.15, 0.2, 0.15]])
    return DecisionProblem(
        horizon=6,
        discount=discount,
        start=int(np.ravel_multi_index((calls, 0, 0, 0, 0), sizes)),
        item_probability=_shares((0.29, 0.26, 0.20, 0.25), (0.45, 0.23, 0.32)),
        next_state=np.broadcast_to(np.ravel_multi_index((spent, *after), sizes), shape),
        gain=gain(affinity),
        cost=np.broadcast_to(np.where(fits, call_price * units, overrun), shape),
        # The product moves its validation into the state handling: boundary and negative tests swap what they find.
        changed_gain=gain(affinity[:, [0, 2, 1, 3]]),
        profile=ItemProfile(
            area=np.array([0, 2, 1, -1])[page],
            risk=faults / 2,
            duration=np.full(len(page), 0.5),
            flaky=np.zeros(len(page)),
        ),
        state_fields={
            "budget_left": budget / calls,
            "coverage_happy_path": saturation[0] / (levels - 1),
            "coverage_boundary": saturation[1] / (levels - 1),
            "coverage_negative": saturation[2] / (levels - 1),
            "coverage_accessibility": saturation[3] / (levels - 1),
        },
        item_fields={
            "form_density": ItemField(density[page, 0], jitter=0.1),
            "state_density": ItemField(density[page, 1], jitter=0.1),
            "assistive_density": ItemField(density[page, 2], jitter=0.1),
            "fault_proneness": ItemField(np.array([0.1, 0.5, 0.9])[faults], jitter=0.08),
        },
        side_fields=_common_side_fields(complexity=density[page].max(axis=1), confidence=faults / 2),
    )


def _execution(discount: float) -> DecisionProblem:
    """Priority class per test of a suite: early finds more, but costs budget, and queued tests delay each other."""
    minutes, levels, fault_levels = 4, 5, 4
    points, run_price, overrun = 69.0, 13.0, 11.5
    low_share, flaky_share, preemption = 0.43, 0.06, 1
    budget, queued = _grid(minutes + 1, levels)
    fault, length, flaky = _grid(fault_levels, 2, 2)
    duration = length + 1
    # skip, low (after the budgeted part), normal (in the queue), high (first: pays for stopping what runs).
    units = np.stack([0 * duration, 0 * duration, duration, duration + preemption], axis=1)  # (K, A)
    fits, spent = _spend(budget, units)
    in_queue = np.array([0, 0, 1, 1])
    after = _raise(queued, in_queue * fits, levels - 1)
    in_time = np.zeros((len(budget), 4))
    in_time[:, 1:] = low_share, 0.0, 1.0
    in_time[:, 2] = np.array([0.95, 0.75, 0.55, 0.35, 0.15])[queued]

    def gain(chances: Floats, of_a_flaky_test: float) -> Floats:
        worth = points * chances[fault] * np.where(flaky == 1, of_a_flaky_test, 1.0)
        return worth[:, None] * in_time[:, None, :] * fits

    chance = np.array([0.05, 0.24, 0.6, 0.84])
    return DecisionProblem(
        horizon=7,
        discount=discount,
        start=int(np.ravel_multi_index((minutes, 0), (minutes + 1, levels))),
        item_probability=_shares((0.28, 0.13, 0.45, 0.14), (0.65, 0.35), (0.8, 0.2)),
        next_state=np.ravel_multi_index((spent, after), (minutes + 1, levels)),
        gain=gain(chance, flaky_share),
        cost=np.where(fits, run_price * (np.arange(4) > 0), overrun),
        # Failures of flaky tests turn out to be real faults, and yesterday's steady failures are known and accepted.
        changed_gain=gain(chance[[0, 2, 3, 1]], 1.0),
        profile=ItemProfile(
            area=np.full(len(fault), -1),
            risk=fault / (fault_levels - 1),
            duration=length.astype(float),
            flaky=flaky.astype(float),
        ),
        state_fields={
            "budget_left": budget / minutes,
            "queued_ahead": 1.0 - budget / minutes,
            "suite_saturation": queued / (levels - 1),
        },
        item_fields={
            "failure_rate_recent": ItemField(np.array([0.05, 0.3, 0.6, 0.9])[fault], jitter=0.05),
            "duration_share": ItemField(np.array([0.3, 0.8])[length], jitter=0.15),
            "flakiness": ItemField(np.array([0.1, 0.6])[flaky], jitter=0.1),
        },
        side_fields={
            **_common_side_fields(complexity=length.astype(float), confidence=fault / (fault_levels - 1)),
            "failure_rate_total": SideField(0.05, 0.05, slope=0.5, about=chance[fault], app_spread=0.02),
            "last_failed": SideField(0.02, 0.0, slope=0.9, about=chance[fault], quantum=1),
            "last_four_failures": SideField(0.02, 0.0, slope=0.8, about=chance[fault], quantum=4),
            "runs_seen": SideField(0.75, 0.2, app_spread=0.05),
            "recency": SideField(0.15, 0.1, app_spread=0.05),
            "suite_failure_rate": SideField(0.15, 0.05, app_spread=0.1),
        },
    )


def _common_side_fields(*, complexity: Floats, confidence: Floats) -> Mapping[str, SideField]:
    return {
        "ui_complexity_score": SideField(0.35, 0.15, slope=0.3, about=complexity, app_spread=0.1),
        "historical_test_coverage": SideField(0.55, 0.25, app_spread=0.15),
        "previous_agent_confidence": SideField(0.5, 0.2, slope=0.3, about=confidence),
    }


_BUILDERS: Mapping[str, Callable[[float], DecisionProblem]] = MappingProxyType(
    {"requirements": _requirements, "generation": _generation, "execution": _execution}
)
