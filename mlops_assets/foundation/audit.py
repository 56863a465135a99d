"""The append-only, hash-chained audit trail: who was champion when, who decided what, and that it still says so.

Each event carries the sha256 over its own content and its predecessor's hash; the database refuses UPDATE and DELETE.
`user` names an accountable operator or service, never an end user of the product.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
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
_FIELDS = {"sequence", "event_type", "model_name", "version", "user", "timestamp", "details", "previous_hash", "hash"}
_log = logging.getLogger("audit")


@dataclass(frozen=True)
class AuditVerdict:
    """Result of checking the chain: `broken_at` is the first sequence that does not fit, None for an intact chain.

    `entries` are good, and `head` is the hash of the last of them.
    """

    entries: int
    broken_at: int | None
    reason: str
    head: str

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


def verify_chain(session: Session, *, head: str | None = None) -> AuditVerdict:
    """Recompute every hash in order; edited, removed, inserted and reordered events all break the chain.

    A chain cut at its end cannot be seen from inside: give the hash of an event that has to be there as `head`, as an
    earlier verdict named it.
    """
    query = select(AuditEvent).order_by(AuditEvent.sequence).execution_options(yield_per=_VERIFY_BATCH)
    return _verify(({**_content(entry), "hash": entry.hash} for entry in session.scalars(query)), head)


def export_lines(session: Session) -> Iterator[str]:
    """Give the trail as lines of canonical JSON, without line ends: what `verify_lines` takes, without any database."""
    query = select(AuditEvent).order_by(AuditEvent.sequence).execution_options(yield_per=_VERIFY_BATCH)
    for entry in session.scalars(query):
        yield canonical_json({**_content(entry), "hash": entry.hash})


def verify_lines(content: bytes, *, head: str | None = None) -> AuditVerdict:
    """Verify an exported trail, one event a line; any byte that differs from the export breaks it at its event."""
    lines = content.split(b"\n")
    if content and lines[-1] == b"":
        lines.pop()
        return _verify((_entry(line) for line in lines), head)
    if not content:
        return _verify((), head)
    # The last line has no end: it was cut, or its end was changed.
    return _verify((*(_entry(line) for line in lines[:-1]), None), head)


def _entry(line: bytes) -> Mapping[str, Any] | None:
    """Read one exported line; None when it is not, to the byte, what an export writes."""
    try:
        text_ = line.decode()
        entry = json.loads(text_)
        same = isinstance(entry, dict) and entry.keys() == _FIELDS and canonical_json(entry) == text_
    except (ValueError, RecursionError):
        return None
    return entry if same else None


def _verify(entries: Iterable[Mapping[str, Any] | None], head: str | None) -> AuditVerdict:
    previous_hash, expected, seen = GENESIS_HASH, 1, head is None
    for entry in entries:
        reason = _break(entry, expected, previous_hash)
        if reason is not None or entry is None:
            return AuditVerdict(expected - 1, expected, reason or "", previous_hash)
        previous_hash, expected = entry["hash"], expected + 1
        seen = seen or previous_hash == head
    if not seen:
        reason = (
            f"event {expected} is missing: the event with hash {head} is not in the trail, which was cut or replaced"
        )
        return AuditVerdict(expected - 1, expected, reason, previous_hash)
    return AuditVerdict(expected - 1, None, "every event follows from the one before it", previous_hash)


def _break(entry: Mapping[str, Any] | None, expected: int, previous_hash: str) -> str | None:
    if entry is None:
        return f"event {expected} is damaged: its line is not what an export writes"
    if entry["sequence"] != expected:
        return f"event {expected} is missing"
    if entry["previous_hash"] != previous_hash:
        return f"event {expected} does not follow from event {expected - 1}"
    if entry["hash"] != digest({name: value for name, value in entry.items() if name != "hash"}):
        return f"event {expected} was changed after it was written"
    return None


def champion_event_at(session: Session, model_name: str, at: datetime) -> AuditEvent | None:
    """Return the event that made the champion of instant `at`: its version, who, when and why; None before the first."""
    return session.scalars(
        select(AuditEvent)
        .where(
            AuditEvent.model_name == model_name,
            AuditEvent.event_type.in_(CHAMPION_EVENTS),
            AuditEvent.occurred_at <= at,
        )
        .order_by(AuditEvent.sequence.desc())
        .limit(1)
    ).one_or_none()


def champion_at(session: Session, model_name: str, at: datetime) -> str | None:
    """Version that was champion of `model_name` at instant `at`, None before the first one."""
    found = champion_event_at(session, model_name, at)
    return None if found is None else found.version


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
