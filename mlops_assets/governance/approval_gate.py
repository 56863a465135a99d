"""Whether an approval still holds, asked before a version goes on: a changed evidence makes it void, whoever gave it."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from mlops_assets.foundation.audit import append_event
from mlops_assets.foundation.clock import Clock
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.errors import InputError, NotReadyError
from mlops_assets.foundation.tables import ApprovalRequestRecord, DecisionRecord
from mlops_assets.governance.approval_events import APPROVALS_USER, SUPERSEDED, audit_refusal
from mlops_assets.governance.approval_state import ApprovalRefusedError
from mlops_assets.governance.approval_steps import close
from mlops_assets.governance.decision_records import VOID, append_decision, newest_decision
from mlops_assets.governance.evidence import ApprovalEvidence
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.registry.registration import RegisteredVersion
from mlops_assets.registry.version_records import lock_model

EvidenceOf = Callable[[RegisteredVersion], ApprovalEvidence]


class ApprovalGate:
    """The gate of one deployment; `evidence_of` gives a version's evidence as it is now."""

    def __init__(self, engine: Engine, registry: ModelRegistry, clock: Clock, evidence_of: EvidenceOf) -> None:
        self._engine = engine
        self._registry = registry
        self._clock = clock
        self._evidence_of = evidence_of

    def require_current(self, model_name: str, version: str, *, user: str) -> None:
        """Let a version go on only if the decision that counts is an approval, on evidence as it still is.

        Raises:
            ApprovalRefusedError: the evidence changed; the refused try is in the audit trail.
            NotReadyError: the version is not approved.
            TransientError: a store does not answer; nothing is void.
        """
        found = self._registry.version(model_name, version)
        name, semver = found.model_name, found.semver
        with read_transaction(self._engine) as session:
            decision = newest_decision(session, name, semver)
        if decision is None or decision.status not in {"approved", VOID}:
            state = "has no decision" if decision is None else f"is {decision.status}"
            raise NotReadyError(f"{name} {semver} {state}, and only an approved version goes on")
        changes = decision.reasons if decision.status == VOID else self._changes(found, decision)
        if not changes:
            return
        error = ApprovalRefusedError(
            "evidence_changed",
            f"{name} {semver}: the evidence changed after the approval, which is void ({'; '.join(changes)}); "
            "run the lifecycle for a new decision",
        )
        with transaction(self._engine) as session:
            lock_model(session, name)
            now = self._clock.now()
            _void(session, decision, changes, now)
            audit_refusal(session, name, semver, user, error, {}, now)
        raise error

    def _changes(self, version: RegisteredVersion, decision: DecisionRecord) -> list[str]:
        """Name what changed since the decision."""
        if decision.evidence is None and decision.request_id is None:
            return ["the decision is of an older version of this project, which recorded no evidence with it"]
        try:
            now = self._evidence_of(version)
        except InputError as error:
            return [f"the evidence cannot be read any more: {str(error).splitlines()[0]}"]
        return [f"{part} changed" for part in now.changes(decision.evidence_hash, decision.evidence)]


def _void(session: Session, decision: DecisionRecord, changes: list[str], now: datetime) -> None:
    """Let an approval count no more because its evidence changed; one that another decision follows stays as it is."""
    newest = newest_decision(session, decision.model_name, decision.semver)
    if newest is None or newest.id != decision.id or decision.status != "approved":
        return
    if decision.request_id is not None:
        record = session.get(ApprovalRequestRecord, decision.request_id, with_for_update=True)
        if record is not None and record.status == "approved":
            close(session, record, "superseded", APPROVALS_USER, now, changes=changes)
            return
    _, facts = append_decision(
        session,
        model_name=decision.model_name,
        semver=decision.semver,
        run_id=decision.run_id,
        risk=decision.risk,
        status=VOID,
        reasons=list(changes),
        evidence_hash=decision.evidence_hash,
        evidence=decision.evidence,
        user=APPROVALS_USER,
        request_id=None,
        now=now,
    )
    append_event(
        session,
        event_type=SUPERSEDED,
        model_name=decision.model_name,
        version=decision.semver,
        user=APPROVALS_USER,
        details={"decision": facts, "changes": list(changes), "run_id": decision.run_id},
        now=now,
    )
