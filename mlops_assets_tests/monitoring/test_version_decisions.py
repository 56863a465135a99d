"""Decisions as arrays refuse what does not belong together."""

from dataclasses import replace

import numpy as np
import pytest

from mlops_assets.foundation.errors import InputError
from mlops_assets.monitoring.version_decisions import VersionDecisions
from mlops_assets_tests.monitoring.small_decisions import decisions


def test_regret_is_of_the_greedy_action() -> None:
    """Exploring, or a decision without a label, counts as a loss of the version."""
    made = decisions(
        q_values=[[1, 2], [3, 2], [0, 1]],
        action=[0, 0, 1],
        best_action=[1, 1, -1],
        action_values=[[4, 5], [1, 8], [np.nan, np.nan]],
    )
    assert made.greedy.tolist() == [1, 0, 1]
    assert made.correct.tolist() == [True, False, False]
    np.testing.assert_array_equal(made.regret, [0.0, 7.0, np.nan])


def test_only_decisions_of_the_delay_ago_are_old_enough() -> None:
    """The first labels of a day, which are not those of an average decision, count."""
    made = decisions(q_values=[[0, 1]] * 3, event_time=[0, 3_600_000_000, 3_600_000_001])
    assert made.old_enough(7_200_000_000, 1.0).tolist() == [True, True, False]


def test_ordered_sorts_by_episode_and_step_and_leaves_the_original() -> None:
    """The next row is taken for the next decision, or a caller's arrays change under him."""
    made = decisions(q_values=[[0, 1]] * 3, episode=[1, 0, 0], step=[0, 1, 0], reward=[1, 2, 3])
    assert made.ordered().reward.tolist() == [3.0, 2.0, 1.0]
    assert made.reward.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("reward", np.zeros(2, np.float32), "reward has shape"),
        ("action", np.array([0, 2, 0]), "actions reach from 0 to 2"),
        ("best_action", np.array([0, -2, 0]), "best actions reach from -2"),
        ("action_values", np.zeros((3, 3), np.float32), "expected \\(N, A\\) both"),
        ("state", np.full((3, 1), np.nan, np.float32), "state hold a value that is not finite"),
    ],
)
def test_refused(column: str, value: np.ndarray, words: str) -> None:
    """Arrays of different decisions give a number that means nothing."""
    made = decisions(q_values=[[0, 1]] * 3)
    with pytest.raises(InputError, match=words):
        replace(made, **{column: value})  # type: ignore[arg-type]


def test_without_labels() -> None:
    """An estimate without labels is given some."""
    made = decisions(q_values=[[0, 1]], best_action=[1], action_values=[[0, 1]]).without_labels()
    assert not made.labelled.any()
    assert np.isnan(made.regret).all()
    assert isinstance(made, VersionDecisions)
