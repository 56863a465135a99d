"""Decisions on versions as rows: the newest one counts, and each is written with what its audit event says of it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.tables import DecisionRecord

# An approval that is void: the registry goes by the newest decision, and it must not be the approval.
VOID = "pending"


def append_decision(
    session: Session,
    *,
    model_name: str,
    semver: str,
    run_id: str,
    risk: str,
    status: str,
    reasons: list[str],
    evidence_hash: str,
    evidence: Mapping[str, Any] | None,
    user: str,
    request_id: int | None,
    now: datetime,
) -> tuple[DecisionRecord, dict[str, Any]]:
    """Add the decision that counts from here on; the caller holds the model's lock.

    Returns:
        The row, and the facts that belong into its audit event under `decision`.
    """
    record = DecisionRecord(
        model_name=model_name,
        semver=semver,
        run_id=run_id,
        risk=risk,
        status=status,
        reasons=reasons,
        evidence_hash=evidence_hash,
        evidence=None if evidence is None else dict(evidence),
        request_id=request_id,
        decided_at=now,
        decided_by=user,
    )
    session.add(record)
    session.flush()
    return record, decision_facts(record)


def decision_facts(record: DecisionRecord) -> dict[str, Any]:
    """Return all that a decision says beside the version that it is on."""
    names = ("risk", "status", "reasons", "evidence_hash", "evidence", "request_id", "decided_at", "decided_by")
    return {name: getattr(record, name) for name in names}


def newest_decision(session: Session, model_name: str, semver: str) -> DecisionRecord | None:
    """Return the decision that counts, None before the first one."""
    query = select(DecisionRecord).where(DecisionRecord.model_name == model_name, DecisionRecord.semver == semver)
    return session.scalars(query.order_by(DecisionRecord.id.desc()).limit(1)).one_or_none()


def decisions_on(engine: Engine, model_name: str, semver: str) -> list[DecisionRecord]:
    """Return every decision on a version, the newest first."""
    with read_transaction(engine) as session:
        query = select(DecisionRecord).where(DecisionRecord.model_name == model_name, DecisionRecord.semver == semver)
        return list(session.scalars(query.order_by(DecisionRecord.id.desc())))
