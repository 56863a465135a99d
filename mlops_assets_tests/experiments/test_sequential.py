"""Anytime-valid tests: fair whatever is bet, exact at any look, and quick enough to be of use."""

import itertools
import math

import numpy as np
import pytest
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportion_effectsize

from mlops_assets.experiments.sequential import Batch, Evidence, Limit, Outcomes
from mlops_assets.foundation.errors import InputError

# Limit's ratio and delta, effect, whether it is relative; then log e for it and, below, for its other side.
FROZEN = [
    ((1.0, 0.0, 1.0, True), 6.03891446, -1.76950173),
    ((2.0, 0.005, 0.01, False), -0.471430087, 0.710677313),
    ((1.0, 0.04, 0.03, False), 1.06150707, 0.583033867),
    ((0.95, 0.05, 0.04, False), -1.14564728, 1.22841915),
    ((0.0, 0.08, 0.02, False), 1.67015675, -1.03746639),
    ((1.5, -0.01, 0.05, False), 7.03589959, -2.90259388),
    ((1.2, 0.005, 0.01, False), -0.720162047, -0.652463132),
]


@pytest.mark.parametrize("above", [False, True])
@pytest.mark.parametrize("row", range(len(FROZEN)))
def test_stored_evidence_goes_on_as_it_began(row: int, above: bool) -> None:
    """Numbers of the first implementation, which bisected: other numbers after an update are other decisions."""
    (ratio, delta, effect, relative), *log_e = FROZEN[row]
    case = row + above * len(FROZEN)
    random = np.random.default_rng(case)
    evidence = Evidence(Limit(ratio, delta, above), effect, relative)
    evidence = evidence.placed_again() if case % 2 else evidence
    for look in range(12):
        outcomes = [Outcomes.of(random.binomial(4, rate, users) / 4) for rate, users in ((0.06, 60), (0.09, 40))]
        evidence = evidence.updated(Batch((0.05, 0.2, 0.5)[case % 3], *outcomes))
        if look % 4 == 3 and case % 2:
            evidence = evidence.placed_again()
    assert evidence.log_e == pytest.approx(log_e[above], abs=1e-7)


def test_every_sequence_of_users_is_paid_one_on_average() -> None:
    """Estimating the rates from the same users that are bet on: all 4^5 courses of five users, one look each."""
    share, rate = 0.3, 0.2
    total = 0.0
    for course in itertools.product(((0, 0), (0, 1), (1, 0), (1, 1)), repeat=5):
        evidence, probability = Evidence(Limit(), 1.0), 1.0
        for arm, outcome in course:
            probability *= (share if arm else 1 - share) * (rate if outcome else 1 - rate)
            one, nobody = Outcomes.counted(1, outcome), Outcomes()
            evidence = evidence.updated(Batch(share, nobody if arm else one, one if arm else nobody))
        total += probability * math.exp(evidence.log_e)
    assert total == pytest.approx(1.0, abs=1e-9)


def simulate(
    rates: tuple[float, float],
    limit: Limit,
    effect: float,
    *,
    share: float,
    users: int,
    looks: int,
    runs: int,
    seed: int,
) -> np.ndarray:
    """Part of `users` at which each run crossed 20 (5 %), infinity where it never did."""
    random = np.random.default_rng(seed)
    crossed = np.full(runs, np.inf)
    for run in range(runs):
        evidence = Evidence(limit, effect)
        treated = random.binomial(random.poisson(users / looks, looks), share)
        controls = random.poisson(users / looks * (1 - share), looks)
        for look in range(looks):
            control = Outcomes.counted(int(controls[look]), int(random.binomial(controls[look], rates[0])))
            treatment = Outcomes.counted(int(treated[look]), int(random.binomial(treated[look], rates[1])))
            evidence = evidence.updated(Batch(share, control, treatment))
            if evidence.rejects(0.05):
                crossed[run] = (look + 1) / looks
                break
    return crossed


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_sixty_looks_keep_the_error_rate_and_have_power(share: float) -> None:
    """Looking often finds harm where there is none; or the guarantee is paid for with weeks of waiting."""
    rate, effect = 0.1, 0.5
    each = NormalIndPower().solve_power(
        proportion_effectsize(rate * (1 + effect), rate), alpha=0.05, power=0.8, ratio=(1 - share) / share
    )
    users = int(1.35 * each / share)
    same = simulate((rate, rate), Limit(), effect, share=share, users=2 * users, looks=60, runs=200, seed=1)
    # 5 % of 200 are 10; more than 20 come of it in one of 500 such tests.
    assert np.isfinite(same).sum() <= 20
    harm = simulate((rate, rate * (1 + effect)), Limit(), effect, share=share, users=users, looks=60, runs=200, seed=2)
    assert np.isfinite(harm).mean() >= 0.75  # 0.8 and more; 200 runs know it to within 0.06
    assert np.median(harm) < 0.75


def test_a_margin_is_given_away_on_neither_side() -> None:
    """Not worse than the margin is proven of a model at the margin, or never of an equal one."""
    margin = Limit(ratio=1.5, above=True)
    equal = simulate((0.1, 0.1), margin, 0.5, share=0.5, users=6000, looks=50, runs=100, seed=3)
    assert np.isfinite(equal).mean() >= 0.9
    worse = simulate((0.1, 0.15), margin, 0.5, share=0.5, users=6000, looks=50, runs=200, seed=4)
    assert np.isfinite(worse).sum() <= 20


def test_harm_is_found_within_seconds_and_one_failure_is_none() -> None:
    """One error in twenty requests rolls back (B-21), or 40 in 400 against 5 in 7,600 wait for the next hour."""
    few = Evidence(Limit(ratio=2.0), 1.0)
    few = few.updated(Batch(0.05, Outcomes.counted(380, 1), Outcomes.counted(0, 0)))
    few = few.updated(Batch(0.05, Outcomes.counted(0, 0), Outcomes.counted(20, 1)))
    assert few.log_e < math.log(20)
    many = Evidence(Limit(ratio=2.0), 1.0)
    for _ in range(5):
        many = many.updated(Batch(0.05, Outcomes.counted(1520, 1), Outcomes.counted(80, 8)))
    assert many.rejects(1e-6)


def test_means_between_zero_and_one_are_bet_on_as_well() -> None:
    """Outcomes that are no yes or no, such as a user's share of right decisions, need a test of their own."""
    random = np.random.default_rng(5)
    evidence = Evidence(Limit(above=False), 0.2)
    for _ in range(40):
        control, treatment = random.beta(4, 6, 100), random.beta(6, 4, 100)
        evidence = evidence.updated(Batch(0.5, Outcomes.of(control), Outcomes.of(treatment)))
    assert evidence.rejects(1e-6)
    assert (evidence.control_users, evidence.treatment_users) == (4000, 4000)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Outcomes.counted(3, 4), "4 successes of 3 users"),
        (lambda: Outcomes.of([0.2, 1.2]), "an outcome is 1.2"),
        (lambda: Outcomes.of([0.2, float("nan")]), "an outcome is nan"),
        (lambda: Outcomes.of(np.array([0.2, -0.1])), "an outcome is -0.1"),
        (lambda: Limit(ratio=0.0), "a limit of ratio 0.0"),
        (lambda: Evidence(Limit(), 1.0).updated(Batch(1.0, Outcomes(), Outcomes())), "share is 1.0"),
    ],
)
def test_what_is_no_number_of_users_is_refused(make: object, message: str) -> None:
    """A typing error becomes evidence."""
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]
