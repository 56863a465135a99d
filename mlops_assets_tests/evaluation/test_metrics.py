"""Metrics of a policy on labelled decisions, against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from mlops_assets.evaluation.metrics import (
    ClassificationMetrics,
    action_margins,
    classification_metrics,
    greedy,
    macro_scores,
    q_values,
    roc_auc,
)


class Linear:
    """Action values that are a linear function of the state."""

    def __init__(self, weights: NDArray[np.float32]) -> None:
        self.weights = weights
        self.largest_batch = 0

    def q_values(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        self.largest_batch = max(self.largest_batch, len(states))
        return states @ self.weights


def measure(
    values: NDArray[np.float32], best: list[int], exact: NDArray[np.float32] | None = None
) -> ClassificationMetrics:
    found = classification_metrics(
        values,
        np.array(best),
        np.full(values.shape, np.nan, dtype=np.float32) if exact is None else exact,
        np.arange(len(best)),
        samples=100,
        confidence=0.95,
        seed=0,
    )
    assert found is not None
    return found


def one_hot(actions: list[int], count: int) -> NDArray[np.float32]:
    return np.eye(count, dtype=np.float32)[actions]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_macro_scores_are_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    """A class that is never chosen or never best must neither divide by zero nor vanish from the average."""
    best, chosen = [p[0] for p in pairs], [p[1] for p in pairs]
    found = measure(one_hot(chosen, 4), best)
    precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(
        best, chosen, average="macro", zero_division=0
    )
    assert found.accuracy.estimate == pytest.approx(sklearn_metrics.accuracy_score(best, chosen))
    assert found.precision == pytest.approx(precision)
    assert found.recall == pytest.approx(recall)
    assert found.f1.estimate == pytest.approx(f1)
    expected = sklearn_metrics.confusion_matrix(best, chosen, labels=range(4))
    assert found.confusion.tolist() == expected.tolist()


def test_roc_auc_is_scikit_learns_one_against_rest() -> None:
    """Scores on the scale of Q values compare states with each other, not actions; margins do not."""
    random = np.random.default_rng(0)
    values = random.normal(size=(300, 3)).astype(np.float32) + 50 * random.random((300, 1)).astype(np.float32)
    best = (values + random.normal(size=values.shape)).argmax(axis=1)
    margins = action_margins(values)
    expected = np.mean([sklearn_metrics.roc_auc_score(best == action, margins[:, action]) for action in range(3)])
    assert roc_auc(values, best) == pytest.approx(expected)
    assert roc_auc(values, best) == pytest.approx(roc_auc(values + 7, best))


def test_roc_auc_of_one_class_is_undefined() -> None:
    """Unknown is not 0.5."""
    assert roc_auc(np.eye(3, dtype=np.float32), np.zeros(3, dtype=np.int64)) is None


def test_margins() -> None:
    """The greedy action's margin is positive, every other one's is negative; of equals none stands out."""
    margins = action_margins(np.array([[1.0, 4.0, 2.0], [3.0, 3.0, 0.0]], dtype=np.float32))
    assert margins.tolist() == [[-3.0, 2.0, -2.0], [0.0, 0.0, -3.0]]


def test_unlabelled_decisions_do_not_count() -> None:
    """A label that has not come yet is not a wrong decision."""
    found = measure(one_hot([0, 1, 2, 2], 3), [0, 1, -1, 0])
    assert (found.labelled, found.unlabelled) == (3, 1)
    assert found.accuracy.estimate == pytest.approx(2 / 3)
    assert found.confusion.sum() == 3


def test_no_label_at_all_is_no_result() -> None:
    """Nothing to compare with is unknown, not an accuracy of 0."""
    values = one_hot([0, 1], 2)
    nothing = classification_metrics(
        values, np.array([-1, -1]), values, np.array([0, 1]), samples=100, confidence=0.95, seed=0
    )
    assert nothing is None


def test_regret_is_what_the_choice_cost() -> None:
    """A wrong action that is almost as good costs almost nothing; accuracy alone cannot tell."""
    exact = np.array([[1.0, 0.9], [5.0, 1.0], [np.nan, np.nan]], dtype=np.float32)
    found = measure(one_hot([1, 0, 1], 2), [0, 0, -1], exact)
    assert found.regret is not None
    assert found.regret.estimate == pytest.approx(0.05)
    assert found.regret.low is not None
    assert measure(one_hot([1], 2), [0]).regret is None


def test_accuracy_interval_holds_the_truth() -> None:
    """The interval in the report is of the decisions' accuracy, not of something else."""
    random = np.random.default_rng(0)
    best = random.integers(0, 3, size=3000)
    chosen = np.where(random.random(3000) < 0.9, best, (best + 1) % 3)
    found = measure(one_hot(chosen.tolist(), 3), best.tolist())
    assert found.accuracy.low is not None
    assert found.accuracy.high is not None
    assert found.accuracy.low < 0.9 < found.accuracy.high
    assert found.accuracy.high - found.accuracy.low == pytest.approx(2 * 1.96 * np.sqrt(0.09 / 3000), rel=0.25)


def test_greedy_takes_the_first_of_equals() -> None:
    """A tie that falls at random would make two evaluations of one model differ."""
    assert greedy(np.array([[1.0, 1.0], [0.0, 2.0]], dtype=np.float32)).tolist() == [0, 1]


def test_large_tables_go_through_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million states at once would need gigabytes inside the network."""
    monkeypatch.setattr("mlops_assets.evaluation.metrics._BATCH_ROWS", 10)
    policy = Linear(np.eye(3, dtype=np.float32))
    states = np.random.default_rng(0).random((37, 3)).astype(np.float32)
    assert np.array_equal(q_values(policy, states), states)
    assert policy.largest_batch == 10
    assert q_values(policy, states[:0]).shape == (0, 3)


def test_macro_scores_of_nothing() -> None:
    """An empty resample must not divide by zero."""
    assert [float(score) for score in macro_scores(np.zeros((3, 3)))] == [0.0, 0.0, 0.0]
