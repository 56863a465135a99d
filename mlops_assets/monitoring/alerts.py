"""The alerts of a deployment: each change is one transaction with what people are told of it, as rows of the outbox.

Two writers of the same key queue, so that one alert goes on of each key, and its notices are numbered in the order in
which they are written. Who sends them is `delivery.py`.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime, timedelta

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from mlops_assets.foundation.audit import append_event
from mlops_assets.foundation.database import lock_name, read_transaction, transaction
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.files import canonical_json
from mlops_assets.foundation.policies import ChannelName
from mlops_assets.foundation.tables import AlertRecord
from mlops_assets.monitoring.findings import LOG, Alert, Finding, Routing
from mlops_assets.monitoring.notices import (
    Acknowledged,
    AlertState,
    Event,
    Gone,
    Notice,
    Passed,
    Seen,
    notice,
)
from mlops_assets.monitoring.outbox import channels_told, write_notice
from mlops_assets.monitoring.severity import Severity

_STATE = tuple(field.name for field in fields(AlertState))


def raise_alert(session: Session, finding: Finding, routing: Routing, now: datetime) -> Alert:
    """Say that something is found, in the caller's write transaction; people are told as the policy says.

    Who raises several in one transaction does it in the order of their keys (`report`), or two such may wait for each other.

    Raises:
        ValueError: `details` hold NaN or infinity.
    """
    found = _going_on(session, finding.key)
    state, told = notice(None if found is None else _state(found), Seen(finding.severity), routing.policy, now)
    if state is None:
        raise AssertionError("what is seen is an alert")
    record = AlertRecord(dedupe_key=finding.key) if found is None else found
    _describe(record, finding)
    return _keep(session, record, state, told, routing, now)


def recover(
    session: Session, key: str, routing: Routing, now: datetime, *, for_good: bool = False, note: str = ""
) -> Alert | None:
    """Say that nothing is found any more; the alert recovers once it stayed away for `settle_minutes`.

    Args:
        session: in the caller's write transaction.
        key: of the alert; nothing happens where none goes on.
        routing: of the deployment.
        now: time of the look.
        for_good: it recovers now.
        note: a line about it, for people.

    Returns:
        The alert if it recovered, else None.
    """
    found = _going_on(session, key)
    if found is None:
        return None
    state, told = notice(_state(found), Gone(for_good), routing.policy, now)
    if state is None or told is None:
        return None
    return _keep(session, found, state, told, routing, now, note)


def report(
    session: Session, findings: Iterable[Finding], recovered: Iterable[str], routing: Routing, now: datetime
) -> list[Alert]:
    """Write all that one look found, and what it found no more, in the caller's write transaction; return what changed."""
    by_key: dict[str, Finding | None] = dict.fromkeys(recovered)
    by_key.update({finding.key: finding for finding in findings})
    changed = []
    for key, finding in sorted(by_key.items()):
        alert = recover(session, key, routing, now) if finding is None else raise_alert(session, finding, routing, now)
        changed += [] if alert is None else [alert]
    return changed


def announce(
    session: Session,
    finding: Finding,
    routing: Routing,
    now: datetime,
    *,
    channels: Sequence[ChannelName] | None = None,
) -> Alert | None:
    """Tell something that happened once and has no end, such as a finished training; of each key once, for ever.

    Args:
        session: in the caller's write transaction.
        finding: what happened.
        routing: of the deployment.
        now: time of it.
        channels: of those that are set; None: those of its severity.

    Returns:
        None when it was told before.
    """
    lock_name(session, f"alert:{finding.key}")
    if (
        session.scalars(select(AlertRecord.id).where(AlertRecord.dedupe_key == finding.key).limit(1)).first()
        is not None
    ):
        return None
    state, told = notice(None, Seen(finding.severity), routing.policy, now)
    if state is None or told is None:
        raise AssertionError("what is seen for the first time is told")
    record = AlertRecord(dedupe_key=finding.key)
    _describe(record, finding)
    alert = _keep(session, record, state, None, routing, now)
    wanted = routing.of(finding.severity, "raised", frozenset())
    if channels is not None:
        wanted = tuple(sorted(routing.channels & {*channels, LOG}))
    write_notice(session, alert, told, wanted, now, "")
    record.status, record.recovered_at = "recovered", now
    return alert


