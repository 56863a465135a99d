"""Does it hurt, and is the learner well: one version's decisions of a window against its own first hours of service.

Drift itself is judged in `drift_checks.py`. What is measured, and what is not seen, is in docs/health.md.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np

from mlops_assets.evaluation.intervals import Interval
from mlops_assets.foundation.policies import EstimatePolicy, HealthPolicy
from mlops_assets.monitoring.calibration import CalibrationReference
from mlops_assets.monitoring.coverage import CoverageWatch
from mlops_assets.monitoring.estimate import PerformanceEstimate, estimate_performance, with_labels
from mlops_assets.monitoring.findings import Finding
from mlops_assets.monitoring.harm import Loss, loss_of, loss_per_day
from mlops_assets.monitoring.health import HealthFinding, HealthReport, check_health
from mlops_assets.monitoring.health_reference import HealthReference
from mlops_assets.monitoring.learner_references import (
    Frozen,
    Service,
    calibration_reference,
    health_reference,
    keep_coverage,
)
from mlops_assets.monitoring.rules import Subject
from mlops_assets.monitoring.severity import Severity
from mlops_assets.monitoring.version_decisions import VersionDecisions
from mlops_assets.monitoring.window import DecisionWindow, read_window
from mlops_assets.monitoring.window_decisions import version_decisions

_HOURS_A_DAY = 24.0


@dataclass(frozen=True)
class LearnerCheck:
    """What came of it; None where there is no reference yet, which `words` says.

    `loss_per_day` is that of all the version's traffic, None where nothing is known of the loss or of one of its bounds.
    """

    estimate: PerformanceEstimate | None
    loss: Loss | None
    loss_per_day: Interval | None
    health: HealthReport | None
    words: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """As JSON values; `loss_per_day` as retraining reads it."""
        day = self.loss_per_day
        return {
            "estimate": None if self.estimate is None else _estimate_document(self.estimate),
            "loss": None if self.loss is None else asdict(self.loss),
            "loss_per_day": None if day is None else {"low": day.low, "estimate": day.estimate, "high": day.high},
            "health": None if self.health is None else self.health.document(),
            "learner_words": list(self.words),
        }


def check_learner(service: Service, window: DecisionWindow, *, labelled: int) -> LearnerCheck:
    """Estimate what the version's decisions of the window lose, and judge its health; freezes references when it is time.

    Labels count of decisions alone that are as old as labels take to come; so those of the window that is as long and ends
    before `service.settled` are looked at as well.

    Args:
        service: whose decisions.
        window: its decisions.
        labelled: how many of its settled decisions have labels (`calibration_reference`).

    Raises:
        NotReadyError: a frozen reference is gone.
        InputError: one is damaged.
        StorageError: the database does not answer.
    """
    calibration = calibration_reference(service, labelled=labelled)
    well = health_reference(service)
    words = tuple(
        f"{what}: {one.words}"
        for what, one in (("estimate without labels", calibration), ("health", well))
        if one.reference is None
    )
    if calibration.reference is None and well.reference is None:
        return LearnerCheck(None, None, None, None, words)
    most = service.profile.estimate.max_rows
    recent = version_decisions(window, max_rows=most)
    settled = version_decisions(_settled(service, window), max_rows=most)
    health = None if well.reference is None else _health(well.reference, recent, settled, service)
    if calibration.reference is None:
        return LearnerCheck(None, None, None, health, words)
    policy = service.profile.estimate
    coverage = _coverage(service, calibration, window.end - window.start)
    estimate = estimate_performance(calibration.reference, recent, policy, coverage=coverage)
    loss = _loss(calibration.reference, recent, settled, policy, coverage, estimate)
    traffic = window.total * _HOURS_A_DAY / ((window.end - window.start) / timedelta(hours=1))
    day = None if loss.per_decision is None else loss_per_day(loss.per_decision, traffic)
    return LearnerCheck(estimate, loss, None if day is None or day.low is None else day, health, words)


def findings_of(health: HealthReport | None, policy: HealthPolicy, subject: Subject) -> list[Finding]:
    """Return what people are to be told of the learner: each alarm that rings is an alert of its own."""
    return (
        [] if health is None else [_finding(one, policy, subject) for one in health.findings if one.verdict == "alarm"]
    )


def recovered_keys(health: HealthReport | None, subject: Subject) -> list[str]:
    """Return the keys of alerts that are over: of alarms that could be judged and do not ring."""
    return [] if health is None else [_key(one, subject) for one in health.findings if one.verdict == "ok"]


def _loss(
    reference: CalibrationReference,
    recent: VersionDecisions,
    settled: VersionDecisions,
    policy: EstimatePolicy,
    coverage: CoverageWatch,
    estimate: PerformanceEstimate,
) -> Loss:
    """What labels of settled decisions say, or outcomes or estimates of the recent ones, whose labels have not all come.

    Where both speak, each has half of the error, and the larger lower bound counts: labels alone see that a better action is
    missed, and the recent decisions alone what has changed since yesterday.
    """
    recent, told = recent.without_labels(), np.isfinite(settled.regret)
    if told.sum() < policy.min_realised:
        return loss_of(reference, recent, policy, coverage=coverage, estimate=estimate)
    halved = policy.model_copy(update={"confidence": 0.5 + policy.confidence / 2})
    # Their outcomes are old news: those of the recent decisions say more.
    labels = replace(settled.take(told), reward=np.full(int(told.sum()), np.nan, dtype=np.float32))
    found = [
        loss_of(reference, labels, halved),
        loss_of(reference, recent, halved, coverage=coverage, estimate=estimate),
    ]
    return max(found, key=_lower_bound)


def _lower_bound(loss: Loss) -> float:
    low = None if loss.per_decision is None else loss.per_decision.low
    return -np.inf if low is None else low


def _health(
    well: HealthReference, recent: VersionDecisions, settled: VersionDecisions, service: Service
) -> HealthReport:
    """Of each alarm what the recent decisions say; where their outcomes have not come yet, what the settled ones say."""
    policy, actions = service.profile.health, service.spec.actions
    now, before = (check_health(well, some, policy, actions) for some in (recent, settled))
    return HealthReport(
        tuple(
            older if newer.verdict == "insufficient_data" and older.verdict != "insufficient_data" else newer
            for newer, older in zip(now.findings, before.findings, strict=True)
        )
    )


def _settled(service: Service, window: DecisionWindow) -> DecisionWindow:
    if service.settled >= window.end:
        return window
    start = service.settled - (window.end - window.start)
    return read_window(
        service.engine, service.spec, start, service.settled, version=service.version, as_of=service.as_of
    )


def _coverage(service: Service, calibration: Frozen[CalibrationReference], length: timedelta) -> CoverageWatch:
    """The watch after every whole window whose labels have come, each counted once."""
    record, reference, policy = calibration.record, calibration.reference, service.profile.estimate
    if record is None or reference is None or record.coverage is None or record.covered_until is None:
        raise ValueError(f"the calibration of {service.version} has no watch of its coverage")
    watch, until = CoverageWatch.from_document(record.coverage), record.covered_until
    while until + length <= service.settled:
        window = read_window(
            service.engine, service.spec, until, until + length, version=service.version, as_of=service.as_of
        )
        until += length
        watch = with_labels(watch, reference, version_decisions(window, max_rows=policy.max_rows), policy)
    if until != record.covered_until:
        keep_coverage(service.engine, record, watch, until)
    return watch


def _finding(one: HealthFinding, policy: HealthPolicy, subject: Subject) -> Finding:
    return Finding(
        key=_key(one, subject),
        severity=Severity(getattr(policy.severities, one.alarm)),
        title=f"Learner is not well: {one.alarm.replace('_', ' ')}",
        body=f"{one.words}; of {subject.model_name} {subject.model_version}",
        source=subject.source,
        agent=subject.agent,
        model_name=subject.model_name,
        details={
            "measure": one.alarm,
            "value": one.statistic,
            "limit": one.limit,
            "p_value": one.p_value,
            "model_version": subject.model_version,
        },
    )


def _key(one: HealthFinding, subject: Subject) -> str:
    return f"{subject.model_name}:{one.alarm}"


def _estimate_document(estimate: PerformanceEstimate) -> dict[str, Any]:
    names: Iterable[str] = ("verdict", "rows", "outside_share", "effective_reference_rows", "words")
    means = {name: getattr(estimate, name) for name in ("accuracy", "loss", "reward")}
    return {
        **{name: getattr(estimate, name) for name in names},
        **{name: None if mean is None else asdict(mean) for name, mean in means.items()},
    }
