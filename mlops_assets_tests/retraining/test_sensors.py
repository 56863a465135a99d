"""The sensors on a real Dagster instance: who starts runs, that each is started once, and that its end is seen."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from sqlalchemy import Engine

from mlops_assets.foundation.clock import ScaledClock
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.settings import Settings
from mlops_assets.foundation.tables import DriftCheckRecord
from mlops_assets.foundation.trigger import REQUEST_TAG, RETRAINING_TAG, TriggerReason
from mlops_assets.retraining.evaluate import evaluate
from mlops_assets.retraining.requests import all_requests
from mlops_assets.retraining.sensors import retraining_sensors
from mlops_assets.retraining.signals import waiting
from mlops_assets_tests.retraining.conftest import location, platform_at
from mlops_assets_tests.retraining.test_data_signals import a_version
from mlops_assets_tests.retraining.triggers import NOW, POLICY, hours, new_signal

SENSORS = {sensor.name: sensor for sensor in retraining_sensors(load_profile("aiwebtest"))}


def clock_at(now: datetime) -> str:
    return str(ScaledClock(now, datetime.now(UTC), 1.0))


def tick(
    settings: Settings, instance: dg.DagsterInstance, name: str = "drift_sensor", now: datetime = NOW
) -> dg.SensorResult | dg.SkipReason:
    """One tick, as the daemon has it."""
    platform = platform_at(settings, clock_at(now))
    definitions = location(platform)
    with dg.build_sensor_context(
        instance=instance, resources={"platform": platform}, definitions=definitions
    ) as context:
        found = SENSORS[name](context)
    assert isinstance(found, dg.SensorResult | dg.SkipReason)
    return found


def requests(found: dg.SensorResult | dg.SkipReason) -> list[dg.RunRequest]:
    return list(found.run_requests or ()) if isinstance(found, dg.SensorResult) else []


def launch(settings: Settings, instance: dg.DagsterInstance, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
    """Run what was asked for, to its end."""
    job = location(platform_at(settings)).resolve_job_def("retrain")
    return job.execute_in_process(instance=instance, partition_key=request.partition_key, tags=dict(request.tags))


def critical(engine: Engine, at: datetime = NOW) -> None:
    """Let a champion's inputs drift."""
    with transaction(engine) as session:
        session.add(a_version("1.2.0", NOW - hours(24), "Production"))
        session.add(
            DriftCheckRecord(
                agent="execution",
                model_name="execution-agent-dqn",
                model_version="1.2.0",
                window_start=at - hours(1),
                window_end=at,
                checked_at=at,
                rows=5000,
                labelled=100,
                verdict="critical",
                psi=0.41,
                combined=None,
                accuracy_drop_rel=0.03,
                document={},
            )
        )


def test_drift_becomes_one_run_that_says_why(
    settings: Settings, instance: dg.DagsterInstance, sqlite_engine: Engine
) -> None:
    """The same drift starts a run at every tick, or a run that no card can explain."""
    critical(sqlite_engine)
    (request,) = requests(tick(settings, instance))
    assert (request.run_key, request.partition_key) == ("retrain-execution-1", "execution")
    assert TriggerReason.from_tags(request.tags) == TriggerReason(
        trigger_type="drift",
        reason="inputs of version 1.2.0 drifted: PSI 0.41 > 0.3",
        evidence={"drift_score": 0.41, "accuracy_drop": 0.03},
        request="retrain-execution-1",
    )
    # Killed before Dagster made the run: it is asked for again, under the same key.
    assert requests(tick(settings, instance)) == [request]
    assert launch(settings, instance, request).success
    assert requests(tick(settings, instance)) == []
    (run,) = instance.get_runs(dg.RunsFilter(tags={REQUEST_TAG: "retrain-execution-1"}))
    assert run.tags[RETRAINING_TAG] == run.tags["dagster/partition"] == "execution"
    (found,) = all_requests(sqlite_engine, since=NOW)
    assert (found.status, found.dagster_run_id) == ("succeeded", run.run_id)
    # A day later the drift is still there: it asks again.
    critical_again = NOW + hours(24)
    with transaction(sqlite_engine) as session:
        session.query(DriftCheckRecord).update(
            {"window_end": critical_again, "checked_at": critical_again}, synchronize_session=False
        )
    (again,) = requests(tick(settings, instance, now=critical_again))
    assert again.run_key == "retrain-execution-2"


