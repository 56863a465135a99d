"""Decisions a second, and how long one takes, beside a plain FastAPI + ONNX Runtime service and a minimal BentoML one.

    make run && python benchmarks/serving.py [--home .mlops] [--seconds 20] [--repeats 3] [--write]

Ours runs with everything on: features from the online store (SQLite, and Redis where redis-server is installed), an A/B
test that sends a fifth of the users to a challenger, the other version as shadow, the prediction log; no request comes
twice, so none is answered from the cache. The peers get a finished state vector and keep nothing. Every server is one
worker process, and shares two cores with the load: an open one (a request goes out at its time, whether others were
answered or not), in a process of its own. All are measured in turn in every repeat; the table has medians. `--write`
replaces benchmarks/serving.md.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

AGENT = "execution"
RATES = (200, 500)
TABLE = Path(__file__).with_name("serving.md")
ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
PERCENTILES = (50, 95, 99)
START_SECONDS = 90
LOOKUPS = 3000


def main() -> None:
    """Measure and print; with --load, be the load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(".mlops"))
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--load", nargs=4, metavar=("URL", "REQUESTS", "RATE", "SECONDS"))
    arguments = parser.parse_args()
    if arguments.load:
        url, requests, rate, seconds = arguments.load
        sys.stdout.write(json.dumps(asyncio.run(load(url, Path(requests), float(rate), float(seconds)))))
        return
    if not (arguments.home / "operations.db").is_file():
        raise SystemExit(f"no lifecycle has run in {arguments.home}: make run")
    with tempfile.TemporaryDirectory() as scratch:
        text = report(arguments, measure(arguments, Path(scratch)))
    sys.stdout.write(text)
    if arguments.write:
        TABLE.write_text(text, encoding="utf-8")


