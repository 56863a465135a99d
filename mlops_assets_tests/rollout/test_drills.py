"""Whole rollouts in simulated time: what harms is taken back, what does not harm reaches everybody."""

import numpy as np
import pytest

from benchmarks.rollout_drills import drill, naive
from benchmarks.rollout_traffic import CANDIDATES, Candidate, Traffic, arrivals, serve


def named(name: str) -> Candidate:
    return next(one for one in CANDIDATES if one.name == name)


@pytest.mark.slow
def test_a_good_candidate_reaches_everybody_and_soon() -> None:
    """A rollout that takes good candidates back is switched off by the people who train them."""
    good = CANDIDATES[0]
    found = [drill(good, seed, Traffic(), 14.0) for seed in range(3)]
    assert [one.end for one in found] == ["promoted"] * 3
    # The stages' 66 hours, a blocked Friday, and what the proofs take.
    assert all(66.0 <= one.hours <= 66.0 + 2 * 24.0 + 24.0 for one in found)
    assert not any(one.stalled for one in found)


def test_a_machine_that_gets_slower_takes_no_good_candidate_back() -> None:
    """With all users at the candidate, a slower day of the machine looks like a slower model (and is one to ROLL-3)."""
    slowed = CANDIDATES[1]
    assert (slowed.machine, slowed.bad) == (1.5, False)
    assert drill(slowed, 2, Traffic(), 14.0).end == "promoted"
    found = [naive(slowed, seed, Traffic()) for seed in range(8)]
    assert {one.end for one in found} == {"rolled back"}
    assert any(one.stage == "100_percent" for one in found)


@pytest.mark.parametrize("name", ["errors +3 points", "latency x 1.6", "accuracy -15 % in webkit alone"])
def test_a_bad_candidate_is_taken_back_before_many_have_met_it(name: str) -> None:
    """Each harm has its own criterion, and one that is forgotten reaches all users."""
    bad = named(name)
    found = [drill(bad, seed, Traffic(), 14.0) for seed in range(4)]
    assert [one.end for one in found] == ["rolled back"] * 4
    assert all(one.met <= 0.2 * one.users for one in found)
    assert all(one.stage in {"5_percent", "20_percent"} for one in found)


def test_harm_at_the_edge_of_the_limit_goes_no_further_while_it_is_not_proven() -> None:
    """A stage that is passed for want of proof makes every limit a matter of patience."""
    bad = named("accuracy -6 %")
    found = [drill(bad, seed, Traffic(), 2.5) for seed in range(2)]
    assert all((one.end, one.stage) in {("undecided", "5_percent"), ("rolled back", "5_percent")} for one in found)


def test_the_naive_rule_takes_good_candidates_back() -> None:
    """Were it not so, the simple rule would do; the table has the rate."""
    good = CANDIDATES[0]
    found = [naive(good, seed, Traffic()) for seed in range(4)]
    assert sum(one.end == "rolled back" for one in found) >= 2
    assert {one.by for one in found} == {"check"}


def test_users_are_the_same_whatever_is_decided_and_alike_in_their_requests() -> None:
    """Two rules on different users are no comparison, and requests that know nothing of each other are no users."""
    traffic = Traffic(users_an_hour=60_000.0, errors=0.1)
    one, other = (next(arrivals(traffic, np.random.default_rng(3))) for _ in range(2))
    assert np.array_equal(one.failed, other.failed)
    served = serve(one, 0.2, traffic, named("errors +3 points"))
    assert np.mean(served.treated) == pytest.approx(0.2, abs=0.02)
    by_request = served.treated[one.user]
    assert np.mean(served.failed[by_request]) == pytest.approx(0.13, abs=0.015)
    assert np.mean(served.failed[~by_request]) == pytest.approx(0.1, abs=0.01)
    second = one.first[np.bincount(one.user) > 1] + 1
    mine = ~by_request[second]
    pairs = np.corrcoef(served.failed[second - 1][mine], served.failed[second][mine])[0, 1]
    assert pairs == pytest.approx(traffic.alike, abs=0.06)
