"""People's decisions on versions: requests and votes in the operational database, every step with its audit event.

What a vote does is decided in `approval_state.py`. A request is opened with the policy's decision that people have to
look (`decisions.py`); once it is approved, the version takes its place in the registry, exactly as an automatic
approval would give it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from mlops_assets.foundation.access import access_control
from mlops_assets.foundation.clock import Clock
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.errors import InputError, PermanentError, TransientError
from mlops_assets.foundation.policies import GovernancePolicy
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.settings import Settings
from mlops_assets.foundation.tables import ApprovalRequestRecord
from mlops_assets.governance.approval_events import (
    APPLIED,
    APPROVALS_USER,
    MAX_COMMENT,
    MODEL_WIDTH,
    USER_WIDTH,
    audit_refusal,
    audit_request,
    clean,
)
from mlops_assets.governance.approval_gate import ApprovalGate, EvidenceOf
from mlops_assets.governance.approval_requests import (
    ApprovalRequest,
    approval_requests,
    newest_request,
    nobody_asked,
    state_of,
    view,
)
from mlops_assets.governance.approval_state import (
    ApprovalRefusedError,
    Look,
    RequestStatus,
    Step,
    Vote,
    VoteDecision,
    decide,
)
from mlops_assets.governance.approval_steps import ask, supersede, take
from mlops_assets.governance.evidence import ApprovalEvidence, EvidenceReader
from mlops_assets.governance.waivers import waivers_at
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.registry.registration import RegisteredVersion
from mlops_assets.registry.version_records import lock_model

_log = logging.getLogger(__name__)
Channel = Literal["cli", "dagster", "http"]


class Approvals:
    """Requests of one operational database, and what they do in the registry.

    Args:
        engine: operational database.
        registry: where versions live.
        policy: who has to approve, how many of them, and for how long a request stands.
        clock: time of every step.
        evidence_of: the version's evidence as it is now, see `EvidenceReader`.
        others: gives the people of the role table, who could be named as approvers.
    """

    def __init__(
        self,
        engine: Engine,
        registry: ModelRegistry,
        policy: GovernancePolicy,
        clock: Clock,
        evidence_of: EvidenceOf,
        others: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._policy = policy
        self._clock = clock
        self._evidence_of = evidence_of
        self._others = others

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
        now = self._clock.now()
        return ask(session, version, evidence, self._policy, risk=risk, reasons=reasons, others=self._others(), now=now)

    def supersede(self, session: Session, version: RegisteredVersion) -> None:
        """Close what was asked about the version before, in the caller's transaction; a new decision stands for it."""
        supersede(session, version, self._clock.now())

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
        vote = Vote(approver, decision, clean(comment, MAX_COMMENT), evidence.hash)
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
        self._step(found, Vote(approver, decision, clean(comment, MAX_COMMENT), ""), said, early=True)
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
            lock_model(session, request.model_name)
            record = session.get(ApprovalRequestRecord, request.id, with_for_update=True)
            if record is None:
                raise InputError(f"there is no approval request {request.id}")
            look = Look(evidence_hash)
            now = self._clock.now()
            take(session, record, look, decide(state_of(session, record), look, now), {}, now)
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
            user = ", ".join(request.approved_by)[:USER_WIDTH]
            version = self._registry.promote_approved(request.model_name, request.semver, user=user)
        self.annotate(request)
        with transaction(self._engine) as session:
            record = session.get(ApprovalRequestRecord, request.id, with_for_update=True)
            if record is not None and record.applied_at is None:
                record.applied_at = now = self._clock.now()
                said = {"stage": version.stage, "approved_by": request.approved_by}
                audit_request(session, APPLIED, record, APPROVALS_USER, now, **said)
        return self.request_by_id(request.id)

    def require_current(self, model_name: str, version: str, *, user: str) -> None:
        """Let a version go on only if the decision that counts is an approval, on evidence as it still is.

        Whoever approved it, people or the policy: what has changed since makes the approval void, with an audit event,
        and the next lifecycle decides anew.

        Raises:
            ApprovalRefusedError: the evidence changed; the refused try is in the audit trail.
            NotReadyError: the version is not approved.
            TransientError: a store does not answer; nothing is void.
        """
        gate = ApprovalGate(self._engine, self._registry, self._clock, self._evidence_of)
        gate.require_current(model_name, version, user=user)

    def request(self, model_name: str, semver: str) -> ApprovalRequest:
        """Return the newest request of a version.

        Raises:
            ApprovalRefusedError: nobody was ever asked about it.
        """
        found = self.requests(model_name=model_name, semver=semver)
        if not found:
            raise nobody_asked(model_name, semver)
        return found[0]

    def request_by_id(self, number: int) -> ApprovalRequest:
        """Return one request as it is now."""
        with read_transaction(self._engine) as session:
            record = session.get(ApprovalRequestRecord, number)
            if record is None:
                raise InputError(f"there is no approval request {number}")
            return view(session, record)

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
        who = {"approved_by" if request.status == "approved" else "rejected_by": ", ".join(request.decided_by)}
        tags = {"approval_status": request.status, "approved_at": last.voted_at.isoformat()}
        comments = "; ".join(f"{vote.approver}: {vote.comment}" for vote in request.votes)
        self._registry.annotate(
            request.model_name, request.semver, {**tags, **who, "approval_comments": comments[:MAX_COMMENT]}
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
        with transaction(self._engine) as session:
            now = self._clock.now()
            audit_refusal(session, request.model_name, request.semver, APPROVALS_USER, error, {}, now)
        return error

    def _known(self, model_name: str, version: str, user: str, said: Mapping[str, Any]) -> RegisteredVersion:
        try:
            return self._registry.version(clean(model_name, MODEL_WIDTH), version)
        except InputError as error:
            refusal = ApprovalRefusedError("unknown_version", str(error))
            with transaction(self._engine) as session:
                audit_refusal(session, model_name, version, user, refusal, said, self._clock.now())
            raise refusal from error

    def _evidence_for(self, version: RegisteredVersion, user: str, said: Mapping[str, Any]) -> ApprovalEvidence:
        try:
            return self._evidence_of(version)
        except PermanentError as error:
            refusal = ApprovalRefusedError(
                "evidence_unreadable", f"the evidence cannot be read: {str(error).splitlines()[0]}"
            )
            with transaction(self._engine) as session:
                audit_refusal(session, version.model_name, version.semver, user, refusal, said, self._clock.now())
            raise refusal from error

    def _step(
        self, version: RegisteredVersion, vote: Vote, said: Mapping[str, Any], *, early: bool = False
    ) -> RequestStatus:
        """Take one step with a vote, in one transaction; `early` believes the evidence and only refuses."""
        now = self._clock.now()
        with transaction(self._engine) as session:
            lock_model(session, version.model_name)
            record = newest_request(session, version.model_name, version.semver, lock=True)
            if record is None:
                step = Step("open", refusal=nobody_asked(version.model_name, version.semver))
            else:
                state = state_of(session, record)
                vote = replace(vote, evidence_hash=record.evidence_hash) if early else vote
                step = decide(state, vote, now)
                if step.refusal is not None or not early:
                    take(session, record, vote, step, said, now)
            if step.refusal is not None:
                name, semver = version.model_name, version.semver
                audit_refusal(session, name, semver, vote.approver, step.refusal, said, now)
        if step.refusal is not None:
            raise step.refusal
        return step.status


def open_approvals(settings: Settings, engine: Engine, clock: Clock, registry: ModelRegistry) -> Approvals:
    """Return the approvals of a deployment, by its policy profile."""
    policy = load_profile(settings.policy_profile).governance

    def waivers(model_name: str) -> tuple[int, ...]:
        return tuple(sorted(waiver.id for waiver in waivers_at(engine, model_name, clock.now())))

    def people() -> tuple[str, ...]:
        return tuple(access_control(settings).people)

    return Approvals(engine, registry, policy, clock, EvidenceReader(settings, registry, waivers), people)
