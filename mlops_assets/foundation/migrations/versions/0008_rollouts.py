"""The ledger of rollouts, and its outbox."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_APPEND_ONLY = "the ledger of rollouts is append-only"


def _id(name: str = "id", **options: bool) -> sa.Column:
    return sa.Column(name, sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False, **options)


def _text(name: str, length: int = 255) -> sa.Column:
    return sa.Column(name, sa.String(length), nullable=False)


def _instant(name: str, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _json(name: str) -> sa.Column:
    return sa.Column(name, sa.JSON(), nullable=False)


def upgrade() -> None:
    """Create the two tables; the ledger refuses changes."""
    op.create_table(
        "rollout_event",
        _id(autoincrement=True),
        _text("model_name", 128),
        sa.Column("number", sa.Integer(), nullable=False),
        _text("rollout", 100),
        _text("agent", 64),
        _text("kind", 16),
        sa.Column("active", sa.Boolean(), nullable=False),
        _json("state"),
        _json("reasons"),
        _json("evidence"),
        _text("user_name"),
        _instant("occurred_at"),
        _text("idempotency_key", 200),
        sa.PrimaryKeyConstraint("id", name="pk_rollout_event"),
        sa.UniqueConstraint("model_name", "number", name="uq_rollout_event_model_name_number"),
        sa.UniqueConstraint("idempotency_key", name="uq_rollout_event_idempotency_key"),
    )
    op.create_table(
        "rollout_effect",
        _id(autoincrement=True),
        _id("event_id"),
        _text("kind", 32),
        _instant("done_at", nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_rollout_effect"),
        sa.ForeignKeyConstraint(["event_id"], ["rollout_event.id"], name="fk_rollout_effect_event_id_rollout_event"),
        sa.UniqueConstraint("event_id", "kind", name="uq_rollout_effect_event_id_kind"),
    )
    op.create_index("ix_rollout_effect_done_at", "rollout_effect", ["done_at"])
    _make_append_only()


def _make_append_only() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION refuse_rollout_change() RETURNS trigger LANGUAGE plpgsql AS $$ "
            f"BEGIN RAISE EXCEPTION '{_APPEND_ONLY}'; END $$"
        )
        op.execute(
            "CREATE TRIGGER rollout_event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON rollout_event "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_rollout_change()"
        )
        return
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER rollout_event_no_{change.lower()} BEFORE {change} ON rollout_event "
            f"BEGIN SELECT RAISE(ABORT, '{_APPEND_ONLY}'); END"
        )


def downgrade() -> None:
    """Drop them, triggers with their table."""
    for table in ("rollout_effect", "rollout_event"):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_rollout_change()")
