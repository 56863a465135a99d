"""The client and the examples against the real server, with a token: what a user's first hour is made of."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from mlops_assets.experiments.experiments import create_experiment
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.clock import SystemClock
from mlops_assets.foundation.database import create_operational_engine, read_transaction
from mlops_assets.foundation.settings import load_settings
from mlops_assets.foundation.tables import PredictionRecord
from mlops_assets.registry.mlflow_store import MlflowStore
from mlops_assets.serving.api_documents import example_request
from mlops_assets.serving.client import (
    DecisionClient,
    DecisionQuery,
    Outcome,
    OutcomeReceipt,
    RequestRefusedError,
    ServerUnavailableError,
)
from mlops_assets.serving.tokens import create_token
from mlops_assets_tests.lifecycle.conftest import FirstLifecycle
from mlops_assets_tests.programs import system_program, wait_for
from mlops_assets_tests.serving.live import ROOT, LiveServer
from mlops_assets_tests.serving.versions import register_linear_version

pytestmark = pytest.mark.slow
EXAMPLES = ROOT / "examples"
SPEC = AGENTS["execution"]


@dataclass(frozen=True)
class Served:
    """A server that asks for a token, a token, and what the server works on."""

    server: LiveServer
    token: str
    engine: Any
    tracking_uri: str

    def client(self, **options: Any) -> DecisionClient:
        """A client with the token."""
        return DecisionClient(self.server.url, self.token, **{"timeout_seconds": 30.0, **options})

    def example(self, *command: str | Path, cwd: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run an example as its first lines say."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(cwd),
            "DECISIONS_URL": self.server.url,
            "DECISIONS_TOKEN": self.token,
            **variables,
        }
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=120
        )


@pytest.fixture(scope="module")
def served(first_lifecycle: FirstLifecycle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for the module, on a copy of the home."""
    root = tmp_path_factory.mktemp("client")
    shutil.copytree(first_lifecycle.pristine, root / "home")
    settings = load_settings({"MLOPS_HOME": str(root / "home")})
    engine = create_operational_engine(settings.database)
    token = create_token(engine, "ci", user="tests", now=SystemClock().now())
    live = LiveServer(root / "home", root / "server.log", {"MLOPS_SERVING_AUTHENTICATION": "required"})
    live.start()
    yield Served(live, token, engine, settings.tracking_uri)
    live.end()
    engine.dispose()


def query(agent: str, **changes: Any) -> DecisionQuery:
    """The documented example as a query."""
    return DecisionQuery(**{**example_request(AGENTS[agent]), **changes})


def test_a_decision_from_question_to_explanation(served: Served) -> None:
    """A field of an answer has another name or type than the client's models, which only the real server can tell."""
    with served.client() as client:
        decision = client.predict(query("execution", episode_id="cycle", step=0, browser="chromium"))
        assert (decision.agent, decision.action_name) == ("execution", SPEC.actions[decision.action])
        assert list(decision.q_values) == list(SPEC.actions)
        assert (decision.model.version, decision.model.alias, decision.variant) == ("1.0.0", "champion", "control")
        assert (decision.fallback, decision.experiment, decision.propensity) == (None, None, 1.0)

        label = {"best_action": 2, "action_values": [0.0, 1.0, 12.5, 3.0]}
        outcome = Outcome(prediction_id=decision.prediction_id, reward=12.5, done=False, **label)
        assert client.post_outcomes([outcome]) == OutcomeReceipt(accepted=1, repeated=0)
        assert client.post_outcomes([outcome, outcome]) == OutcomeReceipt(accepted=0, repeated=2)
        with pytest.raises(RequestRefusedError, match="409") as conflict:
            client.post_outcomes([replace(outcome, reward=1.0)])
        assert conflict.value.problem["status"] == conflict.value.status == 409

        explanation = client.explain(decision.prediction_id)
        assert explanation.q_values == pytest.approx(decision.q_values)
        assert (explanation.action_name, explanation.event_time) == (decision.action_name, decision.timestamp)
        assert (explanation.episode_id, explanation.step) == ("cycle", 0)
        assert list(explanation.features) == list(SPEC.state_fields)
        assert explanation.missing_features == decision.missing_features
        assert explanation.outcome is not None
        assert (explanation.outcome.reward, explanation.outcome.done) == (12.5, False)
        assert (explanation.outcome.best_action, explanation.outcome.action_values) == (2, label["action_values"])
        assert explanation.training_snapshot is not None


