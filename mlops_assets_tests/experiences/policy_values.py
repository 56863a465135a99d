"""Exact value and visits of any policy in a decision problem, by forward and backward sums; independent of the solver."""

import numpy as np
from numpy.typing import NDArray

from mlops_assets.experiences.simulator.problem import DecisionProblem

Floats = NDArray[np.float64]


def one_hot(actions: NDArray[np.int64], problem: DecisionProblem) -> Floats:
    """Probabilities (T, S, K, A) of the deterministic policy `actions`, (T, S, K) or (S, K)."""
    shape = (problem.horizon, *problem.gain.shape)
    return np.broadcast_to(np.eye(shape[-1])[actions], shape)


def expected_return(problem: DecisionProblem, policy: Floats) -> float:
    """Undiscounted expected return of an episode under `policy` (T, S, K, A)."""
    to_go = np.zeros(len(problem.gain))
    for step in reversed(range(problem.horizon)):
        value = (policy[step] * (problem.reward + to_go[problem.next_state])).sum(axis=-1)
        to_go = value @ problem.item_probability
    return float(to_go[problem.start])


def visits(problem: DecisionProblem, policy: Floats) -> Floats:
    """Share of the decisions of `policy` at every step, state and item, (T, S, K); sums to 1."""
    at = np.zeros(len(problem.gain))
    at[problem.start] = 1.0
    found = np.zeros((problem.horizon, *problem.gain.shape[:2]))
    for step in range(problem.horizon):
        found[step] = at[:, None] * problem.item_probability
        at = np.zeros(len(at))
        np.add.at(at, problem.next_state.ravel(), (found[step][..., None] * policy[step]).ravel())
    return found / problem.horizon
