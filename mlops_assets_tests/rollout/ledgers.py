"""Steps written into a real ledger, for tests of what follows it."""

from dataclasses import replace
from datetime import datetime

from sqlalchemy import Engine

from mlops_assets.foundation.policies import StageName
from mlops_assets.rollout.ledger import NewStep, append
from mlops_assets.rollout.state import Kind, RolloutState, after
from mlops_assets_tests.rollout.rollouts import BEGIN, POLICY


def begin(engine: Engine, state: RolloutState, now: datetime = BEGIN) -> RolloutState:
    """Start a rollout."""
    evidence = {"policy": POLICY.model_dump(mode="json")}
    return append(engine, NewStep("started", state, ("because",), "ann", evidence, expected=state.number - 1), now)


def go(
    engine: Engine, state: RolloutState, *kinds: Kind, to: StageName | None = None, now: datetime = BEGIN
) -> RolloutState:
    """Take steps, one after the other; return the state after the last."""
    for kind in kinds:
        stage = state.next_stage if kind == "advanced" else to
        step = NewStep(kind, after(state, kind, now, to=stage), ("because",), "ann", {}, expected=state.number)
        state = append(engine, step, now)
    return state


def climb(engine: Engine, state: RolloutState, stage: StageName) -> RolloutState:
    """Pass stages up to this one."""
    while state.stage != stage:
        state = go(engine, state, "advanced")
    return state


def next_change(engine: Engine, state: RolloutState, number: int) -> RolloutState:
    """Up to 100 %, back from there by hand or for harm, and up again with the next rollout."""
    if not state.active:
        name = f"rollout-{state.agent}-{state.candidate}-{state.number + 1}"
        fresh = replace(
            state,
            name=name,
            salt=f"salt-{number}",
            number=state.number + 1,
            status="running",
            stage="shadow",
            share=0.0,
        )
        return begin(engine, fresh)
    if state.status == "paused":
        return go(engine, state, "resumed")
    if number % 7 == 3:
        return go(engine, state, "paused")
    if state.stage == "100_percent" or number % 11 == 10:
        return go(engine, state, "rolled_back")
    return go(engine, state, "advanced")
