"""Alerts of runs: what a failed run says, what a later success of the same job and partition ends, what a training tells.

No Dagster here: `sensors.py` hands in what it saw.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from mlops_assets.foundation.policies import AlertingPolicy
from mlops_assets.monitoring.alerts import announce, newest_alert, raise_alert, recover
from mlops_assets.monitoring.findings import Alert, Finding, Routing
from mlops_assets.monitoring.severity import Severity

_SOURCE = "run_failure_alerts"
_LONGEST_LINE = 300
_LONGEST_PARTITION = 64
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)")


@dataclass(frozen=True)
class RunEnd:
    """A run that ended.

    `partition` is what it was of, such as its agent; empty for a run of all. `agent` is empty where it is of none, or of
    several. `ended_at` is the machine's time.
    """

    run_id: str
    job: str
    partition: str
    agent: str
    ended_at: datetime
    url: str
    tags: Mapping[str, str]

    @property
    def key(self) -> str:
        """What two runs of the same work have in common."""
        return f"run:{self.job[:100]}:{self.partition[:_LONGEST_PARTITION] or 'all'}"

    @property
    def name(self) -> str:
        """How people call it."""
        return f"{self.job} of {self.partition}" if self.partition else self.job


@dataclass(frozen=True)
class Trained:
    """One version that a run registered; None is what is not known, such as the improvement of a first version."""

    agent: str
    model_name: str
    semver: str
    status: str
    accuracy: float | None
    improvement_percent: float | None


def run_failed(session: Session, run: RunEnd, error: str, routing: Routing, now: datetime) -> Alert | None:
    """Raise the alert of a failed run; None for one that was told before, or is older than what was told."""
    if _is_known(session, run):
        return None
    return raise_alert(session, failure_of(run, error, routing.policy), routing, now)


def run_succeeded(session: Session, run: RunEnd, routing: Routing, now: datetime) -> Alert | None:
    """End the alert of the same job and partition, unless that is of a run that failed later."""
    if _is_known(session, run):
        return None
    return recover(session, run.key, routing, now, for_good=True, note=f"run {run.run_id} succeeded: {run.url}")


def tell_trained(session: Session, run: RunEnd, trained: Trained, routing: Routing, now: datetime) -> Alert | None:
    """Tell that a training has made a version; None when it was told before."""
    return announce(session, completion_of(run, trained), routing, now)


def failure_of(run: RunEnd, error: str, policy: AlertingPolicy) -> Finding:
    """Say which run failed, of what, and where to look."""
    severity = Severity(policy.failed_runs.get(run.job, policy.failed_runs["default"]))
    reason = first_line(error)
    return Finding(
        key=run.key,
        severity=severity,
        title=f"Run failed: {run.name}"[:200],
        body=f"{reason}\n{run.url}",
        source=_SOURCE,
        agent=run.agent,
        details={
            "run_id": run.run_id,
            "job": run.job,
            "partition": run.partition,
            "error": reason,
            "url": run.url,
            "ended_at": run.ended_at.isoformat(),
            "tags": dict(run.tags),
        },
    )


def completion_of(run: RunEnd, trained: Trained) -> Finding:
    """Say what was trained, how good it is, and how much better than the champion."""
    accuracy = "not known" if trained.accuracy is None else f"{trained.accuracy:.4f}"
    gain = (
        "no champion to compare with"
        if trained.improvement_percent is None
        else f"{trained.improvement_percent:+.2f} %"
    )
    return Finding(
        key=f"trained:{run.run_id}:{trained.agent}",
        severity=Severity.INFO,
        title=f"Training completed: {trained.semver}, {trained.status}",
        body=f"{trained.model_name} {trained.semver}: accuracy {accuracy}, improvement {gain}, {trained.status}\n{run.url}",
        source="run_completion",
        agent=trained.agent,
        model_name=trained.model_name,
        details={
            "run_id": run.run_id,
            "semver": trained.semver,
            "accuracy": trained.accuracy,
            "improvement_percent": trained.improvement_percent,
            "status": trained.status,
        },
    )


def first_line(error: str) -> str:
    """Return what an error says first, without what may be a password in a URL."""
    line = next((line.strip() for line in error.splitlines() if line.strip()), "the run gave no reason")
    # What a process wrote before it died may be anything, and PostgreSQL takes no NUL.
    readable = "".join(letter if letter.isprintable() else " " for letter in line)
    return _CREDENTIALS.sub("<hidden>", readable)[:_LONGEST_LINE]


def _is_known(session: Session, run: RunEnd) -> bool:
    # A tick that died after its transaction sees the same runs again.
    told = newest_alert(session, run.key)
    return told is not None and datetime.fromisoformat(told.finding.details["ended_at"]) >= run.ended_at
