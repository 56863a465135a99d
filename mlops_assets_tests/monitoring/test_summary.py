"""The summary of any window and its days, against what was served, on both engines."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.database import transaction
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.tables import AlertRecord, DriftCheckRecord
from mlops_assets.monitoring.baseline import Baseline
from mlops_assets.monitoring.performance import measure
from mlops_assets.monitoring.summary import create_production_monitor, daily_trend, monitoring_summary
from mlops_assets.monitoring.window import read_window
from mlops_assets_tests.monitoring.traffic import serve

SPEC = AGENTS["execution"]
PROFILE = load_profile("aiwebtest")
POLICY = PROFILE.monitoring
START = datetime(2026, 3, 9, tzinfo=UTC)
END = START + timedelta(days=1)


def alert(severity: str, raised: datetime, recovered: datetime | None = None, *, agent: str = SPEC.name) -> AlertRecord:
    return AlertRecord(
        dedupe_key=f"{agent}-{severity}-{raised}",
        source="tests",
        agent=agent,
        model_name="",
        severity=severity,
        status="open" if recovered is None else "recovered",
        title=severity,
        body="",
        details={},
        occurrences=1,
        raised_at=raised,
        last_seen_at=raised,
        recovered_at=recovered,
    )


def check(end: datetime, verdict: str, *, version: str = "1.0.0", **document: object) -> DriftCheckRecord:
    return DriftCheckRecord(
        agent=SPEC.name,
        model_name=SPEC.registered_model,
        model_version=version,
        window_start=end - timedelta(hours=24),
        window_end=end,
        checked_at=end,
        rows=100,
        labelled=100,
        verdict=verdict,
        psi=0.25,
        combined=0.4,
        accuracy_drop_rel=None,
        document=document,
    )


def test_a_summary_is_of_its_window(engine: Engine) -> None:
    """A summary counts another agent's, another hour's or another version's decisions, drift and alerts."""
    failing = {"fallback": "failed"}
    serve(engine, SPEC, 200, start=START, prefix="a", accuracy=1.0, changes=lambda row: failing if row < 20 else {})
    serve(engine, SPEC, 100, start=START, prefix="b", version="2.0.0", accuracy=0.0)
    serve(engine, SPEC, 50, start=END, prefix="c")
    serve(engine, AGENTS["generation"], 30, start=START, prefix="g")
    with transaction(engine) as session:
        session.add_all(
            [
                check(END, "warning"),
                check(END - timedelta(hours=1), "ok"),
                check(END - timedelta(hours=2), "critical", version="2.0.0"),
                check(START, "critical"),
                alert("WARNING", START - timedelta(days=2), START - timedelta(days=1)),
                alert("WARNING", START - timedelta(days=2), START + timedelta(hours=1)),
                alert("INFO", END),
                alert("CRITICAL", START, agent="generation"),
            ]
        )
    whole, first, second = monitoring_summary(engine, SPEC, START, END, POLICY)
    assert [one.version for one in (whole, first, second)] == [None, "1.0.0", "2.0.0"]
    assert (whole.total_predictions, first.total_predictions, second.total_predictions) == (300, 200, 100)
    assert (first.avg_accuracy, second.avg_accuracy) == (1.0, 0.0)
    assert whole.avg_accuracy == pytest.approx(2 / 3)
    assert (whole.avg_error_rate, first.avg_error_rate) == (pytest.approx(20 / 300), pytest.approx(0.1))
    assert whole.throughput_per_hour == pytest.approx(300 / 24)
    assert (whole.drift_incidents, first.drift_incidents, second.drift_incidents) == (2, 1, 1)
    assert whole.alerts == {"CRITICAL": 0, "WARNING": 1, "INFO": 0}
    assert whole.status == "warning"


def test_the_database_and_the_arrays_say_the_same(engine: Engine) -> None:
    """Two pages show two error rates of the same hours."""
    serve(
        engine,
        SPEC,
        300,
        start=START,
        changes=lambda row: {
            "fallback": "failed" if row % 9 == 0 else None,
            "missing_features": list(SPEC.state_fields[-2:]) if row % 4 == 0 else [],
        },
    )
    summary = monitoring_summary(engine, SPEC, START, END, POLICY)[0]
    done = measure(read_window(engine, SPEC, START, END), SPEC, POLICY, PROFILE.evaluation, Baseline())
    found = {
        "accuracy": summary.avg_accuracy,
        "error_rate": summary.avg_error_rate,
        "latency_p95_ms": summary.latency_p95_ms,
        "mean_confidence": summary.avg_confidence,
        "data_quality": summary.avg_data_quality,
        "throughput_per_hour": summary.throughput_per_hour,
        "mean_reward": summary.avg_reward,
    }
    assert found == pytest.approx({name: done.figure(name).value for name in found})


def test_each_day_of_the_trend_is_its_own(engine: Engine) -> None:
    """Seven identical days: each asks for the last 24 hours."""
    for back, (count, accuracy) in enumerate(((30, 1.0), (200, 0.0), (120, 1.0))):
        serve(engine, SPEC, count, start=START - timedelta(days=back), prefix=f"d{back}-", accuracy=accuracy)
    now = START + timedelta(hours=12)
    days = daily_trend(engine, SPEC, now, POLICY)
    assert [day.start for day in days] == [START - timedelta(days=back) for back in range(6, -1, -1)]
    assert [day.total_predictions for day in days] == [0, 0, 0, 0, 120, 200, 15]
    assert [day.avg_accuracy for day in days] == [None, None, None, None, 1.0, 0.0, 1.0]
    # The day that is not over is half a day of throughput, not a whole one.
    assert days[-1].end == now
    assert days[-1].throughput_per_hour == pytest.approx(15 / 12)
    assert [day.status for day in days] == ["insufficient_data"] * 4 + ["healthy"] * 2 + ["insufficient_data"]


def test_an_end_at_midnight_ends_the_day_before(sqlite_engine: Engine) -> None:
    """The report of a day shows an empty seventh day, and leaves the first one out."""
    days = daily_trend(sqlite_engine, SPEC, START, POLICY)
    assert (days[-1].start, days[-1].end) == (START - timedelta(days=1), START)


def test_nothing_served_is_not_healthy(sqlite_engine: Engine) -> None:
    """A server that is down shows as healthy with an error rate of zero."""
    (whole,) = monitoring_summary(sqlite_engine, SPEC, START, END, POLICY)
    assert (whole.status, whole.total_predictions) == ("insufficient_data", 0)
    assert (whole.avg_error_rate, whole.avg_accuracy, whole.avg_data_quality) == (None, None, None)
    with transaction(sqlite_engine) as session:
        session.add(alert("CRITICAL", START))
    assert monitoring_summary(sqlite_engine, SPEC, START, END, POLICY)[0].status == "critical"
    with pytest.raises(InputError, match="holds no time"):
        monitoring_summary(sqlite_engine, SPEC, END, START, POLICY)


def test_a_monitor_is_of_a_model_that_is_there(sqlite_engine: Engine) -> None:
    """A typo in the model's name reads as "nothing was served"."""
    serve(sqlite_engine, SPEC, 120, start=START)
    monitor = create_production_monitor(sqlite_engine, "execution-agent-dqn", POLICY)
    assert monitor.get_monitoring_summary(START, END)[0].total_predictions == 120
    assert monitor.get_performance_trend(END)[-1].total_predictions == 120
    with pytest.raises(InputError, match="registered models: requirements-agent-dqn"):
        create_production_monitor(sqlite_engine, "execution-agent", POLICY)
