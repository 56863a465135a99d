"""Shifts of traffic that leave the worth of a decision as it is, and agents that see a column that has moved."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.monitoring.version_decisions import VersionDecisions
from mlops_assets.training.policy import GreedyPolicy
from mlops_assets_tests.monitoring.simulated import Agent, play, world_of

# What tells how much is at stake in a decision of each agent.
STAKE = {"requirements": "requirement_risk", "generation": "fault_proneness", "execution": "failure_rate_total"}


def tilted(decisions: VersionDecisions, spec: AgentSpec, by: float, seed: int) -> VersionDecisions:
    """Sessions with much at stake come exp(by) times as often for each standard deviation; chosen without replacement."""
    column = [field.name for field in spec.context].index(STAKE[spec.name])
    made = decisions.ordered()
    length = len(made) // (int(made.episode.max()) + 1)
    stake = made.state[:, column].reshape(-1, length).mean(axis=1).astype(np.float64)
    weight = np.exp(by * (stake - stake.mean()) / stake.std())
    kept = np.random.default_rng(seed).random(len(stake)) < weight / np.quantile(weight, 0.98)
    return made.take(np.repeat(kept, length))


def part_of_sessions(decisions: VersionDecisions, *, late: bool) -> VersionDecisions:
    """Only the first, or the last, half of the steps: sessions that are broken off, or come in from elsewhere."""
    middle = (int(decisions.step.max()) + 1) // 2
    return decisions.take(decisions.step >= middle if late else decisions.step < middle)


class _Shifted:
    """A policy that is shown one column further up."""

    def __init__(self, policy: GreedyPolicy, column: int, by: float) -> None:
        self.policy, self.column, self.by = policy, column, by

    def seen(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        moved = states.copy()
        moved[:, self.column] += self.by
        return moved

    def q_values(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.policy.q_values(self.seen(states))


def benign(agent: Agent, days: range, *, by: float = 0.15) -> VersionDecisions:
    """Decisions while a column on which neither reward nor transition depends has moved by half its spread."""
    column = [field.name for field in agent.spec.context].index("historical_test_coverage")
    shifted = _Shifted(agent.policy, column, by)
    decided = play(world_of(agent.spec), days, shifted)
    return replace(decided, state=shifted.seen(decided.state))
