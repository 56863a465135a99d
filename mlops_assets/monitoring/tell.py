"""What people are told of a version's performance: its figures against the alert thresholds, and what is over."""

from datetime import datetime

from sqlalchemy import Engine

from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.database import transaction
from mlops_assets.foundation.policies import AlertThresholds
from mlops_assets.monitoring.alerts import report
from mlops_assets.monitoring.findings import Alert, Routing
from mlops_assets.monitoring.performance import Performance
from mlops_assets.monitoring.rules import Measurements, Subject, alerts_of, recoveries_of

SOURCE = "performance_report"


def measurements_of(one: Performance) -> Measurements:
    """Return a version's measurements in the units of the thresholds; of too few decisions, that nothing is known.

    The drop of the accuracy is the one that its interval leaves no doubt of: of fifty labels, five points are noise.
    """
    if not one.enough:
        return Measurements()
    accuracy = one.intervals.get("accuracy")
    certain = None if accuracy is None else accuracy.high
    return Measurements(
        accuracy_drop=_drop(one.baseline.accuracy, certain),
        error_rate=one.figure("error_rate").value,
        latency_p95_ms=one.figure("latency_p95_ms").value,
        latency_p99_ms=one.figure("latency_p99_ms").value,
        confidence_drop=_drop(one.baseline.mean_confidence, one.figure("mean_confidence").value),
    )


def tell(
    engine: Engine, spec: AgentSpec, one: Performance, thresholds: AlertThresholds, routing: Routing, now: datetime
) -> list[Alert]:
    """Raise, worsen and end the alerts of an agent's model by what was measured of its version; return those that changed.

    Raises:
        StorageError: the database cannot be written.
    """
    measured = measurements_of(one)
    subject = Subject(SOURCE, spec.name, spec.registered_model, one.window.version or "")
    with transaction(engine) as session:
        return report(
            session,
            alerts_of(measured, thresholds, subject),
            recoveries_of(measured, thresholds, subject),
            routing,
            now,
        )


def _drop(baseline: float | None, value: float | None) -> float | None:
    return None if baseline is None or value is None else baseline - value
