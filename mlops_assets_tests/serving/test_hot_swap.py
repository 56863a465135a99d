"""An alias moves under load: nobody notices, and within two seconds everybody gets the new version."""

import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.settings import load_settings
from mlops_assets.registry.mlflow_store import MlflowStore
from mlops_assets.serving.api_documents import example_request
from mlops_assets_tests.serving.live import LiveServer, load
from mlops_assets_tests.serving.versions import register_linear_version

pytestmark = pytest.mark.slow
SPEC = AGENTS["execution"]
NAME = SPEC.registered_model
# The swap's bound, and as much again for a machine that does something else.
BOUND_SECONDS = 2.0
RATE = 200.0


def test_a_hundred_switches_under_load(served_home: Path, new_server: Callable[..., LiveServer]) -> None:
    """A promotion drops requests, a rollback is not served, or a version answers that nobody pointed to."""
    settings = load_settings({"MLOPS_HOME": str(served_home)})
    store = MlflowStore(settings.tracking_uri)
    second = register_linear_version(settings.tracking_uri, SPEC, "2.0.0", seed=5)
    server = new_server(served_home)
    semver = {"1": "1.0.0", second: "2.0.0"}
    history: list[tuple[float, str]] = [(0.0, "1.0.0")]
    # Some of the pauses are longer than the bound, so that there are moments with only one right answer.
    pauses = [2.6] * 8 + [0.15] * 92
    random.Random(0).shuffle(pauses)

    def switch() -> None:
        time.sleep(1.0)
        for i, pause in enumerate(pauses):
            number = second if i % 2 == 0 else "1"
            store.set_alias(NAME, "champion", number)
            history.append((time.time(), semver[number]))
            time.sleep(pause)

    answers = load(server.url, lambda _: example_request(SPEC), rate=RATE, seconds=1, meanwhile=switch)
    assert answers.statuses.keys() == {200}, answers.statuses
    assert len(answers.all) > RATE * sum(pauses) * 0.95
    strict = 0
    for asked, answered, _, document in answers.all:
        served = document["model"]["version"]
        right = {
            version
            for (since, version), until in zip(history, [*(t for t, _ in history[1:]), float("inf")], strict=True)
            if since <= answered and until >= asked - BOUND_SECONDS
        }
        assert served in right
        strict += len(right) == 1
    assert strict > 200
    assert len(history) == 101
    assert {document["model"]["version"] for *_, document in answers.all} == {"1.0.0", "2.0.0"}
    # The last switch has its two seconds too.
    deadline = history[-1][0] + BOUND_SECONDS
    while _served(server) != history[-1][1]:
        assert time.time() < deadline
        time.sleep(0.05)


def _served(server: LiveServer) -> str:
    (found,) = (one["version"] for one in server.get("/models")["models"] if one["agent"] == "execution")
    return str(found)


def test_a_challenger_is_asked_in_the_shadow(served_home: Path, new_server: Callable[..., LiveServer]) -> None:
    """The candidate's answers are missing when its rollout is decided, or a user gets one of them."""
    settings = load_settings({"MLOPS_HOME": str(served_home)})
    store = MlflowStore(settings.tracking_uri)
    second = register_linear_version(settings.tracking_uri, SPEC, "2.0.0", seed=6)
    store.set_alias(NAME, "challenger", second)
    server = new_server(served_home)
    ids = [server.post("/predict", example_request(SPEC)).json()["prediction_id"] for _ in range(20)]
    deadline = time.monotonic() + 10
    while not server.get(f"/predictions/{ids[-1]}")["shadows"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for one in ids:
        found = server.get(f"/predictions/{one}")
        assert (found["model"]["version"], found["variant"]) == ("1.0.0", "control")
        (shadow,) = found["shadows"]
        assert shadow["model_version"] == "2.0.0"
        assert shadow["action_name"] == max(shadow["q_values"], key=shadow["q_values"].get)


def test_a_version_that_cannot_be_served_leaves_the_old_one(
    served_home: Path, new_server: Callable[..., LiveServer]
) -> None:
    """A broken promotion takes the agent down."""
    settings = load_settings({"MLOPS_HOME": str(served_home)})
    store = MlflowStore(settings.tracking_uri)
    server = new_server(served_home)
    turned = replace(SPEC, context=SPEC.context[::-1])
    broken = register_linear_version(settings.tracking_uri, SPEC, "2.0.0", seed=7, exported_for=turned)
    store.set_alias(NAME, "champion", broken)
    deadline = time.monotonic() + 10
    while not server.get("/models")["refused"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # Names for everybody, the reason for the log.
    assert server.get("/models")["refused"] == ["execution champion"]
    assert "is not taken into service" in server.log
    answer = server.post("/predict", example_request(SPEC))
    assert answer.json()["model"]["version"] == "1.0.0"
    assert server.get("/health")["status"] == "degraded"
