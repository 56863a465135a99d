"""Metrics: what is declared is observed, under the names that dashboards know."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.serving.metrics import ServingMetrics
from mlops_assets_tests.programs import assert_metrics_pass_promtool

SPEC = AGENTS["execution"]
VECTOR = np.linspace(0.0, 1.0, len(SPEC.state_fields), dtype=np.float32)


def answer(**changes: Any) -> dict[str, Any]:
    """What the metrics read of a log row."""
    row = {
        "agent": "execution",
        "model_name": SPEC.registered_model,
        "model_version": "2.0.0",
        "status": "ok",
        "fallback": None,
        "latency_ms": 3.0,
        "confidence": 0.25,
        "experiment": None,
        "variant": "control",
    }
    return {**row, **changes}


def samples(metrics: ServingMetrics) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Every sample of the exposition, by name."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_an_answer_is_counted_once_in_everything() -> None:
    """A histogram is declared and never observed (B-39), or its buckets are others than the dashboard's."""
    metrics = ServingMetrics()
    metrics.answered(answer(), VECTOR)
    metrics.answered(answer(latency_ms=30.0, status="degraded"), VECTOR)
    found = samples(metrics)
    label = {"model_version": "execution-agent-dqn-2.0.0"}
    assert found["ml_prediction_requests_total"] == [
        ({**label, "status": "ok"}, 1.0),
        ({**label, "status": "degraded"}, 1.0),
    ]
    assert found["ml_prediction_latency_seconds_sum"] == [(label, pytest.approx(0.033))]
    below = {one["le"]: count for one, count in found["ml_prediction_latency_seconds_bucket"]}
    assert {"0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0"} <= below.keys()
    assert (below["0.0025"], below["0.005"], below["0.025"], below["0.05"]) == (0.0, 1.0, 1.0, 2.0)
    tenths = {one["le"]: count for one, count in found["ml_prediction_probability_bucket"]}
    assert (tenths["0.2"], tenths["0.3"]) == (0.0, 2.0)
    values = {(one["feature_name"], one["statistic"]): value for one, value in found["ml_feature_value"]}
    last = f"execution.{SPEC.state_fields[-1]}"
    assert (values[last, "mean"], values[last, "std"]) == (pytest.approx(1.0), pytest.approx(0.0))
    assert "ab_test_predictions_total" not in found


def test_arms_are_told_apart_and_their_failures_counted() -> None:
    """Errors of a candidate whose users the champion answered are seen by nobody (B-39, B-45)."""
    metrics = ServingMetrics()
    for variant, fallback in (("control", None), ("treatment", None), ("treatment", "failed"), ("treatment", "absent")):
        metrics.answered(answer(experiment="checkout", variant=variant, fallback=fallback), VECTOR)
    metrics.arm("checkout", "treatment", accuracy=0.75, reward=-1.5)
    metrics.arm("checkout", "treatment", accuracy=None, reward=2.5)
    found = samples(metrics)
    arms = {name: {"experiment": "checkout", "variant": name} for name in ("control", "treatment")}
    assert found["ab_test_predictions_total"] == [(arms["control"], 1.0), (arms["treatment"], 3.0)]
    assert found["ab_test_errors_total"] == [(arms["treatment"], 1.0)]
    bounds = [one["le"] for one, _ in found["ab_test_prediction_latency_seconds_bucket"] if one["variant"] == "control"]
    assert bounds == ["0.001", "0.005", "0.01", "0.05", "0.1", "0.5", "1.0", "+Inf"]
    assert found["ab_test_prediction_latency_seconds_count"] == [(arms["control"], 1.0), (arms["treatment"], 3.0)]
    assert found["ab_test_accuracy"] == [(arms["treatment"], 0.75)]
    assert found["ab_test_avg_reward"] == [(arms["treatment"], 2.5)]


def test_two_servers_in_one_process_do_not_meet() -> None:
    """Registered twice in the global registry, the second server does not start."""
    first, second = ServingMetrics(), ServingMetrics()
    first.refused(422)
    assert samples(first)["ml_requests_refused_total"] == [({"status": "422"}, 1.0)]
    assert "ml_requests_refused_total" not in samples(second)


def of_everything() -> ServingMetrics:
    """Every counter and gauge that the class has, once."""
    metrics = ServingMetrics()
    metrics.answered(answer(experiment="checkout", fallback="failed"), VECTOR)
    metrics.arm("checkout", "treatment", accuracy=0.75, reward=-1.5)
    metrics.refused(422)
    metrics.feature_wait(0.003)
    metrics.log_failed("journal")
    metrics.gauge("ml_model_served", "Versions in service.", lambda: {("execution",): 1.0}, "agent")
    return metrics


def test_prometheus_has_nothing_to_say_about_one_worker() -> None:
    """A name or a unit is none of Prometheus', and its functions and dashboards take the metric for another kind."""
    assert_metrics_pass_promtool(of_everything().exposition())


def test_several_workers_are_added_up(tmp_path: Path) -> None:
    """Behind several workers each scrape shows another one's counters, and rates are made of the jumps."""
    worker = (
        "import sys; from mlops_assets_tests.serving.test_metrics import of_everything; "
        "sys.stdout.buffer.write(of_everything().exposition(all_workers=True))"
    )
    root = Path(__file__).resolve().parents[2]
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": str(root)}
    for count in (1.0, 2.0):
        text = subprocess.run([sys.executable, "-c", worker], env=environ, capture_output=True, check=True).stdout
        assert f'ab_test_errors_total{{experiment="checkout",variant="control"}} {count}' in text.decode()
        assert f"ml_online_feature_seconds_count {count}" in text.decode()
    assert 'ab_test_accuracy{experiment="checkout",variant="treatment"} 0.75' in text.decode()
    assert_metrics_pass_promtool(text)
