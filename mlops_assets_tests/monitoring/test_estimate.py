"""Performance without labels: near the truth where inputs tell it, within its interval, and silent where it must be."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from mlops_assets.experiences.simulator.config import Drift
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.monitoring.calibration import CalibrationReference
from mlops_assets.monitoring.coverage import CoverageWatch
from mlops_assets.monitoring.estimate import PerformanceEstimate, estimate_performance, with_labels
from mlops_assets.monitoring.version_decisions import VersionDecisions
from mlops_assets_tests.monitoring.sessions import part_of_sessions, tilted
from mlops_assets_tests.monitoring.simulated import agent, play, world_of

POLICY = load_profile("aiwebtest").estimate
NAME = "generation"


@cache
def calibration() -> CalibrationReference:
    """Of six days of the agent's own decisions."""
    own = agent(NAME)
    return CalibrationReference.of(play(world_of(own.spec), range(10, 16), own.policy), min_rows=1000, seed=1)


@cache
def later(days: int = 6, exploration: float = 0.05) -> VersionDecisions:
    own = agent(NAME)
    return play(world_of(own.spec), range(20, 20 + days), own.policy, exploration=exploration)


def estimate(window: VersionDecisions) -> PerformanceEstimate:
    return estimate_performance(calibration(), window, POLICY)


SHIFTS = {
    "riskier sessions": lambda: tilted(later(), agent(NAME).spec, 1.0, 0),
    "tamer sessions": lambda: tilted(later(), agent(NAME).spec, -1.0, 0),
    "late steps": lambda: part_of_sessions(later(), late=True),
    "early steps": lambda: part_of_sessions(later(), late=False),
    "more exploration": lambda: later(6, 0.3),
}


def test_at_most_half_the_error_of_assuming_no_change() -> None:
    """The estimate is no better than saying that all is as it was."""
    errors, unchanged = [], []
    for make in SHIFTS.values():
        window = make()
        found = estimate(window.without_labels())
        assert found.accuracy is not None
        truth = window.correct.mean()
        errors.append(abs(found.accuracy.estimate - truth))
        unchanged.append(abs(calibration().mean_of("correct") - truth))
    assert np.mean(errors) <= 0.5 * np.mean(unchanged)
    assert np.mean(unchanged) > 0.03


@pytest.mark.parametrize("shift", SHIFTS)
def test_the_loss_is_near_the_truth(shift: str) -> None:
    """The value lost has the wrong sign or size: within four standard errors, and on the right side."""
    window = SHIFTS[shift]()
    found = estimate(window.without_labels())
    assert found.loss is not None
    assert found.loss.high is not None
    truth = window.regret.mean() - calibration().mean_of("loss")
    assert abs(found.loss.estimate - truth) < 2 * (found.loss.high - found.loss.estimate)
    assert np.sign(found.loss.estimate) == np.sign(truth)


def test_labels_and_outcomes_are_not_looked_at() -> None:
    """What is called label-free uses the labels."""
    window = later(1)
    blind = replace(window.without_labels(), reward=np.full(len(window), np.nan, dtype=np.float32))
    assert estimate(window) == estimate(blind)


def test_nothing_has_changed() -> None:
    """Without any shift the estimate finds one."""
    found = estimate(later(2))
    assert found.loss is not None
    assert found.loss.low is not None
    assert found.loss.high is not None
    assert found.loss.low < 0 < found.loss.high
    assert found.outside_share < 0.01


def test_unlike_anything_in_the_reference() -> None:
    """A column in other units gets an estimate as if it were known."""
    own = agent(NAME)
    world = world_of(own.spec, drift=Drift(0, unit_field="historical_test_coverage", unit_factor=100.0))
    found = estimate(play(world, range(60, 61), own.policy))
    assert found.verdict == "outside_reference"
    assert found.accuracy is found.loss is found.reward is None
    assert found.outside_share > 0.9


def test_too_few() -> None:
    """Ten decisions, or none, give a number."""
    for rows in (0, POLICY.min_rows - 1):
        found = estimate(later(1).take(slice(rows)))
        assert (found.verdict, found.accuracy, found.loss) == ("insufficient_data", None, None)


def test_what_it_cannot_see_switches_it_off() -> None:
    """Rewards follow another relation, the estimate says all is well for ever, and nobody hears that it is wrong."""
    own = agent(NAME)
    world = world_of(own.spec, drift=Drift(0, reward_change=1.0))
    watch = CoverageWatch.start(POLICY)
    for day in range(20, 30):
        watch = with_labels(watch, calibration(), play(world_of(own.spec), range(day, day + 1), own.policy), POLICY)
    assert not watch.switched_off
    days = 0
    while not watch.switched_off and days < 10:
        window = play(world, range(60 + days, 61 + days), own.policy, label_share=0.5)
        watch = with_labels(watch, calibration(), window, POLICY)
        days += 1
    assert days <= 4
    off = estimate_performance(calibration(), later(1), POLICY, coverage=watch)
    assert (off.verdict, off.accuracy) == ("switched_off", None)
    assert "switched off for this version" in off.words


def test_windows_without_labels_say_nothing_of_coverage() -> None:
    """A window that nobody labelled counts as a hit or a miss."""
    watch = CoverageWatch.start(POLICY)
    assert with_labels(watch, calibration(), later(1).without_labels(), POLICY) == watch


def test_another_confidence_is_the_same_estimate() -> None:
    """The loss is that of another estimate than the one that people read, or its interval is of another confidence."""
    own = agent(NAME)
    window = play(world_of(own.spec), range(20, 21), own.policy)
    wide = POLICY.model_copy(update={"confidence": 0.99})
    one, other = (estimate_performance(calibration(), window, policy) for policy in (POLICY, wide))
    again = one.at(0.99)
    for name in ("accuracy", "loss", "reward"):
        found, expected = getattr(again, name), getattr(other, name)
        assert (found.estimate, found.confidence) == (expected.estimate, expected.confidence)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    few = estimate_performance(calibration(), window.take(slice(10)), POLICY)
    assert few.at(0.99) == few
