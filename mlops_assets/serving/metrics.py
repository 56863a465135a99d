"""Prometheus metrics of a server process, in a registry of its own, so that nothing is ever registered twice."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mlops_assets.foundation.agents import agent_spec

_PREDICTION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_EXPERIMENT_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
_FEATURE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
_TENTHS = tuple(i / 10 for i in range(1, 11))
# The newest state vectors of each agent that the feature statistics are taken over.
_RECENT_VECTORS = 1000


class ServingMetrics:
    """Counters and histograms of answers, and gauges that are read when they are scraped."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: Any = {"registry": self.registry}
        self._requests = Counter("ml_prediction_requests", "Answers.", ["model_version", "status"], **own)
        self._latency = Histogram(
            "ml_prediction_latency_seconds",
            "Time in the server.",
            ["model_version"],
            buckets=_PREDICTION_BUCKETS,
            **own,
        )
        self._confidence = Histogram(
            "ml_prediction_probability", "Softmax margin of the decision.", ["model_version"], buckets=_TENTHS, **own
        )
        self._arm = Counter("ab_test_predictions", "Answers in an experiment.", ["experiment", "variant"], **own)
        self._arm_errors = Counter(
            "ab_test_errors", "Requests on which the arm's model failed.", ["experiment", "variant"], **own
        )
        self._arm_latency = Histogram(
            "ab_test_prediction_latency_seconds",
            "Time in the server, by arm.",
            ["experiment", "variant"],
            buckets=_EXPERIMENT_BUCKETS,
            **own,
        )
        self._arm_accuracy = Gauge(
            "ab_test_accuracy",
            "Share of labelled decisions that were the best one.",
            ["experiment", "variant"],
            multiprocess_mode="mostrecent",
            **own,
        )
        self._arm_reward = Gauge(
            "ab_test_avg_reward", "Mean reward.", ["experiment", "variant"], multiprocess_mode="mostrecent", **own
        )
        self._refused = Counter("ml_requests_refused", "Requests without an answer.", ["status"], **own)
        self._feature_seconds = Histogram(
            "ml_online_feature_seconds", "Wait for online features.", buckets=_FEATURE_BUCKETS, **own
        )
        self._log_failures = Counter(
            "ml_prediction_log_failures", "Refusals of what stands behind the prediction log.", ["what"], **own
        )
        self._vectors: dict[str, deque[NDArray[np.float32]]] = {}
        self.registry.register(_FeatureValues(self._vectors))
        self._children: dict[tuple[str, ...], tuple[Any, ...]] = {}

    def answered(self, row: Mapping[str, Any], vector: NDArray[np.float32]) -> None:
        """Count one answer."""
        count, latency, confidence = self._answer_children(row["model_name"], row["model_version"], row["status"])
        seconds = row["latency_ms"] / 1000.0
        count.inc()
        latency.observe(seconds)
        confidence.observe(row["confidence"])
        if row["experiment"] is not None:
            self._arm.labels(row["experiment"], row["variant"]).inc()
            self._arm_latency.labels(row["experiment"], row["variant"]).observe(seconds)
            if row["fallback"] == "failed":
                self._arm_errors.labels(row["experiment"], row["variant"]).inc()
        self._vectors.setdefault(row["agent"], deque(maxlen=_RECENT_VECTORS)).append(vector)

    def refused(self, status: int) -> None:
        """Count one request that got no answer."""
        self._refused.labels(str(status)).inc()

    def feature_wait(self, seconds: float) -> None:
        """Count one lookup of online features."""
        self._feature_seconds.observe(seconds)

    def log_failed(self, what: str) -> None:
        """Count one refusal: journal, database, shadow, shadow_row (dropped) or rejected (a row that is set aside)."""
        self._log_failures.labels(what).inc()

    def arm(self, experiment: str, variant: str, *, accuracy: float | None, reward: float | None) -> None:
        """Show what the outcomes of an experiment's arm say; None leaves a gauge as it was."""
        if accuracy is not None:
            self._arm_accuracy.labels(experiment, variant).set(accuracy)
        if reward is not None:
            self._arm_reward.labels(experiment, variant).set(reward)

    def gauge(
        self, name: str, description: str, read: Callable[[], Mapping[tuple[str, ...], float]], *labels: str
    ) -> None:
        """Add a gauge that is read at every scrape: label values to value."""
        self.registry.register(_Read(name, description, labels, read))

    def exposition(self, *, all_workers: bool = False) -> bytes:
        """Return everything in Prometheus' text format; of all worker processes where there are several."""
        if not all_workers or "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        from prometheus_client.multiprocess import MultiProcessCollector

        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)

    def _answer_children(self, model: str, version: str, status: str) -> tuple[Any, ...]:
        """Children of the labels: looking them up anew takes longer than counting."""
        key = (model, version, status)
        found = self._children.get(key)
        if found is None:
            label = f"{model}-{version}"
            found = (
                self._requests.labels(label, status),
                self._latency.labels(label),
                self._confidence.labels(label),
            )
            self._children[key] = found
        return found


class _FeatureValues(Collector):
    """`ml_feature_value{feature_name, statistic}` over each agent's newest state vectors."""

    def __init__(self, vectors: Mapping[str, deque[NDArray[np.float32]]]) -> None:
        self._vectors = vectors

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "ml_feature_value",
            f"Entries of the newest {_RECENT_VECTORS} state vectors.",
            labels=["feature_name", "statistic"],
        )
        for agent, recent in list(self._vectors.items()):
            states = np.stack(list(recent)).astype(np.float64)
            statistics = {
                "mean": states.mean(axis=0),
                "std": states.std(axis=0),
                "min": states.min(axis=0),
                "max": states.max(axis=0),
            }
            for i, field in enumerate(agent_spec(agent).state_fields):
                for statistic, values in statistics.items():
                    family.add_metric([f"{agent}.{field}", statistic], float(values[i]))
        yield family


class _Read(Collector):
    def __init__(
        self, name: str, description: str, labels: tuple[str, ...], read: Callable[[], Mapping[tuple[str, ...], float]]
    ) -> None:
        self._family = (name, description, labels)
        self._read = read

    def collect(self) -> Iterable[Metric]:
        name, description, labels = self._family
        family = GaugeMetricFamily(name, description, labels=labels)
        for values, number in self._read().items():
            family.add_metric(values, number)
        yield family
