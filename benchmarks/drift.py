"""A drift check of 15 columns at 10,000, 100,000 and 1,000,000 rows a side: seconds and peak memory, beside Evidently's.

    python benchmarks/drift.py [--rows 10000 100000 1000000] [--repeats 3] [--write]

Twelve numeric columns, three of categories. **check**: `check_drift` against a frozen reference, ours for every hour.
**freeze**: the reference itself, once a version. **Evidently** 0.7.23: `DataDriftPreset` with its defaults, on both tables,
from data frames that are already there, after a first report of 500 rows. Every measurement is a process of its own; its peak
memory, while it works, has the interpreter, the imports and the tables in it, and **added** is what the work added to what
was there (memory that was free again is not counted). At 1,000,000 rows Evidently runs once.
`--write` replaces the table in benchmarks/drift.md.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TABLE = Path(__file__).with_name("drift.md")
WORKS = ("freeze", "check", "evidently")
ONCE_FROM = 1_000_000


def table(rows: int, seed: int) -> dict[str, NDArray[Any]]:
    """Twelve columns of numbers, of which four are whole, and three of categories."""
    random = np.random.default_rng(seed)
    columns: dict[str, NDArray[Any]] = {f"normal_{i}": random.normal(size=rows) for i in range(4)}
    columns |= {f"skewed_{i}": random.lognormal(size=rows).astype(np.float32) for i in range(4)}
    columns |= {f"count_{i}": random.poisson(3.0 * (i + 1), rows) for i in range(4)}
    columns |= {f"category_{i}": np.array(list("abcdefgh"))[random.integers(0, 8, rows)] for i in range(2)}
    columns["flag"] = random.random(rows) < 0.3
    return columns


def work(name: str, rows: int) -> tuple[float, float, float]:
    """Do one of WORKS and return its seconds, the peak memory, and what of it came on top, both in MiB."""
    reference, current = table(rows, 1), table(rows, 2)
    done: Callable[[], object]
    if name == "evidently":
        import pandas as pd
        from evidently import Report
        from evidently.presets import DataDriftPreset

        warnings.simplefilter("ignore")
        frames = pd.DataFrame(current), pd.DataFrame(reference)
        del reference, current
        # What it loads at its first report is no part of a later one.
        Report([DataDriftPreset()]).run(*(frame.head(500) for frame in frames)).dict()

        def done() -> object:
            return Report([DataDriftPreset()]).run(*frames).dict()
    else:
        # What scipy's functions load is no part of a check.
        import scipy.special  # noqa: F401

        from mlops_assets.foundation.profiles import load_profile
        from mlops_assets.monitoring.drift_verdict import check_drift
        from mlops_assets.monitoring.reference import Reference

        policy = load_profile("aiwebtest").drift

        def freeze() -> Reference:
            return Reference.freeze(reference, policy)

        frozen = freeze() if name == "check" else None
        done = freeze if frozen is None else lambda: check_drift(frozen, current, policy)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = memory("VmRSS")
    started = time.perf_counter()
    done()
    seconds = time.perf_counter() - started
    return seconds, memory("VmHWM"), memory("VmHWM") - before


def memory(name: str) -> float:
    """Resident size now (VmRSS), or the largest since it was last reset (VmHWM), MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def measure(name: str, rows: int) -> list[float]:
    """Do one of WORKS in a process of its own."""
    command = [sys.executable, __file__, "--work", name, "--rows", str(rows)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(value) for value in json.loads(done.stdout.splitlines()[-1])]


def report(sizes: list[int], repeats: int) -> str:
    """Measure everything; the works take turns, so that a slow minute hits all of them."""
    lines = ["| rows a side | work | seconds | peak MiB | added MiB | to our check |", "|---:|---|---:|---:|---:|---:|"]
    for rows in sizes:
        found: dict[str, list[list[float]]] = {name: [] for name in WORKS}
        for repeat in range(repeats):
            for name in WORKS:
                if name != "evidently" or rows < ONCE_FROM or repeat == 0:
                    found[name].append(measure(name, rows))
        medians = {name: [statistics.median(column) for column in zip(*found[name], strict=True)] for name in WORKS}
        for name, (seconds, most, added) in medians.items():
            ratio = seconds / medians["check"][0]
            lines.append(f"| {rows:,} | {name} | {seconds:.3f} | {most:,.0f} | {added:,.0f} | {ratio:.1f}x |")
    return "\n".join(lines)


def main() -> None:
    """Measure, or do one work of a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", choices=WORKS)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if arguments.work:
        print(json.dumps(work(arguments.work, arguments.rows[0])))
        return
    text = (
        "# A drift check\n\n"
        f"`python benchmarks/drift.py --rows {' '.join(map(str, arguments.rows))} --repeats {arguments.repeats}`, medians of "
        f"{arguments.repeats}; {platform.machine()}, Python {platform.python_version()}, two shared cores: the ratios tell "
        "more than the seconds.\nWhat is measured is in the script.\n\n"
        f"{report(arguments.rows, arguments.repeats)}\n"
    )
    sys.stdout.write(text)
    if arguments.write:
        TABLE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
