"""Latency, throughput and agreement of runtimes."""

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from mlops_assets.evaluation.latency import measure_latency, runtime_parity
from mlops_assets.foundation.errors import InputError


class Slow:
    """Takes a given time for a call of one row, and far longer for the first ones."""

    def __init__(self, seconds: float, cold_calls: int = 0) -> None:
        self.seconds, self.cold_calls = seconds, cold_calls
        self.seen: list[NDArray[np.float32]] = []

    def q_values(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        self.seen.append(states)
        time.sleep(0.05 if len(self.seen) <= self.cold_calls else self.seconds)
        return states[:, :2]


STATES = np.random.default_rng(0).random((40, 3)).astype(np.float32)


def test_percentiles_of_a_known_time() -> None:
    """Seconds taken for milliseconds, or a mean labelled p50, would pass every gate."""
    found = measure_latency(Slow(0.001), STATES, runtime="slow")
    assert 1.0 <= found.p50_ms <= found.p95_ms <= found.p99_ms
    assert found.p50_ms < 10
    assert found.throughput_qps == pytest.approx(found.batch_rows / 0.001, rel=0.9)
    assert (found.runtime, found.calls) == ("slow", 500)


def test_cold_calls_do_not_count() -> None:
    """The first calls pay for imports and allocation; users of a running service never see them."""
    found = measure_latency(Slow(0.0, cold_calls=20), STATES, runtime="cold")
    assert found.p99_ms < 40


def test_every_call_takes_another_real_row() -> None:
    """One repeated row lives in the cache; and one row a call is what serving does."""
    policy = Slow(0.0)
    measure_latency(policy, STATES, runtime="r")
    single = [states for states in policy.seen if len(states) == 1]
    assert len({states.tobytes() for states in single}) == len(STATES)
    assert max(map(len, policy.seen)) == 256


def test_no_states_are_no_latency() -> None:
    """An empty held-out set must not pass the latency gate with 0 ms."""
    with pytest.raises(InputError, match="no held-out states"):
        measure_latency(Slow(0.0), STATES[:0], runtime="r")
    with pytest.raises(InputError, match="no held-out states"):
        runtime_parity(Slow(0.0), Slow(0.0), STATES[:0], runtime="r")


def test_parity_sees_a_difference() -> None:
    """An export that computes something else must show."""

    class Shifted(Slow):
        def q_values(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
            return states[:, :2] * np.array([1.0, 1.5], dtype=np.float32)

    same = runtime_parity(Slow(0.0), Slow(0.0), STATES, runtime="onnx")
    assert (same.max_absolute_difference, same.same_greedy_action, same.rows) == (0.0, 1.0, 40)
    other = runtime_parity(Slow(0.0), Shifted(0.0), STATES, runtime="onnx")
    assert other.max_absolute_difference == pytest.approx(STATES[:, 1].max() / 2)
    assert other.same_greedy_action < 1.0
