"""Executions for replay tests: small ones written by hand, random ones, and the real CSV histories read as they are."""

import csv
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from mlops_assets.experiences.schema import EXECUTIONS

EPOCH = datetime(2026, 1, 5, tzinfo=UTC)
# One run: test, failed, duration in ms.
Run = tuple[str, bool, float]


def executions(cycles: Sequence[Sequence[Run]], *, hours_apart: float = 24.0) -> pa.Table:
    """Cycles of runs as an executions table, cycles `hours_apart`, runs of a cycle a second apart."""
    rows = []
    for number, runs in enumerate(cycles):
        start = EPOCH + timedelta(hours=hours_apart * number)
        for position, (test, failed, duration) in enumerate(runs):
            rows.append(_row(number + 1, start, start + timedelta(seconds=position), test, duration, failed=failed))
    return _table(rows)


def random_executions(generator: np.random.Generator, *, cycles: int, tests: int) -> pa.Table:
    """A history whose tests differ in how often they fail, with whole-number durations so that sums are exact."""
    rates = generator.beta(0.5, 1.5, size=tests)
    durations = generator.integers(1, 60, size=tests) * 1000.0
    runs = []
    for _ in range(cycles):
        chosen = generator.choice(tests, size=int(generator.integers(1, tests + 1)))
        runs.append([(f"test-{test}", bool(generator.random() < rates[test]), durations[test]) for test in chosen])
    return executions(runs)


def real_executions(folder: Path, name: str) -> pa.Table:
    """One of the shared CSV histories, identities as they stand in the file."""
    return _table(list(_agm_rows(folder) if name.startswith("agm") else _retecs_rows(folder, name)))


def _retecs_rows(folder: Path, name: str) -> Iterator[dict[str, object]]:
    text = (folder / "ci_histories" / name).read_text(encoding="utf-8")
    lines = text.splitlines()
    complete = lines if name != "paintcontrol_partial.csv" else lines[:-1]
    delimiter = ";" if ";" in complete[0] else ","
    read = list(csv.DictReader((line.strip() for line in complete), delimiter=delimiter))
    last = max(int(row["Cycle"]) for row in read)
    kept = [row for row in read if name != "paintcontrol_partial.csv" or int(row["Cycle"]) < last]
    starts: dict[int, datetime] = {}
    for row in kept:
        at = datetime.fromisoformat(row["LastRun"]).replace(tzinfo=UTC)
        starts[int(row["Cycle"])] = min(at, starts.get(int(row["Cycle"]), at))
    for row in kept:
        cycle, at = int(row["Cycle"]), datetime.fromisoformat(row["LastRun"]).replace(tzinfo=UTC)
        duration = float(row["Duration"].replace(",", ""))
        yield _row(cycle, starts[cycle], at, row["Name"], duration, failed=row["Verdict"] == "1")


def _agm_rows(folder: Path) -> Iterator[dict[str, object]]:
    with (folder / "ci_histories" / "agm_web_e2e.csv").open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    starts: dict[int, int] = {}
    for row in read:
        starts[int(row["run"])] = min(int(row["start_ms"]), starts.get(int(row["run"]), int(row["start_ms"])))
    for row in read:
        cycle = int(row["run"])
        start, at = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (starts[cycle], int(row["start_ms"])))
        failed = re.fullmatch("failed|broken", row["status"]) is not None
        name = f"{row['suite']} > {row['test']}"
        yield _row(cycle, start, at, name, float(row["duration_ms"]), failed=failed, suite=row["suite"])


def _row(
    cycle: int, start: datetime, at: datetime, test: str, duration: float, *, failed: bool, suite: str = "suite"
) -> dict[str, object]:
    return {
        "test_id": test,
        "test_name": test,
        "suite": suite,
        "project": "",
        "framework": "csv",
        "status": "failed" if failed else "passed",
        "started_at": at,
        "duration_ms": duration,
        "retries": 0,
        "flaky": False,
        "cycle_id": f"{cycle:06d}",
        "cycle_started_at": start,
        "source_file": "history.csv",
        "source_hash": "0",
    }


def _table(rows: list[dict[str, object]]) -> pa.Table:
    numbered = [row | {"execution_id": f"{number:07d}"} for number, row in enumerate(rows)]
    return pa.Table.from_pylist(numbered, schema=EXECUTIONS)
