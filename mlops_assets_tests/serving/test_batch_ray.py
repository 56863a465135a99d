"""Batch scoring on a real Ray cluster of one machine: the same answers, the same errors."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.errors import InputError, SettingsError, TransientError
from mlops_assets.registry.catalogue import CHAMPION
from mlops_assets.registry.mlflow_store import SEMVER_TAG, MlflowStore
from mlops_assets.serving.batch import CHUNK_ROWS as DEFAULT_CHUNK_ROWS
from mlops_assets.serving.models import ServedModel, load_served_model
from mlops_assets.serving.ray_pool import RegisteredSource, answer_registered, ray_scorer
from mlops_assets.training.tracking import TrainingTracker
from mlops_assets_tests.lifecycle.worlds import World
from mlops_assets_tests.programs import free_port
from mlops_assets_tests.serving import batches
from mlops_assets_tests.serving.batches import CHUNK_ROWS, Home
from mlops_assets_tests.serving.served import write_linear_policy

SPEC = agent_spec("execution")
ASSET = "batch_predictions"
ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 120


@pytest.fixture(scope="module", autouse=True)
def _ray() -> None:
    """Without the extra nothing is tested here, but fails in CI, where nothing may go untested."""
    # Not imported: Ray reads the variables that `cluster` sets when it is.
    if find_spec("ray") is None:
        message = "the extra `ray` is not installed; install mlops-assets[ray]"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real registry with one version of the agent."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    run_id = client.create_run(client.create_experiment("agents", (folder / "artifacts").as_uri())).info.run_id
    rng = np.random.default_rng(3)
    size, actions = len(SPEC.state_fields), len(SPEC.actions)
    policy = folder / "policy.onnx"
    write_linear_policy(policy, SPEC, rng.normal(size=(size, actions)), rng.normal(size=actions))
    example = np.zeros((2, size), dtype=np.float32), np.zeros((2, actions), dtype=np.float32)
    TrainingTracker(uri).log_model(run_id, policy, SPEC, *example)
    client.set_terminated(run_id, "FINISHED")
    store = MlflowStore(uri)
    logged = store.verified_model(run_id, SPEC)
    store.create_version(
        SPEC.registered_model, logged, run_id=run_id, tags={SEMVER_TAG: "1.0.0"}, purpose="", description=""
    )
    return uri


@pytest.fixture(scope="module")
def model(tracking_uri: str) -> ServedModel:
    """That version, loaded here."""
    return load_served_model(MlflowStore(tracking_uri), SPEC, "1")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a cluster with two CPUs; it listens beyond the loopback, so it asks for a token."""
    port = free_port()
    # Its sockets' paths have to be short.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        command = [Path(sys.executable).parent / "ray", "start", "--head", "--block", "--include-dashboard=false"]
        options = ["--node-ip-address", "127.0.0.1", "--port", str(port), "--num-cpus", "2"]
        sizes = ["--object-store-memory", "100000000", "--temp-dir", str(folder), "--disable-usage-stats"]
        with (folder / "head.log").open("w") as log:
            head = subprocess.Popen(
                [*command, *options, *sizes], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            _wait(head, folder / "head.log")
            yield f"127.0.0.1:{port}"
        finally:
            # The whole group: Ray leaves its parts behind when its head is killed.
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()
            shutil.rmtree(folder, ignore_errors=True)


def _wait(head: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while "This command will now block" not in log.read_text():
        assert head.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home of the agent."""
    return batches.home(tmp_path, SPEC)


@pytest.mark.slow
def test_a_cluster_gives_every_byte_that_one_process_gives(
    cluster: str, tracking_uri: str, model: ServedModel, home: Home, tmp_path: Path
) -> None:
    """A batch is answered one way on a laptop and another way on the cluster; nobody can say which is right."""
    batch = home.input(batches.rows(SPEC, 9 * CHUNK_ROWS + 17, timed=True))
    before = signal.getsignal(signal.SIGTERM)
    lines: list[str] = []
    there = home.score(batch, model, scorer=ray_scorer(cluster, tracking_uri, model), log=lines.append)
    here = batches.home(tmp_path / "here", SPEC).score(batch, model)
    assert batches.parts(there) == batches.parts(here)
    assert (there.key, there.tally, there.parts) == (here.key, here.tally, 10)
    assert lines[-1].startswith(f"{batch.rows} of {batch.rows} rows (100%)")
    # Dagster ends a run by this signal, and has to hear of it.
    assert signal.getsignal(signal.SIGTERM) == before
    again = home.score(batch, model, scorer=ray_scorer("127.0.0.1:1", tracking_uri, model))
    assert again.reused


@pytest.mark.slow
def test_what_a_worker_refuses_is_refused_here(cluster: str, tracking_uri: str, model: ServedModel, home: Home) -> None:
    """An error on a worker comes out as one that is retried for ever, or not at all."""
    batch = home.input(batches.rows(SPEC, 3 * CHUNK_ROWS))
    stale = replace(model, mlflow_version="7")
    with pytest.raises(InputError, match="MLflow has no version 7 of execution-agent-dqn"):
        home.score(batch, model, scorer=ray_scorer(cluster, tracking_uri, stale))
    assert list(home.paths.batch_predictions(SPEC.name).rglob("manifest.json")) == []


@pytest.mark.slow
def test_the_asset_takes_the_cluster_that_is_set(
    cluster: str, tracking_uri: str, model: ServedModel, home: Home, tmp_path: Path
) -> None:
    """RAY_ADDRESS is set, and the whole batch is scored by one core of the machine that starts it."""
    MlflowStore(tracking_uri).set_alias(SPEC.registered_model, CHAMPION, model.mlflow_version)
    batch = home.input(batches.rows(SPEC, 3 * CHUNK_ROWS))
    variables = {"MLFLOW_TRACKING_URI": tracking_uri, "MLOPS_BATCH_INPUT": str(tmp_path / "batch.parquet")}
    world = World.create(tmp_path, variables)
    away = world.materialize([ASSET], SPEC.name, settings={"RAY_ADDRESS": f"127.0.0.1:{free_port()}"})
    assert "nobody answers at RAY_ADDRESS=127.0.0.1:" in away.failures[ASSET]
    run = world.materialize([ASSET], SPEC.name, settings={"RAY_ADDRESS": cluster})
    assert run.success, run.failures
    here = batches.home(tmp_path / "here", SPEC).score(batch, model, chunk_rows=DEFAULT_CHUNK_ROWS)
    facts = run.facts(ASSET, SPEC.name)
    assert (facts["key"], facts["rows"], facts["reused"]) == (here.key, batch.rows, False)
    assert pq.read_table(facts["folder"]) == batches.read(here)


def test_a_worker_takes_no_other_weights(tracking_uri: str, model: ServedModel, home: Home) -> None:
    """A cluster that looks at another registry answers with another model, under this one's name."""
    chunk = batches.first_chunk(home, home.input(batches.rows(SPEC, 5)))
    right = RegisteredSource(tracking_uri, SPEC.name, "1", model.policy.weights_hash)
    assert answer_registered(right, chunk).tally.rows == 5
    with pytest.raises(InputError, match="other weights") as refused:
        answer_registered(replace(right, weights_hash="others"), chunk)
    # It may hold a password, and both are shown: in the run's log, and in Ray's.
    assert tracking_uri not in f"{refused.value} {right!r}"


def test_where_nobody_answers_it_says_so_at_once(tracking_uri: str, model: ServedModel, home: Home) -> None:
    """Ray itself tries for twenty seconds, and then names an address that nobody has given it."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    with pytest.raises(TransientError, match=f"nobody answers at RAY_ADDRESS=127.0.0.1:{port} .*unset RAY_ADDRESS"):
        home.score(
            home.input(batches.rows(SPEC, 5)), model, scorer=ray_scorer(f"127.0.0.1:{port}", tracking_uri, model)
        )


def test_without_the_extra_it_says_what_to_install(
    tracking_uri: str, model: ServedModel, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`No module named 'ray'` names nothing that a user can install or unset."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match=r"RAY_ADDRESS=127.0.0.1:1 asks for Ray.*mlops-assets\[ray\], or unset it"):
        home.score(home.input(batches.rows(SPEC, 5)), model, scorer=ray_scorer("127.0.0.1:1", tracking_uri, model))
