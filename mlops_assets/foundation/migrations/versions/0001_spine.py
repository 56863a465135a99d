"""Tables of the spine: ingest, snapshots, features, registry, decisions, audit trail, asset records, leases."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_APPEND_ONLY = "the audit trail is append-only"


def _instant(name: str, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _text(name: str, length: int = 255, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.String(length), nullable=nullable)


def _number(name: str) -> sa.Column:
    return sa.Column(name, sa.Integer(), nullable=False)


def _row_id() -> sa.Column:
    return sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False)


def upgrade() -> None:
    _create_ingest()
    _create_snapshots()
    _create_registry()
    _create_audit()
    op.create_table(
        "asset_record",
        _row_id(),
        _text("asset", 128),
        _text("partition", 64),
        _text("run_id", 64),
        sa.Column("payload", sa.JSON(), nullable=False),
        _instant("recorded_at"),
        sa.PrimaryKeyConstraint("id", name="pk_asset_record"),
        sa.UniqueConstraint("asset", "partition", "run_id", name="uq_asset_record_asset_partition_run_id"),
    )
    op.create_index(
        "ix_asset_record_asset_partition_recorded_at", "asset_record", ["asset", "partition", "recorded_at"]
    )
    op.create_table(
        "lease",
        _text("resource"),
        _text("holder"),
        sa.Column("token", sa.BigInteger(), nullable=False),
        _instant("acquired_at"),
        _instant("expires_at"),
        sa.PrimaryKeyConstraint("resource", name="pk_lease"),
    )


def _create_ingest() -> None:
    op.create_table(
        "ingested_source",
        _text("source_hash", 64),
        sa.Column("source_file", sa.Text(), nullable=False),
        _text("kind", 32),
        _number("rows"),
        _number("quarantined"),
        _instant("first_event", nullable=True),
        _instant("last_event", nullable=True),
        _instant("ingested_at"),
        sa.PrimaryKeyConstraint("source_hash", name="pk_ingested_source"),
    )
    op.create_table(
        "quarantined_row",
        _row_id(),
        sa.Column("source_file", sa.Text(), nullable=False),
        _text("source_hash", 64),
        _number("line"),
        _text("reason"),
        sa.Column("excerpt", sa.Text(), nullable=False),
        _instant("quarantined_at"),
        sa.PrimaryKeyConstraint("id", name="pk_quarantined_row"),
        sa.UniqueConstraint("source_hash", "line", "reason", name="uq_quarantined_row_source_hash_line_reason"),
    )
    op.create_table(
        "experience_cursor",
        _text("agent", 64),
        _text("source"),
        sa.Column("position", sa.Text(), nullable=False),
        _instant("updated_at"),
        sa.PrimaryKeyConstraint("agent", "source", name="pk_experience_cursor"),
    )


def _create_snapshots() -> None:
    op.create_table(
        "snapshot",
        _row_id(),
        _text("agent", 64),
        _text("data_hash", 64),
        _text("source"),
        _number("rows"),
        _number("new_rows"),
        _instant("first_event", nullable=True),
        _instant("last_event", nullable=True),
        _instant("label_cutoff"),
        _text("dvc_md5", 64, nullable=True),
        _text("status", 16),
        _instant("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_snapshot"),
        sa.UniqueConstraint("agent", "data_hash", name="uq_snapshot_agent_data_hash"),
    )
    op.create_index("ix_snapshot_agent_created_at", "snapshot", ["agent", "created_at"])
    op.create_table(
        "validation",
        _row_id(),
        _text("agent", 64),
        _text("data_hash", 64),
        _text("suite", 128),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("failed_expectations", sa.JSON(), nullable=False),
        sa.Column("report_path", sa.Text(), nullable=False),
        _instant("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_validation"),
        sa.UniqueConstraint("agent", "data_hash", "suite", name="uq_validation_agent_data_hash_suite"),
    )
    op.create_table(
        "feature_view",
        _text("view", 128),
        _number("source_rows"),
        _instant("last_event_time", nullable=True),
        _instant("last_materialized_at", nullable=True),
        sa.PrimaryKeyConstraint("view", name="pk_feature_view"),
    )


def _create_registry() -> None:
    op.create_table(
        "model_version",
        _row_id(),
        _text("model_name", 128),
        _text("semver", 32),
        _number("major"),
        _number("minor"),
        _number("patch"),
        _text("mlflow_version", 32, nullable=True),
        _text("run_id", 64),
        _text("training_hash", 64),
        _text("data_hash", 64),
        _text("stage", 16),
        _instant("created_at"),
        _instant("updated_at"),
        sa.PrimaryKeyConstraint("id", name="pk_model_version"),
        sa.UniqueConstraint("model_name", "semver", name="uq_model_version_model_name_semver"),
        sa.UniqueConstraint("model_name", "run_id", name="uq_model_version_model_name_run_id"),
    )
    op.create_index(
        "ix_model_version_model_name_major_minor_patch", "model_version", ["model_name", "major", "minor", "patch"]
    )
    op.create_table(
        "decision",
        _row_id(),
        _text("model_name", 128),
        _text("semver", 32),
        _text("run_id", 64),
        _text("risk", 16),
        _text("status", 16),
        sa.Column("reasons", sa.JSON(), nullable=False),
        _text("evidence_hash", 64),
        _instant("decided_at"),
        _text("decided_by"),
        sa.PrimaryKeyConstraint("id", name="pk_decision"),
        sa.UniqueConstraint(
            "model_name", "semver", "evidence_hash", name="uq_decision_model_name_semver_evidence_hash"
        ),
    )


def _create_audit() -> None:
    op.create_table(
        "audit_event",
        sa.Column(
            "sequence", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False
        ),
        _text("event_type", 64),
        _text("model_name", 128),
        _text("version", 64),
        _text("user_name"),
        _instant("occurred_at"),
        sa.Column("details", sa.JSON(), nullable=False),
        _text("previous_hash", 64),
        _text("hash", 64),
        sa.PrimaryKeyConstraint("sequence", name="pk_audit_event"),
        sa.UniqueConstraint("hash", name="uq_audit_event_hash"),
        sa.UniqueConstraint("previous_hash", name="uq_audit_event_previous_hash"),
    )
    op.create_index("ix_audit_event_model_name_occurred_at", "audit_event", ["model_name", "occurred_at"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{_APPEND_ONLY}'; END $$"
        )
        op.execute(
            "CREATE TRIGGER audit_event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_event "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change()"
        )
        return
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_event_no_{change.lower()} BEFORE {change} ON audit_event "
            f"BEGIN SELECT RAISE(ABORT, '{_APPEND_ONLY}'); END"
        )


def downgrade() -> None:
    for table in (
        "lease",
        "asset_record",
        "audit_event",
        "decision",
        "model_version",
        "feature_view",
        "validation",
        "snapshot",
        "experience_cursor",
        "quarantined_row",
        "ingested_source",
    ):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_audit_change()")