async def load(url: str, requests: Path, rate: float, seconds: float) -> dict[str, Any]:
    """Send requests at a rate; the first second warms up and is not counted."""
    import aiohttp

    bodies = [line.encode() for line in requests.read_text().splitlines()]
    durations: list[float] = []
    failed = 0
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=256), headers=headers) as session:

        async def ask(number: int, due: float) -> None:
            nonlocal failed
            try:
                async with session.post(url, data=bodies[number % len(bodies)]) as answer:
                    await answer.read()
                    good = answer.status == 200
            except aiohttp.ClientError:
                good = False
            # From when it was due: a load that is late itself must not look like a fast server.
            if due > 1.0:
                durations.append(time.monotonic() - begin - due)
                failed += not good

        begin, number, tasks = time.monotonic(), 0, set()
        while (due := number / rate) < seconds + 1.0:
            await asyncio.sleep(max(0.0, begin + due - time.monotonic()))
            task = asyncio.create_task(ask(number, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
        await asyncio.gather(*tasks)
        took = time.monotonic() - begin - 1.0
    ordered = sorted(durations)
    found = {f"p{p}": 1000 * ordered[min(len(ordered) - 1, int(p / 100 * len(ordered)))] for p in PERCENTILES}
    return {**found, "rps": len(ordered) / took, "failed": failed}


def measure(arguments: argparse.Namespace, scratch: Path) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Every server at every rate, in turn, in every repeat."""
    results: dict[tuple[str, int], list[dict[str, Any]]] = {}
    home = scratch / "home"
    shutil.copytree(
        arguments.home.resolve(), home, ignore=shutil.ignore_patterns("dagster", "experiences", "dvc-remote")
    )
    for rate in RATES:
        write_requests(arguments.home.resolve(), scratch, rate, int(rate * (arguments.seconds + 1)) + 1)
    add_challenger(home)
    start_experiment(home)
    with redis_filled(home, scratch) as redis_url:
        for _ in range(arguments.repeats):
            for name, command, environment in servers(arguments.home.resolve(), home, redis_url):
                kind = "ours" if name.startswith("this project") else "peers"
                with running(command, environment, scratch / "server.log") as url:
                    for rate in RATES:
                        one = run_load(url, scratch / f"{kind}-{rate}.jsonl", rate, arguments.seconds)
                        results.setdefault((name, rate), []).append(one)
                        sys.stderr.write(f"{name} at {rate}/s: {one}\n")
        results["SQLite", 0] = [lookups(home, None) for _ in range(arguments.repeats)]
        if redis_url:
            results["Redis", 0] = [lookups(home, redis_url) for _ in range(arguments.repeats)]
    return results


def servers(model_home: Path, home: Path, redis_url: str | None) -> Iterator[tuple[str, list[str], dict[str, str]]]:
    """Name, command (with PORT for the port) and environment of every server."""
    python = sys.executable
    run_id = champion_run(model_home)
    model = model_home / "models" / AGENT / run_id
    own = {"MLOPS_HOME": str(home), "MLOPS_SERVING_PORT": "PORT", "MLOPS_EXPLORATION_EPSILON": "0.05"}
    yield "this project, SQLite", [python, "-m", "mlops_assets.serving"], own
    if redis_url:
        yield "this project, Redis", [python, "-m", "mlops_assets.serving"], {**own, "MLOPS_REDIS_URL": redis_url}
    uvicorn = [str(BIN / "uvicorn"), "benchmarks.peers.fastapi_onnx:app", "--port", "PORT", "--no-access-log"]
    yield "FastAPI + ONNX Runtime", uvicorn, {"PEER_MODEL": str(model / "policy.onnx")}
    bento = [
        str(BIN / "bentoml"),
        "serve",
        "benchmarks.peers.bento_torch:Peer",
        "--host",
        "127.0.0.1",
        "--port",
        "PORT",
    ]
    yield "BentoML + eager torch", bento, {"PEER_MODEL": str(model / "policy.pt"), "BENTOML_DO_NOT_TRACK": "True"}


def champion_run(home: Path) -> str:
    """MLflow run of the agent's champion."""
    from mlops_assets.foundation.agents import agent_spec
    from mlops_assets.foundation.database import create_operational_engine
    from mlops_assets.foundation.settings import load_settings
    from mlops_assets.registry.catalogue import ModelCatalogue

    settings = load_settings({"MLOPS_HOME": str(home)})
    engine = create_operational_engine(settings.database)
    champion = ModelCatalogue(settings.tracking_uri, engine).champion(agent_spec(AGENT).registered_model)
    if champion is None:
        raise SystemExit(f"{AGENT} has no champion in {home}: make run")
    return champion.run_id


def write_requests(home: Path, scratch: Path, rate: int, count: int) -> None:
    """Requests for known tests and agents with contexts drawn over their ranges, and as many state vectors."""
    import numpy as np

    from mlops_assets.features.offline import read_rows
    from mlops_assets.features.views import AGENT_CONTEXT_FEATURES, TEST_EXECUTION_FEATURES
    from mlops_assets.foundation.agents import agent_spec
    from mlops_assets.foundation.paths import ArtifactPaths

    spec, paths, random = agent_spec(AGENT), ArtifactPaths(home), np.random.default_rng(rate)
    tests = read_rows(paths, TEST_EXECUTION_FEATURES, columns=["test_id"])["test_id"].unique().to_pylist()
    agents = (
        read_rows(paths, AGENT_CONTEXT_FEATURES, groups=[AGENT], columns=["agent_id"])["agent_id"].unique().to_pylist()
    )
    ours, peers = scratch / f"ours-{rate}.jsonl", scratch / f"peers-{rate}.jsonl"
    with ours.open("w") as own, peers.open("w") as other:
        for i in range(count):
            context = {field.name: float(random.uniform(field.low, field.high)) for field in spec.context}
            request = {
                "agent": AGENT,
                "test_id": tests[i % len(tests)],
                "agent_id": agents[i % len(agents)],
                "user_id": f"user-{i % 1000}",
                "context": context,
            }
            own.write(json.dumps(request) + "\n")
            other.write(json.dumps({"state": random.random(len(spec.state_fields)).tolist()}) + "\n")


def add_challenger(home: Path) -> None:
    """A second version behind the alias `challenger`, of the champion's run: another version to load and to ask."""
    from mlops_assets.foundation.agents import agent_spec
    from mlops_assets.foundation.settings import load_settings
    from mlops_assets.registry.mlflow_store import MlflowStore

    spec, run_id = agent_spec(AGENT), champion_run(home)
    store = MlflowStore(load_settings({"MLOPS_HOME": str(home)}).tracking_uri)
    version = store.create_version(
        spec.registered_model,
        store.verified_model(run_id, spec),
        run_id=run_id,
        tags={"semantic_version": "99.0.0", "training_hash": "benchmark", "data_version": "benchmark"},
        purpose=spec.purpose,
        description="the champion's files again",
    )
    store.set_alias(spec.registered_model, "challenger", version)


def start_experiment(home: Path) -> None:
    """A running A/B test, so that every request is assigned to an arm."""
    from mlops_assets.experiments.experiments import create_experiment
    from mlops_assets.foundation.database import create_operational_engine, upgrade

    engine = create_operational_engine(f"sqlite:///{home / 'operations.db'}")
    upgrade(engine)
    name = f"benchmark-{time.time_ns()}"
    create_experiment(engine, name, AGENT, treatment_share=0.2, user="benchmark", now=datetime.now(UTC))
    engine.dispose()


@contextlib.contextmanager
def redis_filled(home: Path, scratch: Path) -> Iterator[str | None]:
    """A Redis server on loopback with the home's online features; None where Redis is not installed."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    from mlops_assets.features.store import FeatureStoreAdapter
    from mlops_assets.foundation.paths import ArtifactPaths

    port = free_port()
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(scratch)]
    process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    try:
        time.sleep(1.0)
        url = f"redis://127.0.0.1:{port}/0"
        until = FeatureStoreAdapter(ArtifactPaths(home)).materialized_until()
        store = FeatureStoreAdapter(ArtifactPaths(home), redis_url=url)
        store.apply()
        if until is not None:
            store.materialize(until)
        yield url
    finally:
        process.terminate()
        process.wait()


def lookups(home: Path, redis_url: str | None) -> dict[str, Any]:
    """Latency of one decision's features, read one after another in a process of its own."""
    code = (
        "import sys, json, time, gc\n"
        "from datetime import timedelta\n"
        "from pathlib import Path\n"
        "from mlops_assets.features.store import FeatureStoreAdapter\n"
        "from mlops_assets.foundation.agents import agent_spec\n"
        "from mlops_assets.foundation.paths import ArtifactPaths\n"
        "store = FeatureStoreAdapter(ArtifactPaths(Path(sys.argv[1])), redis_url=sys.argv[2] or None)\n"
        "store.import_feast()\n"
        "requests = [json.loads(line) for line in Path(sys.argv[3]).read_text().splitlines()]\n"
        "spec, until = agent_spec(requests[0]['agent']), store.materialized_until()\n"
        "store.online_features(spec, ['a'], ['b'], until)\n"
        "gc.collect(); gc.freeze()\n"
        "took = []\n"
        f"for i in range({LOOKUPS}):\n"
        "    one = requests[i % len(requests)]\n"
        "    begin = time.perf_counter()\n"
        "    store.online_features(spec, [one['test_id']], [one['agent_id']], until)\n"
        "    took.append(1000 * (time.perf_counter() - begin))\n"
        "took.sort()\n"
        "print(json.dumps({f'p{p}': took[int(p / 100 * len(took))] for p in (50, 95, 99)}))\n"
    )
    command = [sys.executable, "-c", code, str(home), redis_url or "", str(home.parent / f"ours-{RATES[-1]}.jsonl")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run_load(url: str, requests: Path, rate: int, seconds: float) -> dict[str, Any]:
    """One load, from a process of its own."""
    command = [sys.executable, __file__, "--load", f"{url}/predict", str(requests), str(rate), str(seconds)]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[str]:
    """Start a server on a free port, wait until it is ready, and end it by its own process."""
    port = str(free_port())
    with log.open("ab") as output:
        process = subprocess.Popen(
            [part.replace("PORT", port) for part in command],
            cwd=ROOT,
            env={**os.environ, **{name: value.replace("PORT", port) for name, value in environment.items()}},
            stdout=output,
            stderr=output,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def ready(url: str) -> bool:
    """Whether a server answers that it is ready."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:  # noqa: S310 - loopback
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def report(arguments: argparse.Namespace, results: dict[tuple[str, int], list[dict[str, Any]]]) -> str:
    """The table."""
    method = (
        f"`python benchmarks/serving.py --seconds {arguments.seconds:g} --repeats {arguments.repeats}`, medians; "
        f"{platform.machine()}, Python {platform.python_version()}, two cores shared with the load: the ratios tell more "
        "than the milliseconds. Latency is the client's, from the moment a request was due."
    )
    lines = [
        "# Serving",
        "",
        method,
        "",
        "| server | requests/s asked | answered | p50 ms | p95 ms | p99 ms | p50 against FastAPI | failed |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    plain = {rate: middle(results["FastAPI + ONNX Runtime", rate], "p50") for rate in RATES}
    for (name, rate), runs in results.items():
        if rate:
            latencies = " | ".join(f"{middle(runs, f'p{p}'):.2f}" for p in PERCENTILES)
            more = middle(runs, "p50") - plain[rate]
            failed = sum(int(one["failed"]) for one in runs)
            ratio = f"{more:+.2f} ms, {middle(runs, 'p50') / plain[rate]:.2f}x"
            lines.append(f"| {name} | {rate} | {middle(runs, 'rps'):.0f} | {latencies} | {ratio} | {failed} |")
    lines += ["", "| one decision's features | p50 ms | p95 ms | p99 ms |", "|---|---:|---:|---:|"]
    for (name, rate), runs in results.items():
        if not rate:
            lines.append(f"| {name} | " + " | ".join(f"{middle(runs, f'p{p}'):.2f}" for p in PERCENTILES) + " |")
    return "\n".join(lines) + "\n"


def middle(runs: list[dict[str, Any]], name: str) -> float:
    """Median over the repeats."""
    return statistics.median(float(one[name]) for one in runs)


if __name__ == "__main__":
    main()
