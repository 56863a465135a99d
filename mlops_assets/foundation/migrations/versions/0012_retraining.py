"""Triggers of retraining, decisions on them, trainings that were asked for, files that are watched."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def _id(name: str = "id", **options: bool) -> sa.Column:
    return sa.Column(name, sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False, **options)


def _text(name: str, length: int = 255, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.String(length), nullable=nullable)


def _long_text(name: str) -> sa.Column:
    return sa.Column(name, sa.Text(), nullable=False)


def _instant(name: str, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _json(name: str) -> sa.Column:
    return sa.Column(name, sa.JSON(), nullable=False)


def upgrade() -> None:
    """Create the four tables."""
    op.create_table(
        "trigger_signal",
        _id(autoincrement=True),
        _text("agent", 64),
        _text("kind", 32),
        _text("dedupe_key", 200),
        _long_text("reason"),
        _json("evidence"),
        _text("user_name", nullable=True),
        sa.Column("override", sa.Boolean(), nullable=False),
        _instant("raised_at"),
        _instant("deadline", nullable=True),
        _instant("expires_at"),
        _instant("settled_at", nullable=True),
        _text("settled_by", 128, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_trigger_signal"),
        sa.UniqueConstraint("dedupe_key", name="uq_trigger_signal_dedupe_key"),
    )
    op.create_index("ix_trigger_signal_settled_by", "trigger_signal", ["settled_by"])
    waiting = sa.text("settled_by IS NULL")
    op.create_index(
        "ix_trigger_signal_waiting", "trigger_signal", ["agent"], sqlite_where=waiting, postgresql_where=waiting
    )
    op.create_table(
        "retraining_evaluation",
        _id(autoincrement=True),
        _text("agent", 64),
        _text("decision", 16),
        _long_text("reason"),
        _json("suppressed_by"),
        _json("triggers"),
        sa.Column("waiting", sa.Integer(), nullable=False),
        _json("evidence"),
        _text("run_key", 128, nullable=True),
        _instant("evaluated_at"),
        _instant("last_evaluated_at"),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_retraining_evaluation"),
    )
    op.create_index("ix_retraining_evaluation_agent_id", "retraining_evaluation", ["agent", "id"])
    op.create_index("ix_retraining_evaluation_last_evaluated_at", "retraining_evaluation", ["last_evaluated_at"])
    op.create_table(
        "retraining_run",
        _text("run_key", 128),
        _text("agent", 64),
        sa.Column("number", sa.Integer(), nullable=False),
        _text("trigger_type", 32),
        _long_text("reason"),
        _json("evidence"),
        _text("user_name", nullable=True),
        _instant("requested_at"),
        _text("dagster_run_id", 64, nullable=True),
        _text("status", 16),
        _instant("ended_at", nullable=True),
        sa.PrimaryKeyConstraint("run_key", name="pk_retraining_run"),
        sa.UniqueConstraint("agent", "number", name="uq_retraining_run_agent_number"),
    )
    going_on = sa.text("ended_at IS NULL")
    op.create_index(
        "uq_retraining_run_open_agent",
        "retraining_run",
        ["agent"],
        unique=True,
        sqlite_where=going_on,
        postgresql_where=going_on,
    )
    op.create_index("ix_retraining_run_agent_requested_at", "retraining_run", ["agent", "requested_at"])
    op.create_table(
        "watched_file",
        _text("path_hash", 64),
        _long_text("path"),
        _id("bytes"),
        _id("changed_ns"),
        _instant("first_seen_at"),
        _text("content_hash", 64, nullable=True),
        sa.PrimaryKeyConstraint("path_hash", name="pk_watched_file"),
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("watched_file", "retraining_run", "retraining_evaluation", "trigger_signal"):
        op.drop_table(table)
