"""Two versions' metrics side by side; which direction is better is known per metric. Nothing is measured here."""

from collections.abc import Mapping
from dataclasses import dataclass

# A metric whose name holds one of these words is better when it is lower.
_LOWER_IS_BETTER = ("latency", "loss", "error", "regret", "gap", "size", "seconds", "findings")


@dataclass(frozen=True)
class MetricDifference:
    """Second minus first; `relative` is over the first's magnitude, None at 0. `better`: None when they are equal."""

    first: float
    second: float
    delta: float
    relative: float | None
    better: bool | None


@dataclass(frozen=True)
class VersionComparison:
    """Metrics of both versions, and the improvement of the second over the first in every metric that both have."""

    first_version: str
    second_version: str
    first: Mapping[str, float]
    second: Mapping[str, float]
    improvement: Mapping[str, MetricDifference]


def lower_is_better(metric: str) -> bool:
    """True for latencies, losses, errors, regrets, gaps, sizes and times."""
    return any(word in metric for word in _LOWER_IS_BETTER)


def compare_metrics(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, MetricDifference]:
    """Compare the metrics that both sides have; a metric of one side only says nothing about the other."""
    return {name: _difference(name, first[name], second[name]) for name in sorted(first.keys() & second.keys())}


def _difference(metric: str, first: float, second: float) -> MetricDifference:
    delta = second - first
    better = None if delta == 0 else (delta < 0) == lower_is_better(metric)
    return MetricDifference(
        first=first,
        second=second,
        delta=delta,
        relative=delta / abs(first) if first else None,
        better=better,
    )
