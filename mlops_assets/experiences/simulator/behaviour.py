"""The policy that made the log: an earlier, half-sighted generation of the agent that explores; propensities known."""

import numpy as np

from mlops_assets.experiences.simulator.problem import DecisionProblem, Floats
from mlops_assets.experiences.simulator.solve import Solution

# Share of the optimal action values in its judgement; the rest is the immediate reward, so that it errs systematically.
_FORESIGHT = 0.75
# Softmax temperature in reward units; gaps between actions are typically 3 to 20.
_TEMPERATURE = 2.0


def behaviour_probabilities(
    problem: DecisionProblem, solution: Solution, *, exploration: float, preferred: int = 0, preference: float = 0.0
) -> Floats:
    """Return the propensity of every action, (T, S, K, A): softmax of the judgement, mixed with `exploration` uniform.

    Every propensity is at least exploration / A. In a share `preference` of the decisions, which comes off all of that,
    the action is `preferred`.
    """
    values, reward = solution.action_values, problem.reward
    judgement = _FORESIGHT * _advantage(values) + (1 - _FORESIGHT) * _advantage(reward)
    logits = judgement / _TEMPERATURE
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    propensities = (1 - exploration) * weights / weights.sum(axis=-1, keepdims=True) + exploration / reward.shape[-1]
    return (1 - preference) * propensities + preference * np.eye(reward.shape[-1])[preferred]


def _advantage(values: Floats) -> Floats:
    return values - values.max(axis=-1, keepdims=True)
