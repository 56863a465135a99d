"""Several treatments, and the arms at every decision; versions and evidence that are kept with their look; an index over an experiment's decisions by time."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add `experiment.more_treatments`, `prediction.arms`, `experiment_unit.arms` and `.before`, and of looks `versions` and `evidence`.

    Every query asks for an experiment's decisions by time, none by variant; and for a user's before the experiment.
    """
    op.add_column("experiment", sa.Column("more_treatments", sa.JSON(), nullable=True))
    op.add_column("experiment_unit", sa.Column("arms", sa.JSON(), nullable=True))
    op.add_column("experiment_unit", sa.Column("before", sa.JSON(), nullable=True))
    op.add_column("prediction", sa.Column("arms", sa.JSON(), nullable=True))
    op.add_column("experiment_look", sa.Column("versions", sa.JSON(), nullable=True))
    op.add_column("experiment_look", sa.Column("evidence", sa.JSON(), nullable=True))
    op.drop_index("ix_prediction_experiment_variant", "prediction")
    op.create_index("ix_prediction_experiment_event_time", "prediction", ["experiment", "event_time"])
    op.create_index("ix_prediction_user_hash_event_time", "prediction", ["user_hash", "event_time"])


def downgrade() -> None:
    """Drop them; evidence is found again from the stored users."""
    op.drop_index("ix_prediction_user_hash_event_time", "prediction")
    op.drop_index("ix_prediction_experiment_event_time", "prediction")
    op.create_index("ix_prediction_experiment_variant", "prediction", ["experiment", "variant"])
    op.drop_column("experiment_look", "evidence")
    op.drop_column("experiment_look", "versions")
    op.drop_column("prediction", "arms")
    op.drop_column("experiment_unit", "before")
    op.drop_column("experiment_unit", "arms")
    op.drop_column("experiment", "more_treatments")
