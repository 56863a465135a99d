"""Tables of triggers, what was decided on them, the trainings that were asked for, and files that are being watched."""

from datetime import datetime
from typing import Any

from sqlalchemy import Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from mlops_assets.foundation.tables.base import ROW_ID, Base


class TriggerSignalRecord(Base):
    """One reason to train an agent again; `dedupe_key` makes the same reason, raised again, the same row.

    `deadline`: until then it may wait for an off-peak window; NULL: it is due at once. `settled_by` is the key of the run
    that answers it, or expired, superseded or answered; NULL: it waits. `override`: a person's, over the shortest time
    between two trainings.
    """

    __tablename__ = "trigger_signal"
    __table_args__ = (
        UniqueConstraint("dedupe_key"),
        Index(None, "settled_by"),
        Index(
            "ix_trigger_signal_waiting",
            "agent",
            sqlite_where=text("settled_by IS NULL"),
            postgresql_where=text("settled_by IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    agent: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(32))
    dedupe_key: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str] = mapped_column(Text)
    evidence: Mapped[dict[str, Any]]
    user: Mapped[str | None] = mapped_column("user_name", String(255))
    override: Mapped[bool]
    raised_at: Mapped[datetime]
    deadline: Mapped[datetime | None]
    expires_at: Mapped[datetime]
    settled_at: Mapped[datetime | None]
    settled_by: Mapped[str | None] = mapped_column(String(128))


class RetrainingEvaluationRecord(Base):
    """What was decided on the triggers that waited; looks in a row that came to the same are one row, `times` of them.

    `triggers`: by dedupe key, the first ones; `evidence`: what was known of the agent.
    """

    __tablename__ = "retraining_evaluation"
    __table_args__ = (Index(None, "agent", "id"), Index(None, "last_evaluated_at"))

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    agent: Mapped[str] = mapped_column(String(64))
    decision: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    suppressed_by: Mapped[list[str]]
    triggers: Mapped[list[str]]
    waiting: Mapped[int]
    evidence: Mapped[dict[str, Any]]
    run_key: Mapped[str | None] = mapped_column(String(128))
    evaluated_at: Mapped[datetime]
    last_evaluated_at: Mapped[datetime]
    times: Mapped[int]


class RetrainingRunRecord(Base):
    """One training that was asked for: written with the decision, handed to Dagster afterwards, followed to its end.

    `status`: requested, started, succeeded, failed, canceled, or lost, where Dagster has forgotten the run.
    """

    __tablename__ = "retraining_run"
    __table_args__ = (
        UniqueConstraint("agent", "number"),
        # One in flight of each agent, also for two that decide at once.
        Index(
            "uq_retraining_run_open_agent",
            "agent",
            unique=True,
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
        ),
        Index(None, "agent", "requested_at"),
    )

    run_key: Mapped[str] = mapped_column(String(128), primary_key=True)
    agent: Mapped[str] = mapped_column(String(64))
    number: Mapped[int]
    trigger_type: Mapped[str] = mapped_column(String(32))
    reason: Mapped[str] = mapped_column(Text)
    evidence: Mapped[dict[str, Any]]
    user: Mapped[str | None] = mapped_column("user_name", String(255))
    requested_at: Mapped[datetime]
    dagster_run_id: Mapped[str | None] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))
    ended_at: Mapped[datetime | None]


class WatchedFileRecord(Base):
    """One file below the watched folders as it was last seen; `content_hash` is NULL until it was taken.

    `path_hash` stands for the path, which may be longer than a key.
    """

    __tablename__ = "watched_file"

    path_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    path: Mapped[str] = mapped_column(Text)
    bytes: Mapped[int] = mapped_column(ROW_ID)
    changed_ns: Mapped[int] = mapped_column(ROW_ID)
    first_seen_at: Mapped[datetime]
    content_hash: Mapped[str | None] = mapped_column(String(64))
