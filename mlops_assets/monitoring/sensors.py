"""The sensors of alerts: runs that failed or succeeded become alerts and recoveries, and what is due is told."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from heapq import merge
from itertools import takewhile

import dagster as dg

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.clock import SystemClock
from mlops_assets.foundation.database import transaction
from mlops_assets.foundation.resources import Platform
from mlops_assets.foundation.trigger import RETRAINING_TAG
from mlops_assets.monitoring.channels import alert_routing
from mlops_assets.monitoring.completions import trained_by
from mlops_assets.monitoring.delivery import open_dispatcher
from mlops_assets.monitoring.run_alerts import RunEnd, run_failed, run_succeeded, tell_trained
from mlops_assets.monitoring.waiting import waiting

_SECONDS = 30
_RUNS_A_TICK = 50
_PARTITION_TAG = "dagster/partition"
_OWN_TAGS = "mlops/"
_ENDS = ("failed", "succeeded")


@dg.sensor(
    name="run_failure_alerts",
    minimum_interval_seconds=_SECONDS,
    # A failed run that nobody hears of is the first thing that alerts are for.
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Raises an alert for each failed run, ends it with the next success of the same job and partition, and tells of what "
        "was trained."
    ),
)
def run_failure_alerts(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SkipReason:
    """Look at the runs that ended since the last tick, failed and succeeded ones in the order in which they ended.

    Not Dagster's own run failure sensor: that one goes past a run of which it could not write, and the alert is lost.
    """
    cursor: dict[str, int] = json.loads(context.cursor) if context.cursor else {}
    words: list[str] = []
    for name, record in _ended(context, platform, cursor):
        run = _run_end(context, platform, record)
        if run is not None:
            words += _tell(context, platform, name, run, record)
        cursor[name] = record.storage_id
    context.update_cursor(json.dumps(cursor))
    return dg.SkipReason(" | ".join(words) or "no alert of a run begins or ends")


@dg.sensor(
    name="alert_delivery",
    minimum_interval_seconds=_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Escalates alerts that nobody acknowledged, and sends what is due on every channel. What waits is the skip reason.",
)
def alert_delivery(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SkipReason:
    """Send what is due; a channel that is away fails no tick, since the others were told."""
    tried = open_dispatcher(platform.settings, platform.engine, platform.clock).tick()
    for one in tried:
        (context.log.info if one.problem is None else context.log.error)(str(one))
    left = waiting(platform.engine, alert_routing(platform.settings).channels)
    return dg.SkipReason(" | ".join(map(str, (*tried, *left))) or "nothing is to be told")


def _ended(
    context: dg.SensorEvaluationContext, platform: Platform, cursor: dict[str, int]
) -> list[tuple[str, dg.EventLogRecord]]:
    """Return the events to look at, in their order; of a kind that has more than fit, none of the other go ahead of it."""
    since = SystemClock().now() - timedelta(hours=platform.profile.alerting.look_back_hours)
    horizon = float("inf")
    kinds = []
    for name in _ENDS:
        records = context.instance.fetch_run_status_changes(
            dg.RunStatusChangeRecordsFilter(
                event_type=dg.DagsterEventType.RUN_FAILURE if name == "failed" else dg.DagsterEventType.RUN_SUCCESS,
                after_storage_id=cursor.get(name),
                after_timestamp=since.timestamp() if name not in cursor else None,
            ),
            limit=_RUNS_A_TICK,
            ascending=True,
        ).records
        if len(records) == _RUNS_A_TICK:
            horizon = min(horizon, records[-1].timestamp)
        kinds.append([(name, record) for record in records])
    # Each kind in the order of its cursor, whatever the clocks of the machines say: nothing is gone past.
    ready = [takewhile(lambda one: one[1].timestamp <= horizon, kind) for kind in kinds]
    return list(merge(*ready, key=lambda one: one[1].timestamp))


def _run_end(context: dg.SensorEvaluationContext, platform: Platform, record: dg.EventLogRecord) -> RunEnd | None:
    run = context.instance.get_run_by_id(record.run_id)
    if run is None or _is_elsewhere(context, run):
        return None
    partition = run.tags.get(_PARTITION_TAG, "")
    return RunEnd(
        run_id=run.run_id,
        job=run.job_name,
        partition=partition,
        agent=partition if partition in AGENTS else run.tags.get(RETRAINING_TAG, ""),
        ended_at=datetime.fromtimestamp(record.timestamp, UTC),
        url=f"{platform.settings.dagster_url.rstrip('/')}/runs/{run.run_id}",
        tags={name: value for name, value in run.tags.items() if name.startswith(_OWN_TAGS)},
    )


def _is_elsewhere(context: dg.SensorEvaluationContext, run: dg.DagsterRun) -> bool:
    """Whether the run is another code location's, on the same instance."""
    here, there = context.code_location_origin, run.remote_job_origin
    return here is not None and there is not None and there.location_name != here.location_name


def _tell(
    context: dg.SensorEvaluationContext, platform: Platform, name: str, run: RunEnd, record: dg.EventLogRecord
) -> Iterator[str]:
    routing, now = alert_routing(platform.settings), platform.clock.now()
    if name == "failed":
        error = _error(context, record)
        with transaction(platform.engine) as session:
            if run_failed(session, run, error, routing, now) is not None:
                yield f"failed: {run.name}"
        return
    trained = trained_by(platform.engine, platform.paths, run.run_id)
    with transaction(platform.engine) as session:
        if run_succeeded(session, run, routing, now) is not None:
            yield f"succeeded again: {run.name}"
        for one in trained:
            if tell_trained(session, run, one, routing, now) is not None:
                yield f"trained: {one.model_name} {one.semver}"


def _error(context: dg.SensorEvaluationContext, record: dg.EventLogRecord) -> str:
    """Return what the first step that failed said, else what the run's end says."""
    steps = context.instance.get_records_for_run(
        record.run_id, of_type=dg.DagsterEventType.STEP_FAILURE, limit=1, ascending=True
    ).records
    failed = next((step.event_log_entry.dagster_event for step in steps), None)
    if failed is not None:
        data = failed.step_failure_data
        error = data.error
        while error is not None and error.cause is not None:
            error = error.cause
        said = data.user_failure_data.description if data.user_failure_data else None
        return f"{failed.step_key}: {said or (error.message if error is not None else 'failed')}"
    ended = record.event_log_entry.dagster_event
    return (ended.message if ended is not None else None) or ""


MONITORING_SENSORS = [run_failure_alerts, alert_delivery]
