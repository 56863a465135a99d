"""The job `daily_report` on a real instance: what it publishes, records and shows; its schedule."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import Engine

from mlops_assets.definitions import build_definitions
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.clock import ScaledClock
from mlops_assets.foundation.database import transaction
from mlops_assets.foundation.records import read_record, write_record
from mlops_assets.foundation.resources import Platform
from mlops_assets.foundation.tables import DriftReferenceRecord
from mlops_assets.monitoring.schedules import daily_reports
from mlops_assets_tests.lifecycle.worlds import read_run
from mlops_assets_tests.monitoring.traffic import serve

SPEC = AGENTS["execution"]
NOW = datetime(2026, 3, 10, 1, tzinfo=UTC)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def platform_of(engine: Engine, home: Path) -> Platform:
    """The deployment as a run opens it, at 01:00 on the day."""
    return Platform(
        settings_override={
            "MLOPS_HOME": str(home),
            "MLOPS_DATABASE_URL": engine.url.render_as_string(hide_password=False),
            "MLOPS_CLOCK": str(ScaledClock(NOW, datetime.now(UTC), 1.0)),
        }
    )


def test_a_day_is_reported(engine: Engine, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """The schedule's run fails where one agent served nothing, mixes versions, or shows nothing that people can read."""
    begin = NOW - timedelta(hours=23)
    serve(engine, SPEC, 400, start=begin, hours=22.0, accuracy=0.8)
    serve(engine, SPEC, 120, start=begin, hours=22.0, prefix="q", version="1.1.0")
    serve(engine, SPEC, 200, start=begin - timedelta(days=3), hours=6.0, prefix="old")
    with transaction(engine) as session:
        session.add(
            DriftReferenceRecord(
                model_name=SPEC.registered_model, model_version="1.0.0", agent=SPEC.name, content_hash="h", rows=10,
                accuracy=0.95, mean_confidence=0.8, created_at=begin,
            )
        )  # fmt: skip
    record = {"run_id": "m", "data_hash": "d", "training_hash": "t", "weights_hash": "w", "trained": True}
    write_record(engine, asset="dqn_model", partition="execution", run_id="gone", payload=record, now=begin)
    definitions = build_definitions(resources={"platform": platform_of(engine, tmp_path / "home")})
    job = definitions.resolve_job_def("daily_report")
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    run = read_run(instance, result.run_id)
    assert run.success, run.failures
    assert run.assets == {"performance_report", "slo_report"}
    shown = run.facts("performance_report", "execution")
    assert (shown["version"], shown["verdict"], shown["decisions"]) == ("1.0.0", "missed", 400)
    assert shown["accuracy"] == pytest.approx(0.8, abs=0.06)
    assert shown["accuracy_drop"] == pytest.approx((0.95 - shown["accuracy"]) / 0.95)
    assert str(shown["trend by day"]).startswith("![trend by day](data:image/png;base64,")
    assert str(shown["within the window"]).startswith("![within the window](data:image/png;base64,")
    assert shown["accuracy"] < shown["accuracy_rolling"] < 0.9
    assert (shown["error_rate"], "latency_p95_ms" in shown) == (0.0, True)
    summary = str(shown["Summary"]).splitlines()
    assert [row.split("|")[1].strip() for row in summary[2:]] == ["all", "1.0.0", "1.1.0"]
    trend = str(shown["The last 7 calendar days (UTC)"]).splitlines()
    assert [row.split("|")[3].strip() for row in trend[2:]] == ["0", "0", "200", "0", "0", "520", "0"]
    page, document = Path(str(shown["report"])), json.loads(Path(str(shown["report_json"])).read_text())
    assert page.parent == tmp_path / "home" / "monitoring" / "execution" / "2026-03-10"
    assert page.read_text().count("<img") == 2
    assert [one["version"] for one in document["versions"]] == ["1.0.0", "1.1.0"]
    assert document["versions"][1]["baseline"]["accuracy"] is None
    idle = run.facts("performance_report", "generation")
    assert (idle["verdict"], idle["decisions"]) == ("insufficient_data", 0)
    assert (
        read_record(engine, asset="performance_report", partition="execution")["accuracy_drop"]
        == shown["accuracy_drop"]
    )
    levels = run.facts("slo_report")
    assert levels["verdict"] == "missed"
    assert levels["accuracy_within"] == shown["accuracy_drop"]
    # The run that trained is not in this instance: nobody knows what started it.
    assert "retraining_automation" not in levels
    assert levels["maturity"] == 0
    assert "| tracking_coverage | 100.00% | >= 100.00% | met |" in str(levels["Service levels"])
    assert json.loads(Path(str(levels["report_json"])).read_text())["maturity"]["target"] == 3
    again = job.execute_in_process(instance=instance, raise_on_error=False)
    assert again.success
    assert [path.name for path in (tmp_path / "home" / "monitoring" / "execution").iterdir()] == ["2026-03-10"]


def test_triggers_are_read_from_the_runs_that_trained(
    sqlite_engine: Engine, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """A retraining by drift counts as one by hand."""
    record = {"run_id": "m", "data_hash": "d", "training_hash": "t", "weights_hash": "w", "trained": True}

    @dg.job
    def retrain() -> None: ...

    made = []
    for hours, trigger in ((30, "manual"), (20, "drift"), (10, "schedule")):
        run = instance.create_run_for_job(retrain, tags={"mlops/trigger_type": trigger})
        at = NOW - timedelta(hours=hours)
        write_record(sqlite_engine, asset="dqn_model", partition="execution", run_id=run.run_id, payload=record, now=at)
        made.append(run.run_id)
    definitions = build_definitions(resources={"platform": platform_of(sqlite_engine, tmp_path / "home")})
    result = definitions.resolve_job_def("daily_report").execute_in_process(instance=instance, raise_on_error=False)
    levels = read_run(instance, result.run_id).facts("slo_report")
    assert (levels["retraining_automation"], levels["manual_retrainings"]) == (1.0, 0.0)
    assert "trainings started by drift, schedule" in str(levels["Maturity"])


def test_one_run_a_day() -> None:
    """Two ticks of one day send two mails, or the reports come at another hour when the clocks change."""
    assert (daily_reports.cron_schedule, daily_reports.execution_timezone) == ("0 1 * * *", "UTC")
    keys = []
    for hour in (1, 2):
        at = NOW.replace(hour=hour)
        with dg.build_schedule_context(scheduled_execution_time=at) as context:
            (request,) = daily_reports.evaluate_tick(context).run_requests or ()
            keys.append(request.run_key)
    assert keys == ["daily-reports-2026-03-10"] * 2
