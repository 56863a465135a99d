"""The real server over a home in which the lifecycle ran: every route, as a user meets it."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from mlops_assets.experiments.assignment import CONTROL, TREATMENT
from mlops_assets.experiments.experiments import change_experiment, create_experiment
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.clock import SystemClock
from mlops_assets.foundation.database import create_operational_engine, read_transaction
from mlops_assets.foundation.settings import load_settings
from mlops_assets.foundation.tables import PredictionRecord
from mlops_assets.registry.mlflow_store import MlflowStore
from mlops_assets.serving.api_documents import example_request
from mlops_assets.serving.tokens import create_token, revoke_token
from mlops_assets_tests.lifecycle.conftest import FirstLifecycle
from mlops_assets_tests.programs import wait_for
from mlops_assets_tests.serving.live import LiveServer
from mlops_assets_tests.serving.versions import register_linear_version

pytestmark = pytest.mark.slow
SPEC = AGENTS["execution"]


@pytest.fixture(scope="module")
def server(first_lifecycle: FirstLifecycle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server for the module, on a copy of the home."""
    import shutil

    root = tmp_path_factory.mktemp("live")
    shutil.copytree(first_lifecycle.pristine, root / "home")
    live = LiveServer(root / "home", root / "server.log", {})
    live.start()
    yield live
    live.end()


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_an_answer_has_everything(server: LiveServer, name: str) -> None:
    """An answer lacks what its outcome, its explanation or an auditor needs."""
    spec = AGENTS[name]
    found = server.decide(example_request(spec))
    assert list(found["q_values"]) == list(spec.actions)
    assert found["action_name"] == max(found["q_values"], key=found["q_values"].get) == spec.actions[found["action"]]
    assert found["model"] == {"name": spec.registered_model, "version": "1.0.0", "alias": "champion"}
    assert (found["variant"], found["experiment"], found["propensity"]) == ("control", None, 1.0)
    assert (found["status"], found["fallback"]) == ("ok", None)
    assert 0.0 <= found["confidence"] <= 1.0
    assert len(found["prediction_id"]) == 32
    # Of an agent that is known, its own features are there; the test of the example was never run.
    assert not any(one.startswith("agent_context_features") for one in found["missing_features"])
    # The world of the simulator ends in March 2026, and its time goes on from there.
    assert found["timestamp"].startswith("2026-03-")


def test_an_answer_leads_to_the_data_that_made_it(server: LiveServer) -> None:
    """Nobody can say why an agent decided as it did a week ago."""
    answer = server.post("/predict", example_request(SPEC)).json()
    found = server.get(f"/predictions/{answer['prediction_id']}")
    assert found["q_values"] == pytest.approx(answer["q_values"])
    assert list(found["features"]) == list(SPEC.state_fields)
    asked = example_request(SPEC)["context"]
    assert {name: found["features"][name] for name in asked} == pytest.approx(asked)
    assert found["model"]["stage"] == "Production"
    assert found["training_snapshot"]["data_hash"] == found["model"]["data_hash"]
    assert found["training_snapshot"]["rows"] >= 3000
    assert found["user_hash"] not in {None, "user-1"}
    card = httpx.get(f"{server.url}{found['model']['card']}")
    assert card.status_code == 200
    assert "model_name: execution-agent-dqn" in card.text
    assert server.status("/predictions/absent") == 404


def test_outcomes_are_taken_at_once_and_once(server: LiveServer) -> None:
    """An outcome that comes right after the answer is lost."""
    ids = [server.post("/predict", example_request(SPEC)).json()["prediction_id"] for _ in range(3)]
    told = {"outcomes": [{"prediction_id": one, "reward": 2.0} for one in ids]}
    assert server.post("/outcomes", told).json() == {"accepted": 3, "repeated": 0}
    assert server.post("/outcomes", told).json() == {"accepted": 0, "repeated": 3}
    told["outcomes"][0]["reward"] = 3.0
    assert server.post("/outcomes", told).status_code == 409
    unknown = server.post("/outcomes", {"outcomes": [{"prediction_id": "0" * 32, "reward": 1.0}]})
    assert (unknown.status_code, unknown.headers["Retry-After"]) == (404, "1")
    wrong = server.post("/outcomes", {"outcomes": [{"prediction_id": ids[0], "reward": 1000.0}]})
    assert wrong.json()["errors"][0]["field"] == "outcomes.0.reward"
    assert server.get(f"/predictions/{ids[0]}")["outcome"]["reward"] == 2.0


