"""The sensors on real instances: runs that fail in them become alerts, and nothing that could not be written is gone past."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import Engine

from mlops_assets.foundation.clock import ShiftedClock
from mlops_assets.foundation.errors import StorageError, TransientError
from mlops_assets.foundation.partitions import AGENT_PARTITIONS
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.records import write_record
from mlops_assets.foundation.resources import Platform
from mlops_assets.monitoring import sensors
from mlops_assets.monitoring.alerts import alerts
from mlops_assets.monitoring.sensors import alert_delivery, run_failure_alerts
from mlops_assets_tests.monitoring.alerting import NOW, finding, outbox, routing, see
from mlops_assets_tests.monitoring.receivers import Slack, receiving


class Work(dg.Config):
    problem: str = ""
    kind: str = "plain"


@dg.op
def work(config: Work) -> None:
    """Fail as it is told."""
    if config.kind == "typed" and config.problem:
        raise dg.Failure(description=config.problem, allow_retries=False)
    if config.kind == "chained" and config.problem:
        raise RuntimeError("outer") from TransientError(config.problem)
    if config.problem:
        raise ValueError(config.problem)


@dg.job(partitions_def=AGENT_PARTITIONS)
def retrain() -> None:
    """A job of one agent."""
    work()


@dg.job
def rollback_model() -> None:
    """A job of none."""
    work()


@pytest.fixture(params=["memory", "files"])
def instance(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """As tests have it, and as a laptop has it, where each run's events are in a file of their own."""
    if request.param == "memory":
        with dg.DagsterInstance.ephemeral() as made:
            yield made
    else:
        with dg.instance_for_test(temp_dir=str(tmp_path)) as made:
            yield made


@pytest.fixture
def platform(sqlite_engine: Engine, tmp_path: Path) -> Platform:
    return Platform(
        settings_override={
            "MLOPS_HOME": str(tmp_path / "home"),
            "MLOPS_DATABASE_URL": sqlite_engine.url.render_as_string(hide_password=False),
            "MLOPS_DAGSTER_URL": "https://dagster.company.com/",
        }
    )


def run(
    instance: dg.DagsterInstance,
    job: dg.JobDefinition = retrain,
    agent: str | None = "execution",
    problem: str = "",
    kind: str = "plain",
) -> str:
    done = job.execute_in_process(
        run_config={"ops": {"work": {"config": {"problem": problem, "kind": kind}}}},
        instance=instance,
        partition_key=agent,
        tags={"mlops/trigger_type": "drift"},
        raise_on_error=False,
    )
    assert done.success == (not problem)
    return done.run_id


def tick(
    instance: dg.DagsterInstance,
    platform: Platform,
    cursor: str | None = None,
    sensor: dg.SensorDefinition = run_failure_alerts,
) -> tuple[str, str | None]:
    """One tick, as the daemon does it; what it said, and the cursor that it leaves."""
    with dg.build_sensor_context(instance=instance, resources={"platform": platform}, cursor=cursor) as context:
        done = sensor.evaluate_tick(context)
    return str(done.skip_message), done.cursor


def test_a_run_fails_and_one_succeeds(instance: dg.DagsterInstance, platform: Platform, sqlite_engine: Engine) -> None:
    """A failed retraining of an agent is seen by whoever looks into the UI; or it is told after it was mended."""
    assert tick(instance, platform) == ("no alert of a run begins or ends", "{}")
    failed = run(instance, problem="no\nGPU")
    run(instance, agent="generation")
    said, cursor = tick(instance, platform)
    assert said == "failed: retrain of execution"
    (alert,) = alerts(sqlite_engine)
    assert (alert.finding.key, alert.finding.agent) == ("run:retrain:execution", "execution")
    assert alert.finding.severity == "WARNING"
    assert alert.finding.body == f"work: ValueError: no\nhttps://dagster.company.com/runs/{failed}"
    assert alert.finding.details["tags"] == {"mlops/trigger_type": "drift"}
    assert tick(instance, platform, cursor) == ("no alert of a run begins or ends", cursor)
    run(instance, problem="no GPU again")
    run(instance)
    run(instance, rollback_model, None, "no champion before")
    said, cursor = tick(instance, platform, cursor)
    assert said == "failed: retrain of execution | succeeded again: retrain of execution | failed: rollback_model"
    (urgent,) = alerts(sqlite_engine)
    assert (urgent.finding.key, urgent.finding.severity) == ("run:rollback_model:all", "CRITICAL")
    assert [one.state.occurrences for one in alerts(sqlite_engine, open_only=False)] == [1, 2]


@pytest.mark.parametrize(
    ("kind", "line"),
    [("plain", "ValueError: boom"), ("typed", "boom"), ("chained", "TransientError: boom")],
)
def test_the_reason_is_the_cause(platform: Platform, sqlite_engine: Engine, kind: str, line: str) -> None:
    """Every alert says that an op has failed, which everybody knows."""
    with dg.DagsterInstance.ephemeral() as instance:
        run(instance, problem="boom", kind=kind)
        tick(instance, platform)
    assert alerts(sqlite_engine)[0].finding.body.splitlines()[0].endswith(line)


