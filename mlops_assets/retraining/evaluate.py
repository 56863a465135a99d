"""One evaluation of an agent's triggers: collected, decided on, stored and, where decided so, a training asked for.

All in one transaction under the agent's lock: of several sensors, schedules and people that come at once, one decides, and
a process that is killed leaves all of it or nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from mlops_assets.foundation.agents import AGENTS, agent_spec
from mlops_assets.foundation.audit import append_event
from mlops_assets.foundation.database import lock_name, read_transaction, transaction
from mlops_assets.foundation.leases import RELEASED
from mlops_assets.foundation.policies import RetrainingPolicy
from mlops_assets.foundation.tables import Lease, RetrainingEvaluationRecord, RetrainingRunRecord
from mlops_assets.retraining.data_signals import champion_of
from mlops_assets.retraining.decide import Decision, History, decide
from mlops_assets.retraining.drift_signals import checks_since, newest_loss
from mlops_assets.retraining.requests import RunRequest, new_request, open_request
from mlops_assets.retraining.signals import NewSignal, settle, submit, waiting
from mlops_assets.rollout.ledger import newest_event

SERVICE = "retraining"
_SHOWN = 20


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation came to; `request` is the training that it asked for."""

    agent: str
    decision: Decision
    request: RunRequest | None

    def __str__(self) -> str:
        """Say it in a line."""
        key = "" if self.request is None else f" ({self.request.run_key})"
        return f"{self.agent}: {self.decision.verdict}{key}: {self.decision.reason}"


def evaluate(
    engine: Engine, agent: str, policy: RetrainingPolicy, now: datetime, *, signals: Iterable[NewSignal] = ()
) -> Evaluated:
    """Store `signals`, decide on all that wait, and ask for a training if so decided.

    Args:
        engine: operational database.
        agent: whose triggers.
        policy: limits.
        now: time.
        signals: new ones of this agent.

    Raises:
        SettingsError: no such agent.
        StorageError: the database cannot be written.
    """
    agent_spec(agent)
    with transaction(engine) as session:
        lock_name(session, f"retraining:{agent}")
        submit(session, signals, now, policy.signal_expiry_hours)
        history = history_of(session, agent, policy, now)
        decision = decide(waiting(session, agent), history, policy, now)
        for how, ids in (decision.settled or {}).items():
            settle(session, ids, how, now)
        request = None
        if decision.primary is not None:
            request = new_request(session, decision.primary, now)
            settle(session, decision.answered_by_run, request.run_key, now)
            _audit(session, decision, request, now)
        _store(session, agent, decision, request, history, now)
    return Evaluated(agent, decision, request)


def evaluate_all(
    engine: Engine, policy: RetrainingPolicy, now: datetime, signals: Iterable[NewSignal] = ()
) -> list[Evaluated]:
    """Evaluate every agent, each with its own of the new signals."""
    given = list(signals)
    return [
        evaluate(engine, agent, policy, now, signals=[one for one in given if one.agent == agent]) for agent in AGENTS
    ]


def history_of(session: Session, agent: str, policy: RetrainingPolicy, now: datetime) -> History:
    """Read what is known of an agent."""
    champion = champion_of(session, agent)
    since = now - timedelta(hours=policy.evidence_max_age_hours)
    runs = select(RetrainingRunRecord).where(RetrainingRunRecord.agent == agent)
    newest = session.scalars(runs.order_by(RetrainingRunRecord.number.desc()).limit(policy.max_per_day + 1)).all()
    succeeded = session.scalars(
        runs.where(RetrainingRunRecord.status == "succeeded").order_by(RetrainingRunRecord.number.desc()).limit(1)
    ).one_or_none()
    rollout = newest_event(session, agent_spec(agent).registered_model)
    return History(
        in_flight=_in_flight(session, agent, now),
        rollout=rollout.rollout if rollout is not None and rollout.active else None,
        requested_at=tuple(run.requested_at for run in newest),
        succeeded_at=None if succeeded is None else succeeded.ended_at,
        champion=champion,
        loss=newest_loss(checks_since(session, agent, champion, since)) if policy.retrain_when == "hurts" else None,
    )


def evaluations(engine: Engine, *, since: datetime, agent: str | None = None) -> list[dict[str, Any]]:
    """Return what was decided since then, the newest first."""
    record = RetrainingEvaluationRecord
    query = select(record).where(record.last_evaluated_at >= since)
    if agent is not None:
        query = query.where(record.agent == agent)
    with read_transaction(engine) as session:
        return [
            _document(row) for row in session.scalars(query.order_by(record.last_evaluated_at.desc(), record.id.desc()))
        ]


def _in_flight(session: Session, agent: str, now: datetime) -> str | None:
    request = open_request(session, agent)
    if request is not None:
        return str(request)
    # One that nobody asked for here, such as by hand in the UI.
    held = session.get(Lease, f"training:{agent}")
    if held is None or held.holder == RELEASED or held.expires_at <= now:
        return None
    return f"Dagster run {held.holder} is training {agent}"


def _store(
    session: Session, agent: str, decision: Decision, request: RunRequest | None, history: History, now: datetime
) -> None:
    """Write the evaluation; one that came to the same as the one before it is counted there."""
    if decision.verdict == "idle" and not decision.settled:
        return  # no trigger, nothing evaluated
    record = RetrainingEvaluationRecord
    triggers = [one.dedupe_key for one in decision.waiting[:_SHOWN]]
    newest = session.scalars(
        select(record).where(record.agent == agent).order_by(record.id.desc()).limit(1)
    ).one_or_none()
    found = (decision.verdict, list(decision.suppressed_by), triggers, len(decision.waiting))
    if (
        newest is not None
        and decision.verdict == "suppressed"
        and (newest.decision, newest.suppressed_by, newest.triggers, newest.waiting) == found
    ):
        newest.times += 1
        newest.last_evaluated_at = now
        newest.reason = decision.reason
        return
    session.add(
        RetrainingEvaluationRecord(
            agent=agent,
            decision=decision.verdict,
            reason=decision.reason,
            suppressed_by=list(decision.suppressed_by),
            triggers=triggers,
            waiting=len(decision.waiting),
            evidence={
                **history.document(),
                "settled": {how: len(ids) for how, ids in (decision.settled or {}).items()},
                "trigger": None if decision.primary is None else dict(decision.primary.evidence),
            },
            run_key=None if request is None else request.run_key,
            evaluated_at=now,
            last_evaluated_at=now,
            times=1,
        )
    )


def _audit(session: Session, decision: Decision, request: RunRequest, now: datetime) -> None:
    append_event(
        session,
        event_type="retraining_requested",
        model_name=agent_spec(request.agent).registered_model,
        version="",
        user=request.user or SERVICE,
        details={
            "run_key": request.run_key,
            "trigger_type": request.trigger_type,
            "reason": decision.reason,
            "evidence": dict(request.evidence),
            "triggers": len(decision.waiting),
        },
        now=now,
    )


def _document(row: RetrainingEvaluationRecord) -> dict[str, Any]:
    return {
        "agent": row.agent,
        "decision": row.decision,
        "reason": row.reason,
        "suppressed_by": row.suppressed_by,
        "triggers": row.triggers,
        "waiting": row.waiting,
        "evidence": row.evidence,
        "run_key": row.run_key,
        "evaluated_at": row.evaluated_at.isoformat(),
        "last_evaluated_at": row.last_evaluated_at.isoformat(),
        "times": row.times,
    }
