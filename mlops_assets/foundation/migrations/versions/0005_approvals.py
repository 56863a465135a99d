"""Approval requests, the votes on them, and waivers."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def _id() -> sa.Column:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("id", number, autoincrement=True, nullable=False)


def _text(name: str, length: int = 255) -> sa.Column:
    return sa.Column(name, sa.String(length), nullable=False)


def _instant(name: str, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    """Create `approval_request`, `approval_vote` and `waiver`."""
    op.create_table(
        "approval_request",
        _id(),
        _text("model_name", 128),
        _text("semver", 32),
        _text("run_id", 64),
        _text("risk", 16),
        sa.Column("reasons", sa.JSON(), nullable=False),
        _text("author"),
        sa.Column("required_approvers", sa.JSON(), nullable=False),
        sa.Column("min_approvals", sa.Integer(), nullable=False),
        _text("report_hash", 64),
        _text("weights_hash", 64),
        _text("data_hash", 64),
        _text("evidence_hash", 64),
        _text("status", 16),
        _instant("requested_at"),
        _instant("expires_at"),
        _instant("closed_at", nullable=True),
        _instant("applied_at", nullable=True),
        sa.Column("notified_by", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_approval_request"),
    )
    op.create_index(
        "uq_approval_request_open_version",
        "approval_request",
        ["model_name", "semver"],
        unique=True,
        sqlite_where=sa.text("status = 'open'"),
        postgresql_where=sa.text("status = 'open'"),
    )
    op.create_index("ix_approval_request_model_name_semver_id", "approval_request", ["model_name", "semver", "id"])
    op.create_index("ix_approval_request_status", "approval_request", ["status"])
    op.create_table(
        "approval_vote",
        _id(),
        sa.Column("request_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        _text("approver"),
        _text("decision", 16),
        sa.Column("comment", sa.Text(), nullable=False),
        _instant("voted_at"),
        sa.PrimaryKeyConstraint("id", name="pk_approval_vote"),
        sa.ForeignKeyConstraint(
            ["request_id"], ["approval_request.id"], name="fk_approval_vote_request_id_approval_request"
        ),
        sa.UniqueConstraint("request_id", "approver", name="uq_approval_vote_request_id_approver"),
    )
    op.create_table(
        "waiver",
        _id(),
        _text("model_name", 128),
        _text("check_name", 128),
        sa.Column("reason", sa.Text(), nullable=False),
        _text("granted_by"),
        _instant("granted_at"),
        _instant("ends_at"),
        _instant("revoked_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_waiver"),
    )
    op.create_index("ix_waiver_model_name_ends_at", "waiver", ["model_name", "ends_at"])


def downgrade() -> None:
    """Drop them; what was decided stays in the audit trail."""
    op.drop_table("waiver")
    op.drop_table("approval_vote")
    op.drop_table("approval_request")
