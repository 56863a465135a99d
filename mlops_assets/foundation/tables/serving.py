"""Tables of served decisions, what came of them, and who may ask."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from mlops_assets.foundation.tables.base import ROW_ID, Base


class PredictionRecord(Base):
    """One served decision, logged once, with everything that made it.

    `state` is the ordered vector that the network saw, float32 little-endian; its first entries are the context. `status`
    is `ok` or `degraded` (answered without online features). `fallback` says why the champion answered a user of the
    treatment: its model `failed` on the request, or was `absent`; else it is NULL. `arms`: where the decision counts in an
    experiment, `versions` (arm to version) and `shares` (treatment to traffic share) at its time.
    `aa_arm`: of the A/A test, of those of the champion's users who are in it; in its treatment, `fallback` is `failed` where
    the champion was late or failed, and was asked again. `channel` is http or stream. `user_hash` is a pseudonym.
    """

    __tablename__ = "prediction"
    __table_args__ = (
        Index(None, "agent", "event_time"),
        Index(None, "agent", "episode_id", "step"),
        Index(None, "experiment", "event_time"),
        Index(None, "user_hash", "event_time"),
        Index(None, "experiment", "user_hash", "event_time"),
        # The A/A test's users: a few in a hundred of an agent's.
        Index(
            "ix_prediction_aa_test",
            "agent",
            "model_version",
            "event_time",
            sqlite_where=text("aa_arm IS NOT NULL"),
            postgresql_where=text("aa_arm IS NOT NULL"),
        ),
    )

    prediction_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    event_time: Mapped[datetime]
    agent: Mapped[str] = mapped_column(String(64))
    agent_id: Mapped[str]
    # As long as test identities may be.
    test_id: Mapped[str] = mapped_column(String(512))
    requirement_id: Mapped[str]
    requirement_text: Mapped[str] = mapped_column(Text)
    episode_id: Mapped[str]
    step: Mapped[int]
    ui_framework: Mapped[str] = mapped_column(String(64))
    browser: Mapped[str] = mapped_column(String(64))
    test_type: Mapped[str] = mapped_column(String(64))
    model_name: Mapped[str] = mapped_column(String(128))
    model_version: Mapped[str] = mapped_column(String(32))
    model_alias: Mapped[str] = mapped_column(String(64))
    experiment: Mapped[str | None] = mapped_column(String(100))
    variant: Mapped[str] = mapped_column(String(64))
    treatment_share: Mapped[float | None]
    arms: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    aa_arm: Mapped[str | None] = mapped_column(String(16))
    user_hash: Mapped[str | None] = mapped_column(String(64))
    state: Mapped[bytes]
    missing_features: Mapped[list[str]]
    q_values: Mapped[list[float]]
    action: Mapped[int]
    propensity: Mapped[float]
    explored: Mapped[bool]
    confidence: Mapped[float]
    latency_ms: Mapped[float]
    cached: Mapped[bool]
    status: Mapped[str] = mapped_column(String(16))
    fallback: Mapped[str | None] = mapped_column(String(16))
    channel: Mapped[str] = mapped_column(String(16))


class ShadowPredictionRecord(Base):
    """What a version that did not answer would have answered to a logged request."""

    __tablename__ = "shadow_prediction"

    prediction_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    model_name: Mapped[str] = mapped_column(String(128), primary_key=True)
    model_version: Mapped[str] = mapped_column(String(32), primary_key=True)
    q_values: Mapped[list[float]]
    action: Mapped[int]
    latency_ms: Mapped[float]
    event_time: Mapped[datetime]


class OutcomeRecord(Base):
    """What came of one served decision; one row a prediction, numbered in the order in which they arrived."""

    __tablename__ = "outcome"
    __table_args__ = (UniqueConstraint("prediction_id"),)

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    prediction_id: Mapped[str] = mapped_column(String(64))
    agent: Mapped[str] = mapped_column(String(64))
    reward: Mapped[float]
    done: Mapped[bool]
    best_action: Mapped[int | None]
    # Absent is NULL, not the JSON text null: queries count labels by it.
    action_values: Mapped[list[float] | None] = mapped_column(JSON(none_as_null=True))
    occurred_at: Mapped[datetime]
    received_at: Mapped[datetime]


class ApiTokenRecord(Base):
    """One bearer token of the serving API, kept as the sha256 of its text; who lost it gets a new one."""

    __tablename__ = "api_token"
    __table_args__ = (UniqueConstraint("token_hash"),)

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64))
    rate_per_second: Mapped[float | None]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
