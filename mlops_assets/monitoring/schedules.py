"""Schedules of this room."""

import dagster as dg


@dg.schedule(
    name="daily_reports",
    job_name="daily_report",
    cron_schedule="0 1 * * *",
    execution_timezone="UTC",
    # What nobody switched on would watch nothing.
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every day 01:00 UTC: the reports of all agents and of the platform.",
)
def daily_reports(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Request the run of this day; the run key makes a second tick of the same day harmless."""
    return dg.RunRequest(run_key=f"daily-reports-{context.scheduled_execution_time:%Y-%m-%d}")


@dg.schedule(
    name="hourly_drift_check",
    job_name="drift_monitoring",
    cron_schedule="0 * * * *",
    execution_timezone="UTC",
    # What nobody switched on would watch nothing.
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every hour: drift of each champion's decisions of the last hours.",
)
def hourly_drift_check(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Request the run of this hour; the run key makes a second tick of the same hour harmless."""
    return dg.RunRequest(run_key=f"hourly-drift-check-{context.scheduled_execution_time:%Y-%m-%dT%H}")


MONITORING_SCHEDULES = [daily_reports, hourly_drift_check]
