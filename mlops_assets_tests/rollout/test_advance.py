"""The decision of a rollout: a table of situations, each with what has to follow."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mlops_assets.rollout.advance import (
    Action,
    Criterion,
    Observation,
    ShadowFindings,
    StageFindings,
    advance,
    guard_decision,
    needed,
)
from mlops_assets.rollout.state import STAGES, Rate
from mlops_assets_tests.rollout.rollouts import BEGIN, POLICY, rollout

LATER = BEGIN + timedelta(hours=30)
PROVEN = needed(POLICY.alpha_pass) + 0.01
HARM = needed(POLICY.alpha_harm) + 0.01
KEPT = (Criterion("errors", "errors kept", PROVEN), Criterion("floor", "floor kept", PROVEN))
BASELINE = Rate(0.01, 0.02)
GOOD_STAGE = StageFindings(5000, 5000, 0.0, "harm", KEPT, None, BASELINE)
GOOD_SHADOW = ShadowFindings(
    requests=2000,
    answered=2000,
    agreement=0.9,
    request_ms=5.0,
    champion_ms=0.5,
    candidate_ms=0.5,
    labelled=500,
    champion_accuracy=0.9,
    candidate_accuracy=0.92,
    accuracy_gain_lower=0.001,
    accuracy_gain_upper=0.04,
    value_gain_lower=0.0,
    value_gain_upper=0.01,
)
NOTHING_ANSWERED = ShadowFindings(requests=2000, request_ms=5.0)
SUPERSEDING = POLICY.model_copy(update={"when_newer": "supersede"})


def seen(stage: StageFindings = GOOD_STAGE, shadow: ShadowFindings = GOOD_SHADOW, **changes: Any) -> Observation:
    return replace(Observation(champion="1.0.0", shadow=shadow, stage=stage), **changes)


def stage(**changes: Any) -> StageFindings:
    return replace(GOOD_STAGE, **changes)


def shadow(**changes: Any) -> ShadowFindings:
    return replace(GOOD_SHADOW, **changes)


@pytest.mark.parametrize(
    ("where", "changes", "what", "now", "action", "words"),
    [
        ("shadow", {}, seen(), LATER, "advance", "it agrees in 90.0%"),
        ("shadow", {}, seen(), BEGIN + timedelta(hours=1), "hold", "shadow goes on for 1.0 h more"),
        ("shadow", {}, seen(shadow=shadow(requests=999)), LATER, "hold", "999 requests in the shadow"),
        ("shadow", {}, seen(shadow=ShadowFindings()), LATER, "hold", "0 requests"),
        ("shadow", {}, seen(shadow=shadow(labelled=199)), LATER, "hold", "of 199 requests the best action"),
        ("shadow", {}, seen(shadow=shadow(accuracy_gain_lower=None)), LATER, "hold", "too few"),
        ("shadow", {}, seen(shadow=shadow(answered=1900)), LATER, "abort", "it answered 95.0%"),
        ("shadow", {}, seen(shadow=shadow(agreement=0.4)), LATER, "abort", "it agrees in 40.0%"),
        ("shadow", {}, seen(shadow=shadow(candidate_ms=0.8)), LATER, "abort", "1.60 times"),
        (
            "shadow",
            {},
            seen(shadow=shadow(champion_ms=None, candidate_ms=None)),
            LATER,
            "hold",
            "nobody knows how slow",
        ),
        ("shadow", {}, seen(shadow=NOTHING_ANSWERED), LATER, "abort", "it answered 0.0%"),
        (
            "shadow",
            {},
            seen(shadow=shadow(accuracy_gain_lower=-0.06)),
            LATER,
            "hold",
            "not proven yet: its accuracy is 92.0%, the champion's 90.0%, the gain at least -6.0% (at least -4.5%)",
        ),
        (
            "shadow",
            {},
            seen(shadow=shadow(accuracy_gain_lower=-0.09, accuracy_gain_upper=-0.05)),
            LATER,
            "abort",
            "the gain at most -5.0% (at least -4.5%)",
        ),
        ("shadow", {}, seen(shadow=shadow(value_gain_lower=-0.03)), LATER, "hold", "of the range, is at least -3.0%"),
        (
            "shadow",
            {},
            seen(shadow=shadow(value_gain_lower=-0.04, value_gain_upper=-0.03)),
            LATER,
            "abort",
            "its gain of reward, of the range, is at most -3.0% (at least -2.0%)",
        ),
        (
            "shadow",
            {},
            seen(shadow=shadow(value_gain_lower=None, value_gain_upper=None)),
            LATER,
            "advance",
            "its reward was not observed",
        ),
        ("shadow", {}, seen(shadow=shadow(illegal=1)), BEGIN, "rollback", "1 of 2000 answers"),
        ("5_percent", {}, seen(), LATER, "advance", "errors kept"),
        ("20_percent", {}, seen(), LATER, "advance", "floor kept"),
        ("50_percent", {}, seen(), LATER, "advance", "errors kept"),
        ("100_percent", {}, seen(), LATER, "promote", "errors kept"),
        ("100_percent", {}, seen(stage=stage(control_users=0)), LATER, "promote", "errors kept"),
        ("5_percent", {}, seen(), BEGIN + timedelta(hours=5), "hold", "5_percent goes on for 1.0 h more"),
        ("5_percent", {}, seen(stage=StageFindings()), LATER, "hold", "0 users of the champion"),
        ("5_percent", {}, seen(stage=stage(treatment_users=199)), LATER, "hold", "199 of the candidate"),
        ("5_percent", {}, seen(stage=stage(control_users=199)), LATER, "hold", "199 users of the champion"),
        ("5_percent", {}, seen(stage=stage(criteria=())), LATER, "hold", ""),
        (
            "5_percent",
            {},
            seen(stage=stage(criteria=(KEPT[0], Criterion("floor", "floor", 2.9)))),
            LATER,
            "hold",
            "not proven yet: floor",
        ),
        ("5_percent", {}, seen(stage=stage(log_e_harm=HARM)), BEGIN, "rollback", "harm"),
        ("5_percent", {}, seen(stage=stage(log_e_harm=3.8)), LATER, "advance", "errors kept"),
        ("5_percent", {"status": "paused"}, seen(), LATER, "hold", "it is paused"),
        ("5_percent", {"status": "paused"}, seen(stage=stage(log_e_harm=HARM)), LATER, "rollback", "harm"),
        ("100_percent", {"status": "promoting"}, seen(champion="1.1.0"), LATER, "hold", "promotion is under way"),
        ("100_percent", {"status": "promoting"}, seen(stage=stage(log_e_harm=HARM)), LATER, "rollback", "harm"),
        ("5_percent", {}, seen(champion="1.0.1"), LATER, "abort", "1.0.1 is champion where 1.0.0 was"),
        ("5_percent", {}, seen(champion=None), LATER, "abort", "there is no champion"),
        ("5_percent", {}, seen(withdrawn="its approval is void"), LATER, "abort", "its approval is void"),
        ("5_percent", {}, seen(stage=stage(split="split is broken")), LATER, "abort", "split is broken"),
        ("5_percent", {}, seen(newer="1.2.0"), LATER, "advance", "errors kept"),
        ("5_percent", {}, seen(platform="the A/A test alarms"), LATER, "hold", "the A/A test alarms"),
        ("5_percent", {}, seen(platform="frozen", stage=stage(log_e_harm=HARM)), LATER, "rollback", "harm"),
    ],
)
def test_every_situation_has_its_decision(
    where: str, changes: dict[str, Any], what: Observation, now: datetime, action: Action, words: str
) -> None:
    """Want of data that passes, or takes back; harm that waits for a window; a stage passed without proof."""
    found = advance(rollout(where, **changes), what, now, POLICY)  # type: ignore[arg-type]
    assert found.action == action
    assert words in "; ".join(found.reasons)


def test_a_newer_candidate_takes_over_where_the_policy_says_so() -> None:
    """By default it waits; both have to be what people chose."""
    assert advance(rollout("5_percent"), seen(newer="1.2.0"), LATER, SUPERSEDING).action == "supersede"


def test_friday_holds_a_passed_stage_and_no_rollback() -> None:
    """A rollback that waits for Monday leaves users with the harm over the weekend."""
    friday = datetime(2026, 1, 9, 12, tzinfo=UTC)
    held = advance(rollout("5_percent"), seen(), friday, POLICY)
    assert (held.action, held.reasons[0], held.stalled) == ("hold", "5_percent is passed", False)
    assert advance(rollout("5_percent"), seen(stage=stage(log_e_harm=HARM)), friday, POLICY).action == "rollback"


def test_a_platform_that_is_not_mended_is_called_stalled() -> None:
    """An alarm holds a rollout for a year, and nobody is told."""
    seen_ = seen(platform="the A/A test alarms")
    over = BEGIN + timedelta(hours=POLICY.stages["5_percent"].hours + POLICY.stall_hours)
    assert not advance(rollout("5_percent"), seen_, over, POLICY).stalled
    found = advance(rollout("5_percent"), seen_, over + timedelta(minutes=1), POLICY)
    assert (found.action, found.reasons, found.stalled) == ("hold", ("the A/A test alarms",), True)


def test_an_undecided_stage_is_called_stalled_and_stays() -> None:
    """Commercial ones ship what is inconclusive; nobody hears of a hold that lasts for ever."""
    undecided = seen(stage=stage(criteria=(Criterion("floor", "floor", 0.0),)))
    over = BEGIN + timedelta(hours=POLICY.stages["5_percent"].hours)
    late = timedelta(hours=POLICY.stall_hours)
    assert not advance(rollout("5_percent"), undecided, over + late, POLICY).stalled
    found = advance(rollout("5_percent"), undecided, over + late + timedelta(seconds=1), POLICY)
    assert (found.action, found.stalled) == ("hold", True)


def test_what_the_next_stages_compare_with_goes_along() -> None:
    """The champion's latency is known from the shadow, its rates from before the last of its users left."""
    first = advance(rollout(), seen(), LATER, POLICY)
    assert (first.to, first.slow_ms, first.baseline) == ("5_percent", 5.0, None)
    last = advance(rollout("50_percent"), seen(), LATER, POLICY)
    assert (last.to, last.slow_ms, last.baseline) == ("100_percent", None, BASELINE)
    assert [advance(rollout(one), seen(), LATER, POLICY).to for one in STAGES] == [*STAGES[1:], None]


def test_the_guard_decides_on_proof_alone() -> None:
    """It has no other reason to act, and none not to."""
    assert guard_decision(HARM - 0.1, "harm", POLICY) is None
    found = guard_decision(HARM, "harm", POLICY)
    assert found is not None
    assert (found.action, found.reasons[0]) == ("rollback", "harm")
