"""Comparison of two versions' metrics."""

import pytest

from mlops_assets.registry.comparison import compare_metrics, lower_is_better


def test_direction_follows_the_metric() -> None:
    """Second minus first alone would praise a slower model."""
    improvement = compare_metrics(
        {"accuracy": 0.90, "latency_p95_ms": 20.0}, {"accuracy": 0.93, "latency_p95_ms": 30.0}
    )
    assert improvement["accuracy"].delta == pytest.approx(0.03)
    assert improvement["accuracy"].better is True
    assert improvement["latency_p95_ms"].delta == pytest.approx(10.0)
    assert improvement["latency_p95_ms"].better is False
    assert improvement["latency_p95_ms"].relative == pytest.approx(0.5)


def test_metrics_of_one_side_only_are_left_out() -> None:
    """A metric that the other version lacks used to end in a KeyError."""
    assert set(compare_metrics({"a": 1.0, "b": 1.0}, {"b": 2.0, "c": 3.0})) == {"b"}
    assert compare_metrics({}, {"a": 1.0}) == {}


def test_relative_to_zero_and_to_negative_numbers() -> None:
    """Over 0 there is no percentage, and over a negative return an improvement is still positive."""
    improvement = compare_metrics({"f1": 0.0, "avg_reward": -10.0}, {"f1": 0.4, "avg_reward": -5.0})
    assert improvement["f1"].relative is None
    assert improvement["f1"].better is True
    assert improvement["avg_reward"].relative == pytest.approx(0.5)


def test_equal_values_are_neither_better_nor_worse() -> None:
    """Two equal versions must not look like an improvement."""
    assert compare_metrics({"loss": 1.0}, {"loss": 1.0})["loss"].better is None


@pytest.mark.parametrize(
    "name", ["loss", "error_rate", "latency_p99_ms", "regret", "max_slice_gap_points", "model_size_mb"]
)
def test_metrics_that_should_be_low(name: str) -> None:
    """Each of these would be judged the wrong way round."""
    assert lower_is_better(name)
    assert not lower_is_better("accuracy")
    assert not lower_is_better("throughput_qps")
