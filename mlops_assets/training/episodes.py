"""Returns and exploration of the logged episodes: what the behaviour policy earned while it wrote the training set.

Offline there are no episodes of the learner's own; the value of the learned policy is the evaluation room's subject.
"""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlops_assets.features.decision_table import DecisionTable
from mlops_assets.foundation.files import atomic_write

WINDOW = 100
# Points of a per-episode curve in a tracking store; reward_curve.csv has every episode.
_MAX_POINTS = 1000


@dataclass(frozen=True)
class EpisodeCurve:
    """E logged episodes in order of time; every array is (E,).

    `reward` is the undiscounted return, `length` the number of decisions. `epsilon` is the largest epsilon for which
    the episode's decisions fit an epsilon-soft policy: number of actions times the smallest propensity, at most 1.
    `avg_reward_100`, `success_rate` (share of episodes with a positive return) and `exploration_rate` (share of
    decisions whose logged action is not the learned policy's greedy one) are means over the last 100 episodes, fewer at
    the start.
    """

    episode_id: NDArray[np.object_]
    length: NDArray[np.int64]
    reward: NDArray[np.float64]
    epsilon: NDArray[np.float64]
    avg_reward_100: NDArray[np.float64]
    success_rate: NDArray[np.float64]
    exploration_rate: NDArray[np.float64]

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.reward)


def episode_curve(table: DecisionTable, greedy: NDArray[np.int64], actions: int) -> EpisodeCurve:
    """Summarise the logged episodes of a non-empty table; `greedy` (N,) is the learned policy's action in every row."""
    starts = np.flatnonzero(np.r_[True, table.episode_id[1:] != table.episode_id[:-1]])
    length = np.diff(np.r_[starts, len(table)])
    reward = np.add.reduceat(table.reward.astype(np.float64), starts)
    explored = np.add.reduceat((greedy != table.action).astype(np.float64), starts)
    return EpisodeCurve(
        episode_id=table.episode_id[starts],
        length=length,
        reward=reward,
        epsilon=np.minimum(1.0, actions * np.minimum.reduceat(table.propensity.astype(np.float64), starts)),
        avg_reward_100=_rolling_sum(reward) / _rolling_sum(np.ones(len(starts))),
        success_rate=_rolling_sum((reward > 0).astype(np.float64)) / _rolling_sum(np.ones(len(starts))),
        exploration_rate=_rolling_sum(explored) / _rolling_sum(length.astype(np.float64)),
    )


def thinned(curve: EpisodeCurve) -> list[tuple[str, float, int]]:
    """Return the curve as (metric, value, episode) for a tracking store.

    `episode_reward`, `episode_length` and `epsilon` come for at most 1000 evenly spaced episodes, the means over 100
    episodes every 100 episodes and after the last.
    """
    count = len(curve)
    stride = math.ceil(count / _MAX_POINTS)
    single = {"episode_reward": curve.reward, "episode_length": curve.length, "epsilon": curve.epsilon}
    rolling = {name: getattr(curve, name) for name in ("avg_reward_100", "success_rate", "exploration_rate")}
    ends = sorted({*range(WINDOW - 1, count, max(WINDOW, stride)), count - 1})
    points = [(name, float(values[i]), i) for name, values in single.items() for i in range(0, count, stride)]
    return points + [(name, float(values[i]), i) for name, values in rolling.items() for i in ends]


def _rolling_sum(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over the last `WINDOW` entries up to each one, of fewer at the start."""
    total = np.r_[0.0, np.cumsum(values)]
    ends = np.arange(1, len(values) + 1)
    return total[ends] - total[np.maximum(0, ends - WINDOW)]


def write_reward_curve(path: Path, curve: EpisodeCurve) -> None:
    """Write one CSV row an episode."""
    columns = ("length", "reward", "epsilon", "avg_reward_100", "success_rate", "exploration_rate")
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("episode", "episode_id", *columns))
        arrays = [getattr(curve, name) for name in columns]
        for i, values in enumerate(zip(curve.episode_id, *arrays, strict=True)):
            writer.writerow((i, values[0], values[1], *(f"{value:.6g}" for value in values[2:])))
