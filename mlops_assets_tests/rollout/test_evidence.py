"""What users prove about a candidate: harm is found, the harmless is left alone, limits are passed on proof."""

import json
import math

import numpy as np
import pytest

from mlops_assets.experiments.metrics import excess
from mlops_assets.experiments.sequential import Batch, Evidence, Limit, Outcomes
from mlops_assets.experiments.units import Unit
from mlops_assets.foundation.policies import STAGE_SHARES, StageName
from mlops_assets.rollout.advance import needed
from mlops_assets.rollout.evidence import Moments, RolloutEvidence
from mlops_assets.rollout.harm import Harm
from mlops_assets.rollout.limits import kept_test, names_of
from mlops_assets.rollout.state import Rate
from mlops_assets_tests.rollout.rollouts import POLICY

GOOD = {"failed": 0.01, "slow@1.5": 0.01, "slow@1.3": 0.02, "wrong": 0.05}
# Of both versions on the same requests, in the last stage.
ASKED = {"slower": 0.035, "worse": 0.05}
KEPT_ACCURACY = 1.0 - POLICY.max_accuracy_drop
BASELINE = Rate(0.01, 0.012)


def users(
    random: np.random.Generator, count: int, stage: StageName, candidate: dict[str, float], **slices: float
) -> list[Unit]:
    """Users of one stage; `slices`: by browser, the candidate's rate of wrong decisions."""
    share, found = STAGE_SHARES[stage], []
    browsers = sorted(slices) or ["chromium"]
    for _ in range(count):
        treated = bool(random.random() < share)
        rates = candidate if treated else GOOD
        outcomes = {name: float(random.random() < rate) for name, rate in rates.items() if name not in ASKED}
        browser = browsers[random.integers(len(browsers))]
        if treated and browser in slices:
            outcomes["wrong"] = float(random.random() < slices[browser])
        outcomes[f"wrong[browser={browser}]"] = outcomes["wrong"]
        if stage == "100_percent":
            for name, kept in (("slower", 1.0), ("worse", KEPT_ACCURACY)):
                second, first = (float(random.random() < rates.get(name, ASKED[name])) for rates in (candidate, ASKED))
                outcomes[name] = excess(second, first, kept)
        found.append(Unit(0, treated, share, outcomes, share))
    return found


def after(looks: list[list[Unit]], stage: StageName, baseline: Rate | None = None) -> RolloutEvidence:
    evidence = RolloutEvidence().in_stage(stage)
    for look in looks:
        evidence = evidence.updated(look, POLICY, baseline)
    return evidence


@pytest.mark.parametrize("stage", ["20_percent", "50_percent", "100_percent"])
def test_a_good_candidate_keeps_every_limit_and_does_no_harm(stage: StageName) -> None:
    """Else nothing would ever reach its users."""
    random = np.random.default_rng(1)
    evidence = after([users(random, 400, stage, GOOD) for _ in range(40)], stage, BASELINE)
    found = evidence.findings(POLICY)
    assert found.log_e_harm < needed(POLICY.alpha_harm)
    assert tuple(one.name for one in found.criteria) == names_of(stage)
    lacking = [one.words for one in found.criteria if one.log_e_kept < needed(POLICY.alpha_pass)]
    assert not lacking
    assert found.split is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"failed": 0.04}, "harm: failed requests"),
        ({"slow@1.5": 0.15, "slow@1.3": 0.2}, "harm: requests slower than 1.5 times"),
        ({"wrong": 0.16}, "harm: wrong decisions"),
    ],
)
def test_harm_is_found_and_named(changes: dict[str, float], words: str) -> None:
    """A rollback without its reason is an argument with the people who trained the model."""
    random = np.random.default_rng(2)
    found = after([users(random, 500, "20_percent", {**GOOD, **changes}) for _ in range(40)], "20_percent").findings(
        POLICY
    )
    assert found.log_e_harm > needed(POLICY.alpha_harm)
    assert found.harm.startswith(words)


def test_harm_in_one_slice_alone_is_found_there() -> None:
    """Over all users it is within the limit: one browser of four, and the others are a little better."""
    random = np.random.default_rng(3)
    rates = {"chromium": 0.03, "edge": 0.03, "firefox": 0.03, "webkit": 0.3}
    found = after([users(random, 500, "20_percent", GOOD, **rates) for _ in range(40)], "20_percent").findings(POLICY)
    assert found.log_e_harm > needed(POLICY.alpha_harm)
    assert found.harm.startswith("harm where browser is webkit: wrong decisions")


