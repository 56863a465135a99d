"""Replay of simulated episodes for any policy: the same items and noise, the policy's own states."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlops_assets.experiences.simulator.ids import parse_episode_id
from mlops_assets.experiences.simulator.problem import Integers
from mlops_assets.experiences.simulator.world import World
from mlops_assets.foundation.errors import InputError


class SimulatedEnvironment:
    """E simulated episodes side by side (a `DecisionEnvironment`); reset on construction."""

    def __init__(self, world: World, episode_ids: Sequence[str]) -> None:
        """Draw the days of the episodes again.

        Raises:
            InputError: an id is not one of this world's.
        """
        self.episode_ids = tuple(episode_ids)
        places = [parse_episode_id(text, world) for text in self.episode_ids]
        days = np.array([day for day, _ in places], dtype=np.int64)
        numbers = np.array([number for _, number in places], dtype=np.int64)
        count, horizon = len(places), world.horizon
        self.lengths: NDArray[np.int64] = np.full(count, horizon, dtype=np.int64)
        self._horizon = horizon
        self._item = np.zeros((count, horizon), dtype=np.int64)
        self._noise = np.zeros((count, horizon))
        self._context = np.zeros((count, horizon, len(world.spec.context)), dtype=np.float32)
        regimes = []
        self._regime = np.zeros(count, dtype=np.int64)
        for day in np.unique(days):
            here = np.flatnonzero(days == day)
            drawn, regime = world.day(int(day)), world.regime(int(day))
            self._item[here] = drawn.item[numbers[here]]
            self._noise[here] = drawn.gain_noise[numbers[here]]
            self._context[here] = drawn.context[numbers[here]]
            if regime not in regimes:
                regimes.append(regime)
            self._regime[here] = regimes.index(regime)
        self._regimes = tuple(regimes)
        self._actions = len(world.spec.actions)
        self._noise_share = world.config.reward_noise
        self.reset()

    def reset(self) -> None:
        """Put every episode back to its first decision."""
        self._step = 0
        self._state: Integers = np.array([regime.problem.start for regime in self._regimes], dtype=np.int64)[
            self._regime
        ]

    def active(self) -> NDArray[np.bool_]:
        """Return (E,) true where the episode still has a decision to take: all at once, since all are of one length."""
        return np.full(len(self.episode_ids), self._step < self._horizon)

    def context(self) -> NDArray[np.float32]:
        """Return the context of the current decisions, (E, C); zeros when finished."""
        if self._step >= self._horizon:
            return np.zeros_like(self._context[:, 0])
        context = self._context[:, self._step].copy()
        for index, regime in enumerate(self._regimes):
            here = self._regime == index
            context[here] += regime.state_context[self._state[here]]
        return context

    def best_actions(self) -> NDArray[np.int64]:
        """Return the exactly best actions, (E,); 0 when finished."""
        best = np.zeros(len(self.episode_ids), dtype=np.int64)
        if self._step >= self._horizon:
            return best
        for index, regime in enumerate(self._regimes):
            here = self._regime == index
            best[here] = regime.solution.best_actions[self._step, self._state[here], self._item[here, self._step]]
        return best

    def step(self, actions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Take one action in every episode, (E,), and return the rewards, (E,); 0 when finished.

        Raises:
            InputError: an action is out of range, or the shape is not (E,).
        """
        rewards = np.zeros(len(self.episode_ids))
        if self._step >= self._horizon:
            return rewards
        actions = self._checked(actions)
        for index, regime in enumerate(self._regimes):
            here = np.flatnonzero(self._regime == index)
            at = (self._state[here], self._item[here, self._step], actions[here])
            gain = regime.problem.gain[at] * (1.0 + self._noise_share * self._noise[here, self._step])
            rewards[here] = gain - regime.problem.cost[at]
            self._state[here] = regime.problem.next_state[at]
        self._step += 1
        return rewards

    def _checked(self, actions: NDArray[np.int64]) -> NDArray[np.int64]:
        actions = np.asarray(actions)
        if actions.shape != (len(self.episode_ids),) or actions.dtype.kind not in "iu":
            raise InputError(f"actions have shape {actions.shape} and type {actions.dtype}; integers (E,) are expected")
        if len(actions) and not (actions.min() >= 0 and actions.max() < self._actions):
            raise InputError(
                f"actions reach from {actions.min()} to {actions.max()}; 0 to {self._actions - 1} are legal"
            )
        return actions.astype(np.int64)
