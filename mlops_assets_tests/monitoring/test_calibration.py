"""A frozen calibration: what it learns, that it comes back as it was, and what it refuses."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from mlops_assets.foundation.errors import InputError
from mlops_assets.monitoring.calibration import CalibrationReference, cluster_error
from mlops_assets.monitoring.version_decisions import VersionDecisions
from mlops_assets_tests.monitoring.simulated import agent, play, world_of

ROWS = 1000


@cache
def held_out() -> VersionDecisions:
    """6000 decisions of the agent itself."""
    own = agent("requirements")
    return play(world_of(own.spec), range(10, 12), own.policy, label_share=0.8)


@cache
def calibration() -> CalibrationReference:
    return CalibrationReference.of(held_out(), min_rows=ROWS, seed=1)


def test_frozen_and_back() -> None:
    """A calibration that was read predicts otherwise, or its hash changes by itself."""
    again = CalibrationReference.from_bytes(calibration().to_bytes())
    assert again.to_bytes() == calibration().to_bytes()
    assert again.to_bytes() == CalibrationReference.of(held_out(), min_rows=ROWS, seed=1).to_bytes()
    features = again.fitting.of(held_out().take(slice(100)))
    np.testing.assert_array_equal(again.predict(features), calibration().predict(features))


def test_probabilities_are_calibrated_on_days_that_it_has_not_seen() -> None:
    """A decision that is called right with 70 % is right with 50 %: three standard errors in each of five bands."""
    own = agent("requirements")
    later = play(world_of(own.spec), range(20, 24), own.policy)
    chance = calibration().predict(calibration().fitting.of(later))[:, 0]
    bands = np.digitize(chance, np.quantile(chance, [0.1, 0.2, 0.3, 0.5]))
    for band in range(5):
        here = bands == band
        error = 3 * np.sqrt(chance[here].mean() * (1 - chance[here].mean()) / here.sum()) + 0.03
        assert abs(later.correct[here].mean() - chance[here].mean()) < error
    # It tells right from wrong, too: not the average for everybody.
    assert chance[later.correct].mean() - chance[~later.correct].mean() > 0.15


def test_means_are_of_the_labelled() -> None:
    """Decisions without label count as wrong."""
    labelled = held_out().take(held_out().labelled)
    assert 0 < len(labelled) < len(held_out())
    assert calibration().mean_of("correct") == pytest.approx(labelled.correct.mean())
    assert calibration().mean_of("loss") == pytest.approx(labelled.regret.mean())
    assert calibration().rows == len(labelled)


def test_without_action_values() -> None:
    """A product that knows which action was best, and not what it was worth, gets no estimate at all."""
    blind = replace(held_out(), action_values=np.full_like(held_out().action_values, np.nan))
    made = CalibrationReference.of(blind, min_rows=ROWS, seed=1)
    assert np.isnan(made.mean_of("loss"))
    predicted = made.predict(made.fitting.of(blind.take(slice(10))))
    assert np.isfinite(predicted[:, [0, 2]]).all()
    assert np.isnan(predicted[:, 1]).all()


def test_too_few_labels() -> None:
    """Ten labels calibrate."""
    with pytest.raises(InputError, match="0 labelled decisions in 0 clusters calibrate nothing; 1000 in at least 5"):
        CalibrationReference.of(held_out().without_labels(), min_rows=ROWS, seed=1)
    one_user = replace(held_out(), cluster=np.zeros(len(held_out()), dtype=np.int64))
    with pytest.raises(InputError, match="in 1 clusters calibrate nothing"):
        CalibrationReference.of(one_user, min_rows=ROWS, seed=1)


def test_an_agent_that_is_always_right() -> None:
    """Nothing to tell apart: a division by zero, or a probability of one half."""
    sure = held_out().take(held_out().labelled & held_out().correct)
    made = CalibrationReference.of(sure, min_rows=ROWS, seed=1)
    assert made.predict(made.fitting.of(sure))[:, 0].min() > 0.99


def test_cluster_error_is_that_of_cluster_means() -> None:
    """Dependent decisions count as independent: of equal clusters, the error is that of the means of the clusters."""
    values = np.random.default_rng(0).normal(size=(50, 4)) + np.arange(50)[:, None] % 7
    means = values.mean(axis=1)
    expected = means.std(ddof=1) / np.sqrt(50)
    assert cluster_error(values.ravel(), np.repeat(np.arange(50), 4)) == pytest.approx(expected)
    assert np.isnan(cluster_error(np.array([np.nan]), np.array([0])))
