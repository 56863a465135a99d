"""How one version does on what it served, against its own baseline. Pure: arrays in, figures out.

What the words mean (those of labelled decisions stand in `evaluation/metrics.py`):

error rate
    Share of decisions that somebody else had to answer, because this version failed on the request or was late. Requests
    that nobody answered are not in the prediction log; the server's metrics count them.
data quality
    1 - entries of the state for which a default stood / entries of the state, over all decisions: 1 when every feature of
    every decision was known.
legal share
    Share of the context's entries that are numbers within the range that the agent catalogue allows.
label coverage
    Share of the decisions older than the label delay whose best action is known.
label delay
    Hours from a decision to the receipt of its label.
throughput
    Decisions of the window an hour; of a sample, all that it was drawn from.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_assets.evaluation.intervals import Interval, cluster_bootstrap, cluster_sums, ratio
from mlops_assets.evaluation.metrics import ClassificationMetrics, classification_metrics
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.policies import EvaluationPolicy, MonitoringPolicy
from mlops_assets.monitoring.baseline import Baseline
from mlops_assets.monitoring.figures import Comparison, Figure, overall
from mlops_assets.monitoring.window import DecisionWindow

# Episodes are independent, so any grouping of them is resampled as well as they are; more groups would only take longer.
_MOST_CLUSTERS = 2_000
_PERCENTILES = {"latency_p50_ms": 50, "latency_p95_ms": 95, "latency_p99_ms": 99}
_SEED = 0


@dataclass(frozen=True)
class Performance:
    """Figures of one version in one window; `intervals` by figure, `confusion` best action against greedy one."""

    window: DecisionWindow
    baseline: Baseline
    figures: tuple[Figure, ...]
    intervals: dict[str, Interval]
    confusion: NDArray[np.int64] | None
    enough: bool

    @property
    def verdict(self) -> str:
        """`met`, `missed`, or `insufficient_data`: too few decisions, or a limit whose figure is not known."""
        found = overall(self.figures) if self.enough else "unknown"
        return "insufficient_data" if found == "unknown" else found

    def figure(self, name: str) -> Figure:
        """Return the figure of that name."""
        return next(figure for figure in self.figures if figure.name == name)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, without the decisions."""
        window = self.window
        return {
            "agent": window.agent,
            "version": window.version,
            "start": window.start,
            "end": window.end,
            "verdict": self.verdict,
            "decisions": window.total,
            "read": len(window),
            "baseline": vars(self.baseline),
            "figures": [figure.to_json() for figure in self.figures],
            "intervals": {name: vars(interval) for name, interval in self.intervals.items()},
            "confusion": None if self.confusion is None else self.confusion.tolist(),
        }


def measure(
    window: DecisionWindow,
    spec: AgentSpec,
    policy: MonitoringPolicy,
    evaluation: EvaluationPolicy,
    baseline: Baseline,
) -> Performance:
    """Compute the figures of this module's docstring.

    Args:
        window: decisions of one version; with none of them, every figure is unknown.
        spec: the agent.
        policy: the limits.
        evaluation: confidence and resamples of the intervals.
        baseline: of that version.
    """
    intervals: dict[str, Interval] = {}
    metrics = _labelled_metrics(window, policy, evaluation)
    if metrics is not None:
        intervals |= {"accuracy": metrics.accuracy, "f1": metrics.f1}
    reward = _reward(window, evaluation)
    if reward is not None:
        intervals["mean_reward"] = reward
    values = _values(window, spec, policy, metrics, reward)
    figures = tuple(_figures(values, window, policy, baseline))
    confusion = None if metrics is None else metrics.confusion
    return Performance(window, baseline, figures, intervals, confusion, enough=len(window) >= policy.min_rows)


def relative_drop(baseline: float | None, value: float | None) -> float | None:
    """Return how far a figure is below its baseline, as a share of it; negative above, None where either is unknown."""
    if baseline is None or value is None or baseline <= 0.0:
        return None
    return (baseline - value) / baseline


def rolling_accuracy(window: DecisionWindow, decisions: int) -> NDArray[np.float64]:
    """Accuracy over the last `decisions` labelled decisions, at each labelled one (L,); NaN before there are so many."""
    labelled = window.labelled
    right = (np.argmax(window.q_values[labelled], axis=1) == window.best_action[labelled]).astype(np.float64)
    found = np.full(len(right), np.nan)
    if len(right) >= decisions:
        sums = np.cumsum(np.concatenate([[0.0], right]))
        found[decisions - 1 :] = (sums[decisions:] - sums[:-decisions]) / decisions
    return found


def _labelled_metrics(
    window: DecisionWindow, policy: MonitoringPolicy, evaluation: EvaluationPolicy
) -> ClassificationMetrics | None:
    sound = window.labelled & np.isfinite(window.q_values).all(axis=1)
    if int(sound.sum()) < policy.min_labelled:
        return None
    return classification_metrics(
        window.q_values[sound],
        window.best_action[sound],
        window.action_values[sound],
        window.episode[sound] % _MOST_CLUSTERS,
        samples=evaluation.bootstrap_samples,
        confidence=evaluation.confidence,
        seed=_SEED,
    )


def _reward(window: DecisionWindow, evaluation: EvaluationPolicy) -> Interval | None:
    told = np.isfinite(window.reward)
    if not told.any():
        return None
    clusters = np.unique(window.episode[told] % _MOST_CLUSTERS, return_inverse=True)[1]
    sums = cluster_sums(np.stack([window.reward[told], np.ones(int(told.sum()))], axis=1), clusters)
    return cluster_bootstrap(
        sums, ratio, samples=evaluation.bootstrap_samples, confidence=evaluation.confidence, seed=_SEED
    )


