"""Decisions on versions: stored with their audit event, bound to their evidence, then applied to the registry.

What a decision is follows from `policy.py`, what people say from `approvals.py`; rollouts are not made here.
"""

from dataclasses import dataclass
from typing import Literal, cast

from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from mlops_assets.foundation.audit import append_event
from mlops_assets.foundation.clock import Clock
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.tables import DecisionRecord
from mlops_assets.governance.approval_requests import ApprovalRequest
from mlops_assets.governance.approvals import Approvals
from mlops_assets.governance.evidence import ApprovalEvidence
from mlops_assets.governance.policy import ApprovalStatus, Decision, Risk
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.registry.registration import RegisteredVersion

POLICY_USER = "governance-policy"
_EVENTS: dict[ApprovalStatus, str] = {
    "approved": "model_approved",
    "rejected": "model_rejected",
    "requires_review": "model_review_required",
    "pending": "model_decision_pending",
}
Outcome = Literal["champion", "challenger", "waiting", "rejected", "unchanged"]


@dataclass(frozen=True)
class RecordedDecision:
    """A stored decision and what it did to the version.

    `outcome`: champion (first version), challenger, waiting (for people), rejected, or unchanged when the version had
    left stage None before. `recorded` is true only in the answer to the call that stored it.
    """

    model_name: str
    semver: str
    status: ApprovalStatus
    risk: Risk
    reasons: tuple[str, ...]
    evidence_hash: str
    outcome: Outcome
    recorded: bool


def record_decision(
    version: RegisteredVersion,
    decision: Decision,
    *,
    evidence_hash: str,
    engine: Engine,
    registry: ModelRegistry,
    clock: Clock,
    user: str = POLICY_USER,
    approvals: Approvals | None = None,
) -> RecordedDecision:
    """Store a decision once for each (model, version, evidence) and apply it.

    Approved: the version becomes challenger in stage Staging, or champion directly when there is none yet. Requires
    review: it waits. Rejected: it stays where it is, with the reasons in its tags. A second call with the same evidence
    stores nothing and keeps the first decision, and completes what a crash left undone. What people decided on the same
    evidence since stands for the policy's question to them.

    Args:
        version: the version to decide on.
        decision: of `evaluate_for_approval`.
        evidence_hash: of what the decision rests on: the validation report, and waivers if any.
        engine: operational database.
        registry: where the version lives.
        clock: time of the decision.
        user: who decided.
        approvals: where people are asked; without it nobody is, and a version that requires review waits.
    """
    asked = None
    if approvals is not None and decision.status == "requires_review":
        asked = approvals.evidence(version)
    record, recorded = _store(
        engine, version, decision, evidence_hash=evidence_hash, clock=clock, user=user, approvals=approvals, asked=asked
    )
    status = cast("ApprovalStatus", record.status)
    if approvals is not None and status == "requires_review":
        answered = _answered(approvals, version, (asked or approvals.evidence(version)).hash)
        if answered is not None:
            return _by_people(approvals, registry, record, answered)
    registry.annotate(
        version.model_name,
        version.semver,
        {
            "approval_status": status,
            "approval_risk": record.risk,
            "approval_reasons": "; ".join(record.reasons),
            "approved_by" if status == "approved" else "decided_by": record.decided_by,
            "decided_at": record.decided_at.isoformat(),
        },
    )
    return RecordedDecision(
        model_name=version.model_name,
        semver=version.semver,
        status=status,
        risk=cast("Risk", record.risk),
        reasons=tuple(record.reasons),
        evidence_hash=evidence_hash,
        outcome=_apply(registry, version, status, user),
        recorded=recorded,
    )


def decisions_on(engine: Engine, model_name: str, semver: str) -> list[DecisionRecord]:
    """Return every decision on a version, the newest first."""
    with read_transaction(engine) as session:
        query = select(DecisionRecord).where(DecisionRecord.model_name == model_name, DecisionRecord.semver == semver)
        return list(session.scalars(query.order_by(DecisionRecord.id.desc())))


