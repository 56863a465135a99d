"""Tables of the rooms experiences and features: what was read, kept out, published, validated and materialised."""

from datetime import datetime

from sqlalchemy import Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from mlops_assets.foundation.tables.base import ROW_ID, Base, LineNumber


class IngestedSource(Base):
    """One source file (or table extract) whose executions are stored; the key is its content's sha256."""

    __tablename__ = "ingested_source"

    source_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    source_file: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(String(32))
    rows: Mapped[int]
    quarantined: Mapped[int]
    first_event: Mapped[datetime | None]
    last_event: Mapped[datetime | None]
    ingested_at: Mapped[datetime]


class QuarantinedRow(Base):
    """One row that was kept out, with where it stands and why."""

    __tablename__ = "quarantined_row"
    __table_args__ = (UniqueConstraint("source_hash", "line", "reason"),)

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    source_file: Mapped[str] = mapped_column(Text)
    source_hash: Mapped[str] = mapped_column(String(64))
    line: Mapped[int | None] = mapped_column(LineNumber, nullable=False, default=None)
    reason: Mapped[str]
    excerpt: Mapped[str] = mapped_column(Text)
    quarantined_at: Mapped[datetime]


class ExperienceCursor(Base):
    """How far an agent's experiences have been read from one source; `position` is the source's own JSON."""

    __tablename__ = "experience_cursor"

    agent: Mapped[str] = mapped_column(String(64), primary_key=True)
    source: Mapped[str] = mapped_column(String(255), primary_key=True)
    position: Mapped[str] = mapped_column(Text)
    updated_at: Mapped[datetime]


class SnapshotRecord(Base):
    """One published experience snapshot; `status` is created, validated or rejected."""

    __tablename__ = "snapshot"
    __table_args__ = (UniqueConstraint("agent", "data_hash"), Index(None, "agent", "created_at"))

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    agent: Mapped[str] = mapped_column(String(64))
    data_hash: Mapped[str] = mapped_column(String(64))
    source: Mapped[str]
    rows: Mapped[int]
    new_rows: Mapped[int]
    first_event: Mapped[datetime | None]
    last_event: Mapped[datetime | None]
    label_cutoff: Mapped[datetime]
    dvc_md5: Mapped[str | None] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16), default="created")
    created_at: Mapped[datetime]


class ValidationRecord(Base):
    """Verdict of one validation suite on one snapshot."""

    __tablename__ = "validation"
    __table_args__ = (UniqueConstraint("agent", "data_hash", "suite"),)

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    agent: Mapped[str] = mapped_column(String(64))
    data_hash: Mapped[str] = mapped_column(String(64))
    suite: Mapped[str] = mapped_column(String(128))
    passed: Mapped[bool]
    failed_expectations: Mapped[list[str]]
    report_path: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]


class FeatureViewRecord(Base):
    """What one feature view holds and how fresh its online copy is."""

    __tablename__ = "feature_view"

    view: Mapped[str] = mapped_column(String(128), primary_key=True)
    source_rows: Mapped[int]
    last_event_time: Mapped[datetime | None]
    last_materialized_at: Mapped[datetime | None]
