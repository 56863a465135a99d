"""What one asset hands to the next: small typed records in the operational database, keyed by asset, partition and run.

Data itself lies in files and stores of the rooms; a record only says which. Readers see their own run's record when the
run wrote one, else the newest, so two runs at the same time never read each other's half.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.errors import NotReadyError
from mlops_assets.foundation.tables import AssetRecord


def write_record(
    engine: Engine, *, asset: str, partition: str, run_id: str, payload: Mapping[str, Any], now: datetime
) -> None:
    """Store the record of one asset, partition and run; a second write of the same key replaces the first."""
    with transaction(engine) as session:
        row = _own(session, asset, partition, run_id)
        if row is None:
            row = AssetRecord(asset=asset, partition=partition, run_id=run_id)
            session.add(row)
        row.payload = dict(payload)
        row.recorded_at = now


def read_record(engine: Engine, *, asset: str, partition: str, run_id: str | None = None) -> dict[str, Any]:
    """Return the record that `run_id` wrote, else the newest one.

    Raises:
        NotReadyError: nothing was ever recorded for this asset and partition.
    """
    with read_transaction(engine) as session:
        row = _own(session, asset, partition, run_id) if run_id else None
        return dict((row or _newest(session, asset, partition)).payload)


def newest_run(engine: Engine, *, asset: str, partition: str) -> str:
    """Return the run that wrote the newest record.

    Raises:
        NotReadyError: nothing was ever recorded for this asset and partition.
    """
    with read_transaction(engine) as session:
        return _newest(session, asset, partition).run_id


def _own(session: Session, asset: str, partition: str, run_id: str) -> AssetRecord | None:
    return session.scalars(
        select(AssetRecord).where(
            AssetRecord.asset == asset, AssetRecord.partition == partition, AssetRecord.run_id == run_id
        )
    ).one_or_none()


def _newest(session: Session, asset: str, partition: str) -> AssetRecord:
    row = session.scalars(
        select(AssetRecord)
        .where(AssetRecord.asset == asset, AssetRecord.partition == partition)
        .order_by(AssetRecord.recorded_at.desc(), AssetRecord.id.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        where = f" for {partition!r}" if partition else ""
        raise NotReadyError(f"asset {asset!r} has not been materialised{where} yet: materialise it first")
    return row