def test_what_others_decided_is_started_by_this_one(
    settings: Settings, instance: dg.DagsterInstance, sqlite_engine: Engine
) -> None:
    """Two sensors that hand over the same training: Dagster tells their run keys apart, and trains twice."""
    with transaction(sqlite_engine) as session:
        session.add(a_version("1.2.0", NOW - hours(24 * 8), "Production"))
    said = tick(settings, instance, "staleness_sensor")
    assert isinstance(said, dg.SkipReason)
    assert "execution: retrain (retrain-execution-1): staleness: last trained 8.0 days ago" in str(said.skip_message)
    assert requests(tick(settings, instance, "new_data_sensor")) == []
    (request,) = requests(tick(settings, instance))
    assert TriggerReason.from_tags(request.tags).trigger_type == "staleness"


def test_new_files_start_a_training_of_each_agent(
    settings: Settings, instance: dg.DagsterInstance, sqlite_engine: Engine
) -> None:
    """A file lies there for a week; or a tick that dies after it has read the file never speaks of it again."""
    folder = settings.home / "data" / "raw"
    folder.mkdir(parents=True)
    (folder / "runs.csv").write_text("a\n" + "1\n" * 2000, encoding="utf-8")
    tick(settings, instance, "new_data_sensor")
    said = tick(settings, instance, "new_data_sensor", NOW + timedelta(minutes=5))
    assert isinstance(said, dg.SkipReason)
    assert str(said.skip_message).count("file runs.csv arrived, 2,000 rows") == 3
    started = requests(tick(settings, instance, now=NOW + timedelta(minutes=6)))
    assert [request.partition_key for request in started] == ["requirements", "generation", "execution"] or sorted(
        str(request.partition_key) for request in started
    ) == ["execution", "generation", "requirements"]


@pytest.mark.parametrize("end", ["failed", "canceled", "deleted", "retried"])
def test_ends_that_are_none(settings: Settings, instance: dg.DagsterInstance, sqlite_engine: Engine, end: str) -> None:
    """A run that failed holds the agent's place for ever, one that Dagster retries is trained beside it."""
    evaluate(sqlite_engine, "execution", POLICY, NOW, signals=[new_signal()])
    (request,) = requests(tick(settings, instance))
    run = instance.add_run(
        dg.DagsterRun(job_name="retrain", tags=dict(request.tags), status=dg.DagsterRunStatus.STARTED)
    )
    assert requests(tick(settings, instance)) == []
    assert all_requests(sqlite_engine, since=NOW)[0].status == "started"
    if end == "deleted":
        instance.delete_run(run.run_id)
    elif end == "canceled":
        instance.report_run_canceled(run)
    else:
        if end == "retried":
            instance.add_run_tags(run.run_id, {"dagster/will_retry": "true"})
        instance.report_run_failed(run)
    assert requests(tick(settings, instance)) == []
    status = {"failed": "failed", "canceled": "canceled", "deleted": "lost", "retried": "started"}[end]
    assert all_requests(sqlite_engine, since=NOW)[0].status == status
    with read_transaction(sqlite_engine) as session:
        left = len(waiting(session, "execution"))
    assert left == (1 if status in {"failed", "lost"} else 0)
    later = requests(tick(settings, instance, now=NOW + hours(6)))
    assert [one.run_key for one in later] == (["retrain-execution-2"] if left else [])
    if end == "retried":
        instance.add_run(dg.DagsterRun(job_name="retrain", tags=dict(request.tags), status=dg.DagsterRunStatus.SUCCESS))
        tick(settings, instance)
        assert all_requests(sqlite_engine, since=NOW)[0].status == "succeeded"


def test_the_profile_switches_them_on() -> None:
    """Automation that nobody has started, or that a laptop cannot switch off."""
    profile = load_profile("aiwebtest")
    off = profile.model_copy(update={"retraining": profile.retraining.model_copy(update={"automatic_start": False})})
    assert {one.default_status for one in retraining_sensors(profile)} == {dg.DefaultSensorStatus.RUNNING}
    assert {one.default_status for one in retraining_sensors(off)} == {dg.DefaultSensorStatus.STOPPED}
