"""Small decision tables and policies for the tests of this room."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlops_assets.features.decision_table import DecisionTable, following_states
from mlops_assets.foundation.agents import agent_spec

SPEC = agent_spec("requirements")
WIDTH, ACTIONS = len(SPEC.state_fields), len(SPEC.actions)


@dataclass
class FirstFields:
    """A policy whose action values are the first A fields of the state, times `scale`."""

    scale: float = 1.0

    def q_values(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        return (self.scale * states[:, :ACTIONS]).astype(np.float32)


@dataclass
class Always:
    """A policy that always takes one action."""

    action: int

    def q_values(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.eye(ACTIONS, dtype=np.float32)[np.full(len(states), self.action)]


def decision_table(
    episodes: int,
    steps: int,
    *,
    seed: int = 0,
    labelled: float = 1.0,
    label_noise: float = 0.0,
    frameworks: tuple[str, ...] = ("react", "vue"),
) -> DecisionTable:
    """Decisions whose best action is the largest of the state's first fields, but for a share of wrong labels."""
    random = np.random.default_rng(seed)
    rows = episodes * steps
    state = random.random((rows, WIDTH)).astype(np.float32)
    episode = np.repeat(np.arange(episodes), steps)
    step = np.tile(np.arange(steps), episodes)
    exact = state[:, :ACTIONS].copy()
    best = exact.argmax(axis=1)
    wrong = random.random(rows) < label_noise
    exact[wrong] = np.roll(exact[wrong], 1, axis=1)
    best[wrong] = exact[wrong].argmax(axis=1)
    unknown = random.random(rows) >= labelled
    best[unknown], exact[unknown] = -1, np.nan
    action = random.integers(0, ACTIONS, size=rows)
    start = np.datetime64("2026-02-01T00:00:00", "us")
    return DecisionTable(
        state=state,
        next_state=following_states(state, step == steps - 1),
        action=action,
        reward=state[np.arange(rows), action],
        done=step == steps - 1,
        propensity=np.full(rows, 1 / ACTIONS, dtype=np.float32),
        best_action=best.astype(np.int64),
        action_values=exact,
        event_time=start + np.arange(rows) * np.timedelta64(60, "s"),
        experience_id=np.array([f"x{i}" for i in range(rows)], dtype=object),
        episode_id=np.array([f"e{i:05d}" for i in episode], dtype=object),
        step=step.astype(np.int64),
        ui_framework=np.array([frameworks[i % len(frameworks)] for i in episode], dtype=object),
        browser=np.array([("chromium", "firefox", "webkit")[i % 3] for i in episode], dtype=object),
        test_type=np.array(["functional"] * rows, dtype=object),
    )


class FieldEnvironment:
    """An environment of `decision_table`'s kind: the reward is the chosen one of the state's first fields.

    With `drift`, every step adds the last action to the context's field behind them, so that contexts depend on actions.
    """

    def __init__(self, table: DecisionTable, episode_ids: list[str]) -> None:
        self.episode_ids = tuple(episode_ids)
        rows = {name: np.flatnonzero(table.episode_id == name) for name in episode_ids}
        self.lengths = np.array([len(rows[name]) for name in episode_ids], dtype=np.int64)
        longest = int(self.lengths.max())
        self._context = np.zeros((len(episode_ids), longest, len(SPEC.context)), dtype=np.float32)
        for index, name in enumerate(episode_ids):
            self._context[index, : len(rows[name])] = table.state[rows[name], : len(SPEC.context)]
        self.taken: list[NDArray[np.int64]] = []
        self.reset()

    def reset(self) -> None:
        self._step = 0
        self._last = np.zeros(len(self.episode_ids), dtype=np.float32)

    def active(self) -> NDArray[np.bool_]:
        return self._step < self.lengths

    def context(self) -> NDArray[np.float32]:
        context = np.zeros((len(self.episode_ids), len(SPEC.context)), dtype=np.float32)
        active = self.active()
        context[active] = self._context[active, self._step]
        context[active, ACTIONS] = self._last[active]
        return context

    def best_actions(self) -> NDArray[np.int64]:
        return self.context()[:, :ACTIONS].argmax(axis=1).astype(np.int64)

    def step(self, actions: NDArray[np.int64]) -> NDArray[np.float64]:
        rewards = np.where(self.active(), self.context()[np.arange(len(actions)), actions], 0.0).astype(np.float64)
        self.taken.append(actions)
        self._last = actions.astype(np.float32)
        self._step += 1
        return rewards
