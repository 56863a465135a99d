"""Rows of the outbox, in the transaction of what they tell. Who sends them is `delivery.py`."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from mlops_assets.foundation.policies import ChannelName
from mlops_assets.foundation.tables import AlertDelivery
from mlops_assets.monitoring.findings import LOG, Alert
from mlops_assets.monitoring.notices import Notice
from mlops_assets.monitoring.wording import message_of


def channels_told(session: Session, alert_id: int) -> frozenset[ChannelName]:
    """Return the channels that have, or will have, a notice of the alert."""
    return frozenset(
        session.scalars(select(AlertDelivery.channel).where(AlertDelivery.alert_id == alert_id).distinct())
    )


def write_notice(
    session: Session, alert: Alert, told: Notice, channels: Sequence[ChannelName], now: datetime, note: str
) -> None:
    """Write one notice for each channel; the caller holds the lock of the alert's key, so that ids keep its order."""
    last = session.scalar(select(func.max(AlertDelivery.number)).where(AlertDelivery.alert_id == alert.id))
    number, key = (last or 0) + 1, alert.finding.key
    message = message_of(alert, told.kind, number, now, note).model_dump(mode="json")
    if told.due_at <= now:
        _release(session, key, channels, now)
    session.add_all(
        AlertDelivery(
            alert_id=alert.id,
            dedupe_key=key,
            channel=channel,
            kind=told.kind,
            number=number,
            message=message,
            created_at=now,
            # Quiet hours are people's, and nobody is woken by a line in a log.
            due_at=now if channel == LOG else told.due_at,
            attempts=0,
        )
        for channel in channels
    )
    session.flush()


def _release(session: Session, key: str, channels: Sequence[ChannelName], now: datetime) -> None:
    """Let what quiet hours hold back go first, since what comes after it cannot wait."""
    held = (AlertDelivery.delivered_at.is_(None), AlertDelivery.attempts == 0, AlertDelivery.due_at > now)
    session.execute(
        update(AlertDelivery)
        .where(AlertDelivery.dedupe_key == key, AlertDelivery.channel.in_(channels), *held)
        .values(due_at=now)
    )
