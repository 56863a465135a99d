"""Why the champion answered a user of the treatment, and room for the longest test identities."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add `prediction.fallback` and widen `prediction.test_id`."""
    with op.batch_alter_table("prediction") as table:
        table.add_column(sa.Column("fallback", sa.String(16), nullable=True))
        table.alter_column("test_id", existing_type=sa.String(255), type_=sa.String(512), existing_nullable=False)


def downgrade() -> None:
    """Drop the column; identities that are too long for the narrow one make PostgreSQL refuse."""
    with op.batch_alter_table("prediction") as table:
        table.alter_column("test_id", existing_type=sa.String(512), type_=sa.String(255), existing_nullable=False)
        table.drop_column("fallback")
