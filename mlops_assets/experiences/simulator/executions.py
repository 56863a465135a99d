"""The fleet's CI: every app runs its tests several times a day; latent fault and flake rates show in the results."""

from collections.abc import Container, Iterator
from datetime import datetime
from hashlib import sha256

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlops_assets.experiences.execution_rows import execution_id
from mlops_assets.experiences.execution_source import SourceBatch
from mlops_assets.experiences.schema import EXECUTIONS, TIMESTAMP
from mlops_assets.experiences.simulator.config import EPOCH, SimulatorConfig
from mlops_assets.experiences.simulator.fleet import APPS, TESTS_PER_APP, Fleet, app_name, build_fleet

_EXECUTION_STREAM = 3
_FRAMEWORK = "playwright"
_EPOCH_MICROSECONDS = int(EPOCH.timestamp()) * 1_000_000
_DAY_MICROSECONDS = 86_400_000_000
# A regression stays until somebody mends it: a failing test fails again in the next cycle with this probability.
_STAYS_BROKEN = 0.6
# The runner repeats a failing test at most twice.
_RETRIES = 2
_SKIPPED_SHARE = 0.01


class SimulatedExecutions:
    """Executions of a simulated fleet's tests, as an `ExecutionSource`; a batch is a day of all apps."""

    kind = "simulator"

    def __init__(self, config: SimulatorConfig) -> None:
        """Build the fleet of `config`.

        Raises:
            InputError: the config's user stories cannot be read.
        """
        self._config = config
        self._fleet: Fleet = build_fleet(config)

    def as_of(self, now: datetime) -> datetime:
        """Return the end of simulated time, whatever `now` is: the world ends there."""
        del now
        return self._config.end

    def batches(self, known: Container[str]) -> Iterator[SourceBatch]:
        """Yield the days whose `source_hash` is not in `known`."""
        broken = (
            np.random.default_rng([self._config.seed, _EXECUTION_STREAM]).random(self._tests) < self._fleet.fault_rate
        )
        for day in range(self._config.total_days):
            source_hash = self._hash(day)
            draws = self._draws(day)
            # What is broken today depends on all days before, read or not.
            faults = np.zeros((self._config.cycles_per_day, self._tests), dtype=bool)
            for cycle in range(self._config.cycles_per_day):
                broken = self._next(broken, draws[0, cycle])
                faults[cycle] = broken
            if source_hash not in known:
                name = f"{self.kind}/day-{day:04d}"
                yield SourceBatch(name, source_hash, self._table(day, faults, draws, name, source_hash))

    @property
    def _tests(self) -> int:
        return len(self._fleet.test_id)

    def _hash(self, day: int) -> str:
        config = self._config
        return sha256(f"{config.seed}:{config.cycles_per_day}:{day}".encode()).hexdigest()

    def _draws(self, day: int) -> NDArray[np.float64]:
        """Return uniforms, (7, cycles, tests)."""
        random = np.random.default_rng([self._config.seed, _EXECUTION_STREAM, day])
        return random.random((7, self._config.cycles_per_day, self._tests))

    def _next(self, broken: NDArray[np.bool_], draw: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Step the Markov chain of faults, whose stationary share of broken tests is the fault rate."""
        rate = self._fleet.fault_rate
        breaks = rate * (1 - _STAYS_BROKEN) / (1 - rate)
        return draw < np.where(broken, _STAYS_BROKEN, breaks)

    def _table(
        self, day: int, faults: NDArray[np.bool_], draws: NDArray[np.float64], source_file: str, source_hash: str
    ) -> pa.Table:
        fleet, cycles = self._fleet, self._config.cycles_per_day
        # First attempt and two repetitions: a fault fails them all, a flake each on its own.
        failures = (faults | (draws[1:4] < fleet.flake_rate)).astype(np.int64)
        retries = np.cumprod(failures, axis=0)[:_RETRIES].sum(axis=0)
        failed = failures.all(axis=0)
        skipped = draws[4] < _SKIPPED_SHARE
        status = np.where(skipped, "skipped", np.where(failed, "failed", "passed"))
        duration = np.where(skipped, 0.0, fleet.duration_ms * np.exp(0.3 * (draws[5] - 0.5)))
        # The tests of an app run one after another; the cycles are spread over the day, a little late each.
        duration_us = (duration * (1 + retries) * 1_000).astype(np.int64).reshape(cycles, APPS, TESTS_PER_APP)
        late = draws[6].reshape(cycles, APPS, TESTS_PER_APP)[..., 0] * 0.5
        begin = ((np.arange(cycles)[:, None] + late) * _DAY_MICROSECONDS / cycles).astype(np.int64)[..., None]
        begin = begin + _EPOCH_MICROSECONDS + day * _DAY_MICROSECONDS
        started = begin + np.cumsum(duration_us, axis=2) - duration_us
        cycle_ids = [
            f"{app_name(app)}-s{self._config.seed}-d{day:04d}-c{cycle:02d}"
            for cycle in range(cycles)
            for app in range(APPS)
        ]
        cycle_id = [name for name in cycle_ids for _ in range(TESTS_PER_APP)]
        slots = list(range(TESTS_PER_APP)) * (APPS * cycles)
        test_id = list(fleet.test_id) * cycles
        columns = {
            "execution_id": [execution_id(*parts) for parts in zip(cycle_id, slots, test_id, strict=True)],
            "test_id": test_id,
            "test_name": list(fleet.test_name) * cycles,
            "suite": list(fleet.suite) * cycles,
            "project": list(fleet.browser) * cycles,
            "framework": [_FRAMEWORK] * len(test_id),
            "status": status.ravel().tolist(),
            "started_at": pa.array(started.ravel()).cast(TIMESTAMP),
            "duration_ms": duration.ravel(),
            "retries": np.where(skipped, 0, retries).ravel().astype(np.int32),
            "flaky": (~skipped & ~failed & (retries > 0)).ravel(),
            "cycle_id": cycle_id,
            "cycle_started_at": pa.array(np.broadcast_to(begin, started.shape).ravel()).cast(TIMESTAMP),
            "source_file": [source_file] * len(test_id),
            "source_hash": [source_hash] * len(test_id),
        }
        arrays = [pa.array(columns[field.name], field.type) for field in EXECUTIONS]
        return pa.Table.from_arrays(arrays, schema=EXECUTIONS)
