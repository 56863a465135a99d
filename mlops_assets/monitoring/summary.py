"""The monitoring summary of any window, and its trend by calendar day. Rates and percentiles come from `serving/status.py`.

`avg_error_rate` and `avg_data_quality` are those of `performance.py`; they are computed by the database here, so that a
window of any length is summarised without reading its decisions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import Engine, func, or_, select
from sqlalchemy.orm import Session

from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.policies import MonitoringPolicy
from mlops_assets.foundation.tables import AlertRecord, DriftCheckRecord
from mlops_assets.governance.evidence import spec_of
from mlops_assets.serving.status import Grouping, monitoring_status

Status = Literal["healthy", "warning", "critical", "insufficient_data"]
SEVERITIES: Final = ("CRITICAL", "WARNING", "INFO")
# Verdicts of a drift check that are no incident.
QUIET: Final = ("ok", "monitor", "insufficient_data")


@dataclass(frozen=True)
class Summary:
    """One version's decisions with `start <= event_time < end`; `version` None: of all versions together.

    None is unknown, not zero. `drift_incidents`: checks of windows that ended within this one and found drift. `alerts`: by
    severity, those that were open at any time of the window; they are the model's, whatever its version.
    """

    agent: str
    version: str | None
    start: datetime
    end: datetime
    status: Status
    total_predictions: int
    avg_accuracy: float | None
    avg_latency_ms: float | None
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    latency_p99_ms: float | None
    avg_error_rate: float | None
    throughput_per_hour: float
    avg_confidence: float | None
    avg_reward: float | None
    labelled: int
    drift_incidents: int
    avg_data_quality: float | None
    alerts: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return dict(vars(self))


def monitoring_summary(
    engine: Engine, spec: AgentSpec, start: datetime, end: datetime, policy: MonitoringPolicy
) -> list[Summary]:
    """Summarise one agent's window: all versions together first, then each version that took a decision.

    `status`: critical or warning by the worst open alert; warning where drift was found; `insufficient_data` with fewer
    than `min_rows` decisions and neither; else healthy.

    Raises:
        InputError: the window ends before it starts.
        StorageError: the database does not answer.
    """
    return [
        *_summaries(engine, spec, start, end, policy, by=["agent"]),
        *_summaries(engine, spec, start, end, policy, by=["agent", "model_version"]),
    ]


def daily_trend(engine: Engine, spec: AgentSpec, end: datetime, policy: MonitoringPolicy) -> list[Summary]:
    """Summarise each of the last `trend_days` calendar days (UTC), the oldest first; the last one is that of `end`, up to it.

    Raises:
        StorageError: the database does not answer.
    """
    end = end.astimezone(UTC)
    # An end at midnight ends the day before it.
    newest = (end - timedelta(microseconds=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    days = [newest - timedelta(days=back) for back in reversed(range(policy.trend_days))]
    return [
        day
        for begin in days
        for day in _summaries(engine, spec, begin, min(begin + timedelta(days=1), end), policy, by=["agent"])
    ]


def _summaries(
    engine: Engine,
    spec: AgentSpec,
    start: datetime,
    end: datetime,
    policy: MonitoringPolicy,
    *,
    by: Sequence[Grouping],
) -> list[Summary]:
    """Summarise by version, or all versions together, also where there is no decision."""
    if not start < end:
        raise InputError(f"the window from {start} to {end} holds no time; give an end after its start")
    groups: Sequence[Mapping[str, Any]] = monitoring_status(engine, start, end, by=by, agent=spec.name)
    with read_transaction(engine) as session:
        alerts = _alerts(session, spec, start, end)
        incidents = _incidents(session, spec, start, end)
    if not groups and "model_version" not in by:
        groups = [{}]
    versions = [None if "model_version" not in by else str(group["model_version"]) for group in groups]
    return [
        _summary(spec, version, start, end, group, alerts, _of(incidents, version), policy)
        for version, group in zip(versions, groups, strict=True)
    ]


def create_production_monitor(engine: Engine, model_name: str, policy: MonitoringPolicy) -> "ProductionMonitor":
    """Return the monitor of one registered model, by its name.

    Raises:
        InputError: no agent has that model.
    """
    return ProductionMonitor(engine, spec_of(model_name), policy)


@dataclass(frozen=True)
class ProductionMonitor:
    """What is asked of one model's served decisions. The server logs them and their outcomes by itself."""

    engine: Engine
    spec: AgentSpec
    policy: MonitoringPolicy

    def get_monitoring_summary(self, start: datetime, end: datetime) -> list[Summary]:
        """See `monitoring_summary`."""
        return monitoring_summary(self.engine, self.spec, start, end, self.policy)

    def get_performance_trend(self, end: datetime) -> list[Summary]:
        """See `daily_trend`."""
        return daily_trend(self.engine, self.spec, end, self.policy)


