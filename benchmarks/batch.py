"""Batch inference: rows per second of one core, peak memory, at growing sizes; peers on the same rows in the same run.

    python benchmarks/batch.py [--rows 1000000 10000000] [--repeats 3] [--write]

Every measurement is a process of its own, so that its peak memory is its own. `--write` replaces the table in
benchmarks/batch.md. The network is the agent's (256, 256, dueling), exported as in production, on one thread. Peers of the
network part: torch eager on one thread, in the same chunks; and the same ONNX session asked row by row.
"""

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlops_assets.serving.models import ServedModel
    from mlops_assets.training.network import DuelingQNetwork

AGENT = "execution"
# One row at a time is measured on fewer rows: nothing about it changes with their number.
SINGLE_ROWS = 20_000
NETWORK_ROWS = 1_000_000
STAGES = ("network_onnx", "network_torch", "network_row_by_row", "pipeline_online", "pipeline_point_in_time")
TESTS, AGENT_IDS, DAYS = 2_000, 20, 60
TABLE = Path(__file__).with_name("batch.md")
MONDAY = datetime(2026, 1, 5, tzinfo=UTC)


def stage(name: str, home: Path, rows: int) -> tuple[float, float]:
    """Run one stage on a prepared home; return its seconds, and those in the network. Imports are not counted."""
    import numpy as np

    from mlops_assets.foundation.agents import agent_spec

    spec = agent_spec(AGENT)
    if name.startswith("pipeline"):
        return pipeline(home, home / f"{name.removeprefix('pipeline_')}-{rows}")
    states = np.random.default_rng(0).uniform(size=(rows, len(spec.state_fields))).astype(np.float32)
    if name == "network_torch":
        import torch

        from mlops_assets.training.policy import GreedyPolicy

        torch.set_num_threads(1)
        policy = GreedyPolicy.from_network(network())
        policy.q_values(states[:1000])
        seconds = timed(lambda: policy.q_values(states))
        return seconds, seconds
    policy = served(home).policy
    policy.q_values(states[:1000])

    def row_by_row() -> None:
        for row in range(rows):
            policy.q_values(states[row : row + 1])

    seconds = timed(row_by_row if name == "network_row_by_row" else lambda: policy.q_values(states))
    return seconds, seconds


def pipeline(home: Path, source: Path) -> tuple[float, float]:
    """Read, check, join features, score and write; a fresh folder each time."""
    import shutil

    from mlops_assets.features.store import FeatureStoreAdapter
    from mlops_assets.foundation.paths import ArtifactPaths
    from mlops_assets.serving.batch import score_batch
    from mlops_assets.serving.batch_features import BatchFeatures
    from mlops_assets.serving.batch_input import parquet_input

    paths, model = ArtifactPaths(home), served(home)
    shutil.rmtree(paths.batch_predictions(AGENT), ignore_errors=True)
    store = FeatureStoreAdapter(paths)
    store.materialized_until()
    features = BatchFeatures(model.spec, store, paths, MONDAY + timedelta(days=DAYS, hours=1))
    results = []
    seconds = timed(
        lambda: results.append(score_batch(parquet_input(source, model.spec), model, features, paths=paths))
    )
    speed = results[0].network_rows_per_second
    assert speed is not None
    return seconds, results[0].tally.answered / speed


def served(home: Path) -> "ServedModel":
    """The exported network as a version in service."""
    from mlops_assets.foundation.agents import agent_spec
    from mlops_assets.serving.models import ServedModel
    from mlops_assets.training.policy import GreedyPolicy

    return ServedModel(
        spec=agent_spec(AGENT),
        semver="1.0.0",
        mlflow_version="1",
        run_id="benchmark",
        data_hash="",
        training_hash="",
        policy=GreedyPolicy.from_onnx(home / "policy.onnx"),
        text_embedder=None,
    )


def peak_mib() -> float:
    """Peak memory of this process; `ru_maxrss` would count what the process that started it had."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


def timed(work: Callable[[], object]) -> float:
    """Seconds of wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def network() -> "DuelingQNetwork":
    """The agent's network, of the production size, with random weights."""
    import torch

    from mlops_assets.foundation.agents import agent_spec
    from mlops_assets.training.config import DqnConfig
    from mlops_assets.training.network import DuelingQNetwork

    torch.manual_seed(0)
    spec = agent_spec(AGENT)
    return DuelingQNetwork(len(spec.state_fields), len(spec.actions), DqnConfig().hidden_sizes)


