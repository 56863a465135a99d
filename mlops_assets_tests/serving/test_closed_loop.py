"""Served decisions and their outcomes become the next model."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops_assets.experiences.snapshots import open_snapshot
from mlops_assets.foundation.agents import AGENTS
from mlops_assets_tests.lifecycle.conftest import FirstLifecycle
from mlops_assets_tests.lifecycle.worlds import World
from mlops_assets_tests.serving.live import LiveServer

pytestmark = pytest.mark.slow
SPEC = AGENTS["execution"]
EPISODES, STEPS, EPSILON = 120, 8, 0.3


def _world(first: FirstLifecycle, root: Path) -> World:
    """A copy of a home in which the lifecycle ran, and of its Dagster instance."""
    shutil.copytree(first.pristine, root / "home")
    shutil.copytree(first.world.root / "dagster", root / "dagster")
    return World(root, {**first.world.variables, "MLOPS_HOME": str(root / "home")})


def _requests(random: np.random.Generator, number: int, known: dict[str, list[str]]) -> list[dict[str, Any]]:
    rows = random.integers(0, len(known["test_id"]), STEPS)
    return [
        {
            "agent": "execution",
            "agent_id": known["agent_id"][rows[0]],
            "test_id": known["test_id"][row],
            "episode_id": f"cycle-{number}",
            "step": step,
            "browser": "chromium",
            "context": {f.name: float(random.uniform(f.low, f.high)) for f in SPEC.context},
        }
        for step, row in enumerate(rows)
    ]


def test_a_model_is_trained_on_what_was_served(
    first_lifecycle: FirstLifecycle, tmp_path: Path, new_server: Callable[..., LiveServer]
) -> None:
    """The loop is open: what the product learns from its users never reaches the agent."""
    world = _world(first_lifecycle, tmp_path / "world")
    with world.database() as engine:
        data_hash = world.record("training_experiences", "execution")["data_hash"]
        before = open_snapshot("execution", data_hash, paths=world.settings.paths, engine=engine)
        known = before.experiences(columns=("test_id", "agent_id")).to_pydict()
    server = new_server(world.settings.home, MLOPS_EXPLORATION_EPSILON=str(EPSILON))
    random = np.random.default_rng(3)
    served: dict[str, tuple[int, float]] = {}
    for number in range(EPISODES):
        requests = _requests(random, number, known)
        answer = server.post("/predict/batch", {"requests": requests})
        assert answer.status_code == 200, answer.text
        outcomes = []
        for step, one in enumerate(answer.json()["predictions"]):
            served[one["prediction_id"]] = (one["action"], one["propensity"])
            # What pays is to run early what failed last: known to the outcome, not to the server.
            values = [0.0, 1.0, 2.0, 8.0 * requests[step]["context"]["last_failed"]]
            label = {"best_action": int(np.argmax(values)), "action_values": values}
            reward = values[one["action"]]
            done = step == STEPS - 1
            outcomes.append({"prediction_id": one["prediction_id"], "reward": reward, "done": done, **label})
        # The last cycle is still running: its last outcome is not known yet.
        told = outcomes if number < EPISODES - 1 else outcomes[:-1]
        assert server.post("/outcomes", {"outcomes": told}).json()["accepted"] == len(told)
    server.end()
    actions = {action for action, _ in served.values()}
    assert actions == set(range(len(SPEC.actions)))
    greedy, other = 1 - EPSILON + EPSILON / 4, EPSILON / 4
    assert {round(p, 6) for _, p in served.values()} == {round(greedy, 6), round(other, 6)}

    run = world.run("retrain", "execution", settings={"MLOPS_EXPERIENCE_SOURCE": "prediction_log"})
    assert run.success, run.failures
    record = world.record("training_experiences", "execution", run.run_id)
    assert (record["source"], record["rows"]) == ("prediction-log", (EPISODES - 1) * STEPS)
    with world.database() as engine:
        snapshot = open_snapshot("execution", record["data_hash"], paths=world.settings.paths, engine=engine)
        logged = snapshot.experiences(columns=("experience_id", "action", "propensity", "browser")).to_pylist()
    assert {one["experience_id"] for one in logged} <= served.keys()
    for one in logged:
        action, propensity = served[one["experience_id"]]
        assert (one["action"], one["browser"]) == (action, "chromium")
        assert one["propensity"] == pytest.approx(propensity)
    version = world.record("registered_model", "execution", run.run_id)
    assert version["created"]
    with world.registry() as registry:
        assert registry.version(SPEC.registered_model, version["semver"]).data_hash == record["data_hash"]
