"""Tables of decisions, approvals, waivers and the audit trail."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from mlops_assets.foundation.tables.base import ROW_ID, Base


class DecisionRecord(Base):
    """One approval decision on one version, bound to the evidence it was taken on; the newest one counts.

    `evidence` holds the parts behind `evidence_hash`, None where nobody recorded them. `request_id`: the request that
    people answered, None for a decision of the policy. `pending` is an approval that is void.
    """

    __tablename__ = "decision"
    # No unique key: the same evidence is decided on again when another decision came between. Writers queue by model.
    __table_args__ = (Index(None, "model_name", "semver", "id"),)

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    model_name: Mapped[str] = mapped_column(String(128))
    semver: Mapped[str] = mapped_column(String(32))
    run_id: Mapped[str] = mapped_column(String(64))
    risk: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))
    reasons: Mapped[list[str]]
    evidence_hash: Mapped[str] = mapped_column(String(64))
    evidence: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    request_id: Mapped[int | None] = mapped_column(ROW_ID, ForeignKey("approval_request.id"))
    decided_at: Mapped[datetime]
    decided_by: Mapped[str]


class ApprovalRequestRecord(Base):
    """One question to people about one version, bound to the evidence that they are asked on.

    `evidence_hash` is the digest of the three hashes before it and of the waivers; `evidence` holds all parts, None in
    rows of an older version. `status` is open, approved, rejected, expired or superseded; an approved request without
    `applied_at` has yet to move its version. `notified_by`: ways that took the message to the approvers.
    """

    __tablename__ = "approval_request"
    # One open request of a version, also for two lifecycles that ask at once.
    __table_args__ = (
        Index(
            "uq_approval_request_open_version",
            "model_name",
            "semver",
            unique=True,
            sqlite_where=text("status = 'open'"),
            postgresql_where=text("status = 'open'"),
        ),
        Index(None, "model_name", "semver", "id"),
        Index(None, "status"),
    )

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    model_name: Mapped[str] = mapped_column(String(128))
    semver: Mapped[str] = mapped_column(String(32))
    run_id: Mapped[str] = mapped_column(String(64))
    risk: Mapped[str] = mapped_column(String(16))
    reasons: Mapped[list[str]]
    author: Mapped[str]
    required_approvers: Mapped[list[str]]
    min_approvals: Mapped[int]
    report_hash: Mapped[str] = mapped_column(String(64))
    weights_hash: Mapped[str] = mapped_column(String(64))
    data_hash: Mapped[str] = mapped_column(String(64))
    evidence_hash: Mapped[str] = mapped_column(String(64))
    evidence: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    status: Mapped[str] = mapped_column(String(16), default="open")
    requested_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    applied_at: Mapped[datetime | None]
    notified_by: Mapped[list[str]]


class ApprovalVoteRecord(Base):
    """What one approver said to one request, once."""

    __tablename__ = "approval_vote"
    __table_args__ = (UniqueConstraint("request_id", "approver"),)

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    request_id: Mapped[int] = mapped_column(ROW_ID, ForeignKey("approval_request.id"))
    approver: Mapped[str]
    decision: Mapped[str] = mapped_column(String(16))
    comment: Mapped[str] = mapped_column(Text)
    voted_at: Mapped[datetime]


class WaiverRecord(Base):
    """One check that a model may miss until a date, and who decided so; `revoked_at` ends it before."""

    __tablename__ = "waiver"
    __table_args__ = (Index(None, "model_name", "ends_at"),)

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    model_name: Mapped[str] = mapped_column(String(128))
    check_name: Mapped[str] = mapped_column(String(128))
    reason: Mapped[str] = mapped_column(Text)
    granted_by: Mapped[str]
    granted_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class AuditEvent(Base):
    """One link of the append-only, hash-chained audit trail; the database refuses UPDATE and DELETE on it."""

    __tablename__ = "audit_event"
    # One successor for each link: two writers that both read the same head cannot both append.
    __table_args__ = (
        UniqueConstraint("hash"),
        UniqueConstraint("previous_hash"),
        Index(None, "model_name", "occurred_at"),
    )

    sequence: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=False)
    event_type: Mapped[str] = mapped_column(String(64))
    model_name: Mapped[str] = mapped_column(String(128))
    version: Mapped[str] = mapped_column(String(64))
    user: Mapped[str] = mapped_column("user_name", String(255))
    occurred_at: Mapped[datetime]
    details: Mapped[dict[str, Any]]
    previous_hash: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))
