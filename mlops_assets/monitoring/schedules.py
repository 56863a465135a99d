"""Schedules of this room."""

import dagster as dg


@dg.schedule(
    name="daily_reports",
    job_name="daily_report",
    cron_schedule="0 1 * * *",
    execution_timezone="UTC",
    description="Every day 01:00 UTC: the reports of all agents and of the platform.",
)
def daily_reports(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Request the run of this day; the run key makes a second tick of the same day harmless."""
    return dg.RunRequest(run_key=f"daily-reports-{context.scheduled_execution_time:%Y-%m-%d}")


MONITORING_SCHEDULES = [daily_reports]
