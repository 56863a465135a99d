"""Tables of serving: experiments with their traffic split, predictions, shadow predictions, outcomes, API tokens."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _instant(name: str, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _text(name: str, length: int = 255, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.String(length), nullable=nullable)


def _real(name: str, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.Float(), nullable=nullable)


def _flag(name: str) -> sa.Column:
    return sa.Column(name, sa.Boolean(), nullable=False)


def _json(name: str, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.JSON(), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "experiment",
        _text("name", 100),
        _text("agent", 64),
        _text("salt", 64),
        _text("treatment_alias", 64),
        _real("treatment_share"),
        _text("status", 16),
        _instant("created_at"),
        _instant("updated_at"),
        sa.PrimaryKeyConstraint("name", name="pk_experiment"),
    )
    op.create_index(
        "uq_experiment_unfinished_agent",
        "experiment",
        ["agent"],
        unique=True,
        sqlite_where=sa.text("status <> 'stopped'"),
        postgresql_where=sa.text("status <> 'stopped'"),
    )
    _create_predictions()
    op.create_table(
        "outcome",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        _text("prediction_id", 64),
        _text("agent", 64),
        _real("reward"),
        _flag("done"),
        sa.Column("best_action", sa.Integer(), nullable=True),
        _json("action_values", nullable=True),
        _instant("occurred_at"),
        _instant("received_at"),
        sa.PrimaryKeyConstraint("id", name="pk_outcome"),
        sa.UniqueConstraint("prediction_id", name="uq_outcome_prediction_id"),
    )
    op.create_table(
        "api_token",
        _text("name", 128),
        _text("token_hash", 64),
        _real("rate_per_second", nullable=True),
        _instant("created_at"),
        _instant("expires_at", nullable=True),
        _instant("revoked_at", nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_api_token"),
        sa.UniqueConstraint("token_hash", name="uq_api_token_token_hash"),
    )


def _create_predictions() -> None:
    op.create_table(
        "prediction",
        _text("prediction_id", 64),
        _instant("event_time"),
        _text("agent", 64),
        _text("agent_id"),
        _text("test_id"),
        _text("requirement_id"),
        sa.Column("requirement_text", sa.Text(), nullable=False),
        _text("episode_id"),
        sa.Column("step", sa.Integer(), nullable=False),
        _text("ui_framework", 64),
        _text("browser", 64),
        _text("test_type", 64),
        _text("model_name", 128),
        _text("model_version", 32),
        _text("model_alias", 64),
        _text("experiment", 100, nullable=True),
        _text("variant", 64),
        _text("user_hash", 64, nullable=True),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        _json("missing_features"),
        _json("q_values"),
        sa.Column("action", sa.Integer(), nullable=False),
        _real("propensity"),
        _flag("explored"),
        _real("confidence"),
        _real("latency_ms"),
        _flag("cached"),
        _text("status", 16),
        _text("channel", 16),
        sa.PrimaryKeyConstraint("prediction_id", name="pk_prediction"),
    )
    op.create_index("ix_prediction_agent_event_time", "prediction", ["agent", "event_time"])
    op.create_index("ix_prediction_agent_episode_id_step", "prediction", ["agent", "episode_id", "step"])
    op.create_index("ix_prediction_experiment_variant", "prediction", ["experiment", "variant"])
    op.create_table(
        "shadow_prediction",
        _text("prediction_id", 64),
        _text("model_name", 128),
        _text("model_version", 32),
        _json("q_values"),
        sa.Column("action", sa.Integer(), nullable=False),
        _real("latency_ms"),
        _instant("event_time"),
        sa.PrimaryKeyConstraint("prediction_id", "model_name", "model_version", name="pk_shadow_prediction"),
    )


def downgrade() -> None:
    for table in ("api_token", "outcome", "shadow_prediction", "prediction", "experiment"):
        op.drop_table(table)
