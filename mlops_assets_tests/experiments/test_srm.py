"""The split itself is watched: quiet while it is right, and soon loud when a router leaks."""

import math

import numpy as np
import pytest
from scipy.special import betaln

from mlops_assets.experiments.srm import Assigned, check_split
from mlops_assets.foundation.errors import InputError


def alarms(share: float, true: float, users: int, looks: int, runs: int, seed: int) -> float:
    """Share of runs that alarm at any of the looks."""
    random = np.random.default_rng(seed)
    steps = random.binomial(users // looks, true, (runs, looks)).cumsum(axis=1)
    found = 0
    for run in steps:
        found += any(
            check_split([Assigned(share, (i + 1) * (users // looks) - int(k), int(k))]).alarm for i, k in enumerate(run)
        )
    return found / runs


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_a_right_split_is_left_alone(share: float) -> None:
    """The chi-squared test at every look alarms sooner or later for certain."""
    assert alarms(share, share, 40_000, 200, 200, seed=1) <= 0.01


def test_a_router_that_leaks_is_found_and_named() -> None:
    """52 to 48 instead of half and half passes for chance."""
    assert alarms(0.5, 0.48, 30_000, 30, 200, seed=2) >= 0.95
    found = check_split([Assigned(0.5, 15_600, 14_400)])
    assert (found.alarm, found.leaks, found.treatment) == (True, "treatment", 14_400)
    assert check_split([Assigned(0.05, 18_700, 1_300)]).leaks == "control"


def test_the_evidence_is_the_mixture_and_shares_follow_each_other() -> None:
    """A ramp from 5 to 20 % looks like a broken 5 % split."""
    one, two = Assigned(0.05, 950, 50), Assigned(0.2, 800, 200)
    log_e = betaln(20 + 50, 380 + 950) - betaln(20, 380) - 50 * math.log(0.05) - 950 * math.log(0.95)
    assert check_split([one]).log_e == pytest.approx(log_e)
    both = check_split([one, two])
    assert both.log_e == pytest.approx(log_e + check_split([two]).log_e)
    assert not both.alarm
    assert both.expected_treatment == pytest.approx(250)


def test_nobody_belongs_into_an_arm_without_share() -> None:
    """After a rollback to 0 % a user still meets the bad model, and no test says so."""
    assert not check_split([Assigned(0.0, 1000, 0)]).alarm
    assert check_split([Assigned(0.0, 1000, 1)]).alarm
    assert check_split([Assigned(1.0, 1, 1000)]).alarm
    with pytest.raises(InputError, match=r"at a share of 1\.5"):
        check_split([Assigned(1.5, 1, 1)])
