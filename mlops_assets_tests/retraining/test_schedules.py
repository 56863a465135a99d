"""The schedules: what a tick raises, that a second tick raises the same, and that the sensors start what comes of it."""

from datetime import UTC, datetime

import dagster as dg
from sqlalchemy import Engine, select

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.clock import ScaledClock
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.settings import Settings
from mlops_assets.foundation.tables import TriggerSignalRecord
from mlops_assets.foundation.trigger import RETRAINING_TAG, TriggerReason
from mlops_assets.retraining.requests import all_requests
from mlops_assets.retraining.schedules import retraining_schedules
from mlops_assets.retraining.sensors import retraining_sensors
from mlops_assets_tests.retraining.conftest import location, platform_at
from mlops_assets_tests.retraining.test_data_signals import a_version
from mlops_assets_tests.retraining.triggers import hours

SUNDAY = datetime(2026, 1, 4, 2, tzinfo=UTC)
SCHEDULES = {schedule.name: schedule for schedule in retraining_schedules(load_profile("aiwebtest"))}


def tick(settings: Settings, name: str, at: datetime = SUNDAY) -> str:
    """One tick at its time; what it says."""
    platform = platform_at(settings, str(ScaledClock(at, datetime.now(UTC), 1.0)))
    repository = location(platform).get_repository_def()
    context = dg.build_schedule_context(
        scheduled_execution_time=at, repository_def=repository, resources={"platform": platform}
    )
    with context:
        done = repository.get_schedule_def(name).evaluate_tick(context)
    assert not done.run_requests
    return str(done.skip_message)


def test_it_is_two_o_clock_utc() -> None:
    """`@weekly` is midnight, and a local time is skipped or doubled when the clocks change."""
    assert {name: one.cron_schedule for name, one in SCHEDULES.items()} == {
        "weekly_retraining": "0 2 * * 0",
        "daily_trigger_check": "0 2 * * *",
    }
    for schedule in SCHEDULES.values():
        assert schedule.execution_timezone == "UTC"
        assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
        assert schedule.job_name == "retrain"
    assert SUNDAY.strftime("%A") == "Sunday"


def test_a_sunday_asks_once_for_each_agent(settings: Settings, sqlite_engine: Engine) -> None:
    """One run for all would let one agent's failure keep the others' models old; a second tick would train all again."""
    said = tick(settings, "weekly_retraining")
    for agent in AGENTS:
        assert f"{agent}: retrain (retrain-{agent}-1): schedule: weekly retraining of 2026-01-04" in said
    tick(settings, "weekly_retraining")
    assert len(all_requests(sqlite_engine, since=SUNDAY)) == len(AGENTS)
    with read_transaction(sqlite_engine) as session:
        keys = set(session.scalars(select(TriggerSignalRecord.dedupe_key)))
    assert keys == {f"weekly:{agent}:2026-W01" for agent in AGENTS}
    # The week after is another one.
    assert "held: in_flight" in tick(settings, "weekly_retraining", SUNDAY.replace(day=11))


def test_what_it_asks_for_runs(settings: Settings, sqlite_engine: Engine) -> None:
    """A job or partition that does not exist shows only on the first Sunday."""
    tick(settings, "weekly_retraining")
    platform = platform_at(settings, str(ScaledClock(SUNDAY, datetime.now(UTC), 1.0)))
    sensor = retraining_sensors(load_profile("aiwebtest"))[0]
    with dg.DagsterInstance.ephemeral() as instance:
        with dg.build_sensor_context(instance=instance, resources={"platform": platform}) as context:
            result = sensor(context)
        assert isinstance(result, dg.SensorResult)
        asked = list(result.run_requests or ())
        assert {str(one.partition_key) for one in asked} == set(AGENTS)
        for request in asked:
            done = (
                location(platform)
                .resolve_job_def("retrain")
                .execute_in_process(instance=instance, partition_key=request.partition_key, tags=dict(request.tags))
            )
            assert done.success
            (run,) = instance.get_runs(dg.RunsFilter(tags={RETRAINING_TAG: str(request.partition_key)}))
            assert TriggerReason.from_tags(run.tags).reason == "weekly retraining of 2026-01-04"


def test_the_daily_check_trains_only_what_is_due(settings: Settings, sqlite_engine: Engine) -> None:
    """The daily check is read as a daily training."""
    with transaction(sqlite_engine) as session:
        session.add(a_version("1.2.0", SUNDAY - hours(24), "Production"))
    assert tick(settings, "daily_trigger_check") == " | ".join(f"{agent}: idle: no trigger waits" for agent in AGENTS)
    said = tick(settings, "daily_trigger_check", SUNDAY.replace(day=12))
    assert "execution: retrain (retrain-execution-1): staleness: last trained 9.0 days ago" in said
    assert said.count("retrain (") == 1