def test_a_batch_is_answered_in_order(server: LiveServer) -> None:
    """Answers of a batch go to the wrong requests."""
    requests = [example_request(AGENTS[name]) for name in ("generation", "execution", "requirements", "execution")]
    for path in ("/predict/batch", "/predict_batch"):
        found = server.post(path, {"requests": requests}).json()
        assert found["count"] == 4
        assert [one["agent"] for one in found["predictions"]] == [one["agent"] for one in requests]
        singles = [server.post("/predict", one).json()["q_values"] for one in requests]
        for one, single in zip(found["predictions"], singles, strict=True):
            assert one["q_values"] == pytest.approx(single, rel=1e-5, abs=1e-5)


def test_health_models_and_metrics(server: LiveServer) -> None:
    """Health is a constant (B-62), a version is hard-coded, or a dashboard's metric has another name."""
    server.post("/predict", example_request(SPEC))
    health = server.get("/health")
    assert (health["status"], health["short_of"], health["model_loaded"]) == ("healthy", [], True)
    assert health["current_model_versions"] == dict.fromkeys(AGENTS, "1.0.0")
    assert health["request_count"] >= 1
    models = server.get("/models")["models"]
    assert {(one["agent"], one["alias"], one["version"]) for one in models} == {
        (n, "champion", "1.0.0") for n in AGENTS
    }
    assert models[0]["state_fields"]
    metrics = httpx.get(f"{server.url}/metrics").text
    for line in (
        'ml_prediction_requests_total{model_version="execution-agent-dqn-1.0.0",status="ok"}',
        'ml_prediction_latency_seconds_bucket{le="0.025",model_version="execution-agent-dqn-1.0.0"}',
        'ml_prediction_probability_bucket{le="0.1",model_version="execution-agent-dqn-1.0.0"}',
        'ml_feature_value{feature_name="execution.budget_left",statistic="mean"} 0.25',
        "ml_online_feature_seconds_count",
        "ml_prediction_log_unshipped",
        'ml_model_served{agent="execution",alias="champion",model_version="1.0.0"} 1.0',
    ):
        assert line in metrics
    status = server.get("/monitoring/status?hours=1")
    groups = {one["agent"]: one for one in status["groups"]}
    assert groups["execution"]["predictions"] >= 1
    assert groups["execution"]["latency_p95_ms"] > 0
    for bad in ("0", "-1", "nan", "inf", "x", "1e9"):
        assert server.status(f"/monitoring/status?hours={bad}") == 422


def test_users_of_an_experiment_stay_in_their_arm(server: LiveServer) -> None:
    """A user meets two models in turn, another split than the analysis assumes, or an arm is not what it says."""
    settings = load_settings({"MLOPS_HOME": str(server.home)})
    engine = create_operational_engine(settings.database)
    store = MlflowStore(settings.tracking_uri)
    spec = AGENTS["generation"]
    made = create_experiment(engine, "half", spec.name, treatment_share=0.5, user="tests", now=SystemClock().now())
    variants = {f"u{i}": made.variant(f"u{i}") for i in range(40)}
    assert set(variants.values()) == {CONTROL, TREATMENT}

    def assert_arms(arms: Mapping[str, tuple[str, str, str | None]]) -> None:
        """Version, alias and fallback of each arm, for each user twice."""
        seen: dict[str, set[tuple[float, ...]]] = {CONTROL: set(), TREATMENT: set()}
        for user, variant in variants.items():
            for _ in range(2):
                answer = server.decide({**example_request(spec), "user_id": user, "experiment": "half"})
                model = answer["model"]
                assert (answer["experiment"], answer["variant"]) == ("half", variant)
                assert (model["version"], model["alias"], answer["fallback"]) == arms[variant]
                seen[variant].add(tuple(answer["q_values"].values()))
        # The numbers are those of the version that is named.
        assert seen[CONTROL].isdisjoint(seen[TREATMENT]) == (arms[CONTROL][0] != arms[TREATMENT][0])

    champion = ("1.0.0", "champion", None)
    try:
        wait_for(lambda: server.post("/predict", example_request(spec)).json()["experiment"] == "half")
        # Without a challenger its users get the champion, and the answer says so.
        assert_arms({CONTROL: champion, TREATMENT: ("1.0.0", "champion", "absent")})
        challenger = register_linear_version(settings.tracking_uri, spec, "2.0.0", seed=8)
        store.set_alias(spec.registered_model, "challenger", challenger)
        wait_for(lambda: _served(server, spec.name) == {"champion": "1.0.0", "challenger": "2.0.0"})
        assert_arms({CONTROL: champion, TREATMENT: ("2.0.0", "challenger", None)})
        status = server.get("/experiments/half/status")
        assert (status["treatment_share"], set(status["variants"])) == (0.5, {CONTROL, TREATMENT})
        assert server.status("/experiments/absent/status") == 404
        absent = {**example_request(spec), "experiment": "absent"}
        assert server.post("/predict", absent).status_code == 404
        assert (
            'ab_test_predictions_total{experiment="half",variant="treatment"}'
            in httpx.get(f"{server.url}/metrics").text
        )
        assert server.get("/experiments")["experiments"][0]["name"] == "half"
    finally:
        store.drop_alias(spec.registered_model, "challenger")
        change_experiment(engine, "half", status="stopped", user="tests", now=SystemClock().now())
        # The next test finds the server as this one did.
        wait_for(lambda: _served(server, spec.name) == {"champion": "1.0.0"})
        wait_for(lambda: server.post("/predict", example_request(spec)).json()["experiment"] is None)
        engine.dispose()


