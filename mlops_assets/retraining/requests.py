"""The outbox of trainings: asked for in the transaction of a decision, handed to Dagster, followed to their end.

Dagster itself is not known here: the caller says what it knows of a run. A request keeps its key for ever, and one sensor
alone hands requests over, so that Dagster's own memory of run keys makes a second try harmless, whenever a crash was.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast, get_args

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from mlops_assets.foundation.database import lock_name, read_transaction, transaction
from mlops_assets.foundation.tables import RetrainingRunRecord
from mlops_assets.foundation.trigger import RETRAINING_TAG, EvidenceName, TriggerReason, TriggerType
from mlops_assets.retraining.signals import Signal, reopen

RunStatus = Literal["requested", "started", "succeeded", "failed", "canceled", "lost"]
_MAX_REASON = 480


@dataclass(frozen=True)
class RunRequest:
    """One training that was asked for."""

    run_key: str
    agent: str
    trigger_type: TriggerType
    reason: str
    evidence: Mapping[str, Any]
    user: str | None
    requested_at: datetime
    dagster_run_id: str | None
    status: RunStatus
    ended_at: datetime | None

    def tags(self) -> dict[str, str]:
        """Tags of the Dagster run: why it runs, of which decision, and the agent that only one may train at a time."""
        numbers = {name: self.evidence[name] for name in get_args(EvidenceName) if name in self.evidence}
        reason = TriggerReason(
            trigger_type=self.trigger_type,
            reason=self.reason,
            evidence=numbers,
            request=self.run_key,
        )
        return {**reason.tags(), RETRAINING_TAG: self.agent}

    def __str__(self) -> str:
        """Say it in a line."""
        run = f", Dagster run {self.dagster_run_id}" if self.dagster_run_id else ""
        return f"{self.run_key} {self.status} since {self.requested_at:%Y-%m-%d %H:%M} UTC{run}: {self.trigger_type}: {self.reason}"


@dataclass(frozen=True)
class SeenRun:
    """What Dagster knows of a request's run, the newest of its tries; `status` is that of all tries together."""

    run_id: str
    status: Literal["started", "succeeded", "failed", "canceled"]


FindRun = Callable[[str], SeenRun | None]


def new_request(session: Session, primary: Signal, now: datetime) -> RunRequest:
    """Write a request in the transaction of its decision; a second one of the agent in flight violates a unique key."""
    newest = session.scalar(
        select(func.max(RetrainingRunRecord.number)).where(RetrainingRunRecord.agent == primary.agent)
    )
    number = 1 + (newest or 0)
    record = RetrainingRunRecord(
        run_key=f"retrain-{primary.agent}-{number}",
        agent=primary.agent,
        number=number,
        trigger_type=primary.kind,
        reason=primary.reason[:_MAX_REASON],
        evidence=dict(primary.evidence),
        user=primary.user,
        requested_at=now,
        status="requested",
    )
    session.add(record)
    session.flush()
    return _request(record)


def open_request(session: Session, agent: str) -> RunRequest | None:
    """Return the agent's training that is asked for or under way."""
    query = select(RetrainingRunRecord).where(
        RetrainingRunRecord.agent == agent, RetrainingRunRecord.ended_at.is_(None)
    )
    record = session.scalars(query).one_or_none()
    return None if record is None else _request(record)


def all_requests(engine: Engine, *, since: datetime, agent: str | None = None) -> list[RunRequest]:
    """Return the trainings that were asked for since then, the newest first."""
    query = select(RetrainingRunRecord).where(RetrainingRunRecord.requested_at >= since)
    if agent is not None:
        query = query.where(RetrainingRunRecord.agent == agent)
    order = (RetrainingRunRecord.requested_at.desc(), RetrainingRunRecord.run_key)
    with read_transaction(engine) as session:
        return [_request(record) for record in session.scalars(query.order_by(*order))]


def reconcile(engine: Engine, find: FindRun, now: datetime) -> list[RunRequest]:
    """Bring open requests up to what Dagster knows, and return those that it has yet to be handed.

    The triggers of a run that failed, or that Dagster has forgotten, wait again. Who canceled a run has answered them.
    """
    with read_transaction(engine) as session:
        query = select(RetrainingRunRecord).where(RetrainingRunRecord.ended_at.is_(None))
        pending = [_request(record) for record in session.scalars(query.order_by(RetrainingRunRecord.run_key))]
    return [one for one in pending if _followed(engine, one, find(one.run_key), now)]


def _followed(engine: Engine, request: RunRequest, seen: SeenRun | None, now: datetime) -> bool:
    """Note what Dagster knows of one request; whether it is to be handed over."""
    if seen is None and request.dagster_run_id is None:
        return True
    status: RunStatus = "lost" if seen is None else seen.status
    run_id = request.dagster_run_id if seen is None else seen.run_id
    if (status, run_id) == (request.status, request.dagster_run_id):
        return False
    with transaction(engine) as session:
        lock_name(session, f"retraining:{request.agent}")
        record = session.get_one(RetrainingRunRecord, request.run_key)
        if record.ended_at is not None:
            return False
        record.status, record.dagster_run_id = status, run_id
        if status != "started":
            record.ended_at = now
        if status in {"failed", "lost"}:
            reopen(session, request.run_key)
    return False


def success_rate(requests: Sequence[RunRequest]) -> float | None:
    """Return the share of trainings that ended well, of those that ended; None while none has."""
    ended = [one for one in requests if one.status in {"succeeded", "failed", "lost"}]
    return sum(one.status == "succeeded" for one in ended) / len(ended) if ended else None


def _request(record: RetrainingRunRecord) -> RunRequest:
    return RunRequest(
        run_key=record.run_key,
        agent=record.agent,
        trigger_type=cast("TriggerType", record.trigger_type),
        reason=record.reason,
        evidence=record.evidence,
        user=record.user,
        requested_at=record.requested_at,
        dagster_run_id=record.dagster_run_id,
        status=cast("RunStatus", record.status),
        ended_at=record.ended_at,
    )