def acknowledge(engine: Engine, which: int | str, *, user: str, routing: Routing, now: datetime) -> Alert:
    """Say that a person looks after an alert: it is told no more, unless it gets worse.

    A second time changes nothing. That `user` is a person is the caller's business (`AccessControl.require_person`).

    Args:
        engine: operational database.
        which: number or key of the alert.
        user: who looks after it.
        routing: of the deployment.
        now: time of it.

    Raises:
        InputError: there is no such alert, or it has recovered.
    """
    with transaction(engine) as session:
        key = which if isinstance(which, str) else _key_of(session, which)
        record = _going_on(session, key)
        if record is None or (isinstance(which, int) and record.id != which):
            raise InputError(_over(session, which, key))
        before = _state(record)
        state, told = notice(before, Acknowledged(user), routing.policy, now)
        if state is None or state == before:
            return _alert(record)
        alert = _keep(session, record, state, told, routing, now, f"acknowledged by {user}")
        append_event(
            session,
            event_type="alert_acknowledged",
            model_name=record.model_name,
            version="",
            user=user,
            details={"alert": record.id, "key": key, "severity": record.severity},
            now=now,
        )
        return alert


def escalate(engine: Engine, routing: Routing, now: datetime) -> list[Alert]:
    """Tell the escalation's channels of every CRITICAL alert that nobody acknowledged in time; each once."""
    late = now - timedelta(minutes=routing.policy.escalation_minutes)
    query = (
        select(AlertRecord.dedupe_key)
        .where(AlertRecord.status == "open", AlertRecord.escalated_at.is_(None), AlertRecord.critical_at <= late)
        .order_by(AlertRecord.dedupe_key)
    )
    with read_transaction(engine) as session:
        keys = session.scalars(query).all()
    told = [_happened(engine, key, Passed(), routing, now) for key in keys]
    return [alert for alert in told if alert is not None]


def alerts(engine: Engine, *, open_only: bool = True) -> list[Alert]:
    """Return the alerts that go on, or all, the newest first."""
    query = select(AlertRecord).order_by(AlertRecord.id.desc())
    if open_only:
        query = query.where(AlertRecord.status != "recovered")
    with read_transaction(engine) as session:
        return [_alert(record) for record in session.scalars(query)]


def newest_alert(session: Session, key: str) -> Alert | None:
    """Return the last alert of a key, whatever became of it; what is written of the key waits for the transaction's end."""
    lock_name(session, f"alert:{key}")
    query = select(AlertRecord).where(AlertRecord.dedupe_key == key).order_by(AlertRecord.id.desc()).limit(1)
    record = session.scalars(query).one_or_none()
    return None if record is None else _alert(record)


def _happened(engine: Engine, key: str, event: Event, routing: Routing, now: datetime) -> Alert | None:
    with transaction(engine) as session:
        record = _going_on(session, key)
        if record is None:
            return None
        state, told = notice(_state(record), event, routing.policy, now)
        if state is None or told is None:
            return None
        return _keep(session, record, state, told, routing, now, "nobody has acknowledged it")


def _going_on(session: Session, key: str) -> AlertRecord | None:
    lock_name(session, f"alert:{key}")
    return session.scalars(
        select(AlertRecord).where(AlertRecord.dedupe_key == key, AlertRecord.status != "recovered")
    ).one_or_none()


def _key_of(session: Session, number: int) -> str:
    record = session.get(AlertRecord, number)
    if record is None:
        raise InputError(f"there is no alert {number}; `alerts` lists those that go on")
    return record.dedupe_key


def _over(session: Session, which: int | str, key: str) -> str:
    query = select(AlertRecord).where(AlertRecord.dedupe_key == key).order_by(AlertRecord.id.desc()).limit(1)
    found = session.get(AlertRecord, which) if isinstance(which, int) else session.scalars(query).one_or_none()
    if found is None or found.recovered_at is None:
        return f"there is no alert {which!r}; `alerts` lists those that go on"
    return (
        f"alert {found.id} ({key}) recovered at {found.recovered_at:%Y-%m-%d %H:%M} UTC; there is nothing to look after"
    )


def _describe(record: AlertRecord, finding: Finding) -> None:
    record.title, record.body, record.source = finding.title, finding.body, finding.source
    record.agent, record.model_name = finding.agent, finding.model_name
    record.details = json.loads(canonical_json(dict(finding.details)))


def _keep(
    session: Session,
    record: AlertRecord,
    state: AlertState,
    told: Notice | None,
    routing: Routing,
    now: datetime,
    note: str = "",
) -> Alert:
    for name in _STATE:
        setattr(record, name, getattr(state, name))
    record.severity = state.severity.value
    session.add(record)
    session.flush()
    alert = _alert(record)
    if told is not None:
        channels = routing.of(state.severity, told.kind, channels_told(session, record.id))
        write_notice(session, alert, told, channels, now, note)
    return alert


def _state(record: AlertRecord) -> AlertState:
    values = {name: getattr(record, name) for name in _STATE}
    return AlertState(**{**values, "severity": Severity(record.severity)})


def _alert(record: AlertRecord) -> Alert:
    finding = Finding(
        key=record.dedupe_key,
        severity=Severity(record.severity),
        title=record.title,
        body=record.body,
        source=record.source,
        agent=record.agent,
        model_name=record.model_name,
        details=record.details,
    )
    return Alert(record.id, finding, _state(record))
