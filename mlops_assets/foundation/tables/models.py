"""Tables of registered versions, and of what assets hand downstream."""

from datetime import datetime
from typing import Any

from sqlalchemy import Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from mlops_assets.foundation.tables.base import ROW_ID, Base


class ModelVersionRecord(Base):
    """One semantic version of a registered model; a row without `mlflow_version` is a reservation in flight."""

    __tablename__ = "model_version"
    __table_args__ = (
        UniqueConstraint("model_name", "semver"),
        UniqueConstraint("model_name", "run_id"),
        Index(None, "model_name", "major", "minor", "patch"),
    )

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    model_name: Mapped[str] = mapped_column(String(128))
    semver: Mapped[str] = mapped_column(String(32))
    major: Mapped[int]
    minor: Mapped[int]
    patch: Mapped[int]
    mlflow_version: Mapped[str | None] = mapped_column(String(32))
    run_id: Mapped[str] = mapped_column(String(64))
    training_hash: Mapped[str] = mapped_column(String(64))
    data_hash: Mapped[str] = mapped_column(String(64))
    stage: Mapped[str] = mapped_column(String(16), default="None")
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class AssetRecord(Base):
    """What one asset handed downstream for one partition in one run: a small typed record, never data itself."""

    __tablename__ = "asset_record"
    __table_args__ = (
        UniqueConstraint("asset", "partition", "run_id"),
        Index(None, "asset", "partition", "recorded_at"),
    )

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    asset: Mapped[str] = mapped_column(String(128))
    partition: Mapped[str] = mapped_column(String(64))
    run_id: Mapped[str] = mapped_column(String(64))
    payload: Mapped[dict[str, Any]]
    recorded_at: Mapped[datetime]
