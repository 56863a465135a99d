"""The weekly schedule: what one tick asks for, that a second tick asks for the same, and that the runs can run."""

from datetime import UTC, datetime

import dagster as dg
import pytest

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.partitions import AGENT_PARTITIONS
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.trigger import RETRAINING_TAG, TriggerReason
from mlops_assets.retraining.jobs import lifecycle_jobs
from mlops_assets.retraining.schedules import weekly_retraining

SUNDAY = datetime(2026, 1, 4, 2, tzinfo=UTC)
GROUPS = ["experiences", "features", "training", "evaluation", "registry", "governance"]


def _definitions() -> dg.Definitions:
    def asset(group: str) -> dg.AssetsDefinition:
        @dg.asset(name=f"of_{group}", group_name=group, partitions_def=AGENT_PARTITIONS)
        def nothing() -> None: ...

        return nothing

    return dg.Definitions(
        assets=[asset(group) for group in GROUPS],
        jobs=lifecycle_jobs(load_profile("aiwebtest")),
        schedules=[weekly_retraining],
    )


def _requests(at: datetime) -> list[dg.RunRequest]:
    definitions = _definitions()
    context = dg.build_schedule_context(scheduled_execution_time=at, repository_def=definitions.get_repository_def())
    return list(weekly_retraining.evaluate_tick(context).run_requests or ())


def test_it_is_sunday_two_o_clock_utc() -> None:
    """`@weekly` is midnight, and a local time is skipped or doubled when the clocks change."""
    assert weekly_retraining.cron_schedule == "0 2 * * 0"
    assert weekly_retraining.execution_timezone == "UTC"
    assert SUNDAY.strftime("%A") == "Sunday"


def test_a_tick_asks_for_one_explained_run_for_each_agent() -> None:
    """One run for all would let one agent's failure keep the others' models old; no reason breaks the model card."""
    requests = _requests(SUNDAY)
    assert [request.partition_key for request in requests] == list(AGENTS)
    for request in requests:
        assert TriggerReason.from_tags(request.tags) == TriggerReason(
            trigger_type="schedule", reason="weekly retraining of 2026-01-04"
        )
        assert request.tags[RETRAINING_TAG] == request.partition_key == request.tags["dagster/partition"]


def test_a_second_tick_of_a_sunday_asks_for_the_same_runs() -> None:
    """A daemon that restarts at 02:00 would train everything twice; a key without date would train only once, ever."""
    keys = [request.run_key for request in _requests(SUNDAY)]
    assert keys == [request.run_key for request in _requests(SUNDAY)]
    assert keys == [f"weekly-2026-01-04-{agent}" for agent in AGENTS]
    assert set(keys).isdisjoint(request.run_key for request in _requests(SUNDAY.replace(day=11)))


@pytest.mark.parametrize("number", range(len(AGENTS)))
def test_what_it_asks_for_runs(number: int) -> None:
    """A job or partition that does not exist shows only on the first Sunday."""
    request = _requests(SUNDAY)[number]
    assert weekly_retraining.job_name == "retrain"
    with dg.DagsterInstance.ephemeral() as instance:
        result = (
            _definitions()
            .resolve_job_def(weekly_retraining.job_name)
            .execute_in_process(instance=instance, partition_key=request.partition_key, tags=dict(request.tags))
        )
        assert result.success
        assert {event.partition for event in result.get_asset_materialization_events()} == {request.partition_key}
        (run,) = instance.get_runs(dg.RunsFilter(tags={RETRAINING_TAG: str(request.partition_key)}))
    assert TriggerReason.from_tags(run.tags).trigger_type == "schedule"
