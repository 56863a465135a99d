"""The A/A test that is always on."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Log its arm beside each decision; those of before were in none."""
    op.add_column("prediction", sa.Column("aa_arm", sa.String(16), nullable=True))
    in_test = sa.text("aa_arm IS NOT NULL")
    op.create_index(
        "ix_prediction_aa_test",
        "prediction",
        ["agent", "model_version", "event_time"],
        sqlite_where=in_test,
        postgresql_where=in_test,
    )


def downgrade() -> None:
    """Forget it."""
    op.drop_index("ix_prediction_aa_test", "prediction")
    op.drop_column("prediction", "aa_arm")
