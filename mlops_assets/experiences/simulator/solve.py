"""Exact optimal action values of a decision problem, by backward induction. No sampling, no learning."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlops_assets.experiences.simulator.problem import DecisionProblem, Floats


@dataclass(frozen=True)
class Solution:
    """Optimal values for T steps, S states, K items, A actions.

    `action_values` (T, S, K, A): reward now plus discounted expected return under the optimal policy afterwards, given
    the item that is seen. `best_actions` (T, S, K): the first action of largest value.
    """

    action_values: Floats
    best_actions: NDArray[np.int64]


def solve(problem: DecisionProblem) -> Solution:
    """Return the optimal values (Bellman 1957: finite horizon, items independent of the past and of the actions)."""
    reward = problem.reward
    values = np.zeros((problem.horizon, *reward.shape))
    to_go = np.zeros(len(reward))
    for step in reversed(range(problem.horizon)):
        values[step] = reward + problem.discount * to_go[problem.next_state]
        to_go = values[step].max(axis=-1) @ problem.item_probability
    return Solution(action_values=values, best_actions=values.argmax(axis=-1))
