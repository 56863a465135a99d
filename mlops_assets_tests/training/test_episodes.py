import csv
from pathlib import Path

import numpy as np
import pytest

from mlops_assets.training.episodes import episode_curve, thinned, write_reward_curve
from mlops_assets_tests.training.samples import HORIZON, changed, toy_table


def test_returns_lengths_and_exploration() -> None:
    """Episodes cut at the wrong row shift every return by a decision."""
    table = toy_table(2)
    table = changed(
        table,
        action=np.array([1, 0, 0, 0, 0, 0]),
        reward=np.array([-1.0, 2.0, 2.0, 0.5, 0.5, -1.5], dtype=np.float32),
        propensity=np.array([0.1, 0.9, 0.9, 0.5, 0.8, 0.9], dtype=np.float32),
    )
    curve = episode_curve(table, np.array([0, 0, 0, 0, 1, 0]), actions=2)
    assert curve.episode_id.tolist() == ["e0000", "e0001"]
    assert curve.length.tolist() == [3, 3]
    assert curve.reward.tolist() == [3.0, -0.5]
    assert curve.epsilon == pytest.approx([0.2, 1.0])
    assert curve.avg_reward_100.tolist() == [3.0, 1.25]
    assert curve.success_rate.tolist() == [1.0, 0.5]
    assert curve.exploration_rate == pytest.approx([1 / 3, 1 / 3])


def test_means_are_over_the_last_100_episodes() -> None:
    """A mean over everything hides that the behaviour policy changed last week."""
    table = toy_table(250)
    curve = episode_curve(table, table.action, actions=2)
    rewards = table.reward.reshape(250, HORIZON).sum(axis=1)
    assert curve.avg_reward_100[-1] == pytest.approx(rewards[150:].mean())
    assert curve.avg_reward_100[120] == pytest.approx(rewards[21:121].mean())
    assert curve.avg_reward_100[9] == pytest.approx(rewards[:10].mean())
    assert curve.exploration_rate.tolist() == [0.0] * 250


def test_episodes_of_different_lengths() -> None:
    """CI cycles have one test or a thousand."""
    table = toy_table(3).take(np.array([0, 1, 2, 3, 6, 7]))
    assert episode_curve(table, table.action, actions=2).length.tolist() == [3, 1, 2]


def test_the_file_has_every_episode(tmp_path: Path) -> None:
    """A curve that is thinned in the file is lost for good."""
    table = toy_table(1200)
    curve = episode_curve(table, table.action, actions=2)
    path = tmp_path / "reward_curve.csv"
    write_reward_curve(path, curve)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1200
    assert (rows[7]["episode"], rows[7]["episode_id"], rows[7]["length"]) == ("7", "e0007", "3")
    assert float(rows[1199]["avg_reward_100"]) == pytest.approx(curve.avg_reward_100[-1], rel=1e-5)


@pytest.mark.parametrize(("episodes", "single", "ends"), [(1, 1, [0]), (250, 250, [99, 199, 249]), (2500, 834, None)])
def test_the_tracking_store_gets_a_thinned_curve(episodes: int, single: int, ends: list[int] | None) -> None:
    """Sixteen thousand episodes by six metrics take longer to log than to train on."""
    table = toy_table(episodes)
    curve = episode_curve(table, table.action, actions=2)
    points = thinned(curve)
    rewards = [(value, step) for name, value, step in points if name == "episode_reward"]
    assert len(rewards) == single
    assert all(value == pytest.approx(curve.reward[step]) for value, step in rewards)
    averages = [step for name, _value, step in points if name == "avg_reward_100"]
    assert averages[-1] == episodes - 1
    if ends is not None:
        assert averages == ends
