"""The ledger of rollouts, its outbox and the guard's watch."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from mlops_assets.foundation.tables.base import ROW_ID, Base


class RolloutEvent(Base):
    """One step of a model's rollouts, in the order of `number`; the database refuses UPDATE and DELETE on it.

    `state` is what the step led to, whole. `active`: the rollout goes on after this step. `idempotency_key` makes a second
    try of the same step harmless.
    """

    __tablename__ = "rollout_event"
    # One successor for each step: of two that both saw the same state, one writes.
    __table_args__ = (UniqueConstraint("model_name", "number"), UniqueConstraint("idempotency_key"))

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    model_name: Mapped[str] = mapped_column(String(128))
    number: Mapped[int]
    rollout: Mapped[str] = mapped_column(String(100))
    agent: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    active: Mapped[bool]
    state: Mapped[dict[str, Any]]
    reasons: Mapped[list[str]]
    evidence: Mapped[dict[str, Any]]
    user: Mapped[str] = mapped_column("user_name", String(255))
    occurred_at: Mapped[datetime]
    idempotency_key: Mapped[str] = mapped_column(String(200))


class RolloutEffect(Base):
    """The outbox: what a step of a rollout has yet to do outside of this database, or has done at `done_at`.

    `problem` says why the last of `attempts` tries failed, or why there was nothing to do.
    """

    __tablename__ = "rollout_effect"
    __table_args__ = (UniqueConstraint("event_id", "kind"), Index(None, "done_at"))

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    event_id: Mapped[int] = mapped_column(ROW_ID, ForeignKey("rollout_event.id"))
    kind: Mapped[str] = mapped_column(String(32))
    done_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)
    problem: Mapped[str | None] = mapped_column(Text)


class RolloutWatch(Base):
    """How far the servers' guard has read a rollout's answers, up to `read_to`, and the evidence of harm in them.

    Of two servers that read the same, one writes: `version` counts the writes.
    """

    __tablename__ = "rollout_watch"

    rollout: Mapped[str] = mapped_column(String(100), primary_key=True)
    version: Mapped[int]
    read_to: Mapped[datetime]
    evidence: Mapped[dict[str, Any]]
