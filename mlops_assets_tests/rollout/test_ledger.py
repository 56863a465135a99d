"""The ledger of rollouts: each step once, whoever tries, and nothing else to know the state from."""

import os
from multiprocessing.synchronize import Barrier
from typing import NoReturn

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from mlops_assets.foundation.audit import verify_chain
from mlops_assets.foundation.database import create_operational_engine, read_transaction, transaction
from mlops_assets.foundation.errors import InputError, NotReadyError
from mlops_assets.foundation.tables import AuditEvent, RolloutEffect, RolloutEvent
from mlops_assets.rollout.ledger import (
    NewStep,
    StaleRolloutError,
    active_rollout,
    append,
    current,
    newest_states,
    rollout_named,
    steps,
    verify,
)
from mlops_assets.rollout.state import STAGES, Kind, RolloutState, after
from mlops_assets_tests.foundation.processes import run_together
from mlops_assets_tests.rollout.rollouts import BEGIN, rollout


def write(engine: Engine, kind: Kind, state: RolloutState, *, key: str | None = None) -> RolloutState:
    step = NewStep(kind, state, ("because",), "somebody", {"users": 7}, expected=state.number - 1, key=key)
    return append(engine, step, BEGIN)


def advanced(state: RolloutState) -> RolloutState:
    return after(state, "advanced", BEGIN, to=state.next_stage)


def test_a_rollout_is_what_its_newest_step_says(engine: Engine) -> None:
    """Servers that read something else would give users to a version that was taken back."""
    assert current(engine, "execution-agent-dqn") is None
    state = write(engine, "started", rollout())
    state = write(engine, "advanced", advanced(state))
    assert current(engine, state.model_name) == state
    assert active_rollout(engine, state.model_name) == state
    assert (newest_states(engine), verify(engine)) == ([state], [state])
    over = write(engine, "rolled_back", after(state, "rolled_back", BEGIN))
    assert (over.share, over.active) == (0.0, False)
    with pytest.raises(
        NotReadyError, match=r"the last one, rollout-execution-1\.1\.0-1, is rolled back; start one first"
    ):
        active_rollout(engine, state.model_name)
    assert [step.kind for step in rollout_named(engine, state.name)] == ["started", "advanced", "rolled_back"]
    with pytest.raises(InputError, match=r"the newest of each model: rollout-execution-1\.1\.0-1"):
        rollout_named(engine, "another")


def test_a_step_comes_with_its_audit_event_and_its_outbox(engine: Engine) -> None:
    """Written apart, a crash between them leaves a rollout that nobody can explain, or an alias that stays behind."""
    state = write(engine, "started", rollout())
    write(engine, "rolled_back", after(state, "rolled_back", BEGIN))
    with read_transaction(engine) as session:
        events = session.scalars(select(AuditEvent).order_by(AuditEvent.sequence)).all()
        assert [event.event_type for event in events] == ["rollout_started", "rollout_rolled_back"]
        assert events[1].details["reasons"] == ["because"]
        assert verify_chain(session).intact
        effects = session.scalars(select(RolloutEffect).order_by(RolloutEffect.id)).all()
    assert [one.kind for one in effects] == ["point_candidate", "alert", "withdraw", "archive", "alert"]
    assert all(one.done_at is None for one in effects)


def test_a_second_try_changes_nothing(engine: Engine) -> None:
    """A run that is retried after its step was committed must not take another one."""
    state = write(engine, "started", rollout(), key="run 1")
    assert write(engine, "started", rollout(salt="other"), key="run 1") == state
    assert len(steps(engine)) == 1


def test_who_saw_an_older_state_writes_nothing(engine: Engine) -> None:
    """A daemon that slept through a rollback would bring the version back at its next stage."""
    state = write(engine, "started", rollout())
    write(engine, "rolled_back", after(state, "rolled_back", BEGIN))
    with pytest.raises(StaleRolloutError, match="2 where 1 was expected"):
        write(engine, "advanced", advanced(state), key="late")
    assert [step.kind for step in steps(engine, model_name=state.model_name)] == ["started", "rolled_back"]


def test_what_may_not_be_written_leaves_nothing(engine: Engine) -> None:
    """A refusal within the transaction takes audit event and outbox along."""

    def refuse(_session: Session) -> NoReturn:
        raise NotReadyError("not now")

    step = NewStep("started", rollout(), (), "somebody", {}, expected=0)
    with pytest.raises(NotReadyError, match="not now"):
        append(engine, step, BEGIN, unless=refuse)
    with read_transaction(engine) as session:
        assert session.scalars(select(RolloutEvent)).all() == []
        assert session.scalars(select(AuditEvent)).all() == []


@pytest.mark.parametrize("statement", ["UPDATE rollout_event SET agent = 'x'", "DELETE FROM rollout_event"])
def test_the_database_refuses_changes(engine: Engine, statement: str) -> None:
    """A stage that was edited in is one that nobody passed."""
    write(engine, "started", rollout())
    with pytest.raises(DBAPIError, match="append-only"), transaction(engine) as session:
        session.execute(text(statement))


def climb(url: str, barrier: Barrier) -> None:
    """Try every stage again and again, as a daemon does."""
    engine = create_operational_engine(url)
    barrier.wait()
    for attempt in range(200):
        state = current(engine, "execution-agent-dqn")
        assert state is not None
        if state.next_stage is None:
            break
        try:
            write(engine, "advanced", advanced(state), key=f"{os.getpid()}:{attempt}")
        except StaleRolloutError:
            continue
    engine.dispose()


def test_two_daemons_pass_every_stage_once(engine: Engine) -> None:
    """Both decide the same at the same moment: a stage that is passed twice is one that was skipped."""
    write(engine, "started", rollout())
    url = engine.url.render_as_string(hide_password=False)
    assert run_together(climb, [(url,)] * 2) == [0, 0]
    found = steps(engine)
    assert [step.state.stage for step in found] == list(STAGES)
    assert [step.state.number for step in found] == [1, 2, 3, 4, 5]
    assert verify(engine) == [found[-1].state]