def _answered(approvals: Approvals, version: RegisteredVersion, evidence_hash: str) -> ApprovalRequest | None:
    """Find what people decided on this evidence."""
    newest = next(iter(approvals.requests(model_name=version.model_name, semver=version.semver)), None)
    if newest is None or newest.evidence_hash != evidence_hash or newest.status not in {"approved", "rejected"}:
        return None
    return newest


def _by_people(
    approvals: Approvals, registry: ModelRegistry, record: DecisionRecord, answered: ApprovalRequest
) -> RecordedDecision:
    if answered.status == "rejected":
        approvals.annotate(answered)
        status, outcome = "rejected", "rejected"
    else:
        before = registry.version(record.model_name, record.semver).stage
        approvals.apply(answered)
        after = registry.version(record.model_name, record.semver).stage
        places = {"Production": "champion", "Staging": "challenger"}
        status, outcome = "approved", "unchanged" if before == after else places.get(after, "unchanged")
    return RecordedDecision(
        model_name=record.model_name,
        semver=record.semver,
        status=cast("ApprovalStatus", status),
        risk=cast("Risk", record.risk),
        reasons=(*record.reasons, *(f"{vote.approver}: {vote.comment}" for vote in answered.votes)),
        evidence_hash=record.evidence_hash,
        outcome=cast("Outcome", outcome),
        recorded=False,
    )


def _store(
    engine: Engine,
    version: RegisteredVersion,
    decision: Decision,
    *,
    evidence_hash: str,
    clock: Clock,
    user: str,
    approvals: Approvals | None,
    asked: ApprovalEvidence | None,
) -> tuple[DecisionRecord, bool]:
    try:
        with transaction(engine) as session:
            known = _find(session, version, evidence_hash)
            if known is not None:
                if approvals is not None and asked is not None and known.status == "requires_review":
                    approvals.open(session, version, asked, risk=known.risk, reasons=known.reasons)
                return known, False
            if approvals is not None:
                # Before the new decision, which has to be the newest.
                approvals.supersede(session, version)
            record = DecisionRecord(
                model_name=version.model_name,
                semver=version.semver,
                run_id=version.run_id,
                risk=decision.risk,
                status=decision.status,
                reasons=list(decision.reasons),
                evidence_hash=evidence_hash,
                decided_at=clock.now(),
                decided_by=user,
            )
            session.add(record)
            session.flush()
            details = {"risk": decision.risk, "reasons": list(decision.reasons), "evidence_hash": evidence_hash}
            append_event(
                session,
                event_type=_EVENTS[decision.status],
                model_name=version.model_name,
                version=version.semver,
                user=user,
                details={**details, "run_id": version.run_id},
                now=clock.now(),
            )
            if approvals is not None and asked is not None:
                approvals.open(session, version, asked, risk=decision.risk, reasons=decision.reasons)
            return record, True
    except IntegrityError:
        # PostgreSQL lets two writers both find nothing; the unique key lets one of them in.
        with read_transaction(engine) as session:
            known = _find(session, version, evidence_hash)
        if known is None:
            raise
        return known, False


def _find(session: Session, version: RegisteredVersion, evidence_hash: str) -> DecisionRecord | None:
    query = select(DecisionRecord).where(
        DecisionRecord.model_name == version.model_name,
        DecisionRecord.semver == version.semver,
        DecisionRecord.evidence_hash == evidence_hash,
    )
    return session.scalars(query).one_or_none()


def _apply(registry: ModelRegistry, version: RegisteredVersion, status: ApprovalStatus, user: str) -> Outcome:
    if status == "rejected":
        return "rejected"
    if status != "approved":
        return "waiting"
    # A version that was promoted, archived or rolled back since must not be lifted again by an old approval.
    if registry.version(version.model_name, version.semver).stage != "None":
        return "unchanged"
    placed = registry.promote_approved(version.model_name, version.semver, user=user)
    return "champion" if placed.stage == "Production" else "challenger"