def test_a_run_whose_process_died(platform: Platform, sqlite_engine: Engine) -> None:
    """A run without a failed step has no reason, and the tick fails on it for ever."""
    with dg.DagsterInstance.ephemeral() as instance:
        died = instance.create_run_for_job(rollback_model, tags={"mlops/retraining": "execution"})
        instance.report_run_failed(died, message="The run's process died: its heartbeat stopped.")
        assert tick(instance, platform)[0] == "failed: rollback_model"
    (alert,) = alerts(sqlite_engine)
    assert alert.finding.agent == "execution"
    assert alert.finding.body.startswith("The run's process died: its heartbeat stopped.\n")


def test_what_could_not_be_written_is_seen_again(
    instance: dg.DagsterInstance, platform: Platform, sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is away for a moment, and the alerts of that moment are never told."""
    run(instance, problem="one")
    run(instance, agent="generation", problem="two")
    whole, calls = sensors.run_failed, []

    def away_at_the_second(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise StorageError("the server went away")
        return whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sensors, "run_failed", away_at_the_second)
    with pytest.raises(StorageError, match="went away"):
        tick(instance, platform)
    assert len(alerts(sqlite_engine)) == 1
    said, _ = tick(instance, platform)
    assert said == "failed: retrain of generation"
    assert [one.state.occurrences for one in alerts(sqlite_engine)] == [1, 1]


def test_more_than_fit_into_a_tick(
    instance: dg.DagsterInstance, platform: Platform, sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A success is seen before the failures that came before it, and ends nothing."""
    monkeypatch.setattr(sensors, "_RUNS_A_TICK", 2)
    for number in range(5):
        run(instance, problem=f"{number}")
    run(instance)
    cursor, said = None, []
    for _ in range(4):
        words, cursor = tick(instance, platform, cursor)
        said += words.split(" | ")
    assert said == ["failed: retrain of execution"] * 5 + [
        "succeeded again: retrain of execution",
        "no alert of a run begins or ends",
    ]
    assert alerts(sqlite_engine) == []


def test_the_first_tick_tells_nothing_of_last_week(
    instance: dg.DagsterInstance, platform: Platform, sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Switched on, the sensor tells of every run that ever failed; or not of the one that fails while it starts."""
    run(instance, problem="long ago")
    hour = timedelta(hours=platform_hours())
    monkeypatch.setattr(sensors, "SystemClock", lambda: ShiftedClock(hour + timedelta(minutes=1)))
    said, cursor = tick(instance, platform)
    assert (said, alerts(sqlite_engine)) == ("no alert of a run begins or ends", [])
    monkeypatch.setattr(sensors, "SystemClock", lambda: ShiftedClock(hour - timedelta(minutes=1)))
    assert tick(instance, platform, cursor)[0] == "failed: retrain of execution"


def platform_hours() -> float:
    return load_profile("aiwebtest").alerting.look_back_hours


def test_a_training_is_told(platform: Platform, sqlite_engine: Engine) -> None:
    """MON-15: a new version is there, and #ml-ops does not hear of it."""
    with dg.DagsterInstance.ephemeral() as instance:
        done = run(instance)
        payload = {"model_name": "execution-agent-dqn", "semver": "1.2.0", "created": True}
        write_record(
            sqlite_engine, asset="registered_model", partition="execution", run_id=done, payload=payload, now=NOW
        )
        said, _ = tick(instance, platform)
        assert said == "trained: execution-agent-dqn 1.2.0"
        # A tick that died before its cursor was kept.
        assert tick(instance, platform)[0] == "no alert of a run begins or ends"
    assert {row.message["title"] for row in outbox(sqlite_engine)} == {"Training completed: 1.2.0, not decided"}


def test_what_is_due_is_told(platform: Platform, sqlite_engine: Engine) -> None:
    """Alerts are written, and nobody sends them; or a receiver that is away fails every tick."""
    see(sqlite_engine, finding("INFO"), routing("log", "slack"), NOW)
    slack = Slack()
    with dg.DagsterInstance.ephemeral() as instance, receiving(slack):
        on = Platform(settings_override={**platform.settings_override, "MLOPS_SLACK_WEBHOOK": slack.url})
        slack.stop()
        said, _ = tick(instance, on, sensor=alert_delivery)
        assert "slack: INFO: Error rate 0.013 (execution-agent-dqn) waits after 1 try" in said
        assert "slack: 1 notice waits until" in said
        assert tick(instance, platform, sensor=alert_delivery)[0].endswith("it is not set here; see docs/alerts.md")
    assert {row.channel for row in outbox(sqlite_engine) if row.delivered_at is not None} == {"log"}


def test_nothing_to_tell(platform: Platform) -> None:
    """A tick that says nothing could have done anything."""
    with dg.DagsterInstance.ephemeral() as instance:
        assert tick(instance, platform, sensor=alert_delivery)[0] == "nothing is to be told"


def test_they_run_by_themselves() -> None:
    """Alerts wait for somebody to find a switch."""
    for sensor in sensors.MONITORING_SENSORS:
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
        assert sensor.minimum_interval_seconds == 30