def prepare(home: Path, sizes: list[int]) -> None:
    """Export the network, fill the feature store for 60 days, and write the batches."""
    import numpy as np
    import pyarrow as pa

    from mlops_assets.features.store import FeatureStoreAdapter
    from mlops_assets.features.views import AGENT_CONTEXT_FEATURES, TEST_EXECUTION_FEATURES, ViewSpec
    from mlops_assets.foundation.agents import agent_spec
    from mlops_assets.foundation.paths import ArtifactPaths
    from mlops_assets.training.onnx_export import export_onnx

    rng, spec = np.random.default_rng(0), agent_spec(AGENT)
    home.mkdir(parents=True)
    export_onnx(home / "policy.onnx", network(), spec, rng.uniform(size=(9, len(spec.state_fields))).astype(np.float32))

    def rows(view: ViewSpec, keys: list[str]) -> pa.Table:
        count = len(keys) * DAYS
        times = [MONDAY + timedelta(days=day) for day in range(DAYS) for _ in keys]
        fixed = {view.key: keys * DAYS, "event_timestamp": times, "created": times}
        drawn = {
            feature.name: ["passed"] * count if feature.dtype == "string" else rng.integers(0, 9, size=count)
            for feature in view.features
        }
        return pa.table(
            {name: pa.array({**fixed, **drawn}[name]).cast(view.schema.field(name).type) for name in view.schema.names}
        )

    store = FeatureStoreAdapter(ArtifactPaths(home))
    store.apply()
    store.write_test_features(rows(TEST_EXECUTION_FEATURES, [f"test-{number}" for number in range(TESTS)]))
    store.write_agent_features(AGENT, rows(AGENT_CONTEXT_FEATURES, [f"agent-{number}" for number in range(AGENT_IDS)]))
    store.materialize(MONDAY + timedelta(days=DAYS))
    for size in sizes:
        write_batch(home / f"online-{size}", size, timed_rows=False)
        write_batch(home / f"point_in_time-{size}", size, timed_rows=True)


def write_batch(folder: Path, size: int, *, timed_rows: bool) -> None:
    """Write `size` rows in files of a million, in order of time."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mlops_assets.foundation.agents import agent_spec

    folder.mkdir()
    rng, million = np.random.default_rng(1), 1_000_000
    tests, agents = (pa.array([f"{name}-{i}" for i in range(n)]) for name, n in (("test", TESTS), ("agent", AGENT_IDS)))
    start, span = int(MONDAY.timestamp()) * 1_000_000, DAYS * 86_400_000_000
    for begin in range(0, size, million):
        count = min(million, size - begin)
        columns = {
            "agent_id": agents.take(pa.array(rng.integers(AGENT_IDS, size=count))),
            "test_id": tests.take(pa.array(rng.integers(TESTS, size=count))),
            **{field.name: rng.uniform(size=count).astype(np.float32) for field in agent_spec(AGENT).context},
        }
        if timed_rows:
            moments = start + np.arange(begin, begin + count) * span // size
            columns["event_time"] = pa.array(moments).cast(pa.timestamp("us", "UTC"))
        pq.write_table(pa.table(columns), folder / f"{begin:010d}.parquet", row_group_size=131_072)


def measure(name: str, home: Path, rows: int) -> tuple[float, float, float]:
    """Run one stage in a process of its own; return seconds, seconds in the network, and peak memory in MiB."""
    done = subprocess.run(
        [sys.executable, __file__, "--stage", name, "--home", str(home), "--rows", str(rows)],
        check=True,
        capture_output=True,
        text=True,
    )
    seconds, inside, peak = json.loads(done.stdout.splitlines()[-1])
    return float(seconds), float(inside), float(peak)


def run(sizes: list[int], repeats: int) -> str:
    """Measure everything; stages take turns within a repeat, so that a slow minute hits all of them."""
    stages = [(name, rows) for name in STAGES for rows in _sizes(name, sizes)]
    figures: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        prepare(home, sizes)
        for _ in range(repeats):
            for name, rows in stages:
                figures.setdefault((name, rows), []).append(measure(name, home, rows))
    lines = [
        "| stage | rows | seconds | rows/s | rows/s in the network | peak MiB | a row against our network |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    ours = figures["network_onnx", NETWORK_ROWS]
    for (name, rows), values in figures.items():
        seconds, inside, peak = (statistics.median(value[place] for value in values) for place in range(3))
        pairs = zip(values, ours, strict=True)
        ratio = statistics.median((a[0] / rows) / (b[0] / NETWORK_ROWS) for a, b in pairs)
        lines.append(
            f"| {name} | {rows:,} | {seconds:.2f} | {rows / seconds:,.0f} | {rows / inside:,.0f} | {peak:,.0f} | "
            f"{ratio:.2f}x |"
        )
    return "\n".join(lines)


def _sizes(name: str, sizes: list[int]) -> list[int]:
    if name.startswith("pipeline"):
        return sizes
    return [SINGLE_ROWS if name == "network_row_by_row" else NETWORK_ROWS]


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--stage", choices=STAGES)
    parser.add_argument("--home", type=Path)
    arguments = parser.parse_args()
    if arguments.stage:
        seconds, inside = stage(arguments.stage, arguments.home, arguments.rows[0])
        print(json.dumps([seconds, inside, peak_mib()]))
        return
    table = run(arguments.rows, arguments.repeats)
    print(table)
    if arguments.write:
        sizes = " ".join(map(str, arguments.rows))
        TABLE.write_text(
            f"# Batch inference\n\n`python benchmarks/batch.py --rows {sizes} --repeats {arguments.repeats}`, medians of "
            f"{arguments.repeats}; {platform.machine()}, Python {platform.python_version()}, two shared cores: the ratios "
            "tell more than the seconds.\n`network` is states to Q-values alone, one thread: ONNX as in production, torch "
            "eager, and ONNX asked row by row; `pipeline` reads parquet, checks, joins features (from the online store, or "
            f"point in time),\nscores and writes, in one process. Agent `{AGENT}`.\n\n{table}\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
