"""Everything that stands behind the server is killed or frozen under load, and comes back: answers keep to the contract."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from sqlalchemy import Engine, select

from mlops_assets.features.offline import read_rows
from mlops_assets.features.store import FeatureStoreAdapter
from mlops_assets.features.views import AGENT_CONTEXT_FEATURES, TEST_EXECUTION_FEATURES
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.database import create_operational_engine, read_transaction
from mlops_assets.foundation.settings import Settings, load_settings
from mlops_assets.foundation.tables import PredictionRecord
from mlops_assets.registry.mlflow_store import MlflowStore
from mlops_assets.serving.api_documents import example_request
from mlops_assets_tests.lifecycle.worlds import BIN
from mlops_assets_tests.postgres import PostgresTestServer, postgres_server
from mlops_assets_tests.programs import free_port, system_program
from mlops_assets_tests.serving.live import Answers, LiveServer, frozen, load
from mlops_assets_tests.serving.versions import register_linear_version

pytestmark = pytest.mark.slow
SPEC = AGENTS["execution"]
RATE = 100.0
# The stated bound of what `kill -9` may cost.
LOSS_SECONDS = 0.1
START_SECONDS = 60


def requests_for(settings: Settings) -> Callable[[int], dict[str, Any]]:
    """Requests for tests and agents that the feature store knows."""
    tests = pc.unique(read_rows(settings.paths, TEST_EXECUTION_FEATURES, columns=["test_id"])["test_id"]).to_pylist()
    agents = pc.unique(
        read_rows(settings.paths, AGENT_CONTEXT_FEATURES, groups=["execution"], columns=["agent_id"])["agent_id"]
    ).to_pylist()

    def make(number: int) -> dict[str, Any]:
        known = {"test_id": tests[number % len(tests)], "agent_id": agents[number % len(agents)]}
        return {**example_request(SPEC), **known}

    return make


def stored(engine: Engine) -> dict[str, str]:
    """Logged decisions and their status; each is there once by the table's key."""
    with read_transaction(engine) as session:
        return dict(session.execute(select(PredictionRecord.prediction_id, PredictionRecord.status)).tuples().all())


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)


def answered_ids(answers: Answers, *, before: float = float("inf")) -> set[str]:
    """Predictions that clients got."""
    return {document["prediction_id"] for _, answered, _, document in answers.of(200) if answered < before}


def test_a_killed_server_has_logged_what_it_answered(served_home: Path, new_server: Callable[..., LiveServer]) -> None:
    """`kill -9` costs more answers than the stated bound, or the restart logs some of them twice."""
    settings = load_settings({"MLOPS_HOME": str(served_home)})
    server = new_server(served_home)
    killed: list[float] = []

    def kill_and_restart() -> None:
        time.sleep(4.0)
        killed.append(time.time())
        server.kill()
        killed.append(time.time())
        server.start()
        time.sleep(2.0)

    answers = load(server.url, requests_for(settings), rate=RATE, seconds=1, meanwhile=kill_and_restart)
    assert answers.statuses.keys() <= {200, 503, 0}, answers.statuses
    assert any(answered > killed[1] for _, answered, status, _ in answers.all if status == 200)
    server.end()
    engine = create_operational_engine(settings.database)
    found = stored(engine)
    safe = answered_ids(answers, before=killed[0] - LOSS_SECONDS)
    after = {d["prediction_id"] for asked, _, _, d in answers.of(200) if asked > killed[1]}
    assert len(safe) > 200
    assert safe <= found.keys()
    assert after <= found.keys()
    # Nothing that nobody was told, but for requests that the kill cut off.
    assert len(found.keys() - answered_ids(answers)) <= RATE * 2
    assert list(settings.paths.prediction_journal.glob("*-*")) == []
    engine.dispose()


