"""Schedules of this room: they raise triggers, which are decided on like all others; `drift_sensor` starts the runs."""

import dagster as dg

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.profiles import PolicyProfile
from mlops_assets.foundation.resources import Platform
from mlops_assets.retraining.evaluate import evaluate_all
from mlops_assets.retraining.signals import scheduled
from mlops_assets.retraining.sources import of_everything


def retraining_schedules(profile: PolicyProfile) -> list[dg.ScheduleDefinition]:
    """Return the schedules; the policy profile says whether they run without being switched on."""
    status = (
        dg.DefaultScheduleStatus.RUNNING if profile.retraining.automatic_start else dg.DefaultScheduleStatus.STOPPED
    )

    @dg.schedule(
        name="weekly_retraining",
        job_name="retrain",
        cron_schedule="0 2 * * 0",
        execution_timezone="UTC",
        default_status=status,
        description=(
            "Every Sunday 02:00 UTC: each agent is due. Throttled and deduplicated like every trigger; drift_sensor starts "
            "the runs within five minutes, one for each agent, so that one agent's failure stays its own."
        ),
    )
    def weekly_retraining(context: dg.ScheduleEvaluationContext, platform: Platform) -> dg.SkipReason:
        """Raise the week's trigger for each agent; its key makes a second tick of the same Sunday harmless."""
        due = [scheduled(agent, context.scheduled_execution_time) for agent in AGENTS]
        done = evaluate_all(platform.engine, platform.profile.retraining, platform.clock.now(), due)
        return dg.SkipReason(" | ".join(map(str, done)))

    @dg.schedule(
        name="daily_trigger_check",
        job_name="retrain",
        cron_schedule="0 2 * * *",
        execution_timezone="UTC",
        default_status=status,
        description="Every day 02:00 UTC: all sources of triggers are looked at; trains only what they and the policy ask for.",
    )
    def daily_trigger_check(context: dg.ScheduleEvaluationContext, platform: Platform) -> dg.SkipReason:  # noqa: ARG001
        """Look at every source, then evaluate: also where sensors are switched off, once a day somebody looks."""
        policy = platform.profile.retraining
        found = of_everything(platform.engine, policy, platform.clock, platform.settings)
        done = evaluate_all(platform.engine, policy, platform.clock.now(), found)
        return dg.SkipReason(" | ".join(map(str, done)))

    return [weekly_retraining, daily_trigger_check]
