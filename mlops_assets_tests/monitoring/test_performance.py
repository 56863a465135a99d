"""Figures of a window against scikit-learn and numpy; and what is not known is not zero."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from sqlalchemy import Engine

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.monitoring.baseline import Baseline
from mlops_assets.monitoring.performance import Performance, measure, relative_drop, rolling_accuracy
from mlops_assets.monitoring.window import DecisionWindow, read_window
from mlops_assets_tests.monitoring.traffic import serve

SPEC = AGENTS["execution"]
PROFILE = load_profile("aiwebtest")
START = datetime(2026, 3, 9, tzinfo=UTC)
END = START + timedelta(days=1)
BASELINE = Baseline(accuracy=0.9, mean_confidence=0.8, source="tests")


def judged(window: DecisionWindow, baseline: Baseline = BASELINE) -> Performance:
    return measure(window, SPEC, PROFILE.monitoring, PROFILE.evaluation, baseline)


@pytest.fixture
def served(sqlite_engine: Engine) -> DecisionWindow:
    """2,000 decisions of a day, 85 % right, 60 % labelled."""
    serve(
        sqlite_engine,
        SPEC,
        2000,
        start=START,
        accuracy=0.85,
        labelled=0.6,
        changes=lambda row: {
            "fallback": "failed" if row % 40 == 0 else None,
            "missing_features": list(SPEC.state_fields[-3:]) if row % 10 == 0 else [],
        },
    )
    return read_window(sqlite_engine, SPEC, START, END, as_of=END)


def test_quality_agrees_with_scikit_learn(served: DecisionWindow) -> None:
    """Unlabelled decisions count as wrong, or the served action is judged where the policy's is meant."""
    done = judged(served)
    known = served.best_action >= 0
    best, greedy = served.best_action[known], served.q_values[known].argmax(axis=1)
    precision, recall, f1, _ = precision_recall_fscore_support(best, greedy, average="macro")
    expected = {"accuracy": accuracy_score(best, greedy), "precision": precision, "recall": recall, "f1": f1}
    assert {name: done.figure(name).value for name in expected} == pytest.approx(expected)
    interval = done.intervals["accuracy"]
    assert interval.low is not None
    assert interval.high is not None
    assert interval.low < 0.85 < interval.high
    # Episodes of four: about as wide as of independent decisions.
    width = 2 * 1.96 * np.sqrt(0.85 * 0.15 / known.sum())
    assert width / 2 < interval.high - interval.low < 2 * width
    assert done.confusion is not None
    assert done.confusion.sum() == known.sum()


def test_operations_agree_with_numpy(served: DecisionWindow) -> None:
    """A latency is interpolated between two that never were, or errors are a share of something else."""
    done = judged(served)

    def value(name: str) -> float | None:
        return done.figure(name).value

    for percent in (50, 95, 99):
        expected = np.percentile(served.latency_ms, percent, method="inverted_cdf")
        assert value(f"latency_p{percent}_ms") == expected
    assert value("error_rate") == 50 / 2000
    assert value("throughput_per_hour") == pytest.approx(2000 / 24)
    assert value("data_quality") == pytest.approx(1 - 0.1 * 3 / len(SPEC.state_fields))
    assert value("legal_share") == 1.0
    assert value("mean_reward") == pytest.approx(np.nanmean(served.reward))
    assert value("label_delay_p50_hours") == pytest.approx(0.5)
    assert value("mean_confidence") == pytest.approx(served.confidence.mean())


def test_verdict_is_against_the_versions_own_baseline(served: DecisionWindow) -> None:
    """A version is judged by a number that another one reached."""
    healthy = replace(served, failed=np.zeros(len(served), dtype=np.bool_))
    accuracy = judged(served).figure("accuracy").value
    assert accuracy is not None
    confidence = float(served.confidence.mean())
    own = Baseline(accuracy=accuracy, mean_confidence=confidence, source="tests")
    assert judged(healthy, own).verdict == "met"
    better = replace(own, accuracy=accuracy / (1 - 0.03))
    done = judged(healthy, better)
    assert (done.verdict, done.figure("accuracy_drop").standing) == ("missed", "missed")
    assert done.figure("accuracy_drop").value == pytest.approx(0.03)
    # 2.5 % errors are beyond the limit of 1 %.
    assert judged(served, own).figure("error_rate").standing == "missed"
    # Nothing is asked of what has no baseline.
    unknown = judged(healthy, Baseline())
    assert (unknown.verdict, unknown.figure("accuracy_drop").target) == ("met", None)


def test_too_little_is_said_to_be(served: DecisionWindow, sqlite_engine: Engine) -> None:
    """Nothing served is "accuracy 0", or "all limits met"."""
    empty = read_window(sqlite_engine, SPEC, END, END + timedelta(hours=1))
    done = judged(empty)
    assert done.verdict == "insufficient_data"
    assert [figure.name for figure in done.figures if figure.value is not None] == ["throughput_per_hour"]
    # Labels that have not come: accuracy is not known, whatever else is.
    unlabelled = replace(served, best_action=np.full(len(served), -1), failed=np.zeros(len(served), dtype=np.bool_))
    done = judged(unlabelled)
    assert (done.verdict, done.figure("accuracy").value) == ("insufficient_data", None)
    assert done.figure("latency_p95_ms").standing == "met"


def test_coverage_counts_only_labels_that_are_due(sqlite_engine: Engine) -> None:
    """A coverage of 4 % because the last day's labels could not have come yet."""
    serve(sqlite_engine, SPEC, 480, start=START, hours=48.0, labelled=1.0)
    window = read_window(sqlite_engine, SPEC, START, END + timedelta(days=1), as_of=END + timedelta(hours=1))
    assert judged(window).figure("label_coverage").value == 1.0
    late = read_window(sqlite_engine, SPEC, START, END + timedelta(days=1), as_of=START + timedelta(hours=1))
    assert judged(late).figure("label_coverage").value is None


def test_illegal_numbers_are_seen(served: DecisionWindow) -> None:
    """A broken client sends complexities of 40, and the quality is 100 %."""
    states = served.states.copy()
    states[:200, 0] = 40.0
    states[200:400, 1] = np.nan
    expected = 1 - 400 / (len(served) * len(SPEC.context))
    assert judged(replace(served, states=states)).figure("legal_share").value == pytest.approx(expected)


def test_rolling_accuracy_is_of_the_last_labelled_ones(served: DecisionWindow) -> None:
    """The rolling window is one decision off, or starts before it is full."""
    known = served.labelled
    right = (served.q_values[known].argmax(axis=1) == served.best_action[known]).astype(float)
    rolling = rolling_accuracy(served, 100)
    assert np.isnan(rolling[:99]).all()
    expected = [right[i - 99 : i + 1].mean() for i in range(99, len(right))]
    np.testing.assert_allclose(rolling[99:], expected)
    assert np.isnan(rolling_accuracy(served, 10_000)).all()


@pytest.mark.parametrize(
    ("baseline", "value", "drop"),
    [(0.8, 0.6, 0.25), (0.8, 0.9, -0.125), (None, 0.9, None), (0.8, None, None), (0, 1, None)],
)
def test_relative_drop(baseline: float | None, value: float | None, drop: float | None) -> None:
    """A drop without a baseline is taken for none."""
    found = relative_drop(baseline, value)
    assert found == (None if drop is None else pytest.approx(drop))