def _summary(
    spec: AgentSpec,
    version: str | None,
    start: datetime,
    end: datetime,
    group: Mapping[str, Any],
    alerts: Mapping[str, int],
    incidents: int,
    policy: MonitoringPolicy,
) -> Summary:
    predictions = int(group.get("predictions", 0))
    missing = group.get("mean_missing_features")
    return Summary(
        agent=spec.name,
        version=version,
        start=start,
        end=end,
        status=_status(predictions, alerts, incidents, policy),
        total_predictions=predictions,
        avg_accuracy=group.get("accuracy"),
        avg_latency_ms=group.get("latency_mean_ms"),
        latency_p50_ms=group.get("latency_p50_ms"),
        latency_p95_ms=group.get("latency_p95_ms"),
        latency_p99_ms=group.get("latency_p99_ms"),
        avg_error_rate=int(group["failed"]) / predictions if predictions else None,
        throughput_per_hour=predictions / ((end - start) / timedelta(hours=1)),
        avg_confidence=group.get("mean_confidence"),
        avg_reward=group.get("mean_reward"),
        labelled=int(group.get("labelled", 0)),
        drift_incidents=incidents,
        avg_data_quality=None if missing is None else 1.0 - float(missing) / len(spec.state_fields),
        alerts=alerts,
    )


def _status(predictions: int, alerts: Mapping[str, int], incidents: int, policy: MonitoringPolicy) -> Status:
    if alerts["CRITICAL"]:
        return "critical"
    if alerts["WARNING"] or incidents:
        return "warning"
    return "healthy" if predictions >= policy.min_rows else "insufficient_data"


def _alerts(session: Session, spec: AgentSpec, start: datetime, end: datetime) -> dict[str, int]:
    query = (
        select(AlertRecord.severity, func.count())
        .where(
            or_(AlertRecord.agent == spec.name, AlertRecord.model_name == spec.registered_model),
            AlertRecord.raised_at < end,
            or_(AlertRecord.recovered_at.is_(None), AlertRecord.recovered_at >= start),
        )
        .group_by(AlertRecord.severity)
    )
    found = {severity: int(count) for severity, count in session.execute(query)}
    return {severity: found.get(severity, 0) for severity in SEVERITIES}


def _incidents(session: Session, spec: AgentSpec, start: datetime, end: datetime) -> dict[str, int]:
    """Drift checks that found drift, by version."""
    query = (
        select(DriftCheckRecord.model_version, func.count())
        .where(
            DriftCheckRecord.agent == spec.name,
            DriftCheckRecord.window_end > start,
            DriftCheckRecord.window_end <= end,
            DriftCheckRecord.verdict.not_in(QUIET),
        )
        .group_by(DriftCheckRecord.model_version)
    )
    return {version: int(count) for version, count in session.execute(query)}


def _of(incidents: Mapping[str, int], version: str | None) -> int:
    return sum(incidents.values()) if version is None else incidents.get(version, 0)