@contextmanager
def redis_server(port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Redis server on loopback that forgets everything when it ends."""
    options = {"bind": "127.0.0.1", "port": str(port), "save": "", "appendonly": "no", "dir": str(folder)}
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    process = subprocess.Popen([system_program("redis-server", "redis-server"), *arguments], stdout=subprocess.DEVNULL)
    try:
        import redis

        with redis.Redis(host="127.0.0.1", port=port) as client:
            wait_for(lambda: _pings(client))
        yield process
    finally:
        process.kill()
        process.wait()


def _pings(client: Any) -> bool:
    import redis

    try:
        return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False


def test_redis_frozen_and_killed(served_home: Path, new_server: Callable[..., LiveServer], tmp_path: Path) -> None:
    """Without its feature store the server hangs, fails, or passes defaults off as values."""
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    settings = load_settings({"MLOPS_HOME": str(served_home), "MLOPS_REDIS_URL": url})
    store = FeatureStoreAdapter(settings.paths, redis_url=url)
    embedded = FeatureStoreAdapter(settings.paths)
    moments: dict[str, float] = {}

    def fill() -> None:
        store.apply()
        until = embedded.materialized_until()
        assert until is not None
        store.materialize(until)

    def disturb() -> None:
        time.sleep(3.0)
        moments["frozen"] = time.time()
        with frozen(port):
            time.sleep(4.0)
        moments["thawed"] = time.time()
        time.sleep(6.0)
        moments["killed"] = time.time()
        first.kill()
        time.sleep(3.0)
        moments["starting"] = time.time()
        with redis_server(port, tmp_path):
            fill()
            moments["back"] = time.time()
            time.sleep(6.0)
            moments["end"] = time.time()

    with redis_server(port, tmp_path) as first:
        fill()
        server = new_server(served_home, MLOPS_REDIS_URL=url)
        answers = load(server.url, requests_for(settings), rate=RATE, seconds=1, meanwhile=disturb)
    assert answers.statuses.keys() == {200}, answers.statuses

    def statuses(begin: str, end: str, *, after: float = 0.0) -> set[str]:
        between = (moments[begin] + after, moments[end])
        return {d["status"] for asked, answered, _, d in answers.all if between[0] < asked and answered < between[1]}

    assert "degraded" in statuses("frozen", "thawed")
    assert statuses("frozen", "thawed", after=1.0) == {"degraded"}
    assert statuses("thawed", "killed", after=3.0) == {"ok"}
    assert statuses("killed", "starting", after=1.0) == {"degraded"}
    assert statuses("back", "end", after=4.0) == {"ok"}
    slow = [answered - asked for asked, answered, _, _ in answers.all]
    assert sorted(slow)[int(len(slow) * 0.99)] < 1.0
    for asked, answered, _, document in answers.all:
        all_missing = len(document["missing_features"]) == len(SPEC.features)
        # The new Redis is empty until it is filled: asked and answered, with nothing.
        filling = moments["starting"] < answered and asked < moments["back"]
        assert (document["status"] == "degraded") == all_missing or (filling and all_missing)


def test_the_database_frozen_and_killed(served_home: Path, new_server: Callable[..., LiveServer]) -> None:
    """The server stops answering with its database, or loses or doubles what it answered meanwhile."""
    settings = load_settings({"MLOPS_HOME": str(served_home)})
    with postgres_server(durable=True) as postgres:
        server = new_server(served_home, MLOPS_DATABASE_URL=postgres.url)
        answers = load(
            server.url, requests_for(settings), rate=RATE, seconds=1, meanwhile=lambda: _disturb(postgres, server)
        )
        assert answers.statuses.keys() == {200}, answers.statuses
        engine = create_operational_engine(postgres.url)
        wait_for(lambda: answered_ids(answers) <= stored(engine).keys())
        assert stored(engine).keys() == answered_ids(answers)
        assert {d["status"] for *_, d in answers.all} == {"ok"}
        wait_for(lambda: server.get("/health")["status"] == "healthy")
        engine.dispose()
        server.end()


def _disturb(postgres: PostgresTestServer, server: LiveServer) -> None:
    time.sleep(2.0)
    with frozen(postgres.port):
        time.sleep(1.0)
        # What needs the database says so, within a bound.
        assert server.status("/monitoring/status") == 503
        time.sleep(1.0)
        assert server.get("/health")["short_of"] == ["operational_database"]
    time.sleep(2.0)
    postgres.stop()
    time.sleep(3.0)
    postgres.start()
    time.sleep(2.0)


@contextmanager
def mlflow_server(database: Path, port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An MLflow server over an existing store."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database}"]
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--no-serve-artifacts"]
    environment = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "mlflow.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, *options], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(lambda: _answers(port), START_SECONDS)
        yield process
    finally:
        _kill_tree(process)


def _answers(port: int) -> bool:
    import httpx

    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def _kill_tree(process: subprocess.Popen[bytes]) -> None:
    import psutil

    if process.poll() is None:
        for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            one.kill()
    process.wait()


def test_the_registry_frozen_and_killed(
    served_home: Path, new_server: Callable[..., LiveServer], tmp_path: Path
) -> None:
    """With the registry away the models in service are gone, or a promotion after its return is never seen."""
    settings = load_settings({"MLOPS_HOME": str(served_home)})
    second = register_linear_version(settings.tracking_uri, SPEC, "2.0.0", seed=8)
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    moments: dict[str, float] = {}

    def disturb() -> None:
        time.sleep(1.0)
        with frozen(port):
            wait_for(lambda: "model_registry" in server.get("/health")["short_of"])
        wait_for(lambda: server.get("/health")["status"] == "healthy")
        _kill_tree(first)
        wait_for(lambda: "model_registry" in server.get("/health")["short_of"])
        with mlflow_server(settings.paths.mlflow_db, port, tmp_path):
            MlflowStore(uri).set_alias(SPEC.registered_model, "champion", second)
            moments["promoted"] = time.time()
            wait_for(lambda: server.get("/models")["models"][0]["version"] == "2.0.0")
            moments["served"] = time.time()
            time.sleep(1.0)

    with mlflow_server(settings.paths.mlflow_db, port, tmp_path) as first:
        server = new_server(served_home, MLFLOW_TRACKING_URI=uri)
        answers = load(server.url, requests_for(settings), rate=50, seconds=1, meanwhile=disturb)
        assert answers.statuses.keys() == {200}, answers.statuses
        versions = {d["model"]["version"] for *_, d in answers.all}
        assert versions == {"1.0.0", "2.0.0"}
        late = [d["model"]["version"] for asked, _, _, d in answers.all if asked > moments["served"] + 0.5]
        assert set(late) == {"2.0.0"}
    # And a start without the registry serves what was in service last, and says so.
    server.end()
    again = new_server(served_home, MLFLOW_TRACKING_URI=uri)
    answer = again.post("/predict", example_request(SPEC)).json()
    assert answer["model"]["version"] == "2.0.0"
    wait_for(lambda: "model_registry" in again.get("/health")["short_of"])
