"""What waits in the outbox of alerts, and why: for people who ask whether they would hear of anything."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, func, select

from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.tables import AlertChannelRecord, AlertDelivery


@dataclass(frozen=True)
class Waiting:
    """The notices that wait for one channel: when the first is sent, and what is wrong, None when nothing is."""

    channel: str
    notices: int
    next_at: datetime
    problem: str | None

    def __str__(self) -> str:
        """Say how many, until when and why."""
        notices = "1 notice waits" if self.notices == 1 else f"{self.notices} notices wait"
        why = f": {self.problem}" if self.problem else ""
        return f"{self.channel}: {notices} until {self.next_at:%Y-%m-%d %H:%M:%S} UTC{why}"


def waiting(engine: Engine, channels: Collection[str]) -> list[Waiting]:
    """Return what waits, by channel; `channels` are those that are set here."""
    query = (
        select(AlertDelivery.channel, func.count(), func.min(AlertDelivery.due_at))
        .where(AlertDelivery.delivered_at.is_(None))
        .group_by(AlertDelivery.channel)
        .order_by(AlertDelivery.channel)
    )
    with read_transaction(engine) as session:
        resting = {record.channel: record for record in session.scalars(select(AlertChannelRecord))}
        return [
            _of(channel, count, first, resting.get(channel), is_set=channel in channels)
            for channel, count, first in session.execute(query)
        ]


def _of(channel: str, count: int, first: datetime, resting: AlertChannelRecord | None, *, is_set: bool) -> Waiting:
    if not is_set:
        return Waiting(channel, count, first, "it is not set here; see docs/alerts.md")
    if resting is None:
        return Waiting(channel, count, first, None)
    tries = "1 try" if resting.failures == 1 else f"{resting.failures} tries"
    problem = f"{resting.problem} ({tries} since {resting.failing_since:%Y-%m-%d %H:%M} UTC)"
    return Waiting(channel, count, max(first, resting.not_before), problem)
