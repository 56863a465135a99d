"""The servers' guard of a rollout."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_INDEX = "ix_prediction_experiment_user_hash_event_time"


def upgrade() -> None:
    """Create its table, and the index by which it finds a user's first answer."""
    op.create_table(
        "rollout_watch",
        sa.Column("rollout", sa.String(100), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("read_to", sa.DateTime(timezone=True), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("rollout", name="pk_rollout_watch"),
    )
    op.create_index(_INDEX, "prediction", ["experiment", "user_hash", "event_time"])


def downgrade() -> None:
    """Drop both."""
    op.drop_index(_INDEX, "prediction")
    op.drop_table("rollout_watch")
