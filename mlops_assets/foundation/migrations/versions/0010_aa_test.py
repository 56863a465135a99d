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


def downgrade() -> None:
    """Forget it."""
    op.drop_column("prediction", "aa_arm")
