"""The append-only, hash-chained audit trail: who was champion when, who decided what, and that it still says so.

Each event carries the sha256 over its own content and its predecessor's hash; the database refuses UPDATE and DELETE.
`user` names an accountable operator or service, never an end user of the product.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import event, inspect, select, text
from sqlalchemy.orm import Session, SessionTransaction

from mlops_assets.foundation.files import canonical_json, digest
from mlops_assets.foundation.tables import AuditEvent

PROMOTED_TO_PRODUCTION = "model_promoted_to_production"
ROLLED_BACK = "model_rolled_back"
# The events after which `version` is the champion of `model_name`.
CHAMPION_EVENTS = (PROMOTED_TO_PRODUCTION, ROLLED_BACK)

GENESIS_HASH = "0" * 64
_APPEND_LOCK = 0x6D6C6F7073 * 256 + 2  # "mlops" in ASCII, then a number: advisory keys are one namespace per database
_VERIFY_BATCH = 1000
_UNLOGGED = "audit_events_to_log"
_log = logging.getLogger("audit")


@dataclass(frozen=True)
class AuditVerdict:
    """Result of checking the chain: `broken_at` is the first sequence that does not fit, None for an intact chain."""

    entries: int
    broken_at: int | None
    reason: str

    @property
    def intact(self) -> bool:
        """True when every event follows from the one before it."""
        return self.broken_at is None


def append_event(
    session: Session,
    *,
    event_type: str,
    model_name: str,
    version: str,
    user: str,
    details: Mapping[str, Any],
    now: datetime,
) -> AuditEvent:
    """Append one event in the caller's write transaction; once committed, it also goes to the logger `audit` as JSON.

    Writers queue: on PostgreSQL by an advisory lock held to the end of the transaction, on SQLite by its write lock.

    Raises:
        ValueError: `now` is naive, or `details` hold NaN or infinity.
        TypeError: `details` hold a type without a canonical JSON form.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _APPEND_LOCK})
    head = session.scalars(select(AuditEvent).order_by(AuditEvent.sequence.desc()).limit(1)).one_or_none()
    entry = AuditEvent(
        sequence=1 if head is None else head.sequence + 1,
        event_type=event_type,
        model_name=model_name,
        version=version,
        user=user,
        occurred_at=now,
        details=json.loads(canonical_json(dict(details))),
        previous_hash=GENESIS_HASH if head is None else head.hash,
    )
    entry.hash = _hash(entry)
    session.add(entry)
    session.flush()
    _log_after_commit(session, entry)
    return entry


def verify_chain(session: Session) -> AuditVerdict:
    """Recompute every hash in order; edited, removed, inserted and reordered events all break the chain.

    A chain cut at its end cannot be seen from inside: compare `entries` with a count kept elsewhere.
    """
    previous_hash, expected = GENESIS_HASH, 1
    for entry in session.scalars(
        select(AuditEvent).order_by(AuditEvent.sequence).execution_options(yield_per=_VERIFY_BATCH)
    ):
        reason = None
        if entry.sequence != expected:
            reason = f"event {expected} is missing"
        elif entry.previous_hash != previous_hash:
            reason = f"event {expected} does not follow from event {expected - 1}"
        elif entry.hash != _hash(entry):
            reason = f"event {expected} was changed after it was written"
        if reason is not None:
            return AuditVerdict(entries=expected - 1, broken_at=expected, reason=reason)
        previous_hash, expected = entry.hash, expected + 1
    return AuditVerdict(entries=expected - 1, broken_at=None, reason="every event follows from the one before it")


def champion_at(session: Session, model_name: str, at: datetime) -> str | None:
    """Version that was champion of `model_name` at instant `at`, None before the first one."""
    return session.scalars(
        select(AuditEvent.version)
        .where(
            AuditEvent.model_name == model_name,
            AuditEvent.event_type.in_(CHAMPION_EVENTS),
            AuditEvent.occurred_at <= at,
        )
        .order_by(AuditEvent.sequence.desc())
        .limit(1)
    ).one_or_none()


def _content(entry: AuditEvent) -> dict[str, Any]:
    return {
        "sequence": entry.sequence,
        "event_type": entry.event_type,
        "model_name": entry.model_name,
        "version": entry.version,
        "user": entry.user,
        "timestamp": entry.occurred_at,
        "details": entry.details,
        "previous_hash": entry.previous_hash,
    }


def _hash(entry: AuditEvent) -> str:
    return digest(_content(entry))


def _log_after_commit(session: Session, entry: AuditEvent) -> None:
    """An event that is rolled back never happened, so it must not be in the log either."""
    if _UNLOGGED not in session.info:
        session.info[_UNLOGGED] = []
        event.listen(session, "after_transaction_end", _log_committed)
    session.info[_UNLOGGED].append((entry, canonical_json({**_content(entry), "hash": entry.hash})))


def _log_committed(session: Session, ended: SessionTransaction) -> None:
    if ended.parent is not None:  # a savepoint's end proves nothing
        return
    for entry, line in session.info[_UNLOGGED]:
        if inspect(entry).persistent:  # rolled back ones, also to a savepoint, were expunged
            _log.info(line)
    session.info[_UNLOGGED].clear()
