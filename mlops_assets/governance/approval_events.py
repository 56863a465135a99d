"""What approvals leave in the audit trail: names of the events, and how one is written. Nothing is decided here."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from mlops_assets.foundation.audit import append_event
from mlops_assets.foundation.tables import ApprovalRequestRecord
from mlops_assets.governance.approval_state import ApprovalRefusedError

REQUESTED, VOTED, APPROVED, REJECTED = "approval_requested", "approval_vote", "model_approved", "model_rejected"
EXPIRED, SUPERSEDED, APPLIED, REFUSED = (
    "approval_expired",
    "approval_superseded",
    "approval_applied",
    "approval_refused",
)
APPROVALS_USER = "governance-approvals"
MAX_COMMENT = 2000
# Widths of the audit trail's columns: what somebody made up is cut, not refused, so that the try is on record.
MODEL_WIDTH, VERSION_WIDTH, USER_WIDTH = 128, 64, 255


def audit_request(
    session: Session, event: str, record: ApprovalRequestRecord, user: str, now: datetime, **details: Any
) -> None:
    """Append one event of a request."""
    append_event(
        session,
        event_type=event,
        model_name=record.model_name,
        version=record.semver,
        user=user,
        details={**details, "request": record.id, "evidence_hash": record.evidence_hash, "run_id": record.run_id},
        now=now,
    )


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
        model_name=clean(model_name, MODEL_WIDTH),
        version=clean(version, VERSION_WIDTH),
        user=clean(user, USER_WIDTH),
        details={**said, "reason": refusal.reason, "message": clean(str(refusal), MAX_COMMENT)},
        now=now,
    )


def clean(text: str, width: int) -> str:
    """Keep what both databases store: no NUL, no lone surrogates, and not more than fits."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()[:width]
