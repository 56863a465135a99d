"""What was known about every test before its CI cycle began: verdicts of the cycle itself never enter.

Not here: rewards, the metric, and the decision context made of these numbers.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlops_assets.experiences.schema import EXECUTIONS
from mlops_assets.foundation.errors import InputError

RECENCY_WEIGHT: Final = 0.5
"""Weight of a run relative to the one after it."""
LAST_RUNS: Final = 4
"""Runs that the Sorting rule of RETECS looks at."""
_MICROSECONDS_A_DAY: Final = 86_400e6
_SHRINKAGE_RUNS: Final = 2.0
"""Runs that the project's own failure rate counts for in a test's total rate."""


@dataclass(frozen=True)
class CycleHistory:
    """One CI cycle: what happened in it, and per run, in row order, what was known before it began.

    Arrays are (n,), one entry per run (a test may run several times in a cycle). `durations` (ms) and `failed` are the
    outcome; everything from `expected_durations` on is honest history.
    """

    cycle_id: str
    started_at: np.datetime64
    known_at: np.datetime64
    test_ids: tuple[str, ...]
    suites: tuple[str, ...]
    projects: tuple[str, ...]
    frameworks: tuple[str, ...]
    durations: NDArray[np.float64]
    failed: NDArray[np.bool_]
    expected_durations: NDArray[np.float64]
    failure_rate_recent: NDArray[np.float64]
    failure_rate_total: NDArray[np.float64]
    last_failed: NDArray[np.float64]
    last_four_failures: NDArray[np.float64]
    sorting_priority: NDArray[np.float64]
    runs_seen: NDArray[np.float64]
    days_since_run: NDArray[np.float64]
    flakiness: NDArray[np.float64]
    suite_failure_rate: NDArray[np.float64]

    @property
    def key(self) -> str:
        """Name of the cycle that is unique over sources: two of them may both count their cycles from 1."""
        return f"{self.cycle_id}@{np.datetime_as_string(self.started_at, unit='s')}"

    @property
    def has_failure(self) -> bool:
        """Whether NAPFD is defined for this cycle."""
        return bool(self.failed.any())


@dataclass
class _TestMemory:
    """Running statistics of one test (or suite): O(1) to update and to read."""

    runs: int = 0
    failures: float = 0.0
    weighted_failures: float = 0.0
    weight: float = 0.0
    changes: int = 0
    last: bool = False
    last_runs: list[bool] = field(default_factory=list)
    last_time: np.datetime64 = field(default_factory=lambda: np.datetime64("NaT", "us"))
    duration: float = float("nan")

    def add_rate(self, share: float) -> None:
        """Add one run (share 0 or 1) or one cycle of a suite (its failing share)."""
        self.weighted_failures = self.weighted_failures * RECENCY_WEIGHT + share
        self.weight = self.weight * RECENCY_WEIGHT + 1.0

    def add_run(self, *, failed: bool, duration: float, at: np.datetime64) -> None:
        self.changes += int(self.runs > 0 and failed != self.last)
        self.runs += 1
        self.failures += failed
        self.add_rate(float(failed))
        self.last = failed
        self.last_runs = [failed, *self.last_runs[: LAST_RUNS - 1]]
        self.last_time = at
        self.duration = duration if math.isnan(self.duration) else (self.duration + duration) / 2.0

    def rate(self) -> float:
        """Recency-weighted failure rate; a test never run counts as failing, so that it is tried early."""
        return self.weighted_failures / self.weight if self.weight else 1.0

    def sorting(self) -> float:
        """The last verdicts as digits, newest first; runs that a young test lacks count as failures ahead of them."""
        missing = LAST_RUNS - len(self.last_runs)
        digits = [True] * missing + self.last_runs
        return float(int("".join("1" if failed else "0" for failed in digits), 2))


_NEW: Final = _TestMemory()


def cycle_histories(executions: pa.Table) -> tuple[CycleHistory, ...]:
    """Split executions into cycles, oldest first, each with the history known before it began.

    Cycles follow one another by (cycle_started_at, cycle_id); a test's runs by started_at, then by row. Skipped tests
    did not run and are left out.

    Raises:
        InputError: columns are missing, or a duration is negative or not finite.
    """
    missing = [name for name in EXECUTIONS.names if name not in executions.column_names]
    if missing:
        raise InputError(f"executions lack the columns {', '.join(missing)}; expected those of the executions schema")
    return tuple(_replay(_sorted(executions)))


def _sorted(executions: pa.Table) -> pa.Table:
    ran = executions.filter(pc.not_equal(executions["status"], "skipped")).combine_chunks()
    durations = ran["duration_ms"].to_numpy()
    if len(durations) and not (np.isfinite(durations).all() and durations.min() >= 0.0):
        raise InputError("duration_ms must be finite and not negative; such rows belong into the quarantine")
    row = pa.array(np.arange(ran.num_rows))
    keys = [(name, "ascending") for name in ("cycle_started_at", "cycle_id", "started_at", "row")]
    return ran.take(pc.sort_indices(ran.append_column("row", row), sort_keys=keys)).combine_chunks()


def _times(table: pa.Table, name: str) -> NDArray[np.datetime64]:
    return np.asarray(table[name].cast(pa.timestamp("us")).to_numpy()).astype("datetime64[us]")


def _replay(table: pa.Table) -> Iterator[CycleHistory]:
    cycle_ids = np.asarray(table["cycle_id"].to_pylist(), dtype=object)
    cycle_starts, starts = _times(table, "cycle_started_at"), _times(table, "started_at")
    texts = {name: table[name].to_pylist() for name in ("test_id", "suite", "project", "framework")}
    durations = table["duration_ms"].to_numpy()
    failed = pc.equal(table["status"], "failed").to_numpy()
    if not len(cycle_ids):
        return
    new_cycle = (cycle_ids[1:] != cycle_ids[:-1]) | (cycle_starts[1:] != cycle_starts[:-1])
    bounds = [0, *(np.flatnonzero(new_cycle) + 1).tolist(), len(cycle_ids)]
    ends = starts + (durations * 1000.0).astype("timedelta64[us]")
    memory = _Memory()
    for first, last in pairwise(bounds):
        rows = slice(first, last)
        tests, suites = tuple(texts["test_id"][rows]), tuple(texts["suite"][rows])
        yield CycleHistory(
            cycle_id=str(cycle_ids[first]),
            started_at=cycle_starts[first],
            known_at=max(ends[rows].max(), cycle_starts[first]),
            test_ids=tests,
            suites=suites,
            projects=tuple(texts["project"][rows]),
            frameworks=tuple(texts["framework"][rows]),
            durations=durations[rows],
            failed=failed[rows],
            **memory.recall(tests, suites, cycle_starts[first]),
        )
        memory.learn(tests, suites, failed=failed[rows], durations=durations[rows], at=starts[rows])


class _Memory:
    """All tests and suites seen so far."""

    def __init__(self) -> None:
        self._tests: dict[str, _TestMemory] = {}
        self._suites: dict[str, _TestMemory] = {}
        self._runs = 0
        self._failures = 0

    def recall(
        self, tests: tuple[str, ...], suites: tuple[str, ...], now: np.datetime64
    ) -> dict[str, NDArray[np.float64]]:
        """Return the honest columns of `CycleHistory` for the runs of one cycle."""
        known = [self._tests.get(test, _NEW) for test in tests]
        runs = np.array([memory.runs for memory in known], dtype=np.float64)
        failures = np.array([memory.failures for memory in known])
        prior = (self._failures + 1.0) / (self._runs + 2.0)
        last_times = np.array([memory.last_time for memory in known], dtype="datetime64[us]")
        waited = (now - last_times).astype("timedelta64[us]")
        days = np.where(np.isnat(waited), np.inf, waited.astype(np.float64) / _MICROSECONDS_A_DAY)
        return {
            "expected_durations": _expected_durations(np.array([memory.duration for memory in known])),
            "failure_rate_recent": np.array([memory.rate() for memory in known]),
            "failure_rate_total": (failures + _SHRINKAGE_RUNS * prior) / (runs + _SHRINKAGE_RUNS),
            "last_failed": np.array([float(memory.last) for memory in known]),
            "last_four_failures": np.array([sum(memory.last_runs) / LAST_RUNS for memory in known]),
            "sorting_priority": np.array([memory.sorting() for memory in known]),
            "runs_seen": runs,
            "days_since_run": np.maximum(days, 0.0),
            "flakiness": np.array([memory.changes / max(memory.runs - 1, 1) for memory in known]),
            "suite_failure_rate": np.array(
                [self._suites[suite].rate() if suite in self._suites else prior for suite in suites]
            ),
        }

    def learn(
        self,
        tests: tuple[str, ...],
        suites: tuple[str, ...],
        *,
        failed: NDArray[np.bool_],
        durations: NDArray[np.float64],
        at: NDArray[np.datetime64],
    ) -> None:
        """Take in the verdicts of a cycle, after it has been ranked."""
        shares: dict[str, list[bool]] = {}
        for test, suite, verdict, duration, time in zip(
            tests, suites, failed.tolist(), durations.tolist(), at, strict=True
        ):
            self._tests.setdefault(test, _TestMemory()).add_run(failed=verdict, duration=duration, at=time)
            shares.setdefault(suite, []).append(verdict)
        for suite, verdicts in shares.items():
            self._suites.setdefault(suite, _TestMemory()).add_rate(sum(verdicts) / len(verdicts))
        self._runs += len(tests)
        self._failures += int(failed.sum())


def _expected_durations(known: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fill the durations of tests never run with the median of the others in the cycle (1 ms when none is known)."""
    seen = known[~np.isnan(known)]
    typical = float(np.median(seen)) if len(seen) else 1.0
    return np.where(np.isnan(known), typical, known)
