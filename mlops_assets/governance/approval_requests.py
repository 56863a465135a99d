"""Approval requests and their votes, read. What changes them is in `approval_steps.py`."""

from dataclasses import dataclass
from datetime import datetime
from typing import cast

from sqlalchemy import Engine, or_, select
from sqlalchemy.orm import Session

from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.tables import ApprovalRequestRecord, ApprovalVoteRecord
from mlops_assets.governance.approval_state import (
    ApprovalRefusedError,
    RequestState,
    RequestStatus,
    VoteDecision,
    canonical,
)


@dataclass(frozen=True)
class ApprovalVote:
    """A vote as it is stored."""

    approver: str
    decision: VoteDecision
    comment: str
    voted_at: datetime


@dataclass(frozen=True)
class ApprovalRequest:
    """A request as people see it.

    `applied`: the approved version has been given its place. `notified_by`: ways that took the message to the approvers.
    """

    id: int
    model_name: str
    semver: str
    risk: str
    reasons: tuple[str, ...]
    author: str
    required_approvers: tuple[str, ...]
    min_approvals: int
    report_hash: str
    evidence_hash: str
    status: RequestStatus
    requested_at: datetime
    expires_at: datetime
    applied: bool
    notified_by: tuple[str, ...]
    votes: tuple[ApprovalVote, ...]

    @property
    def approved_by(self) -> tuple[str, ...]:
        """Who approved, in the order in which they did."""
        return tuple(vote.approver for vote in self.votes if vote.decision == "approve")

    @property
    def decided_by(self) -> tuple[str, ...]:
        """Who approved an approved request, and who rejected another."""
        if self.status == "approved":
            return self.approved_by
        return tuple(vote.approver for vote in self.votes if vote.decision == "reject")

    @property
    def awaited(self) -> tuple[str, ...]:
        """Required approvers who may still vote."""
        done = {vote.approver for vote in self.votes} | {canonical(self.author)}
        return tuple(person for person in self.required_approvers if canonical(person) not in done)


def approval_requests(
    engine: Engine,
    *,
    model_name: str | None = None,
    semver: str | None = None,
    open_only: bool = False,
    unfinished: bool = False,
) -> list[ApprovalRequest]:
    """Return requests, the newest first. `unfinished`: open ones, and approved ones that are not applied."""
    query = select(ApprovalRequestRecord).order_by(ApprovalRequestRecord.id.desc())
    if model_name is not None:
        query = query.where(ApprovalRequestRecord.model_name == model_name)
    if semver is not None:
        query = query.where(ApprovalRequestRecord.semver == semver)
    if open_only:
        query = query.where(ApprovalRequestRecord.status == "open")
    if unfinished:
        unapplied = (ApprovalRequestRecord.status == "approved") & ApprovalRequestRecord.applied_at.is_(None)
        query = query.where(or_(ApprovalRequestRecord.status == "open", unapplied))
    with read_transaction(engine) as session:
        return [view(session, record) for record in session.scalars(query)]


def in_words(request: ApprovalRequest) -> str:
    """Say in one line how a request stands, and whom it waits for."""
    votes = "".join(f"; {vote.approver}: {vote.decision}, {vote.comment}" for vote in request.votes)
    head = f"{request.model_name} {request.semver}: {request.status}"
    if request.status != "open":
        return head + votes
    needed = request.min_approvals - len(request.approved_by)
    waits = f", {needed} more of {', '.join(request.awaited) or 'nobody'} until {request.expires_at:%Y-%m-%d %H:%M} UTC"
    if needed > len(request.awaited):
        waits += "; too few may approve: the policy profile has to name another approver"
    return f"{head}{waits}{votes}; {'; '.join(request.reasons)}"


def newest_request(session: Session, model_name: str, semver: str, *, lock: bool) -> ApprovalRequestRecord | None:
    """Return the request that counts, None when nobody was asked; `lock` keeps others from changing it."""
    query = (
        select(ApprovalRequestRecord)
        .where(ApprovalRequestRecord.model_name == model_name, ApprovalRequestRecord.semver == semver)
        .order_by(ApprovalRequestRecord.id.desc())
        .limit(1)
    )
    # SQLite's write transactions queue by themselves.
    found = session.scalars(query.with_for_update() if lock else query).one_or_none()
    if found is not None:
        session.refresh(found)
    return found


def votes_on(session: Session, record: ApprovalRequestRecord) -> list[ApprovalVoteRecord]:
    """Return the votes on a request, the oldest first."""
    query = select(ApprovalVoteRecord).where(ApprovalVoteRecord.request_id == record.id)
    return list(session.scalars(query.order_by(ApprovalVoteRecord.id)))


def state_of(session: Session, record: ApprovalRequestRecord) -> RequestState:
    """Return what a decision on the request depends on."""
    return RequestState(
        status=cast("RequestStatus", record.status),
        author=canonical(record.author),
        required_approvers=tuple(canonical(person) for person in record.required_approvers),
        min_approvals=record.min_approvals,
        evidence_hash=record.evidence_hash,
        expires_at=record.expires_at,
        approved_by=tuple(vote.approver for vote in votes_on(session, record) if vote.decision == "approve"),
    )


def view(session: Session, record: ApprovalRequestRecord) -> ApprovalRequest:
    """Read a request with its votes."""
    return ApprovalRequest(
        id=record.id,
        model_name=record.model_name,
        semver=record.semver,
        risk=record.risk,
        reasons=tuple(record.reasons),
        author=record.author,
        required_approvers=tuple(record.required_approvers),
        min_approvals=record.min_approvals,
        report_hash=record.report_hash,
        evidence_hash=record.evidence_hash,
        status=cast("RequestStatus", record.status),
        requested_at=record.requested_at,
        expires_at=record.expires_at,
        applied=record.applied_at is not None,
        notified_by=tuple(record.notified_by),
        votes=tuple(
            ApprovalVote(vote.approver, cast("VoteDecision", vote.decision), vote.comment, vote.voted_at)
            for vote in votes_on(session, record)
        ),
    )


def nobody_asked(model_name: str, semver: str) -> ApprovalRefusedError:
    """Return the refusal of a vote on a version that nobody was asked about."""
    return ApprovalRefusedError(
        "no_request",
        f"nobody was asked to decide on {model_name} {semver}; `requests` lists what waits for approval",
    )
