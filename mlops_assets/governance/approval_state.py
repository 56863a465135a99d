"""The life of an approval request as one pure function: what a vote, or a look, makes of it. Nothing is stored here."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from mlops_assets.foundation.errors import PermanentError

RequestStatus = Literal["open", "approved", "rejected", "expired", "superseded"]
VoteDecision = Literal["approve", "reject"]
Reason = Literal[
    "unknown_version",
    "no_request",
    "evidence_changed",
    "evidence_unreadable",
    "expired",
    "already_decided",
    "wrong_role",
    "own_model",
    "same_approver_twice",
    "no_comment",
    "forged_token",
]


class ApprovalRefusedError(PermanentError):
    """A try to decide that does not count; `reason` names the rule, the message what to do."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Vote:
    """What one approver says; `evidence_hash` is the evidence's hash as it is found at this moment."""

    approver: str
    decision: VoteDecision
    comment: str
    evidence_hash: str


@dataclass(frozen=True)
class Look:
    """Nobody says anything: time has passed, and the evidence may have changed."""

    evidence_hash: str


@dataclass(frozen=True)
class RequestState:
    """Everything about a request that a decision depends on; people by `canonical` name."""

    status: RequestStatus
    author: str
    required_approvers: tuple[str, ...]
    min_approvals: int
    evidence_hash: str
    expires_at: datetime
    approved_by: tuple[str, ...] = ()

    @property
    def missing(self) -> int:
        """Approvals still needed."""
        return max(0, self.min_approvals - len(self.approved_by))


@dataclass(frozen=True)
class Step:
    """What becomes of the request. `counted`: the vote is stored. `refusal`: why it is not, None for a look."""

    status: RequestStatus
    counted: bool = False
    refusal: ApprovalRefusedError | None = None


def canonical(person: str) -> str:
    """Return the one spelling of a person's name: addresses differ in case and white space only by accident."""
    return person.strip().casefold()


def decide(state: RequestState, vote: Vote | Look, now: datetime) -> Step:
    """Take one step. An open request ends once; an approved one can still be superseded by changed evidence.

    The order: changed evidence before anything that rests on it, then the clock, then who votes, then what.
    """
    looking = isinstance(vote, Look)
    if state.status in {"open", "approved"} and vote.evidence_hash != state.evidence_hash:
        return Step("superseded", refusal=None if looking else _refusal("evidence_changed", _CHANGED))
    if state.status == "open" and now >= state.expires_at:
        return Step("expired", refusal=None if looking else _expired(state))
    if isinstance(vote, Look):
        return Step(state.status)
    refusal = _closed(state) or _person(state, vote)
    if refusal is not None:
        return Step(state.status, refusal=refusal)
    if vote.decision == "reject":
        return Step("rejected", counted=True)
    return Step("approved" if state.missing <= 1 else "open", counted=True)


_CHANGED = (
    "the evidence (validation report, model weights or training data) is not what the approvers were asked about; "
    "run the lifecycle for a new decision"
)


def _refusal(reason: Reason, message: str) -> ApprovalRefusedError:
    return ApprovalRefusedError(reason, message)


def _expired(state: RequestState) -> ApprovalRefusedError:
    return _refusal("expired", f"the request expired at {state.expires_at.isoformat()}; run the lifecycle to ask again")


def _closed(state: RequestState) -> ApprovalRefusedError | None:
    if state.status == "open":
        return None
    if state.status == "expired":
        return _expired(state)
    if state.status == "superseded":
        return _refusal("evidence_changed", _CHANGED)
    return _refusal("already_decided", f"the request is {state.status} already; a decision is not taken twice")


def _person(state: RequestState, vote: Vote) -> ApprovalRefusedError | None:
    approver = canonical(vote.approver)
    if approver not in state.required_approvers:
        allowed = ", ".join(state.required_approvers)
        return _refusal("wrong_role", f"{vote.approver!r} is no required approver; those are {allowed}")
    if approver == state.author:
        return _refusal("own_model", f"{vote.approver!r} is the version's author; somebody else has to decide on it")
    if approver in state.approved_by:
        return _refusal(
            "same_approver_twice",
            f"{vote.approver!r} has approved already; {state.missing} more of the others needed",
        )
    if not vote.comment.strip():
        return _refusal("no_comment", "a decision needs a comment: say what it rests on")
    return None