def test_harm_that_begins_late_is_found_soon() -> None:
    """After 30,000 users without harm, bets that began with the first one have lost all that they had."""
    random = np.random.default_rng(4)
    well = [users(random, 1000, "20_percent", GOOD) for _ in range(30)]
    evidence = after(well, "20_percent")
    assert evidence.harm.log_e < needed(POLICY.alpha_harm)
    count = 0
    while evidence.harm.log_e < needed(POLICY.alpha_harm) and count < 20:
        count += 1
        evidence = evidence.updated(users(random, 500, "20_percent", {**GOOD, "failed": 0.1}), POLICY, None)
    assert count <= 8


def test_one_error_is_no_proof_and_forty_are() -> None:
    """The rule it replaces took a version back for one error in twenty requests."""
    few = [Unit(0, True, 0.05, {"failed": float(i == 0)}, 0.05) for i in range(20)]
    guard = Harm(names=("errors", "latency"), sliced=False)
    assert guard.updated(few, POLICY, None).log_e < 1.0
    found = guard
    for _ in range(40):
        control = [Unit(0, False, 0.05, {"failed": float(i < (_ < 5))}, 0.05) for i in range(190)]
        treated = [Unit(0, True, 0.05, {"failed": float(i < 1)}, 0.05) for i in range(10)]
        found = found.updated([*control, *treated], POLICY, None)
    assert found.log_e > needed(POLICY.alpha_harm)
    assert "failed requests 10.00% against the champion's 0.07%" in found.words(POLICY)


def test_a_broken_split_says_who_loses_users() -> None:
    """A candidate whose users' requests never arrive looks as good as those that do."""
    random = np.random.default_rng(5)
    half = users(random, 4000, "50_percent", GOOD)
    leaking = [unit for i, unit in enumerate(half) if not unit.treatment or i % 5]
    split = after([leaking], "50_percent").findings(POLICY).split
    assert split is not None
    assert "the candidate loses users on the way" in split


def test_a_new_stage_has_to_be_proven_anew_and_harm_stays() -> None:
    """Limits get stricter, and what was kept at 5 % of the users proves nothing of the next."""
    random = np.random.default_rng(6)
    evidence = after([users(random, 2000, "5_percent", GOOD)], "5_percent")
    moved = evidence.in_stage("20_percent")
    assert (moved.kept, moved.users, moved.harm) == ({}, (0, 0), evidence.harm)
    # Users whose outcomes come in late belong to the stage they were in.
    late = moved.updated(users(random, 500, "5_percent", GOOD), POLICY, None)
    assert late.users == (0, 0)
    assert late.harm.counted == evidence.harm.counted + 500
    assert late.in_stage("20_percent") is late


def test_the_last_stage_is_held_against_what_the_champion_was() -> None:
    """There is nobody left to compare with; without the champion's rates, everything would pass."""
    random = np.random.default_rng(7)
    worse = {**GOOD, "failed": 0.06}
    found = after([users(random, 1000, "100_percent", worse) for _ in range(4)], "100_percent", BASELINE).findings(
        POLICY
    )
    assert found.log_e_harm > needed(POLICY.alpha_harm)
    assert found.control_users == 0
    earlier = after([users(random, 3000, "50_percent", GOOD)], "50_percent").findings(POLICY).baseline
    assert earlier is not None
    assert earlier.mean == pytest.approx(0.01, abs=0.005)
    assert earlier.upper > earlier.mean


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"slower": 0.2},
            "harm: evaluations slower than 1.1 times the former champion's 95th percentile on the same requests",
        ),
        ({"worse": 0.18}, "harm: wrong decisions on the same requests"),
    ],
)
def test_in_the_last_stage_harm_is_found_beside_the_former_champion(changes: dict[str, float], words: str) -> None:
    """A version that is slower than its champion was, or wrong more often, stays because no user has the champion."""
    random = np.random.default_rng(11)
    found = after([users(random, 500, "100_percent", {**GOOD, **changes}) for _ in range(4)], "100_percent", BASELINE)
    assert found.harm.log_e > needed(POLICY.alpha_harm)
    said = found.findings(POLICY)
    assert said.harm.startswith(words)
    assert f"(allowed: {4 if 'slower' in changes else 5} points)" in said.harm


