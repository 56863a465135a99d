"""Signals: single reasons to train an agent again, typed, deduplicated by key, kept until they are settled.

Where they come from is in `drift_signals.py`, `data_signals.py` and `files.py`; what is done about them in `decide.py`.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, cast

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.database import insert_missing
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.tables import TriggerSignalRecord
from mlops_assets.foundation.trigger import TriggerType

# How a signal ends without a training of its own.
Settled = Literal["expired", "superseded", "answered"]
# Without a deadline it is due at once; up to 200 characters, as the column.
_KEY_LENGTH = 200
_BATCH = 500


@dataclass(frozen=True)
class NewSignal:
    """A reason to train; `deadline` None: at once. `user` and `override` are those of a person who asks by hand.

    `evidence` holds numbers by `EvidenceName`, and `model_version` where it is about one.
    """

    agent: str
    kind: TriggerType
    dedupe_key: str
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    deadline: datetime | None = None
    user: str | None = None
    override: bool = False


@dataclass(frozen=True)
class Signal:
    """A reason that waits."""

    id: int
    agent: str
    kind: TriggerType
    dedupe_key: str
    reason: str
    evidence: Mapping[str, Any]
    raised_at: datetime
    expires_at: datetime
    deadline: datetime | None = None
    user: str | None = None
    override: bool = False

    @property
    def automatic(self) -> bool:
        """Whether no person asked for it."""
        return self.kind != "manual"

    def __str__(self) -> str:
        """Say it in a line."""
        return f"{self.kind}: {self.reason}"


def week_of(day: datetime) -> str:
    """Return the ISO week, such as 2026-W48."""
    year, week, _ = day.isocalendar()
    return f"{year}-W{week:02d}"


def regular_key(agent: str, day: datetime) -> str:
    """Key of the regular training of a week: the schedule and staleness ask for the same one."""
    return f"weekly:{agent}:{week_of(day)}"


def scheduled(agent: str, at: datetime) -> NewSignal:
    """Return the signal of the weekly schedule."""
    return NewSignal(agent, "schedule", regular_key(agent, at), f"weekly retraining of {at:%Y-%m-%d}")


def manual(agent: str, *, reason: str, user: str, override: bool, key: str) -> NewSignal:
    """Return a person's signal; `key` makes a second try of the same request harmless.

    Raises:
        InputError: nobody is named, or there is no reason.
        SettingsError: no such agent.
    """
    agent_spec(agent)
    said = " ".join(reason.split())
    if not said or not user.strip() or not key.strip():
        raise InputError("a retraining by hand needs who asks for it, a reason and a key of the request")
    return NewSignal(agent, "manual", f"manual:{agent}:{key}", said, user=user.strip(), override=override)


def submit(session: Session, signals: Iterable[NewSignal], now: datetime, expiry_hours: float) -> int:
    """Store signals in the caller's write transaction; a key that is there already stays as it is. Returns how many were new.

    Raises:
        InputError: a key is longer than 200 characters.
    """
    rows = []
    for one in signals:
        if len(one.dedupe_key) > _KEY_LENGTH:
            raise InputError(
                f"the dedupe key {one.dedupe_key!r} has {len(one.dedupe_key)} characters; use at most {_KEY_LENGTH}"
            )
        rows.append(
            {
                "agent": one.agent,
                "kind": one.kind,
                "dedupe_key": one.dedupe_key,
                "reason": one.reason,
                "evidence": dict(one.evidence),
                "user_name": one.user,
                "override": one.override,
                "raised_at": now,
                "deadline": one.deadline,
                "expires_at": now + timedelta(hours=expiry_hours),
            }
        )
    new = {row["dedupe_key"] for row in rows} - _known(session, [str(row["dedupe_key"]) for row in rows])
    insert_missing(session, TriggerSignalRecord, [row for row in rows if row["dedupe_key"] in new])
    return len(new)


def waiting(session: Session, agent: str) -> list[Signal]:
    """Return the signals of an agent that are not settled, the oldest first."""
    query = select(TriggerSignalRecord).where(
        TriggerSignalRecord.agent == agent, TriggerSignalRecord.settled_by.is_(None)
    )
    return [_signal(record) for record in session.scalars(query.order_by(TriggerSignalRecord.id))]


def settle(session: Session, ids: Collection[int], by: str, now: datetime) -> None:
    """Note what ended signals: the key of the run that answers them, or a `Settled`."""
    wanted = sorted(ids)
    for start in range(0, len(wanted), _BATCH):
        session.execute(
            update(TriggerSignalRecord)
            .where(TriggerSignalRecord.id.in_(wanted[start : start + _BATCH]))
            .values(settled_by=by, settled_at=now)
        )


def reopen(session: Session, run_key: str) -> None:
    """Let the automatic signals of a run that failed wait again; who asked by hand is told, and asks again."""
    session.execute(
        update(TriggerSignalRecord)
        .where(TriggerSignalRecord.settled_by == run_key, TriggerSignalRecord.kind != "manual")
        .values(settled_by=None, settled_at=None)
    )


def _known(session: Session, keys: list[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(keys), _BATCH):
        query = select(TriggerSignalRecord.dedupe_key)
        found.update(session.scalars(query.where(TriggerSignalRecord.dedupe_key.in_(keys[start : start + _BATCH]))))
    return found


def _signal(record: TriggerSignalRecord) -> Signal:
    return Signal(
        id=record.id,
        agent=record.agent,
        kind=cast("TriggerType", record.kind),
        dedupe_key=record.dedupe_key,
        reason=record.reason,
        evidence=record.evidence,
        raised_at=record.raised_at,
        expires_at=record.expires_at,
        deadline=record.deadline,
        user=record.user,
        override=record.override,
    )
