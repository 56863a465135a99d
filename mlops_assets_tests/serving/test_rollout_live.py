"""A rollout on the real server, with the real registry and its mirror, under load: from its start to the new champion."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from mlops_assets.foundation.agents import AGENTS, AgentSpec
from mlops_assets.foundation.database import create_operational_engine
from mlops_assets.foundation.settings import load_settings
from mlops_assets.registry.mlflow_store import MlflowStore
from mlops_assets.rollout.state import RolloutState
from mlops_assets.serving.api_documents import example_request
from mlops_assets_tests.programs import wait_for
from mlops_assets_tests.rollout.ledgers import begin, climb, go, next_change
from mlops_assets_tests.rollout.rollouts import rollout
from mlops_assets_tests.serving.live import Answers, LiveServer, load
from mlops_assets_tests.serving.versions import register_linear_version

pytestmark = pytest.mark.slow
CHANGED = AGENTS["requirements"]
WON, LOST = AGENTS["execution"], AGENTS["generation"]
FOLLOWS_SECONDS = 1.0
# An alias is looked at by the mirror, fetched, and loaded by the server.
SWAP_SECONDS = 2.0
RATE = 100.0
CHANGES, CHANGED_RATE = 50, 200.0
TAKEN_BACK_SECONDS = 2.0


def state_of(spec: AgentSpec) -> RolloutState:
    name = f"rollout-{spec.name}-2.0.0-1"
    return rollout(name=name, model_name=spec.registered_model, agent=spec.name, candidate="2.0.0")


def asked(number: int) -> dict[str, Any]:
    """Users of both agents; every other request names none."""
    request = example_request((WON, LOST)[number % 2]) | {"test_id": f"test-{number % 500}"}
    if number % 4 < 2:
        return request | {"user_id": f"user-{number % 500}"}
    return {name: value for name, value in request.items() if name != "user_id"}


def versions(answers: Answers, spec: AgentSpec, begin: float, end: float = float("inf")) -> set[str]:
    """Versions that answered requests of an agent which came in this time."""
    return {
        document["model"]["version"]
        for came, _, _, document in answers.all
        if begin <= came < end and document["agent"] == spec.name
    }


def served(server: LiveServer, spec: AgentSpec, alias: str) -> str | None:
    found = [one for one in server.get("/models")["models"] if (one["agent"], one["alias"]) == (spec.name, alias)]
    return found[0]["version"] if found else None


def test_one_wins_and_one_is_taken_back(served_home: Path, new_server: Callable[..., LiveServer]) -> None:
    """Users of the one fall back to the old champion while it becomes champion, or users of the other keep it."""
    settings = load_settings({"MLOPS_HOME": str(served_home)})
    engine: Engine = create_operational_engine(settings.database)
    store = MlflowStore(settings.tracking_uri)
    numbers = {spec.name: register_linear_version(settings.tracking_uri, spec, "2.0.0", seed=8) for spec in (WON, LOST)}
    server = new_server(served_home)
    times: dict[str, float] = {}

    def happen() -> None:
        states = {spec.name: begin(engine, state_of(spec)) for spec in (WON, LOST)}
        for spec in (WON, LOST):
            store.set_alias(spec.registered_model, "candidate", numbers[spec.name])
            wait_for(lambda spec=spec: served(server, spec, "candidate") == "2.0.0", 3 * SWAP_SECONDS)  # type: ignore[misc]
        times["users"] = time.time()
        won, lost = climb(engine, states["execution"], "100_percent"), climb(engine, states["generation"], "50_percent")
        times["all"] = time.time() + FOLLOWS_SECONDS
        time.sleep(2.0)
        go(engine, lost, "rolled_back")
        times["taken back"] = time.time() + FOLLOWS_SECONDS
        # As the outbox does it, with pauses in which each is followed alone.
        won = go(engine, won, "promoting")
        time.sleep(0.7)
        store.set_alias(WON.registered_model, "champion", numbers["execution"])
        time.sleep(0.7)
        go(engine, won, "completed")
        time.sleep(0.7)
        store.drop_alias(WON.registered_model, "candidate")
        store.drop_alias(LOST.registered_model, "candidate")
        wait_for(lambda: served(server, WON, "candidate") is None, 3 * SWAP_SECONDS)
        time.sleep(1.0)

    answers = load(server.url, asked, rate=RATE, seconds=1, meanwhile=happen)
    engine.dispose()
    assert answers.statuses.keys() == {200}, answers.statuses
    for spec in (WON, LOST):
        assert versions(answers, spec, 0.0, times["users"]) == {"1.0.0"}
    assert versions(answers, WON, times["all"]) == {"2.0.0"}
    assert versions(answers, LOST, times["all"], times["taken back"] - FOLLOWS_SECONDS) == {"1.0.0", "2.0.0"}
    assert versions(answers, LOST, times["taken back"]) == {"1.0.0"}
    late = [document for came, _, _, document in answers.all if came >= times["all"]]
    assert {document["fallback"] for document in late} == {None}
    # In the end there is a champion, and no split.
    assert late[-1]["experiment"] is None
    assert served(server, WON, "champion") == "2.0.0"


def test_fifty_changes_drop_no_request(served_home: Path, new_server: Callable[..., LiveServer]) -> None:
    """A change of the split that loses requests, or a version that answers on for seconds after it was taken back."""
    settings = load_settings({"MLOPS_HOME": str(served_home)})
    engine: Engine = create_operational_engine(settings.database)
    store = MlflowStore(settings.tracking_uri)
    number = register_linear_version(settings.tracking_uri, CHANGED, "2.0.0", seed=8)
    server = new_server(served_home)
    taken_back: list[tuple[float, float]] = []
    sent = 0

    def happen() -> None:
        state = begin(engine, state_of(CHANGED))
        store.set_alias(CHANGED.registered_model, "candidate", number)
        wait_for(lambda: served(server, CHANGED, "candidate") == "2.0.0", 3 * SWAP_SECONDS)
        for change in range(CHANGES):
            # By requests and not by time alone: a busy machine sends fewer in a second.
            until = sent + CHANGED_RATE / 2
            wait_for(lambda until=until: sent >= until, 60.0)  # type: ignore[misc]
            before, state = state, next_change(engine, state, change)
            if state.share == 0.0 < before.share or state.status == "paused":
                decided = time.time()
                # Long enough to see whether it still answers.
                time.sleep(TAKEN_BACK_SECONDS + 0.2)
                taken_back.append((decided, time.time()))
        if state.active:
            go(engine, state, "rolled_back")
        store.drop_alias(CHANGED.registered_model, "candidate")

    def ask(number: int) -> dict[str, Any]:
        nonlocal sent
        sent = number + 1
        return example_request(CHANGED) | {"user_id": f"user-{number % 1000}"}

    answers = load(server.url, ask, rate=CHANGED_RATE, seconds=1, meanwhile=happen)
    engine.dispose()
    assert answers.statuses.keys() == {200}, answers.statuses
    by_candidate = [came for came, _, _, document in answers.all if document["model"]["version"] == "2.0.0"]
    assert len(by_candidate) > 1000
    assert len(taken_back) >= 8
    after = [came - decided for decided, until in taken_back for came in by_candidate if decided < came < until]
    assert max(after, default=0.0) < TAKEN_BACK_SECONDS
