"""How fast a policy decides: percentiles at batch size 1, throughput in batches, and agreement between runtimes."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlops_assets.evaluation.metrics import QFunction, greedy
from mlops_assets.foundation.errors import InputError

# The first calls pay for lazy imports, allocation and caches.
_WARMUP_CALLS = 20
# p99 of 500 calls rests on five of them; fewer would make it the maximum.
_TIMED_CALLS = 500
_BATCH_ROWS = 256
_THROUGHPUT_SECONDS = 0.2
_PARITY_ROWS = 4096


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one decision (batch size 1) and decisions per second in batches of `batch_rows`."""

    runtime: str
    calls: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    batch_rows: int
    throughput_qps: float


@dataclass(frozen=True)
class RuntimeParity:
    """How closely another runtime gives the same action values on `rows` held-out states."""

    runtime: str
    rows: int
    max_absolute_difference: float
    same_greedy_action: float


def measure_latency(policy: QFunction, states: NDArray[np.float32], *, runtime: str) -> Latency:
    """Time real states, one after another, so that no cache of a single repeated row flatters the figure.

    Raises:
        InputError: there are no states.
    """
    if len(states) == 0:
        raise InputError("no held-out states to time the policy on")
    rows = [np.ascontiguousarray(states[i % len(states)][None, :]) for i in range(_TIMED_CALLS)]
    for row in rows[:_WARMUP_CALLS]:
        policy.q_values(row)
    elapsed = np.empty(len(rows))
    for index, row in enumerate(rows):
        started = time.perf_counter_ns()
        policy.q_values(row)
        elapsed[index] = time.perf_counter_ns() - started
    milliseconds = elapsed / 1e6
    p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99])
    return Latency(
        runtime=runtime,
        calls=len(rows),
        mean_ms=float(milliseconds.mean()),
        p50_ms=float(p50),
        p95_ms=float(p95),
        p99_ms=float(p99),
        batch_rows=_BATCH_ROWS,
        throughput_qps=_throughput(policy, states),
    )


def _throughput(policy: QFunction, states: NDArray[np.float32]) -> float:
    batch = np.ascontiguousarray(np.resize(states, (_BATCH_ROWS, states.shape[1])))
    policy.q_values(batch)
    started = time.perf_counter_ns()
    deadline = started + int(_THROUGHPUT_SECONDS * 1e9)
    calls = 0
    while calls == 0 or time.perf_counter_ns() < deadline:
        policy.q_values(batch)
        calls += 1
    return calls * _BATCH_ROWS / ((time.perf_counter_ns() - started) / 1e9)


def runtime_parity(policy: QFunction, other: QFunction, states: NDArray[np.float32], *, runtime: str) -> RuntimeParity:
    """Compare the action values of two runtimes of one network.

    Raises:
        InputError: there are no states.
    """
    if len(states) == 0:
        raise InputError("no held-out states to compare runtimes on")
    sample = states[:_PARITY_ROWS]
    first, second = policy.q_values(sample), other.q_values(sample)
    return RuntimeParity(
        runtime=runtime,
        rows=len(sample),
        max_absolute_difference=float(np.abs(first - second).max()),
        same_greedy_action=float((greedy(first) == greedy(second)).mean()),
    )
