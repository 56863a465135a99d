"""Steps in the life of an approval request, each in its caller's transaction with its audit event.

The caller holds the model's lock, since most steps append a decision.
What a vote does is decided in `approval_state.py`; when a step is taken, in `approvals.py`.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from mlops_assets.foundation.policies import GovernancePolicy
from mlops_assets.foundation.tables import ApprovalRequestRecord, ApprovalVoteRecord
from mlops_assets.governance.approval_events import (
    APPROVALS_USER,
    APPROVED,
    EXPIRED,
    REJECTED,
    REQUESTED,
    SUPERSEDED,
    USER_WIDTH,
    VOTED,
    audit_request,
)
from mlops_assets.governance.approval_people import author_of, eligible, too_few_note
from mlops_assets.governance.approval_requests import newest_request, votes_on
from mlops_assets.governance.approval_state import Look, RequestStatus, Step, Vote, canonical
from mlops_assets.governance.decision_records import VOID, append_decision
from mlops_assets.governance.evidence import ApprovalEvidence
from mlops_assets.registry.registration import RegisteredVersion

_CLOSING: Mapping[RequestStatus, str] = {
    "approved": APPROVED,
    "rejected": REJECTED,
    "expired": EXPIRED,
    "superseded": SUPERSEDED,
}


def ask(
    session: Session,
    version: RegisteredVersion,
    evidence: ApprovalEvidence,
    policy: GovernancePolicy,
    *,
    risk: str,
    reasons: Sequence[str],
    others: Sequence[str],
    now: datetime,
) -> ApprovalRequestRecord:
    """Ask the required approvers; asked on the same evidence already, nothing changes.

    A request on other evidence is superseded, and one that nobody could approve once the policy names other approvers.
    One that expired or was superseded is followed by a new one. The reasons say as well what approvers have to know:
    what was not checked, that no person is the author, or that too few may approve; `others` could be named then.
    """
    newest = newest_request(session, version.model_name, version.semver, lock=True)
    stands = newest is not None and newest.status in {"open", "approved", "rejected"}
    if newest is not None and stands and newest.evidence_hash == evidence.hash and not _stuck(newest, policy):
        return newest
    supersede(session, version, now)
    author = author_of(session, version.model_name, version.semver)
    required = policy.required_approvers_high_risk
    notes = (
        too_few_note(required, policy.min_approvals, author, others),
        author.note,
        f"training data {evidence.snapshot}" if evidence.snapshot.verdict != "same" else None,
    )
    record = ApprovalRequestRecord(
        model_name=version.model_name,
        semver=version.semver,
        run_id=version.run_id,
        risk=risk,
        reasons=[*reasons, *(note for note in notes if note is not None)],
        author=author.person or "",
        required_approvers=list(required),
        min_approvals=policy.min_approvals,
        report_hash=evidence.report_hash,
        weights_hash=evidence.weights_hash,
        data_hash=evidence.data_hash,
        evidence_hash=evidence.hash,
        evidence=evidence.facts(),
        status="open",
        notified_by=[],
        requested_at=now,
        expires_at=now + timedelta(hours=policy.approval_expiry_hours),
    )
    session.add(record)
    session.flush()
    audit_request(
        session,
        REQUESTED,
        record,
        APPROVALS_USER,
        now,
        required_approvers=record.required_approvers,
        min_approvals=record.min_approvals,
        eligible_approvers=eligible(required, record.author),
        expires_at=record.expires_at,
        author=str(author),
    )
    return record


def _stuck(record: ApprovalRequestRecord, policy: GovernancePolicy) -> bool:
    """Tell whether too few may approve, and the policy would ask others now."""
    if record.status != "open" or len(eligible(record.required_approvers, record.author)) >= record.min_approvals:
        return False
    asked = (record.required_approvers, record.min_approvals)
    return asked != (list(policy.required_approvers_high_risk), policy.min_approvals)


def supersede(session: Session, version: RegisteredVersion, now: datetime) -> None:
    """Close what was asked about the version before; a new decision stands for it."""
    record = newest_request(session, version.model_name, version.semver, lock=True)
    if record is not None and (record.status == "open" or (record.status == "approved" and not record.applied_at)):
        close(session, record, "superseded", APPROVALS_USER, now)


def take(
    session: Session,
    record: ApprovalRequestRecord,
    vote: Vote | Look,
    step: Step,
    said: Mapping[str, Any],
    now: datetime,
) -> None:
    """Write one step: the vote if it counts, the request's end if it is one, and the audit event of each."""
    user = APPROVALS_USER
    if isinstance(vote, Vote) and step.counted:
        user = canonical(vote.approver)
        session.add(
            ApprovalVoteRecord(
                request_id=record.id, approver=user, decision=vote.decision, comment=vote.comment, voted_at=now
            )
        )
        session.flush()
        audit_request(session, VOTED, record, user, now, comment=vote.comment, voted_at=now, **said)
    if step.status != record.status:
        close(session, record, step.status, user, now, found=vote.evidence_hash)


def close(
    session: Session,
    record: ApprovalRequestRecord,
    status: RequestStatus,
    user: str,
    now: datetime,
    *,
    found: str = "",
    changes: Sequence[str] = (),
) -> None:
    """End a request, with the decision that follows from it.

    `found` is the hash of the evidence as it was found, `changes` is what differs, in words. An open request that is
    superseded leaves no decision: the policy's question to people stands.
    """
    was, record.status, record.closed_at = record.status, status, now
    approvers = [vote.approver for vote in votes_on(session, record) if vote.decision == "approve"]
    facts = None
    if status in {"approved", "rejected"}:
        facts = _decision(session, record, status, record.reasons, ", ".join(approvers) or user, now)
    elif status == "superseded" and was == "approved":
        facts = _decision(session, record, VOID, changes or ["it is not the evidence that was approved"], user, now)
    said: dict[str, Any] = {"approved_by": approvers}
    if status == "superseded":
        said = {"found_evidence_hash": found, "changes": list(changes)}
    audit_request(session, _CLOSING[status], record, user, now, decision=facts, **said)


def _decision(
    session: Session, record: ApprovalRequestRecord, status: str, reasons: Sequence[str], user: str, now: datetime
) -> dict[str, Any]:
    _, facts = append_decision(
        session,
        model_name=record.model_name,
        semver=record.semver,
        run_id=record.run_id,
        risk=record.risk,
        status=status,
        reasons=list(reasons),
        evidence_hash=record.evidence_hash,
        evidence=record.evidence,
        user=user[:USER_WIDTH],
        request_id=record.id,
        now=now,
    )
    return facts