def _served(server: LiveServer, agent: str) -> dict[str, str]:
    """Versions in service by alias."""
    return {one["alias"]: one["version"] for one in server.get("/models")["models"] if one["agent"] == agent}


def test_refusals_are_problem_documents(server: LiveServer) -> None:
    """A client has to guess what an error page means, or reads the server's exception (B-62)."""
    for method, path, status in (
        ("GET", "/absent", 404),
        ("GET", "/predict", 405),
        ("DELETE", "/models", 405),
        ("GET", "/models/absent/1.0.0/card", 404),
        ("GET", "/models/execution-agent-dqn/9.9.9/card", 404),
        ("GET", "/models/execution-agent-dqn/x/card", 404),
        ("GET", "/predictions/%00", 404),
        ("POST", "/predict", 422),
    ):
        answer = httpx.request(method, f"{server.url}{path}")
        assert answer.status_code == status, (path, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert set(answer.json()) >= {"type", "title", "status", "detail"}
    large = httpx.post(f"{server.url}/predict", content=b"x" * 2_000_000)
    assert large.status_code == 413


def test_the_description_is_complete(server: LiveServer) -> None:
    """A generated client lacks a route, or its example is refused."""
    document = server.get("/openapi.json")
    assert set(document["paths"]) == {
        "/predict",
        "/predict/batch",
        "/outcomes",
        "/predictions/{prediction_id}",
        "/models",
        "/models/{model_name}/{version}/card",
        "/monitoring/status",
        "/experiments",
        "/experiments/{name}/status",
        "/approvals",
        "/approvals/{model_name}/{version}",
        "/livez",
        "/readyz",
        "/health",
        "/metrics",
    }
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    for example in content["examples"].values():
        assert server.post("/predict", example["value"]).status_code == 200


def test_without_a_champion_nothing_is_ready(new_server: Callable[..., LiveServer], tmp_path: Path) -> None:
    """A server without a model says that it is healthy, and gets the traffic (B-62)."""
    server = new_server(tmp_path / "empty", wait=False)
    wait_for(lambda: server.status("/livez") == 200)
    ready = httpx.get(f"{server.url}/readyz")
    assert (ready.status_code, ready.headers["Retry-After"]) == (503, "1")
    health = httpx.get(f"{server.url}/health")
    assert (health.status_code, health.json()["status"]) == (503, "unavailable")
    answer = server.post("/predict", example_request(SPEC))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert "has no champion yet" in answer.json()["detail"]


def test_tokens_open_and_are_revoked(served_home: Path, new_server: Callable[..., LiveServer]) -> None:
    """Everybody who reaches the port decides, or who once had a token decides for ever."""
    server = new_server(served_home, MLOPS_SERVING_AUTHENTICATION="required")
    engine = create_operational_engine(load_settings({"MLOPS_HOME": str(served_home)}).database)
    assert server.post("/predict", example_request(SPEC)).status_code == 401
    token = create_token(engine, "ci", user="tests", now=SystemClock().now())
    headers = {"Authorization": f"Bearer {token}"}
    wait_for(lambda: httpx.get(f"{server.url}/models", headers=headers).status_code == 200)
    answer = httpx.post(f"{server.url}/predict", headers=headers, json=example_request(SPEC))
    assert answer.status_code == 200
    assert revoke_token(engine, "ci", user="tests", now=SystemClock().now())
    wait_for(lambda: httpx.get(f"{server.url}/models", headers=headers).status_code == 401)
    assert httpx.post(f"{server.url}/predict", headers=headers, json=example_request(SPEC)).status_code == 401
    server.end()
    with read_transaction(engine) as session:
        assert session.get(PredictionRecord, answer.json()["prediction_id"]) is not None
    assert token not in server.log
    engine.dispose()
