"""Steps of a rollout: none that makes no sense, and the same state again from the steps alone."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.foundation.errors import InputError
from mlops_assets.rollout.state import STAGES, Kind, Rate, RolloutState, Step, after, fold
from mlops_assets_tests.rollout.rollouts import BEGIN, rollout

KINDS: tuple[Kind, ...] = (
    "advanced",
    "jumped",
    "paused",
    "resumed",
    "stalled",
    "promoting",
    "completed",
    "rolled_back",
    "aborted",
    "superseded",
)


def step(kind: Kind, state: RolloutState, minutes: int = 0) -> Step:
    return Step(kind, state, ("because",), {}, "somebody", BEGIN + timedelta(minutes=minutes))


@given(
    choices=st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(STAGES)), max_size=30),
    seed=st.integers(1, 60),
)
def test_whatever_is_tried_the_ledger_gives_the_state_back(choices: list[tuple[Kind, str]], seed: int) -> None:
    """A rebuilt database that stands one stage further on sends users to a model that nobody passed."""
    state = rollout()
    steps = [step("started", state)]
    for position, (kind, stage) in enumerate(choices, start=1):
        now = BEGIN + timedelta(minutes=seed * position)
        try:
            state = after(state, kind, now, to=stage)  # type: ignore[arg-type]
        except InputError:
            continue
        steps.append(Step(kind, state, (), {}, "somebody", now))
        assert state.share == 0.0 or state.status in {"running", "paused", "promoting", "completed"}
    assert fold(steps) == {state.model_name: state}
    assert RolloutState.from_document(state.document()) == state


@pytest.mark.parametrize("status", ["completed", "rolled_back", "aborted", "superseded"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_follows_the_end(status: str, kind: Kind) -> None:
    """A rollout that was taken back and then resumed would bring the harm back."""
    with pytest.raises(InputError, match="it is over: start another one"):
        after(rollout("20_percent", status=status), kind, BEGIN, to="5_percent")


def test_no_stage_is_skipped() -> None:
    """A jump forward would pass a stage without its evidence."""
    with pytest.raises(InputError, match="after it comes 5_percent, not 20_percent"):
        after(rollout(), "advanced", BEGIN, to="20_percent")
    with pytest.raises(InputError, match="it can only go back; earlier stages: shadow, 5_percent"):
        after(rollout("20_percent"), "jumped", BEGIN, to="50_percent")
    assert after(rollout("20_percent"), "jumped", BEGIN, to="5_percent").share == 0.05


def test_a_pause_does_not_count_as_time_in_the_stage() -> None:
    """Else a stage that was paused over night would be passed the moment it goes on."""
    paused = after(rollout("5_percent"), "paused", BEGIN + timedelta(hours=1))
    resumed = after(paused, "resumed", BEGIN + timedelta(hours=9))
    assert (paused.share, resumed.share) == (0.05, 0.05)
    assert resumed.since == BEGIN + timedelta(hours=8)


def test_a_paused_rollout_can_be_taken_back_but_not_advanced() -> None:
    """Harm does not pause."""
    paused = after(rollout("5_percent"), "paused", BEGIN)
    assert after(paused, "rolled_back", BEGIN).share == 0.0
    with pytest.raises(InputError, match="is paused and cannot be advanced; it can be jumped, resumed, rolled back"):
        after(paused, "advanced", BEGIN, to="20_percent")


def test_what_the_last_stage_is_held_against_is_kept() -> None:
    """Lost on the way through JSON, the last stage would have nothing to compare with."""
    baseline = Rate(0.01, 0.02)
    last = after(rollout("50_percent", slow_ms=7.5), "advanced", BEGIN, to="100_percent", baseline=baseline)
    assert (last.baseline, last.slow_ms, last.share) == (baseline, 7.5, 1.0)
    assert RolloutState.from_document(last.document()) == last


def test_a_changed_ledger_is_named() -> None:
    """A share that somebody edited is not what the steps lead to."""
    state = rollout()
    moved = after(state, "advanced", BEGIN, to="5_percent")
    with pytest.raises(InputError, match=r"step 2 of execution-agent-dqn \(advanced\) does not follow"):
        fold([step("started", state), step("advanced", replace(moved, share=0.5))])
    with pytest.raises(InputError, match=r"starts rollout-execution-1\.1\.0-1 where nothing can start"):
        fold([step("started", state), step("started", replace(state, number=2))])
    with pytest.raises(InputError, match="which was not started"):
        fold([step("advanced", moved)])


def test_a_stall_is_said_once_a_stage() -> None:
    """An alert every five minutes for days is read by nobody, and one that is never sent again hides the next stage's."""
    stalled = after(rollout("5_percent"), "stalled", BEGIN)
    assert (stalled.stalled, stalled.status, stalled.stage, stalled.share) == (True, "running", "5_percent", 0.05)
    assert stalled.since == rollout("5_percent").since
    assert not after(stalled, "advanced", BEGIN, to="20_percent").stalled
    with pytest.raises(InputError, match="is paused and cannot be stalled"):
        after(after(stalled, "paused", BEGIN), "stalled", BEGIN)
