"""Decisions on versions: stored with their audit event, bound to their evidence, then applied to the registry.

What a decision is follows from `policy.py`, what people say from `approvals.py`; rollouts are not made here.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, cast

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from mlops_assets.foundation.audit import append_event
from mlops_assets.foundation.clock import Clock
from mlops_assets.foundation.database import transaction
from mlops_assets.foundation.tables import DecisionRecord
from mlops_assets.governance.approval_people import author_of
from mlops_assets.governance.approval_requests import ApprovalRequest
from mlops_assets.governance.approvals import Approvals
from mlops_assets.governance.decision_records import append_decision, newest_decision
from mlops_assets.governance.evidence import ApprovalEvidence
from mlops_assets.governance.policy import ApprovalStatus, Decision, Risk
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.registry.registration import RegisteredVersion
from mlops_assets.registry.version_records import lock_model

POLICY_USER = "governance-policy"
# Event by the status that was decided.
DECIDED: dict[ApprovalStatus, str] = {
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
    left stage None before. `evidence_hash` is of all the evidence, not of the report alone. `recorded` is true only in
    the answer to the call that stored it.
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
    evidence: ApprovalEvidence,
    engine: Engine,
    registry: ModelRegistry,
    clock: Clock,
    user: str = POLICY_USER,
    approvals: Approvals | None = None,
) -> RecordedDecision:
    """Store a decision, unless the newest one on the version says it already, and apply what counts then.

    Approved: the version becomes challenger in stage Staging, or champion directly when there is none yet. Requires
    review: it waits. Rejected: it stays where it is, with the reasons in its tags. A second call stores nothing, and
    completes what a crash left undone. What people decided on the same evidence stands, unless the policy rejects now
    what they approved: a limit may have been tightened since.

    Args:
        version: the version to decide on.
        decision: of `evaluate_for_approval`.
        evidence: what the decision rests on, as it was read for it.
        engine: operational database.
        registry: where the version lives.
        clock: time of the decision.
        user: who decided.
        approvals: where people are asked; without it nobody is, and a version that requires review waits.
    """
    record, recorded, reasons = _store(
        engine, version, decision, evidence=evidence, now=clock.now(), user=user, approvals=approvals
    )
    if approvals is not None and record.request_id is not None:
        return _by_people(approvals, registry, record, approvals.request_by_id(record.request_id))
    status = cast("ApprovalStatus", record.status)
    registry.annotate(
        version.model_name,
        version.semver,
        {
            "approval_status": status,
            "approval_risk": record.risk,
            "approval_reasons": "; ".join(reasons),
            "approved_by" if status == "approved" else "decided_by": record.decided_by,
            "decided_at": record.decided_at.isoformat(),
        },
    )
    return RecordedDecision(
        model_name=version.model_name,
        semver=version.semver,
        status=status,
        risk=cast("Risk", record.risk),
        reasons=tuple(reasons),
        evidence_hash=record.evidence_hash,
        outcome=_apply(registry, version, status, user),
        recorded=recorded,
    )


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
    evidence: ApprovalEvidence,
    now: datetime,
    user: str,
    approvals: Approvals | None,
) -> tuple[DecisionRecord, bool, list[str]]:
    """Return the decision that counts, whether it was stored by this call, and its reasons, as people are told them."""
    with transaction(engine) as session:
        # One writer after another: two that both found no decision would both store theirs.
        lock_model(session, version.model_name)
        newest = newest_decision(session, version.model_name, version.semver)
        if newest is not None and _stands(newest, decision, evidence):
            return newest, False, _ask(session, version, newest, evidence, approvals)
        if approvals is not None:
            # Before the new decision, which has to be the newest.
            approvals.supersede(session, version)
        record, facts = append_decision(
            session,
            model_name=version.model_name,
            semver=version.semver,
            run_id=version.run_id,
            risk=decision.risk,
            status=decision.status,
            reasons=list(decision.reasons),
            evidence_hash=evidence.hash,
            evidence=evidence.facts(),
            user=user,
            request_id=None,
            now=now,
        )
        author = str(author_of(session, version.model_name, version.semver))
        append_event(
            session,
            event_type=DECIDED[decision.status],
            model_name=version.model_name,
            version=version.semver,
            user=user,
            details={"decision": facts, "author": author, "run_id": version.run_id},
            now=now,
        )
        return record, True, _ask(session, version, record, evidence, approvals)


def _ask(
    session: Session,
    version: RegisteredVersion,
    record: DecisionRecord,
    evidence: ApprovalEvidence,
    approvals: Approvals | None,
) -> list[str]:
    """Ask people where the decision leaves it to them; returns the reasons, with what approvers have to know."""
    if approvals is None or record.status != "requires_review":
        return record.reasons
    return approvals.open(session, version, evidence, risk=record.risk, reasons=record.reasons).reasons


def _stands(newest: DecisionRecord, decision: Decision, evidence: ApprovalEvidence) -> bool:
    if newest.evidence_hash != evidence.hash:
        return False
    if newest.request_id is not None and newest.status in {"approved", "rejected"}:
        return decision.status != "rejected" or newest.status == "rejected"
    return (newest.status, newest.risk) == (decision.status, decision.risk)


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