def test_batches_are_cut_and_put_together(served: Served) -> None:
    """Answers of the second request stand before those of the first, or one of 2,500 is lost."""
    agents = ["generation", "execution", "requirements"] * 4
    with served.client(max_batch_rows=5) as client:
        decisions = client.predict_batch([query(agent, test_id=f"t{i}") for i, agent in enumerate(agents)])
        assert [one.agent for one in decisions] == agents
        outcomes = [Outcome(prediction_id=one.prediction_id, reward=1.0) for one in decisions]
        assert client.post_outcomes(outcomes) == OutcomeReceipt(accepted=12, repeated=0)
        for i in (0, 7, 11):
            assert client.explain(decisions[i].prediction_id).test_id == f"t{i}"
        assert client.predict_batch([]) == ()


def test_refusals_name_the_field_and_are_not_repeated(served: Served) -> None:
    """A user's mistake looks like a server that is away."""
    with served.client(retries=2, sleep=lambda _: None) as client:
        wrong = query("execution", context={**example_request(SPEC)["context"], "budget_left": 2.0})
        with pytest.raises(RequestRefusedError, match=r"422 after 1 tries.*context\.budget_left") as refused:
            client.predict(wrong)
        assert refused.value.problem["errors"][0]["field"] == "context.budget_left"
        with pytest.raises(RequestRefusedError, match=r"requests\.1\.context\.budget_left"):
            client.predict_batch([query("execution"), wrong])
        with pytest.raises(RequestRefusedError, match="404 after 1 tries: there is no agent 'executor'"):
            client.predict(replace(query("execution"), agent="executor"))
        with pytest.raises(RequestRefusedError, match="404 after 1 tries: there is no prediction 'absent'"):
            client.explain("absent")
        # It may be in the log in a moment: this one is waited for.
        with pytest.raises(ServerUnavailableError, match="404 after 3 tries"):
            client.post_outcomes([Outcome(prediction_id="0" * 32, reward=1.0)])
    with DecisionClient(served.server.url, "mlops_" + "x" * 43) as stranger:
        for call in (lambda: stranger.predict(query("execution")), stranger.models, stranger.health):
            with pytest.raises(RequestRefusedError, match="401 after 1 tries"):
                call()


def test_health_and_what_is_in_service(served: Served) -> None:
    """The client cannot read what the server says of itself, above all when something is wrong."""
    with served.client() as client:
        # Features that came late on a busy machine are said until the next ones.
        wait_for(lambda: client.predict(query("execution")).status == "ok")
        health = client.health()
        assert (health.status, health.short_of, health.model_loaded) == ("healthy", [], True)
        assert health.current_model_versions == dict.fromkeys(AGENTS, "1.0.0")
        found = client.models()
        assert found.refused == []
        assert {(one.agent, one.alias, one.version) for one in found.models} == {
            (name, "champion", "1.0.0") for name in AGENTS
        }
        assert {tuple(one.state_fields) for one in found.models} == {spec.state_fields for spec in AGENTS.values()}

        store = MlflowStore(served.tracking_uri)
        turned = replace(SPEC, context=SPEC.context[::-1])
        broken = register_linear_version(served.tracking_uri, SPEC, "2.0.0", seed=7, exported_for=turned)
        store.set_alias(SPEC.registered_model, "challenger", broken)
        try:
            wait_for(lambda: bool(client.models().refused))
            assert client.models().refused == ["execution challenger"]
            assert client.models().models == found.models
            health = client.health()
            assert health.status == "degraded"
            assert "execution challenger" in health.short_of
        finally:
            store.drop_alias(SPEC.registered_model, "challenger")
        wait_for(lambda: client.models() == found)


def test_a_server_without_models_is_unavailable(new_server: Callable[..., LiveServer], tmp_path: Path) -> None:
    """The health of a server that cannot decide is an exception, or its 503 is asked for again without end."""
    server = new_server(tmp_path / "empty", wait=False)
    wait_for(lambda: server.status("/livez") == 200)
    waits: list[float] = []
    with DecisionClient(server.url, retries=1, sleep=waits.append) as client:
        health = client.health()
        assert (health.status, health.model_loaded, health.models_loaded) == ("unavailable", False, [])
        assert health.current_model_versions == dict.fromkeys(AGENTS)
        assert client.models().models == []
        with pytest.raises(ServerUnavailableError, match=r"503 after 2 tries: .*has no champion yet"):
            client.predict(query("execution"))
    assert len(waits) == 1
    assert waits[0] >= 1.0


