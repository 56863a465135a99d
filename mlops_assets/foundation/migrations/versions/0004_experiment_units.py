"""What experiments are of and judged by: segment, the share at every decision, looks, users as they were known at each."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add `prediction.treatment_share` and the tables of looks and units."""
    op.add_column("prediction", sa.Column("treatment_share", sa.Float(), nullable=True))
    op.add_column("experiment", sa.Column("segment", sa.JSON(), nullable=True))
    op.create_table(
        "experiment_look",
        sa.Column("experiment", sa.String(100), nullable=False),
        sa.Column("look", sa.Integer(), nullable=False),
        sa.Column("cutoff", sa.DateTime(timezone=True), nullable=False),
        sa.Column("looked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("design", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("experiment", "look", name="pk_experiment_look"),
    )
    op.create_table(
        "experiment_unit",
        sa.Column("experiment", sa.String(100), nullable=False),
        sa.Column("user_hash", sa.String(64), nullable=False),
        sa.Column("treatment_share", sa.Float(), nullable=False),
        sa.Column("look", sa.Integer(), nullable=False),
        sa.Column("treatment", sa.Boolean(), nullable=False),
        sa.Column("share", sa.Float(), nullable=False),
        sa.Column("outcomes", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("experiment", "user_hash", "treatment_share", name="pk_experiment_unit"),
    )
    op.create_index("ix_experiment_unit_experiment_look", "experiment_unit", ["experiment", "look"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("experiment_unit")
    op.drop_table("experiment_look")
    op.drop_column("experiment", "segment")
    op.drop_column("prediction", "treatment_share")
