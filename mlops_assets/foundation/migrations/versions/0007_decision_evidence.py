"""The evidence that a decision was taken on, and the request that it answers; the newest decision counts."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add `decision.evidence`, `decision.request_id` and `approval_request.evidence`; drop the unique key.

    Decisions of people had a key made of their evidence's hash and their request; they get both apart. What the policy
    decided before has no evidence on record, so it has to be decided anew before the version goes on.
    """
    with op.batch_alter_table("decision") as table:
        table.drop_constraint("uq_decision_model_name_semver_evidence_hash", type_="unique")
        table.add_column(sa.Column("evidence", sa.JSON(), nullable=True))
        table.add_column(sa.Column("request_id", _ID, nullable=True))
        table.create_foreign_key(
            "fk_decision_request_id_approval_request", "approval_request", ["request_id"], ["id"]
        )
    op.create_index("ix_decision_model_name_semver_id", "decision", ["model_name", "semver", "id"])
    op.add_column("approval_request", sa.Column("evidence", sa.JSON(), nullable=True))
    connection = op.get_bind()
    rows = connection.execute(sa.text("SELECT id, evidence_hash FROM decision"))
    for number, key in rows.fetchall():
        _, mark, request = key.partition("-votes-") if "-votes-" in key else key.partition("-void-")
        if mark and request.isdecimal():
            connection.execute(
                sa.text(
                    "UPDATE decision SET request_id = :request, evidence_hash = "
                    "(SELECT evidence_hash FROM approval_request WHERE id = :request) WHERE id = :number"
                ),
                {"request": int(request), "number": number},
            )


def downgrade() -> None:
    """Drop the columns; the old unique key takes the newest of several decisions on the same evidence."""
    connection = op.get_bind()
    connection.execute(
        sa.text(
            "DELETE FROM decision WHERE request_id IS NULL AND id NOT IN (SELECT max(id) FROM decision "
            "WHERE request_id IS NULL GROUP BY model_name, semver, evidence_hash)"
        )
    )
    rows = connection.execute(
        sa.text("SELECT id, evidence_hash, request_id, status FROM decision WHERE request_id IS NOT NULL")
    )
    for number, evidence_hash, request, status in rows.fetchall():
        mark = "void" if status == "pending" else "votes"
        connection.execute(
            sa.text("UPDATE decision SET evidence_hash = :key WHERE id = :number"),
            {"key": f"{evidence_hash[:40]}-{mark}-{request}", "number": number},
        )
    op.drop_index("ix_decision_model_name_semver_id", "decision")
    op.drop_column("approval_request", "evidence")
    with op.batch_alter_table("decision") as table:
        table.drop_constraint("fk_decision_request_id_approval_request", type_="foreignkey")
        table.drop_column("request_id")
        table.drop_column("evidence")
        table.create_unique_constraint(
            "uq_decision_model_name_semver_evidence_hash", ["model_name", "semver", "evidence_hash"]
        )
