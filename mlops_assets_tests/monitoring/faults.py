"""Five illnesses of a learner, each injected into decisions of a really trained agent in the simulator."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mlops_assets.monitoring.version_decisions import VersionDecisions
from mlops_assets_tests.monitoring.simulated import Agent, play, world_of

FAULT_DAYS = range(30, 32)


def stuck_on_one_action(agent: Agent) -> VersionDecisions:
    """A client that takes one action in two of five decisions, whatever the agent says."""

    def forced(
        _values: NDArray[np.float32], action: NDArray[np.int64], random: np.random.Generator
    ) -> NDArray[np.int64]:
        return np.where(random.random(len(action)) < 0.4, 1, action)

    return play(world_of(agent.spec), FAULT_DAYS, agent.policy, fault=forced)


def lost_action(agent: Agent) -> VersionDecisions:
    """A client that no longer knows the last action, and takes the second best instead."""

    def without(
        values: NDArray[np.float32], action: NDArray[np.int64], _random: np.random.Generator
    ) -> NDArray[np.int64]:
        lost = values.shape[1] - 1
        return np.where(action == lost, values[:, :lost].argmax(axis=1), action)

    return play(world_of(agent.spec), FAULT_DAYS, agent.policy, fault=without)


def inflated_values(agent: Agent) -> VersionDecisions:
    """A target network that adds the same to every step's promise, as maximisation over noise does."""
    window = play(world_of(agent.spec), FAULT_DAYS, agent.policy)
    left = int(window.step.max()) + 1 - window.step
    return replace(window, q_values=(window.q_values + 5.0 * left[:, None]).astype(np.float32))


def corrupted_rewards(agent: Agent) -> VersionDecisions:
    """Outcomes that are joined to the wrong decision now and then: far off, but right on average."""
    window = play(world_of(agent.spec), FAULT_DAYS, agent.policy)
    random = np.random.default_rng(1)
    hit = random.random(len(window)) < 0.05
    sign = np.where(random.random(len(window)) < 0.5, -1.0, 1.0)
    return replace(window, reward=(window.reward + hit * sign * 80.0).astype(np.float32))


def strange_states(agent: Agent) -> VersionDecisions:
    """A sixth of the sessions come from a site whose coverage is reported above its range."""
    window = play(world_of(agent.spec), FAULT_DAYS, agent.policy)
    column = [field.name for field in agent.spec.context].index("historical_test_coverage")
    state = window.state.copy()
    state[window.episode % 6 == 0, column] += 1.2
    return replace(window, state=state, q_values=agent.policy.q_values(state))


FAULTS: Mapping[str, Callable[[Agent], VersionDecisions]] = {
    "action_mix": stuck_on_one_action,
    "dead_action": lost_action,
    "overestimation": inflated_values,
    "td_tail": corrupted_rewards,
    "unseen_states": strange_states,
}
