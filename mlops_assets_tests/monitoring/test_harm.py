"""Drift, but does it hurt: a benign shift costs nothing in a month, a lost reward pays for a training on the first day."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from mlops_assets.evaluation.intervals import Interval
from mlops_assets.experiences.simulator.config import Drift
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.monitoring.calibration import CalibrationReference
from mlops_assets.monitoring.coverage import CoverageWatch
from mlops_assets.monitoring.harm import Loss, loss_of, loss_per_day
from mlops_assets.monitoring.version_decisions import VersionDecisions
from mlops_assets_tests.monitoring.sessions import benign, part_of_sessions
from mlops_assets_tests.monitoring.simulated import agent, play, world_of

PROFILE = load_profile("aiwebtest")
POLICY, RETRAINING = PROFILE.estimate, PROFILE.retraining
NAME = "generation"


@cache
def calibration() -> CalibrationReference:
    """Of six days of the agent's own decisions."""
    own = agent(NAME)
    return CalibrationReference.of(play(world_of(own.spec), range(10, 16), own.policy), min_rows=1000, seed=1)


def hurts(loss: Loss, decisions: int) -> bool:
    """As retraining decides under `retrain_when: hurts`."""
    if loss.per_decision is None:
        return False
    a_day = loss_per_day(loss.per_decision, decisions)
    assert a_day.low is not None
    return a_day.low * RETRAINING.payback_days > RETRAINING.training_cost


def blind(window: VersionDecisions) -> VersionDecisions:
    """Neither labels nor outcomes."""
    return replace(window.without_labels(), reward=np.full(len(window), np.nan, dtype=np.float32))


KNOWN = {"labels": lambda window: window, "outcomes": lambda window: window.without_labels(), "nothing": blind}


@pytest.mark.parametrize("known", KNOWN)
def test_benign_drift_never_hurts_in_thirty_days(known: str) -> None:
    """A column that does not matter moves, and the agent is trained again for nothing."""
    own = agent(NAME)
    losses = []
    for day in range(20, 50):
        window = KNOWN[known](benign(own, range(day, day + 1)))
        loss = loss_of(calibration(), window, POLICY)
        losses.append(loss)
        assert not hurts(loss, len(window)), (day, loss)
    assert all(loss.per_decision is not None for loss in losses)
    covered = [loss.per_decision.low <= 0 <= loss.per_decision.high for loss in losses]  # type: ignore[union-attr, operator]
    assert np.mean(covered) > 0.5


@pytest.mark.parametrize("known", ["labels", "outcomes"])
def test_reward_relevant_drift_hurts_on_the_first_day(known: str) -> None:
    """Rewards have changed and a month passes."""
    own = agent(NAME)
    window = KNOWN[known](play(world_of(own.spec, drift=Drift(0, reward_change=1.0)), range(60, 61), own.policy))
    loss = loss_of(calibration(), window, POLICY)
    assert loss.source == known
    assert hurts(loss, len(window))
    assert known in loss.words


def test_a_shift_that_inputs_show_hurts_before_any_label() -> None:
    """The estimate is there and does not count."""
    own = agent(NAME)
    late = part_of_sessions(play(world_of(own.spec), range(20, 22), own.policy), late=True)
    loss = loss_of(calibration(), blind(late), POLICY)
    assert loss.source == "estimate"
    assert hurts(loss, 10 * len(late))


def test_labels_by_hand() -> None:
    """The realised loss is not the mean regret less the reference's, or its interval leaves out the reference's error."""
    own = agent(NAME)
    window = play(world_of(own.spec), range(20, 21), own.policy)
    labels = replace(window, reward=np.full(len(window), np.nan, dtype=np.float32))
    loss = loss_of(calibration(), labels, POLICY)
    assert loss.source == "labels"
    assert loss.per_decision is not None
    assert loss.per_decision.low is not None
    assert loss.per_decision.estimate == pytest.approx(window.regret.mean() - calibration().mean_of("loss"))
    users = int(window.cluster.max()) + 1
    sums = np.bincount(window.cluster, weights=window.regret - window.regret.mean())
    own_error = np.sqrt((sums**2).sum()) / len(window)
    error = np.hypot(own_error, calibration().mean_errors[1])
    assert users > 200
    assert loss.per_decision.estimate - loss.per_decision.low == pytest.approx(1.96 * error, rel=0.15)


def test_switched_off_and_unknown_is_none() -> None:
    """What nobody knows is called harmless, or an estimate that was refuted starts a training."""
    own = agent(NAME)
    window = blind(play(world_of(own.spec), range(20, 21), own.policy))
    broken = CoverageWatch.start(POLICY)
    broken = replace(broken, evidence=replace(broken.evidence, log_wealth=(50.0, 0.0, 0.0)))
    refuted = loss_of(calibration(), window, POLICY, coverage=broken)
    assert (refuted.source, refuted.per_decision) == ("none", None)
    few = loss_of(calibration(), window.take(slice(10)), POLICY)
    assert (few.source, few.per_decision) == ("none", None)
    assert "are needed" in few.words


def test_a_days_traffic() -> None:
    """An interval is turned round or loses an end."""
    assert loss_per_day(Interval(0.5, -0.25, 1.0, 0.9), 1000.0) == Interval(500.0, -250.0, 1000.0, 0.9)
    assert loss_per_day(Interval(0.5, None, None, 0.9), 10.0) == Interval(5.0, None, None, 0.9)
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="decisions_per_day is"):
            loss_per_day(Interval(0.5, 0.0, 1.0, 0.9), wrong)
