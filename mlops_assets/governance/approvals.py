"""People's decisions on versions: requests and votes in the operational database, every step with its audit event.

What a vote does is decided in `approval_state.py`. A request is opened with the policy's decision that people have to
look (`decisions.py`); once it is approved, the version takes its place in the registry, exactly as an automatic
approval would give it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, cast, get_args

from sqlalchemy import Engine, or_, select
from sqlalchemy.orm import Session

from mlops_assets.foundation.audit import append_event
from mlops_assets.foundation.clock import Clock
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.errors import InputError, PermanentError, TransientError
from mlops_assets.foundation.profiles import GovernancePolicy, load_profile
from mlops_assets.foundation.settings import Settings
from mlops_assets.foundation.tables import ApprovalRequestRecord, ApprovalVoteRecord, AuditEvent, DecisionRecord
from mlops_assets.governance.approval_state import (
    ApprovalRefusedError,
    Look,
    RequestState,
    RequestStatus,
    Step,
    Vote,
    VoteDecision,
    canonical,
    decide,
)
from mlops_assets.governance.evidence import ApprovalEvidence, EvidenceReader
from mlops_assets.governance.waivers import waivers_at
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.registry.registration import REGISTERED, RegisteredVersion

REQUESTED, VOTED, APPROVED, REJECTED = "approval_requested", "approval_vote", "model_approved", "model_rejected"
EXPIRED, SUPERSEDED, APPLIED, REFUSED = (
    "approval_expired",
    "approval_superseded",
    "approval_applied",
    "approval_refused",
)
_USER = "governance-approvals"
_CLOSING: Mapping[RequestStatus, str] = {
    "approved": APPROVED,
    "rejected": REJECTED,
    "expired": EXPIRED,
    "superseded": SUPERSEDED,
}
_MAX_COMMENT = 2000
_log = logging.getLogger(__name__)
# Widths of the audit trail's columns: what somebody made up is cut, not refused, so that the try is on record.
_MODEL_WIDTH, _VERSION_WIDTH, _USER_WIDTH = 128, 64, 255


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
    def awaited(self) -> tuple[str, ...]:
        """Required approvers who may still vote."""
        done = {vote.approver for vote in self.votes} | {canonical(self.author)}
        return tuple(person for person in self.required_approvers if canonical(person) not in done)


Channel = Literal["cli", "dagster", "http"]
EvidenceOf = Callable[[RegisteredVersion], ApprovalEvidence]


class Approvals:
    """Requests of one operational database, and what they do in the registry.

    Args:
        engine: operational database.
        registry: where versions live.
        policy: who has to approve, how many of them, and for how long a request stands.
        clock: time of every step.
        evidence_of: the version's evidence as it is now, see `EvidenceReader`.
    """

    def __init__(
        self,
        engine: Engine,
        registry: ModelRegistry,
        policy: GovernancePolicy,
        clock: Clock,
        evidence_of: EvidenceOf,
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._policy = policy
        self._clock = clock
        self._evidence_of = evidence_of

    def evidence(self, version: RegisteredVersion) -> ApprovalEvidence:
        """Return the version's evidence as it is now."""
        return self._evidence_of(version)

    def open(
        self,
        session: Session,
        version: RegisteredVersion,
        evidence: ApprovalEvidence,
        *,
        risk: str,
        reasons: Sequence[str],
    ) -> ApprovalRequestRecord:
        """Ask the required approvers, in the caller's transaction; asked on the same evidence already, nothing changes.

        A request on other evidence is superseded. One that expired or was superseded is followed by a new one.
        """
        newest = _newest(session, version.model_name, version.semver, lock=True)
        stands = newest is not None and newest.status in {"open", "approved", "rejected"}
        if newest is not None and stands and newest.evidence_hash == evidence.hash:
            return newest
        self.supersede(session, version)
        now = self._clock.now()
        record = ApprovalRequestRecord(
            model_name=version.model_name,
            semver=version.semver,
            run_id=version.run_id,
            risk=risk,
            reasons=list(reasons),
            author=_author(session, version),
            required_approvers=list(self._policy.required_approvers_high_risk),
            min_approvals=self._policy.min_approvals,
            report_hash=evidence.report_hash,
            weights_hash=evidence.weights_hash,
            data_hash=evidence.data_hash,
            evidence_hash=evidence.hash,
            status="open",
            notified_by=[],
            requested_at=now,
            expires_at=now + timedelta(hours=self._policy.approval_expiry_hours),
        )
        session.add(record)
        session.flush()
        eligible = [p for p in record.required_approvers if canonical(p) != canonical(record.author)]
        self._audit(
            session,
            REQUESTED,
            record,
            _USER,
            required_approvers=record.required_approvers,
            min_approvals=record.min_approvals,
            # Too few are left when the author is one of them: the profile needs another approver.
            eligible_approvers=eligible,
            expires_at=record.expires_at,
            author=record.author,
        )
        return record

    def supersede(self, session: Session, version: RegisteredVersion) -> None:
        """Close what was asked about the version before, in the caller's transaction; a new decision stands for it."""
        record = _newest(session, version.model_name, version.semver, lock=True)
        if record is not None and (record.status == "open" or (record.status == "approved" and not record.applied_at)):
            self._close(session, record, "superseded", _USER)

    def vote(
        self, model_name: str, version: str, *, approver: str, decision: VoteDecision, comment: str, channel: Channel
    ) -> ApprovalRequest:
        """Count one approver's vote on the newest request of a version; the last one needed gives the version its place.

        Every try leaves an audit event, also one that does not count. A call that dies after its commit is completed by
        `apply`.

        Args:
            model_name: registered model.
            version: semantic version, with or without `v`.
            approver: who decides, as the way in knows them.
            decision: approve or reject.
            comment: what the decision rests on.
            channel: the way in, for the audit trail.

        Raises:
            ApprovalRefusedError: it does not count, for the reason that the error carries.
            InputError: the decision is neither.
            TransientError: a store does not answer; nothing was counted.
        """
        # What follows a counted vote may fail and is completed by `approval_sensor`: the vote stands.
        found = self.refuse_early(
            model_name, version, approver=approver, decision=decision, comment=comment, channel=channel
        )
        said = {"decision": decision, "channel": channel}
        evidence = self._evidence_for(found, approver, said)
        vote = Vote(approver, decision, _clean(comment, _MAX_COMMENT), evidence.hash)
        status = self._step(found, vote, said)
        request = self.request(found.model_name, found.semver)
        try:
            if status == "rejected":
                self.annotate(request)
            return self.apply(request) if status == "approved" else request
        except TransientError as error:
            _log.warning(
                "the vote on %s %s counts, and its effect waits: %s", request.model_name, request.semver, error
            )
            return self.request(request.model_name, request.semver)

    def refuse_early(
        self, model_name: str, version: str, *, approver: str, decision: VoteDecision, comment: str, channel: Channel
    ) -> RegisteredVersion:
        """Refuse what needs no look at the evidence, and return the version; the vote itself is not counted yet.

        Raises:
            ApprovalRefusedError: as `vote`.
            InputError: the decision is neither approve nor reject.
        """
        if decision not in get_args(VoteDecision):
            raise InputError(f"decision {decision!r} is unknown; use one of: {', '.join(get_args(VoteDecision))}")
        said = {"decision": decision, "channel": channel}
        found = self._known(model_name, version, approver, said)
        self._step(found, Vote(approver, decision, _clean(comment, _MAX_COMMENT), ""), said, early=True)
        return found

    def look(self, request: ApprovalRequest) -> ApprovalRequest:
        """Let the clock and the evidence have their say: the request may be expired or superseded afterwards.

        Raises:
            TransientError: a store does not answer.
        """
        version = self._registry.version(request.model_name, request.semver)
        try:
            evidence_hash = self._evidence_of(version).hash
        except InputError:
            evidence_hash = ""  # gone or damaged: it is not what people were asked about
        with transaction(self._engine) as session:
            record = session.get(ApprovalRequestRecord, request.id, with_for_update=True)
            if record is None:
                raise InputError(f"there is no approval request {request.id}")
            look = Look(evidence_hash)
            self._take(session, record, look, decide(_state(session, record), look, self._clock.now()), {})
        return self.request_by_id(request.id)

    def apply(self, request: ApprovalRequest) -> ApprovalRequest:
        """Give an approved version its place in the registry, once; a second call completes or changes nothing.

        Raises:
            ApprovalRefusedError: the evidence changed since, so the approval is none; or the request is not approved.
            TransientError: a store does not answer; the next call completes it.
        """
        if request.applied:
            return request
        request = self.look(request)
        if request.status != "approved":
            raise self._void(request)
        version = self._registry.version(request.model_name, request.semver)
        # One that was promoted, archived or rolled back since must not be lifted again by an old approval.
        if version.stage == "None":
            user = ", ".join(request.approved_by)[:_USER_WIDTH]
            version = self._registry.promote_approved(request.model_name, request.semver, user=user)
        self.annotate(request)
        with transaction(self._engine) as session:
            record = session.get(ApprovalRequestRecord, request.id, with_for_update=True)
            if record is not None and record.applied_at is None:
                record.applied_at = self._clock.now()
                self._audit(session, APPLIED, record, _USER, stage=version.stage, approved_by=request.approved_by)
        return self.request_by_id(request.id)

    def require_current(self, model_name: str, version: str, *, user: str) -> None:
        """Refuse to go on with a version that people approved on evidence which has changed since.

        Versions that the policy approved without people have no request and pass.

        Raises:
            ApprovalRefusedError: the evidence changed; the refused try is in the audit trail.
        """
        found = self._registry.version(model_name, version)
        requests = self.requests(model_name=model_name, semver=found.semver)
        if not requests or requests[0].status not in {"approved", "superseded"}:
            return
        request = requests[0]
        if request.status == "approved":
            request = self.look(request)
        elif newest_status(self._engine, model_name, found.semver) == "approved":
            return  # a later decision stands for the superseded request
        if request.status != "approved":
            error = ApprovalRefusedError(
                "evidence_changed",
                f"{model_name} {found.semver}: the evidence changed after the approval, which is void; "
                "run the lifecycle for a new decision",
            )
            self.record_refusal(model_name, found.semver, user, error)
            raise error

    def record_refusal(self, model_name: str, version: str, user: str, error: ApprovalRefusedError) -> None:
        """Write the audit event of a try that was refused, in a transaction of its own."""
        with transaction(self._engine) as session:
            self._refused(session, model_name, version, user, error, {})

    def request(self, model_name: str, semver: str) -> ApprovalRequest:
        """Return the newest request of a version.

        Raises:
            ApprovalRefusedError: nobody was ever asked about it.
        """
        found = self.requests(model_name=model_name, semver=semver)
        if not found:
            raise _nobody_asked(model_name, semver)
        return found[0]

    def request_by_id(self, number: int) -> ApprovalRequest:
        """Return one request as it is now."""
        with read_transaction(self._engine) as session:
            record = session.get(ApprovalRequestRecord, number)
            if record is None:
                raise InputError(f"there is no approval request {number}")
            return _view(session, record)

    def requests(
        self,
        *,
        model_name: str | None = None,
        semver: str | None = None,
        open_only: bool = False,
        unfinished: bool = False,
    ) -> list[ApprovalRequest]:
        """Return requests, the newest first. `unfinished`: open ones, and approved ones that are not applied."""
        return approval_requests(
            self._engine, model_name=model_name, semver=semver, open_only=open_only, unfinished=unfinished
        )

    def annotate(self, request: ApprovalRequest) -> None:
        """Write what people decided on the version's tags, for readers of the model store."""
        last = request.votes[-1]
        who = {"approved_by" if request.status == "approved" else "rejected_by": ", ".join(_said(request))}
        tags = {"approval_status": request.status, "approved_at": last.voted_at.isoformat()}
        comments = "; ".join(f"{vote.approver}: {vote.comment}" for vote in request.votes)
        self._registry.annotate(
            request.model_name, request.semver, {**tags, **who, "approval_comments": comments[:_MAX_COMMENT]}
        )

    def mark_notified(self, request: ApprovalRequest, way: str) -> None:
        """Remember that the approvers have been told on one way."""
        with transaction(self._engine) as session:
            record = session.get(ApprovalRequestRecord, request.id, with_for_update=True)
            if record is not None and way not in record.notified_by:
                record.notified_by = [*record.notified_by, way]

    def _void(self, request: ApprovalRequest) -> ApprovalRefusedError:
        """Record that an approval does not hold, and return the error that says so."""
        error = ApprovalRefusedError(
            "evidence_changed" if request.status == "superseded" else "already_decided",
            f"{request.model_name} {request.semver} is not approved: the request is {request.status}",
        )
        self.record_refusal(request.model_name, request.semver, _USER, error)
        return error

    def _known(self, model_name: str, version: str, user: str, said: Mapping[str, Any]) -> RegisteredVersion:
        try:
            return self._registry.version(_clean(model_name, _MODEL_WIDTH), version)
        except InputError as error:
            refusal = ApprovalRefusedError("unknown_version", str(error))
            with transaction(self._engine) as session:
                self._refused(session, model_name, version, user, refusal, said)
            raise refusal from error

    def _evidence_for(self, version: RegisteredVersion, user: str, said: Mapping[str, Any]) -> ApprovalEvidence:
        try:
            return self._evidence_of(version)
        except PermanentError as error:
            refusal = ApprovalRefusedError(
                "evidence_unreadable", f"the evidence cannot be read: {str(error).splitlines()[0]}"
            )
            with transaction(self._engine) as session:
                self._refused(session, version.model_name, version.semver, user, refusal, said)
            raise refusal from error

    def _step(
        self, version: RegisteredVersion, vote: Vote, said: Mapping[str, Any], *, early: bool = False
    ) -> RequestStatus:
        """Take one step with a vote, in one transaction; `early` believes the evidence and only refuses."""
        with transaction(self._engine) as session:
            record = _newest(session, version.model_name, version.semver, lock=True)
            if record is None:
                step = Step("open", refusal=_nobody_asked(version.model_name, version.semver))
            else:
                state = _state(session, record)
                vote = replace(vote, evidence_hash=record.evidence_hash) if early else vote
                step = decide(state, vote, self._clock.now())
                if step.refusal is not None or not early:
                    self._take(session, record, vote, step, said)
            if step.refusal is not None:
                self._refused(session, version.model_name, version.semver, vote.approver, step.refusal, said)
        if step.refusal is not None:
            raise step.refusal
        return step.status

    def _take(
        self,
        session: Session,
        record: ApprovalRequestRecord,
        vote: Vote | Look,
        step: Step,
        said: Mapping[str, Any],
    ) -> None:
        """Write one step: the vote if it counts, the request's end if it is one, and the audit event of each."""
        user = _USER
        if isinstance(vote, Vote) and step.counted:
            user = canonical(vote.approver)
            session.add(
                ApprovalVoteRecord(
                    request_id=record.id,
                    approver=user,
                    decision=vote.decision,
                    comment=vote.comment,
                    voted_at=self._clock.now(),
                )
            )
            session.flush()
            self._audit(session, VOTED, record, user, comment=vote.comment, **said)
        if step.status != record.status:
            self._close(session, record, step.status, user, found=vote.evidence_hash)

    def _close(
        self, session: Session, record: ApprovalRequestRecord, status: RequestStatus, user: str, found: str = ""
    ) -> None:
        record.status = status
        record.closed_at = self._clock.now()
        approvers = [vote.approver for vote in _votes(session, record) if vote.decision == "approve"]
        if status == "superseded":
            # The registry goes by the newest decision: a void approval must not be it.
            self._decision(session, record, "pending", user, f"void-{record.id}")
            self._audit(session, SUPERSEDED, record, user, found_evidence_hash=found)
            return
        if status in {"approved", "rejected"}:
            self._decision(session, record, status, ", ".join(approvers) or user, f"votes-{record.id}")
        self._audit(session, _CLOSING[status], record, user, approved_by=approvers)

    def _decision(self, session: Session, record: ApprovalRequestRecord, status: str, user: str, key: str) -> None:
        session.add(
            DecisionRecord(
                model_name=record.model_name,
                semver=record.semver,
                run_id=record.run_id,
                risk=record.risk,
                status=status,
                reasons=list(record.reasons),
                # One report may be decided on by the policy, by people, and be void in the end.
                evidence_hash=f"{record.evidence_hash[:40]}-{key}",
                decided_at=self._clock.now(),
                decided_by=user[:_USER_WIDTH],
            )
        )

    def _audit(self, session: Session, event: str, record: ApprovalRequestRecord, user: str, **details: Any) -> None:
        append_event(
            session,
            event_type=event,
            model_name=record.model_name,
            version=record.semver,
            user=user,
            details={**details, "request": record.id, "evidence_hash": record.evidence_hash, "run_id": record.run_id},
            now=self._clock.now(),
        )

    def _refused(
        self,
        session: Session,
        model_name: str,
        version: str,
        user: str,
        refusal: ApprovalRefusedError,
        said: Mapping[str, Any],
    ) -> None:
        audit_refusal(session, model_name, version, user, refusal, said, self._clock.now())