def test_harm_is_told_by_the_limit_that_it_was_measured_by() -> None:
    """After a jump back people read of 1.3 times what was held against 1.1."""
    random = np.random.default_rng(13)
    slow = users(random, 2000, "100_percent", {**GOOD, "slower": 0.2})
    last = after([slow[:1000], slow[1000:]], "100_percent", BASELINE)
    back = last.in_stage("50_percent").updated(users(random, 500, "50_percent", GOOD), POLICY, BASELINE)
    assert "slower than 1.1 times" in last.findings(POLICY).harm
    assert "slower than 1.1 times" in back.findings(POLICY).harm


def test_a_last_stage_without_a_floor_can_be_passed() -> None:
    """With every accuracy allowed, nothing is bet on the wrong decisions of a pair, and the rollout is held for ever."""
    limits = POLICY.stages["100_percent"].model_copy(update={"min_accuracy": 0.0})
    found = kept_test("worse", limits, POLICY, BASELINE)
    assert found.effect is not None
    assert found.effect > 0.0


def test_a_slower_machine_and_harder_users_are_no_harm_of_the_last_stage() -> None:
    """A good version is taken back, and banned, for a day on which everything is slower and every test harder."""
    random = np.random.default_rng(12)
    evidence = RolloutEvidence().in_stage("100_percent")
    for _ in range(40):
        units = users(random, 400, "100_percent", GOOD)
        for unit in units:
            unit.outcomes["slow@1.3"] = 1.0  # type: ignore[index]
        evidence = evidence.updated(units, POLICY, BASELINE)
    found = evidence.findings(POLICY)
    assert found.log_e_harm < needed(POLICY.alpha_harm)
    assert all(one.log_e_kept >= needed(POLICY.alpha_pass) for one in found.criteria)


def test_evidence_goes_on_from_where_it_was_stored() -> None:
    """A restart between two looks must neither lose nor gain evidence."""
    random = np.random.default_rng(8)
    looks = [users(random, 300, "20_percent", GOOD, chromium=0.05, webkit=0.05) for _ in range(4)]
    stored = RolloutEvidence.from_document(json.loads(json.dumps(after(looks[:2], "20_percent").document())))
    for look in looks[2:]:
        stored = stored.updated(look, POLICY, None)
    assert stored == after(looks, "20_percent")


def test_a_bound_of_a_rate_covers_it() -> None:
    """Too low a bound of the champion's rate takes a good candidate back in the last stage."""
    random = np.random.default_rng(9)
    for rate in (0.002, 0.05, 0.4):
        samples = random.random((500, 2000)) < rate
        bounds = [Moments().plus(sample.astype(float).tolist()).rate() for sample in samples]
        assert np.mean([bound.upper < rate for bound in bounds]) <= 0.05
        assert np.median([bound.upper for bound in bounds]) < 2.5 * rate + 0.005
    assert Moments().rate() == Rate(1.0, 1.0)


@pytest.mark.parametrize("above", [False, True])
def test_a_fixed_limit_needs_no_control_and_keeps_its_error_rate(above: bool) -> None:
    """In the last stage, with placed stakes and a look every 50 users."""
    random = np.random.default_rng(10)
    alarms = 0
    for _ in range(200):
        evidence = Evidence(Limit(0.0, 0.05, above), 0.02, relative=False).placed_again()
        for look in range(60):
            failed = int(random.binomial(50, 0.05))
            evidence = evidence.updated(Batch(1.0, Outcomes(), Outcomes.counted(50, failed)))
            if look % 10 == 9:
                evidence = evidence.placed_again()
            if evidence.rejects(0.05):
                alarms += 1
                break
    # 5 % of 200, and three standard deviations.
    assert alarms <= 10 + 3 * math.sqrt(200 * 0.05 * 0.95)


def test_stakes_that_are_placed_again_are_never_more_than_one() -> None:
    """Evidence that grows by placing alone is none."""
    evidence = Evidence(Limit(), 1.0)
    for _ in range(500):
        evidence = evidence.placed_again()
        assert evidence.log_e == pytest.approx(0.0, abs=1e-9)
    assert 0.0 < evidence.held_back < 0.002
