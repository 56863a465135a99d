"""What was taken back does not come again for a while, under whatever number."""

from dataclasses import replace
from datetime import timedelta

from sqlalchemy import Engine

from mlops_assets.rollout.ban import ban_of, banned
from mlops_assets.rollout.ledger import NewStep, append
from mlops_assets.rollout.state import Kind, RolloutState, Step, after
from mlops_assets_tests.rollout.rollouts import BEGIN, rollout

TRAINING = "a" * 64
HOURS = 168.0
TAKEN_BACK = (
    "1.1.0, trained the same way on the same data, was taken back by rollout-execution-1.1.0-1; it is banned until "
    "2026-01-12 08:00 UTC, so train on newer data or wait"
)


def step(kind: Kind, state: RolloutState, hours: float = 0.0) -> Step:
    return Step(kind, state, (), {}, "rollout", BEGIN + timedelta(hours=hours))


def test_a_training_that_was_taken_back_is_banned_for_its_time() -> None:
    """Automation starts it again an hour later; banned for ever, an outage that looked like harm costs a good model."""
    done = [step("started", rollout()), step("rolled_back", after(rollout(), "rolled_back", BEGIN))]
    assert ban_of(done, TRAINING, BEGIN, HOURS) == TAKEN_BACK
    until = BEGIN + timedelta(hours=HOURS)
    assert ban_of(done, TRAINING, until - timedelta(seconds=1), HOURS) == TAKEN_BACK
    assert ban_of(done, TRAINING, until, HOURS) is None
    assert ban_of(done, TRAINING, BEGIN, 0.0) is None


def test_nobody_else_is_banned() -> None:
    """An abort blames nobody, and another training has done no harm."""
    done = [step("started", rollout()), step("aborted", after(rollout(), "aborted", BEGIN))]
    assert ban_of(done, TRAINING, BEGIN, HOURS) is None
    done.append(step("rolled_back", after(rollout(), "rolled_back", BEGIN)))
    assert ban_of(done, "b" * 64, BEGIN, HOURS) is None
    assert ban_of([], TRAINING, BEGIN, HOURS) is None


def test_the_newest_rollback_counts() -> None:
    """The first one's time is over while the second one's has only begun."""
    first = step("rolled_back", after(rollout(), "rolled_back", BEGIN))
    again = replace(rollout(), name="rollout-execution-1.2.0-3", candidate="1.2.0", number=3)
    second = step("rolled_back", after(again, "rolled_back", BEGIN), hours=200.0)
    reason = ban_of([first, second], TRAINING, BEGIN + timedelta(hours=201), HOURS)
    assert reason is not None
    assert reason.startswith(
        "1.2.0, trained the same way on the same data, was taken back by rollout-execution-1.2.0-3;"
    )


def test_it_is_read_from_the_ledger(sqlite_engine: Engine) -> None:
    """Of this model: another agent's ledger says nothing of it."""
    state = rollout()
    for kind, changed in (("started", state), ("rolled_back", after(state, "rolled_back", BEGIN))):
        append(sqlite_engine, NewStep(kind, changed, (), "somebody", {}, expected=changed.number - 1), BEGIN)
    assert banned(sqlite_engine, TRAINING, state.model_name, BEGIN, HOURS) == TAKEN_BACK
    assert banned(sqlite_engine, TRAINING, "requirements-agent-dqn", BEGIN, HOURS) is None
