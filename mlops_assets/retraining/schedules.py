"""Schedules that start the lifecycle."""

from collections.abc import Iterator

import dagster as dg

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.trigger import RETRAINING_TAG, TriggerReason


@dg.schedule(
    name="weekly_retraining",
    job_name="retrain",
    cron_schedule="0 2 * * 0",
    execution_timezone="UTC",
    description="Every Sunday 02:00 UTC: one run of `retrain` per agent, so that one agent's failure stays its own.",
)
def weekly_retraining(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
    """Request one run per agent; the run key makes a second tick of the same Sunday harmless."""
    sunday = context.scheduled_execution_time.strftime("%Y-%m-%d")
    reason = TriggerReason(trigger_type="schedule", reason=f"weekly retraining of {sunday}")
    for agent in AGENTS:
        tags = {**reason.tags(), RETRAINING_TAG: agent}
        yield dg.RunRequest(run_key=f"weekly-{sunday}-{agent}", partition_key=agent, tags=tags)
