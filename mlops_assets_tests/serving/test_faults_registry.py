"""The registry is frozen and killed under load, and comes back: the models in service stay."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlops_assets.foundation.settings import load_settings
from mlops_assets.registry.mlflow_store import MlflowStore
from mlops_assets.serving.api_documents import example_request
from mlops_assets_tests.lifecycle.worlds import BIN
from mlops_assets_tests.programs import free_port, wait_for
from mlops_assets_tests.serving.faults import SPEC, requests_for
from mlops_assets_tests.serving.live import LiveServer, frozen, load
from mlops_assets_tests.serving.versions import register_linear_version

pytestmark = pytest.mark.slow
START_SECONDS = 60


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
