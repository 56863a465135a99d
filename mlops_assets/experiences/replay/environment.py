"""Replayed CI cycles side by side, for any policy. Not here: logged behaviour, and policies."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlops_assets.experiences.replay.context import CycleProgress, opening_contexts
from mlops_assets.experiences.replay.history import CycleHistory
from mlops_assets.experiences.replay.rewards import CycleOutcome, CycleSchedule, PriorityClass, best_class
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import InputError


class ReplayEpisode:
    """One pass through one cycle: which test comes when, and what has been decided."""

    def __init__(self, episode_id: str, spec: AgentSpec, cycle: CycleHistory, order: NDArray[np.int64]) -> None:
        self.episode_id = episode_id
        self.length = len(order)
        self._spec = spec
        self._cycle = cycle
        self._rows: list[int] = order.tolist()
        self._opening = opening_contexts(spec, cycle)
        self._outcome = CycleOutcome(cycle)
        self.restart()

    def restart(self) -> None:
        """Forget all decisions."""
        self.step = 0
        self._progress = CycleProgress(self._spec, self._cycle)
        self._schedule = CycleSchedule(self._outcome)

    def context(self) -> NDArray[np.float32]:
        """Return the context of the current decision, (C,)."""
        row = self._rows[self.step]
        context = self._opening[row].copy()
        context[self._progress.columns] = self._progress.fields(row)
        return context

    def best_action(self) -> int:
        """Return the labelled best action of the current decision."""
        return int(best_class(self._schedule.action_values(self._seat())))

    def take(self, action: int) -> float:
        """Take the current decision and return its reward."""
        reward = self._schedule.assign(self._seat(), action)
        self._progress.assign(self._rows[self.step], action)
        self.step += 1
        return reward

    def _seat(self) -> int:
        return int(self._outcome.seats[self._rows[self.step]])


class ReplayEnvironment:
    """`DecisionEnvironment` over replayed cycles."""

    def __init__(self, episodes: Sequence[ReplayEpisode], *, contexts: int) -> None:
        self._episodes = tuple(episodes)
        self._contexts = contexts
        self.episode_ids = tuple(episode.episode_id for episode in self._episodes)
        self.lengths = np.array([episode.length for episode in self._episodes], dtype=np.int64)
        self.reset()

    def reset(self) -> None:
        """Put every episode back to its first decision."""
        for episode in self._episodes:
            episode.restart()

    def active(self) -> NDArray[np.bool_]:
        """Return (E,) true where the episode still has a decision to take."""
        return np.array([episode.step < episode.length for episode in self._episodes], dtype=np.bool_)

    def context(self) -> NDArray[np.float32]:
        """Return the context of the current decisions, (E, C); zeros for finished episodes."""
        contexts = np.zeros((len(self._episodes), self._contexts), dtype=np.float32)
        for index in np.flatnonzero(self.active()):
            contexts[index] = self._episodes[index].context()
        return contexts

    def best_actions(self) -> NDArray[np.int64]:
        """Return the labelled best action of the current decisions, (E,); 0 for finished episodes."""
        best = np.zeros(len(self._episodes), dtype=np.int64)
        for index in np.flatnonzero(self.active()):
            best[index] = self._episodes[index].best_action()
        return best

    def step(self, actions: NDArray[np.int64]) -> NDArray[np.float64]:
        """Take one action in every episode, (E,), and return the rewards, (E,); 0 where the episode is finished.

        Raises:
            InputError: an action of an active episode is out of range, or the shape is not (E,).
        """
        actions = np.asarray(actions)
        if actions.shape != (len(self._episodes),):
            raise InputError(f"actions have shape {actions.shape}; expected one per episode, ({len(self._episodes)},)")
        active = np.flatnonzero(self.active())
        chosen = actions[active]
        if len(chosen) and (int(chosen.min()) < 0 or int(chosen.max()) >= len(PriorityClass)):
            raise InputError(f"action {chosen[(chosen < 0) | (chosen >= len(PriorityClass))][0]} is out of 0..3")
        rewards = np.zeros(len(self._episodes))
        for index in active:
            rewards[index] = self._episodes[index].take(int(actions[index]))
        return rewards