def open_approvals(settings: Settings, engine: Engine, clock: Clock, registry: ModelRegistry) -> Approvals:
    """Return the approvals of a deployment, by its policy profile."""
    policy = load_profile(settings.policy_profile).governance

    def waivers(model_name: str) -> tuple[int, ...]:
        return tuple(sorted(waiver.id for waiver in waivers_at(engine, model_name, clock.now())))

    return Approvals(engine, registry, policy, clock, EvidenceReader(settings, registry, waivers))


def audit_refusal(
    session: Session,
    model_name: str,
    version: str,
    user: str,
    refusal: ApprovalRefusedError,
    said: Mapping[str, Any],
    now: datetime,
) -> None:
    """Append the event of a try that was refused; names that somebody made up are cut to what the trail holds."""
    append_event(
        session,
        event_type=REFUSED,
        model_name=_clean(model_name, _MODEL_WIDTH),
        version=_clean(version, _VERSION_WIDTH),
        user=_clean(user, _USER_WIDTH),
        details={**said, "reason": refusal.reason, "message": _clean(str(refusal), _MAX_COMMENT)},
        now=now,
    )


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
        return [_view(session, record) for record in session.scalars(query)]


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


def newest_status(engine: Engine, model_name: str, semver: str) -> str | None:
    """Return the status of the newest decision on a version, None without one."""
    with read_transaction(engine) as session:
        return session.scalars(
            select(DecisionRecord.status)
            .where(DecisionRecord.model_name == model_name, DecisionRecord.semver == semver)
            .order_by(DecisionRecord.id.desc())
            .limit(1)
        ).one_or_none()