def _values(
    window: DecisionWindow,
    spec: AgentSpec,
    policy: MonitoringPolicy,
    metrics: ClassificationMetrics | None,
    reward: Interval | None,
) -> dict[str, float | None]:
    found: dict[str, float | None] = {
        "accuracy": None if metrics is None else metrics.accuracy.estimate,
        "precision": None if metrics is None else metrics.precision,
        "recall": None if metrics is None else metrics.recall,
        "f1": None if metrics is None else metrics.f1.estimate,
        "mean_reward": None if reward is None else reward.estimate,
        "throughput_per_hour": window.total / ((window.end - window.start) / timedelta(hours=1)),
        **_label_figures(window, policy),
    }
    if not len(window):
        names = ("error_rate", "degraded_rate", "mean_confidence", "data_quality", "legal_share", *_PERCENTILES)
        return found | dict.fromkeys(names)
    latencies = np.percentile(window.latency_ms, list(_PERCENTILES.values()), method="inverted_cdf")
    return {
        **found,
        "error_rate": float(window.failed.mean()),
        "degraded_rate": float(window.degraded.mean()),
        "mean_confidence": float(window.confidence.mean()),
        "data_quality": 1.0 - float(window.missing.mean()),
        "legal_share": _legal_share(window, spec),
        **{name: float(value) for name, value in zip(_PERCENTILES, latencies, strict=True)},
    }


def _label_figures(window: DecisionWindow, policy: MonitoringPolicy) -> dict[str, float | None]:
    known_at = np.datetime64((window.as_of or window.end).replace(tzinfo=None), "us")
    due = window.event_time <= known_at - np.timedelta64(timedelta(hours=policy.label_delay_hours))
    labelled = window.labelled
    delays = (window.received_at[labelled] - window.event_time[labelled]) / np.timedelta64(1, "h")
    return {
        "label_coverage": float(labelled[due].mean()) if due.any() else None,
        "label_delay_p50_hours": float(np.median(delays)) if len(delays) else None,
        "label_delay_p95_hours": float(np.quantile(delays, 0.95)) if len(delays) else None,
    }


def _legal_share(window: DecisionWindow, spec: AgentSpec) -> float:
    context = window.states[:, : len(spec.context)]
    low = np.array([field.low for field in spec.context], dtype=np.float32)
    high = np.array([field.high for field in spec.context], dtype=np.float32)
    return float(((context >= low) & (context <= high)).mean())


def _figures(
    values: dict[str, float | None], window: DecisionWindow, policy: MonitoringPolicy, baseline: Baseline
) -> list[Figure]:
    span = f"{window.start:%Y-%m-%d %H:%M} to {window.end:%Y-%m-%d %H:%M} UTC"
    read = f"prediction log, {len(window):,} of {window.total:,} decisions"
    labels = f"{int(window.labelled.sum()):,} labelled decisions"

    def figure(
        name: str,
        formula: str,
        unit: str,
        target: float | None = None,
        comparison: Comparison = "<=",
        source: str = read,
    ) -> Figure:
        return Figure(name, formula, span, values.get(name), target, comparison, unit, source)

    values["accuracy_drop"] = relative_drop(baseline.accuracy, values["accuracy"])
    values["confidence_drop"] = relative_drop(baseline.mean_confidence, values["mean_confidence"])
    # Without a baseline of its own, a limit of the drop could never be judged.
    accuracy_limit = policy.max_accuracy_drop if baseline.accuracy is not None else None
    confidence_limit = policy.max_confidence_drop if baseline.mean_confidence is not None else None
    return [
        figure("accuracy", "greedy action = best action, of labelled decisions", "share", source=labels),
        figure(
            "accuracy_drop", "(baseline - accuracy) / baseline", "share", accuracy_limit, source=f"{labels}; {baseline.source}"
        ),
        figure("precision", "macro over actions", "share", source=labels),
        figure("recall", "macro over actions", "share", source=labels),
        figure("f1", "macro over actions", "share", source=labels),
        figure("mean_reward", "mean reward of a decision", ""),
        figure("error_rate", "decisions answered by another version, after failing / decisions", "share", policy.max_error_rate),
        figure("degraded_rate", "answers without online features / decisions", "share"),
        figure("latency_p50_ms", "50th percentile, nearest rank", "ms"),
        figure("latency_p95_ms", "95th percentile, nearest rank", "ms", policy.max_latency_p95_ms),
        figure("latency_p99_ms", "99th percentile, nearest rank", "ms", policy.max_latency_p99_ms),
        figure("throughput_per_hour", "decisions / hours", "/h", policy.min_throughput_per_hour, ">="),
        figure("mean_confidence", "mean", ""),
        figure(
            "confidence_drop", "(baseline - mean confidence) / baseline", "share", confidence_limit, source=baseline.source
        ),
        figure("data_quality", "1 - defaulted state entries / state entries", "share", policy.min_data_quality, ">="),
        figure("legal_share", "context entries within their range / context entries", "share"),
        figure("label_coverage", f"labelled / decisions older than {policy.label_delay_hours:g} h", "share"),
        figure("label_delay_p50_hours", "median hours from decision to label", "h", source=labels),
        figure("label_delay_p95_hours", "95th percentile of hours from decision to label", "h", source=labels),
    ]  # fmt: skip
