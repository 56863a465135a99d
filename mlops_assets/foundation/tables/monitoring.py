"""Tables of what was seen of served models: frozen references, drift checks, alerts and their deliveries."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from mlops_assets.foundation.tables.base import ROW_ID, Base


class DriftReferenceRecord(Base):
    """What one version's traffic is compared with, frozen when it was first looked at; the file is its content's hash.

    `accuracy` and `mean_confidence` are the version's own, on the held-out decisions of its evaluation; None: not known.
    """

    __tablename__ = "drift_reference"

    model_name: Mapped[str] = mapped_column(String(128), primary_key=True)
    model_version: Mapped[str] = mapped_column(String(32), primary_key=True)
    agent: Mapped[str] = mapped_column(String(64))
    content_hash: Mapped[str] = mapped_column(String(64))
    rows: Mapped[int]
    accuracy: Mapped[float | None]
    mean_confidence: Mapped[float | None]
    created_at: Mapped[datetime]


class LearnerReferenceRecord(Base):
    """What one version was like when it was well: its own decisions in service with `first_at <= event_time < until`, frozen.

    `kind`: `calibration` (when it is right; `rows` are the labelled ones) or `health`. `coverage`: whether estimates by a
    calibration have kept their promise on all windows before `covered_until`, whose labels have come; None of health.
    """

    __tablename__ = "learner_reference"

    model_name: Mapped[str] = mapped_column(String(128), primary_key=True)
    model_version: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    agent: Mapped[str] = mapped_column(String(64))
    content_hash: Mapped[str] = mapped_column(String(64))
    rows: Mapped[int]
    first_at: Mapped[datetime]
    until: Mapped[datetime]
    created_at: Mapped[datetime]
    coverage: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    covered_until: Mapped[datetime | None]


class DriftCheckRecord(Base):
    """One check of one version's decisions with `window_start <= event_time < window_end`; the same window is checked once.

    `psi`: largest of all columns. `combined`: 0..1. `accuracy_drop_rel`: share of the version's own baseline. Each is None
    where too little was there to say. `document` holds every column's statistics and findings.
    """

    __tablename__ = "drift_check"
    __table_args__ = (
        UniqueConstraint("model_name", "model_version", "window_start", "window_end"),
        Index(None, "agent", "window_end"),
    )

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    agent: Mapped[str] = mapped_column(String(64))
    model_name: Mapped[str] = mapped_column(String(128))
    model_version: Mapped[str] = mapped_column(String(32))
    window_start: Mapped[datetime]
    window_end: Mapped[datetime]
    checked_at: Mapped[datetime]
    rows: Mapped[int]
    labelled: Mapped[int]
    verdict: Mapped[str] = mapped_column(String(24))
    psi: Mapped[float | None]
    combined: Mapped[float | None]
    accuracy_drop_rel: Mapped[float | None]
    document: Mapped[dict[str, Any]]


class AlertRecord(Base):
    """One thing that people have to know, from its first occurrence to its recovery.

    `severity` is INFO, WARNING or CRITICAL, the highest it had, `critical_at` since when it is CRITICAL; `status` open,
    acknowledged or recovered. `told_at`: when people were last told of it, or will be. `agent` and
    `model_name` are empty where it is about neither.
    """

    __tablename__ = "alert"
    # One that goes on, of each key, also for two checks that find the same at once.
    __table_args__ = (
        Index(
            "uq_alert_unrecovered_dedupe_key",
            "dedupe_key",
            unique=True,
            sqlite_where=text("status <> 'recovered'"),
            postgresql_where=text("status <> 'recovered'"),
        ),
        Index(None, "raised_at"),
    )

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    dedupe_key: Mapped[str] = mapped_column(String(200))
    source: Mapped[str] = mapped_column(String(64))
    agent: Mapped[str] = mapped_column(String(64))
    model_name: Mapped[str] = mapped_column(String(128))
    severity: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16), default="open")
    title: Mapped[str]
    body: Mapped[str] = mapped_column(Text)
    details: Mapped[dict[str, Any]]
    occurrences: Mapped[int]
    raised_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    told_at: Mapped[datetime | None]
    critical_at: Mapped[datetime | None]
    escalated_at: Mapped[datetime | None]
    acknowledged_at: Mapped[datetime | None]
    acknowledged_by: Mapped[str | None]
    recovered_at: Mapped[datetime | None]


class AlertDelivery(Base):
    """The outbox of alerts: one notice of one alert on one channel, in the order of `id` for each dedupe key.

    `kind` is raised, worsened, repeated, escalated, acknowledged or recovered; `number` counts the notices of an alert.
    `due_at`: not before, for quiet hours and a message that was refused. `attempts` counts tries that were begun, and
    `problem` says what became of the last one; None once it was taken.
    """

    __tablename__ = "alert_delivery"
    __table_args__ = (UniqueConstraint("alert_id", "number", "channel"), Index(None, "delivered_at", "due_at"))

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    alert_id: Mapped[int] = mapped_column(ROW_ID, ForeignKey("alert.id"))
    dedupe_key: Mapped[str] = mapped_column(String(200))
    channel: Mapped[str] = mapped_column(String(32))
    kind: Mapped[str] = mapped_column(String(16))
    number: Mapped[int]
    message: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    due_at: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(default=0)
    delivered_at: Mapped[datetime | None]
    problem: Mapped[str | None] = mapped_column(Text)


class AlertChannelRecord(Base):
    """A way to people that does not answer, until it does: since when, how often it was tried, and when it is tried next."""

    __tablename__ = "alert_channel"

    channel: Mapped[str] = mapped_column(String(32), primary_key=True)
    failures: Mapped[int]
    failing_since: Mapped[datetime]
    not_before: Mapped[datetime]
    problem: Mapped[str] = mapped_column(Text)
