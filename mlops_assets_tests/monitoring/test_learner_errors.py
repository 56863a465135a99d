"""Over-estimation and TD errors of episodes that can be worked out by hand."""

import numpy as np
import pytest

from mlops_assets.monitoring.learner_errors import overestimation, td_errors
from mlops_assets_tests.monitoring.small_decisions import decisions

EPISODE = {
    "q_values": [[5.0, 1.0], [2.0, 3.0], [4.0, 0.0]],
    "action": [0, 1, 0],
    "reward": [1.0, 2.0, 3.0],
    "done": [False, False, True],
    "episode": [0, 0, 0],
    "step": [0, 1, 2],
}


def test_by_hand() -> None:
    """The discount is applied once too often, or the last decision looks beyond its end."""
    one = decisions(**EPISODE)
    # Returns 1 + .5 * (2 + .5 * 3), 2 + .5 * 3, 3.
    np.testing.assert_allclose(overestimation(one, 0.5), [5 - 2.75, 3 - 3.5, 4 - 3])
    np.testing.assert_allclose(td_errors(one, 0.5), [1 + 0.5 * 3 - 5, 2 + 0.5 * 4 - 3, 3 - 4])


def test_an_exploring_step_breaks_no_promise() -> None:
    """Exploration counts as over-estimation: the return is cut there, and its state counts with its largest Q value."""
    explored = decisions(**{**EPISODE, "action": [0, 0, 0]})
    np.testing.assert_allclose(overestimation(explored, 0.5), [5 - (1 + 0.5 * 3), 2 - 3.5, 4 - 3])


def test_what_is_not_known_is_nan() -> None:
    """A missing reward, a missing step or an episode that goes on counts as 0."""
    unknown = decisions(**{**EPISODE, "reward": [1.0, np.nan, 3.0]})
    assert np.isnan(overestimation(unknown, 0.5)).tolist() == [True, True, False]
    assert np.isnan(td_errors(unknown, 0.5)).tolist() == [False, True, False]
    gap = decisions(**{**EPISODE, "step": [0, 1, 3]})
    assert np.isnan(overestimation(gap, 0.5)).tolist() == [True, True, False]
    assert np.isnan(td_errors(gap, 0.5)).tolist() == [False, True, False]
    open_end = decisions(**{**EPISODE, "done": [False, False, False]})
    assert np.isnan(overestimation(open_end, 0.5)).all()
    two = decisions(**{**EPISODE, "episode": [0, 0, 1], "step": [0, 1, 0]})
    assert np.isnan(overestimation(two, 0.5)).tolist() == [True, True, False]


def test_none_at_all() -> None:
    """An empty window crashes."""
    empty = decisions(q_values=np.zeros((0, 2)))
    assert overestimation(empty, 0.9).shape == td_errors(empty, 0.9).shape == (0,)


@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_over_estimation_is_the_sum_of_td_errors(discount: float) -> None:
    """The two disagree: along greedy actions, Q - G = - sum of discount^k times the TD errors (telescoping)."""
    random = np.random.default_rng(0)
    length, episodes = 5, 40
    many = decisions(
        q_values=random.normal(size=(episodes * length, 3)),
        reward=random.normal(size=episodes * length),
        done=np.tile(np.arange(length) == length - 1, episodes),
        episode=np.repeat(np.arange(episodes), length),
        step=np.tile(np.arange(length), episodes),
    )
    errors = td_errors(many, discount).reshape(episodes, length)
    first = overestimation(many, discount).reshape(episodes, length)[:, 0]
    np.testing.assert_allclose(first, -(errors * discount ** np.arange(length)).sum(axis=1), rtol=1e-5, atol=1e-5)
