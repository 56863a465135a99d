"""Data path at 100,000 and 1,000,000 decisions: seconds, rows per second, peak memory; peers on the same rows.

    python benchmarks/data.py [--rows 100000 1000000] [--repeats 3] [--write]

Every measurement is a process of its own, so that its peak memory is its own. `--write` replaces the table in
benchmarks/data.md. Peers of the point-in-time join: pandas' merge_asof, and Feast's own historical retrieval on DuckDB.
"""

import argparse
import json
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

AGENT = "generation"
STAGES = ("ingest", "validate", "features", "training_set", "join", "join_pandas", "join_feast")
# Feast joins on the key and filters afterwards: at 1,000,000 entity rows it needs minutes and tens of gigabytes.
FEAST_ROWS = 100_000
TABLE = Path(__file__).with_name("data.md")


def stage(name: str, home: Path, rows: int) -> float:
    """Run one stage on a prepared home and return its seconds; imports and opening are not counted."""
    from mlops_assets.experiences.simulator.config import SimulatorConfig
    from mlops_assets.experiences.simulator.simulate import Simulator
    from mlops_assets.experiences.snapshots import collect_snapshot, latest_snapshot
    from mlops_assets.experiences.validation import validate_snapshot
    from mlops_assets.features.refresh import refresh_agent_features, refresh_test_features
    from mlops_assets.features.store import FeatureStoreAdapter
    from mlops_assets.features.training_set import build_training_set
    from mlops_assets.foundation.agents import agent_spec
    from mlops_assets.foundation.database import create_operational_engine, upgrade
    from mlops_assets.foundation.paths import ArtifactPaths
    from mlops_assets.foundation.profiles import load_profile

    paths, spec = ArtifactPaths(home), agent_spec(AGENT)
    engine = create_operational_engine(f"sqlite:///{paths.operations_db}")
    upgrade(engine)
    policy, now = load_profile("aiwebtest").data.standard, datetime.now(UTC)
    source = Simulator(SimulatorConfig(rows=rows))
    store = FeatureStoreAdapter(paths)

    def ingest() -> None:
        collect_snapshot(source, spec, paths=paths, engine=engine, policy=policy, now=now, versions=None)

    if name == "ingest":
        return timed(ingest)
    snapshot = latest_snapshot(spec.name, paths=paths, engine=engine)
    if snapshot is None:
        raise SystemExit("no snapshot: the stage `ingest` comes first")

    def refresh() -> None:
        refresh_test_features(store, paths=paths, as_of=source.as_of(now))
        refresh_agent_features(spec, snapshot, store, paths=paths)

    store.apply()
    entities = snapshot.experiences(columns=["test_id", "agent_id", "event_time"])
    works: dict[str, Callable[[], object]] = {
        "validate": lambda: validate_snapshot(
            snapshot, spec, policy, previous=None, paths=paths, engine=engine, now=now
        ),
        "features": refresh,
        "training_set": lambda: build_training_set(snapshot, spec, store, paths=paths, holdout_share=0.2),
        "join": lambda: store.historical(entities),
        "join_pandas": lambda: merge_asof(paths, entities),
        "join_feast": lambda: store.historical_by_feast(entities),
    }
    return timed(works[name])


def merge_asof(paths: object, entities: object) -> None:
    """The same join by pandas: sort, then merge_asof per view."""
    import pandas as pd

    from mlops_assets.features.offline import read_rows
    from mlops_assets.features.views import EVENT_TIMESTAMP, VIEWS

    decisions = entities.to_pandas().sort_values("event_time")  # type: ignore[attr-defined]
    for view in VIEWS:
        rows = read_rows(paths, view).to_pandas().sort_values(EVENT_TIMESTAMP)  # type: ignore[arg-type]
        pd.merge_asof(
            decisions,
            rows,
            left_on="event_time",
            right_on=EVENT_TIMESTAMP,
            by=view.key,
            tolerance=pd.Timedelta(view.ttl),
        )


def timed(work: Callable[[], object]) -> float:
    """Seconds of wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def prepare(home: Path, rows: int) -> None:
    """Store the executions of the simulated world, from which the test features come."""
    from mlops_assets.experiences.ingest import ingest
    from mlops_assets.experiences.simulator.config import SimulatorConfig
    from mlops_assets.experiences.simulator.executions import SimulatedExecutions
    from mlops_assets.foundation.database import create_operational_engine, upgrade
    from mlops_assets.foundation.paths import ArtifactPaths

    paths = ArtifactPaths(home)
    engine = create_operational_engine(f"sqlite:///{paths.operations_db}")
    upgrade(engine)
    ingest(SimulatedExecutions(SimulatorConfig(rows=rows)), paths=paths, engine=engine, now=datetime.now(UTC))


def measure(name: str, home: Path, rows: int) -> tuple[float, float]:
    """Run one stage in a process of its own; return seconds and peak memory in MiB."""
    done = subprocess.run(
        [sys.executable, __file__, "--stage", name, "--home", str(home), "--rows", str(rows)],
        check=True,
        capture_output=True,
        text=True,
    )
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return float(seconds), float(peak)


def run(sizes: list[int], repeats: int) -> str:
    """Measure everything; stages take turns within a repeat, so that a slow minute hits all of them."""
    figures: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for rows in sizes:
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                home = Path(folder) / "home"
                prepare(home, rows)
                for name in STAGES:
                    if name == "join_feast" and rows > FEAST_ROWS:
                        continue
                    figures.setdefault((rows, name), []).append(measure(name, home, rows))
                shutil.rmtree(home)
    lines = ["| rows | stage | seconds | rows/s | peak MiB | to our join |", "|---:|---|---:|---:|---:|---:|"]
    for (rows, name), values in figures.items():
        seconds = statistics.median(value[0] for value in values)
        peak = statistics.median(value[1] for value in values)
        pairs = zip(values, figures[rows, "join"], strict=True)
        ratio = f"{statistics.median(a[0] / b[0] for a, b in pairs):.1f}x" if name.startswith("join") else ""
        lines.append(f"| {rows:,} | {name} | {seconds:.2f} | {rows / seconds:,.0f} | {peak:,.0f} | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--stage", choices=STAGES)
    parser.add_argument("--home", type=Path)
    arguments = parser.parse_args()
    if arguments.stage:
        seconds = stage(arguments.stage, arguments.home, arguments.rows[0])
        print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
        return
    table = run(arguments.rows, arguments.repeats)
    print(table)
    if arguments.write:
        command = f"python benchmarks/data.py --rows {' '.join(map(str, arguments.rows))} --repeats {arguments.repeats}"
        TABLE.write_text(
            f"# Data path\n\n`{command}`, medians of {arguments.repeats}; {platform.machine()}, "
            f"Python {platform.python_version()}, two shared cores: the ratios tell more than the seconds.\n"
            f"What the stages are is in the script; `join` is the point-in-time join alone, beside its peers.\n\n{table}\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
