"""Which measurements of a served version people are told of: pure; who measures and who tells are others' business."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

from mlops_assets.foundation.policies import AlertThresholds, Levels
from mlops_assets.monitoring.findings import Finding
from mlops_assets.monitoring.severity import Severity

_WORDS = {
    "accuracy_drop": "accuracy is below the version's baseline by",
    "error_rate": "error rate is",
    "latency_p95_ms": "latency (95th percentile) is",
    "latency_p99_ms": "latency (99th percentile) is",
    "feature_drift": "drift of the features is",
    "prediction_drift": "drift of the predictions is",
    "concept_drift": "drift of the concept is",
    "confidence_drop": "mean confidence is below the version's baseline by",
}


@dataclass(frozen=True)
class Measurements:
    """What was measured of a version, in the units of `AlertThresholds`; None: it is not known."""

    accuracy_drop: float | None = None
    error_rate: float | None = None
    latency_p95_ms: float | None = None
    latency_p99_ms: float | None = None
    feature_drift: float | None = None
    prediction_drift: float | None = None
    concept_drift: float | None = None
    confidence_drop: float | None = None


@dataclass(frozen=True)
class Subject:
    """What was measured: `source` is the check that did it."""

    source: str
    agent: str
    model_name: str
    model_version: str


def alerts_of(measured: Measurements, thresholds: AlertThresholds, subject: Subject) -> list[Finding]:
    """Return what people are to be told; a measurement that is not known is neither bad nor good."""
    findings = []
    for name, value in _known(measured):
        severity = judged(value, getattr(thresholds, name))
        if severity is not None:
            findings.append(_finding(name, value, getattr(thresholds, name), severity, subject))
    return findings


def recoveries_of(measured: Measurements, thresholds: AlertThresholds, subject: Subject) -> list[str]:
    """Return the keys of alerts that the measurements say are over: those that are known, and within their limits."""
    return [
        key_of(name, subject) for name, value in _known(measured) if judged(value, getattr(thresholds, name)) is None
    ]


def judged(value: float, levels: Levels) -> Severity | None:
    """Return how bad a value is: INFO and WARNING begin at their limit, CRITICAL above its."""
    if levels.critical is not None and value > levels.critical and not _same(value, levels.critical):
        return Severity.CRITICAL
    for severity, limit in ((Severity.WARNING, levels.warning), (Severity.INFO, levels.info)):
        if limit is not None and (value >= limit or _same(value, limit)):
            return severity
    return None


def key_of(measure: str, subject: Subject) -> str:
    """Return the dedupe key: a model's, so that a new version that is as bad is the same alert."""
    return f"{subject.model_name}:{measure}"


def _same(value: float, limit: float) -> bool:
    # .92 - .87 is a little more than .05, which nobody means by it.
    return math.isclose(value, limit, rel_tol=1e-9)


def _known(measured: Measurements) -> Iterator[tuple[str, float]]:
    for field in fields(measured):
        value = getattr(measured, field.name)
        if value is not None and not math.isnan(value):
            yield field.name, value


def _finding(name: str, value: float, levels: Levels, severity: Severity, subject: Subject) -> Finding:
    limit = {"INFO": levels.info, "WARNING": levels.warning, "CRITICAL": levels.critical}[severity]
    unit = " ms" if name.endswith("_ms") else ""
    reached = "above" if severity is Severity.CRITICAL else "at or above"
    return Finding(
        key=key_of(name, subject),
        severity=severity,
        title=f"{name.replace('_ms', '').replace('_', ' ').capitalize()} {value:.4g}{unit}",
        body=f"{_WORDS[name]} {value:.4g}{unit}, {reached} {limit:g}{unit} ({severity}), "
        f"of {subject.model_name} {subject.model_version}",
        source=subject.source,
        agent=subject.agent,
        model_name=subject.model_name,
        details={"measure": name, "value": value, "limit": limit, "model_version": subject.model_version},
    )
