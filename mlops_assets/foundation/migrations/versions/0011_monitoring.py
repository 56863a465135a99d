"""References and checks of drift, alerts and their outbox."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def _id(name: str = "id", **options: bool) -> sa.Column:
    return sa.Column(name, sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False, **options)


def _text(name: str, length: int = 255, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.String(length), nullable=nullable)


def _count(name: str) -> sa.Column:
    return sa.Column(name, sa.Integer(), nullable=False)


def _number(name: str) -> sa.Column:
    return sa.Column(name, sa.Float(), nullable=True)


def _instant(name: str, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _json(name: str) -> sa.Column:
    return sa.Column(name, sa.JSON(), nullable=False)


def upgrade() -> None:
    """Create the five tables."""
    op.create_table(
        "drift_reference",
        _text("model_name", 128),
        _text("model_version", 32),
        _text("agent", 64),
        _text("content_hash", 64),
        _count("rows"),
        _number("accuracy"),
        _number("mean_confidence"),
        _instant("created_at"),
        sa.PrimaryKeyConstraint("model_name", "model_version", name="pk_drift_reference"),
    )
    op.create_table(
        "drift_check",
        _id(autoincrement=True),
        _text("agent", 64),
        _text("model_name", 128),
        _text("model_version", 32),
        _instant("window_start"),
        _instant("window_end"),
        _instant("checked_at"),
        _count("rows"),
        _count("labelled"),
        _text("verdict", 24),
        _number("psi"),
        _number("combined"),
        _number("accuracy_drop_rel"),
        _json("document"),
        sa.PrimaryKeyConstraint("id", name="pk_drift_check"),
        sa.UniqueConstraint(
            "model_name",
            "model_version",
            "window_start",
            "window_end",
            name="uq_drift_check_model_name_model_version_window_start_window_end",
        ),
    )
    op.create_index("ix_drift_check_agent_window_end", "drift_check", ["agent", "window_end"])
    op.create_table(
        "alert",
        _id(autoincrement=True),
        _text("dedupe_key", 200),
        _text("source", 64),
        _text("agent", 64),
        _text("model_name", 128),
        _text("severity", 16),
        _text("status", 16),
        _text("title"),
        sa.Column("body", sa.Text(), nullable=False),
        _json("details"),
        _count("occurrences"),
        _instant("raised_at"),
        _instant("last_seen_at"),
        _instant("told_at", nullable=True),
        _instant("critical_at", nullable=True),
        _instant("escalated_at", nullable=True),
        _instant("acknowledged_at", nullable=True),
        _text("acknowledged_by", nullable=True),
        _instant("recovered_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_alert"),
    )
    going_on = sa.text("status <> 'recovered'")
    op.create_index(
        "uq_alert_unrecovered_dedupe_key",
        "alert",
        ["dedupe_key"],
        unique=True,
        sqlite_where=going_on,
        postgresql_where=going_on,
    )
    op.create_index("ix_alert_raised_at", "alert", ["raised_at"])
    op.create_table(
        "alert_delivery",
        _id(autoincrement=True),
        _id("alert_id"),
        _text("dedupe_key", 200),
        _text("channel", 32),
        _text("kind", 16),
        _count("number"),
        _json("message"),
        _instant("created_at"),
        _instant("due_at"),
        _count("attempts"),
        _instant("delivered_at", nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_alert_delivery"),
        sa.ForeignKeyConstraint(["alert_id"], ["alert.id"], name="fk_alert_delivery_alert_id_alert"),
        sa.UniqueConstraint("alert_id", "number", "channel", name="uq_alert_delivery_alert_id_number_channel"),
    )
    op.create_index("ix_alert_delivery_delivered_at_due_at", "alert_delivery", ["delivered_at", "due_at"])
    op.create_table(
        "alert_channel",
        _text("channel", 32),
        _count("failures"),
        _instant("failing_since"),
        _instant("not_before"),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("channel", name="pk_alert_channel"),
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("alert_channel", "alert_delivery", "alert", "drift_check", "drift_reference"):
        op.drop_table(table)