def test_the_python_example_runs(served: Served, tmp_path: Path) -> None:
    """The first program that a user starts ends in a traceback."""
    result = served.example(sys.executable, EXAMPLES / "client.py", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("server: ")
    assert f"versions {dict.fromkeys(AGENTS, '1.0.0')}" in lines[0]
    prediction_id = lines[1].removeprefix("decision ").partition(":")[0]
    assert "by execution-agent-dqn 1.0.0, variant control" in lines[2]
    assert lines[3] == "outcome: 1 accepted, 0 repeated"
    assert lines[4].startswith(f"it saw {len(SPEC.state_fields)} features")
    assert lines[5] == "its outcome: 12.5"
    with served.client() as client:
        explanation = client.explain(prediction_id)
    assert explanation.test_id == "checkout › pays by card"
    assert explanation.features["failure_rate_recent"] == 0.75
    refused = served.example(sys.executable, EXAMPLES / "client.py", cwd=tmp_path, DECISIONS_TOKEN="")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "401" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_shell_example_runs(served: Served, tmp_path: Path) -> None:
    """A documented call is refused, or what it says about outcomes is not so."""
    system_program("curl", "curl")
    create_experiment(served.engine, "shell", "generation", treatment_share=0.5, user="tests", now=SystemClock().now())
    result = served.example(EXAMPLES / "curl.sh", cwd=tmp_path, DECISIONS_EXPERIMENT="shell")
    assert result.returncode == 0, result.stdout + result.stderr
    calls = [line.removeprefix("# ") for line in result.stderr.splitlines() if line.startswith("# ")]
    documents = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    metrics = calls.pop()
    assert metrics == "GET /metrics"
    assert "ml_prediction_requests_total{" in result.stdout
    answers = list(zip(calls, documents, strict=True))
    assert [document for call, document in answers if call == "POST /outcomes"] == [
        {"accepted": 1, "repeated": 0},
        {"accepted": 0, "repeated": 1},
    ]
    by_call = dict(answers)
    prediction_id = by_call["POST /predict"]["prediction_id"]
    assert by_call["GET /readyz"] == {"status": "ready"}
    assert by_call["POST /predict/batch"]["count"] == 2
    assert by_call[f"GET /predictions/{prediction_id}"]["outcome"]["reward"] == 12.5
    assert by_call["GET /experiments"]["experiments"][0]["name"] == "shell"
    assert by_call["GET /experiments/shell/status"]["treatment_share"] == 0.5
    assert served.token not in result.stdout + result.stderr
    refused = served.example(EXAMPLES / "curl.sh", cwd=tmp_path, DECISIONS_TOKEN="mlops_wrong")
    assert refused.returncode != 0
    assert "401" in refused.stderr


SUITE = """
import time
import pytest

def test_adds(): time.sleep(0.1)
@pytest.mark.parametrize("price", ["1", "2"])
def test_sums(price): pass
def test_pays(): assert False
"""


def test_the_suite_example_orders_runs_and_reports(served: Served, tmp_path: Path) -> None:
    """The server takes the outcomes of another decision, or a context of the next cycle that knows nothing of this one."""
    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "test_cart.py").write_text(SUITE, encoding="utf-8")
    command = (sys.executable, EXAMPLES / "order_suite.py", "run", "test_cart.py")
    for cycle in ("first", "second"):
        result = served.example(*command, "--cycle-id", cycle, cwd=shop, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
        # As pytest says it: a test failed.
        assert result.returncode == 1, result.stdout + result.stderr
        assert "4 outcomes reported, 0 known before" in result.stderr
    with served.client() as client:
        first, second = (_explained(served, client, cycle) for cycle in ("first", "second"))
    for cycle in (first, second):
        assert [one.step for one in cycle] == [0, 1, 2, 3]
        assert [one.outcome.done for one in cycle] == [False, False, False, True]
        assert {one.agent_id for one in cycle} == {"execution-shop"}
        assert all(len(one.outcome.action_values) == len(SPEC.actions) for one in cycle)
        # What the order of the cycle was worth: its NAPFD in percent, to which the steps' rewards add up.
        assert 0.0 <= sum(one.outcome.reward for one in cycle) <= 100.0
    assert sorted(one.test_id for one in first) == sorted(one.test_id for one in second)
    assert {one.features["runs_seen"] for one in first} == {0.0}
    assert {one.features["last_failed"] for one in second if "test_pays" in one.test_id} == {1.0}
    assert {one.features["last_failed"] for one in second if "test_pays" not in one.test_id} == {0.0}


def _explained(served: Served, client: DecisionClient, episode_id: str) -> list[Any]:
    """The decisions of an episode as the server explains them, in order."""
    columns = PredictionRecord.prediction_id, PredictionRecord.step
    query = select(*columns).where(PredictionRecord.episode_id == episode_id).order_by(PredictionRecord.step)

    def ids() -> list[str]:
        with read_transaction(served.engine) as session:
            return [one.prediction_id for one in session.execute(query)]

    wait_for(lambda: len(ids()) == 4)
    return [client.explain(one) for one in ids()]