def _said(request: ApprovalRequest) -> tuple[str, ...]:
    if request.status == "approved":
        return request.approved_by
    return tuple(vote.approver for vote in request.votes if vote.decision == "reject")


def _newest(session: Session, model_name: str, semver: str, *, lock: bool) -> ApprovalRequestRecord | None:
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


def _votes(session: Session, record: ApprovalRequestRecord) -> list[ApprovalVoteRecord]:
    query = select(ApprovalVoteRecord).where(ApprovalVoteRecord.request_id == record.id)
    return list(session.scalars(query.order_by(ApprovalVoteRecord.id)))


def _state(session: Session, record: ApprovalRequestRecord) -> RequestState:
    return RequestState(
        status=cast("RequestStatus", record.status),
        author=canonical(record.author),
        required_approvers=tuple(canonical(person) for person in record.required_approvers),
        min_approvals=record.min_approvals,
        evidence_hash=record.evidence_hash,
        expires_at=record.expires_at,
        approved_by=tuple(vote.approver for vote in _votes(session, record) if vote.decision == "approve"),
    )


def _view(session: Session, record: ApprovalRequestRecord) -> ApprovalRequest:
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
            for vote in _votes(session, record)
        ),
    )


def _author(session: Session, version: RegisteredVersion) -> str:
    """Who registered the version: from the audit trail, which nobody edits."""
    query = select(AuditEvent.user).where(
        AuditEvent.event_type == REGISTERED,
        AuditEvent.model_name == version.model_name,
        AuditEvent.version == version.semver,
    )
    return session.scalars(query.order_by(AuditEvent.sequence).limit(1)).one_or_none() or ""


def _nobody_asked(model_name: str, semver: str) -> ApprovalRefusedError:
    return ApprovalRefusedError(
        "no_request",
        f"nobody was asked to decide on {model_name} {semver}; `requests` lists what waits for approval",
    )


def _clean(text: str, width: int) -> str:
    """Keep what both databases store: no NUL, no lone surrogates, and not more than fits."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()[:width]
