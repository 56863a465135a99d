"""Pictures of a performance report: the trend by day, and accuracy and latency within the window."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlops_assets.monitoring.baseline import Baseline
from mlops_assets.monitoring.drawing import as_png, new_figure
from mlops_assets.monitoring.performance import rolling_accuracy
from mlops_assets.monitoring.summary import Summary
from mlops_assets.monitoring.window import DecisionWindow

_DRAWN_POINTS = 2_000


def trend_picture(days: Sequence[Summary], *, title: str) -> bytes:
    """Draw accuracy, 95th percentile of latency and decisions by calendar day as PNG; a day without a figure is a gap."""
    figure = new_figure(6.0)
    accuracy, latency, decisions = figure.subplots(3, 1, sharex=True)
    names = [f"{day.start:%m-%d}" for day in days]
    places = range(len(days))
    accuracy.plot(places, [_number(day.avg_accuracy) for day in days], marker="o")
    accuracy.set_ylabel("accuracy")
    latency.plot(places, [_number(day.latency_p95_ms) for day in days], marker="o", color="C1")
    latency.set_ylabel("latency p95, ms")
    latency.set_ylim(bottom=0.0)
    decisions.bar(places, [day.total_predictions for day in days], color="C2")
    decisions.set_ylabel("decisions")
    decisions.set_xticks(places, names)
    decisions.set_xlabel("calendar day, UTC")
    figure.align_ylabels()
    figure.suptitle(title)
    return as_png(figure)


def window_picture(window: DecisionWindow, baseline: Baseline, *, concept_window: int, title: str) -> bytes:
    """Draw rolling accuracy and latency over the window as PNG; the accuracy beside the version's own baseline."""
    figure = new_figure(5.0)
    accuracy, latency = figure.subplots(2, 1, sharex=True)
    # Of fewer labelled decisions than a whole window of them, one point is drawn: over all of them.
    together = min(concept_window, max(1, int(window.labelled.sum())))
    rolling = rolling_accuracy(window, together)
    at = window.event_time[window.labelled]
    shown = _thinned(len(at))
    accuracy.plot(
        at[shown],
        rolling[shown],
        marker="." if together < concept_window else "",
        label=f"last {together:,} labelled decisions",
    )
    if baseline.accuracy is not None:
        accuracy.axhline(baseline.accuracy, color="black", linestyle=":", label="baseline of this version")
    accuracy.set_ylabel("accuracy")
    accuracy.legend(fontsize="small", loc="lower left")
    shown = _thinned(len(window))
    latency.plot(window.event_time[shown], window.latency_ms[shown], ".", markersize=2, color="C1", alpha=0.5)
    latency.set_yscale("log")
    latency.yaxis.set_major_formatter("{x:g}")
    latency.yaxis.set_minor_formatter("{x:g}")
    latency.set_ylabel("latency, ms")
    latency.tick_params(axis="x", rotation=30)
    figure.align_ylabels()
    figure.suptitle(title)
    return as_png(figure)


def _thinned(count: int) -> Any:
    """Row numbers that are drawn: all, or as many as a picture can show."""
    return np.unique(np.linspace(0, count - 1, min(count, _DRAWN_POINTS)).astype(int)) if count else np.empty(0, int)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
