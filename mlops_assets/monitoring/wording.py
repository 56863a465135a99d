"""What one notice says, as it is kept in the outbox and as people read it."""

import uuid
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from mlops_assets.foundation.messages import Message
from mlops_assets.monitoring.findings import Alert
from mlops_assets.monitoring.notices import NoticeKind
from mlops_assets.monitoring.severity import Severity

# Any constant will do: the same name gives the same id, here and in every process.
_IDS = uuid.UUID("6f1d2a0e-5c3b-4d52-9a55-6d6c6f707300")
_FIRST_WORD: dict[NoticeKind, str] = {
    "raised": "",
    "worsened": "WORSE, NOW ",
    "repeated": "STILL ",
    "escalated": "ESCALATED, ",
    "acknowledged": "ACKNOWLEDGED, ",
    "recovered": "RECOVERED, WAS ",
}


class NoticeMessage(BaseModel):
    """One notice. `id` is its own on every channel, `incident` the same for all notices of an alert."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    incident: str
    alert: int
    number: int
    kind: NoticeKind
    severity: Severity
    key: str
    title: str
    body: str
    source: str
    agent: str
    model_name: str
    details: dict[str, Any]
    occurrences: int
    raised_at: datetime
    at: datetime
    escalated: bool
    note: str = ""


def message_of(alert: Alert, kind: NoticeKind, number: int, at: datetime, note: str) -> NoticeMessage:
    """Say what is known of an alert now."""
    finding, state = alert.finding, alert.state
    incident = uuid.uuid5(_IDS, f"{finding.key}|{state.raised_at.isoformat()}|{alert.id}")
    return NoticeMessage(
        id=uuid.uuid5(incident, str(number)).hex,
        incident=incident.hex,
        alert=alert.id,
        number=number,
        kind=kind,
        severity=state.severity,
        key=finding.key,
        title=finding.title,
        body=finding.body,
        source=finding.source,
        agent=finding.agent,
        model_name=finding.model_name,
        details=dict(finding.details),
        occurrences=state.occurrences,
        raised_at=state.raised_at,
        at=at,
        escalated=state.escalated_at is not None,
        note=note,
    )


def headline(message: NoticeMessage) -> str:
    """Return one line: how bad, what, and of whom."""
    whom = message.model_name or message.agent
    text = f"{_FIRST_WORD[message.kind]}{message.severity}: {message.title}" + (f" ({whom})" if whom else "")
    # A subject with a line break is no subject.
    return " ".join(text.split())


def as_read(message: NoticeMessage) -> Message:
    """Return what people read; the last line names the notice, so that one that came twice can be told."""
    times = "once" if message.occurrences == 1 else f"{message.occurrences} times"
    lines = [
        headline(message),
        message.body,
        *([message.note] if message.note else []),
        f"seen {times} since {message.raised_at:%Y-%m-%d %H:%M:%S} UTC",
        f"alert {message.alert}, notice {message.number}, {message.at:%Y-%m-%d %H:%M:%S} UTC, id {message.id}",
    ]
    return Message(headline(message), "\n".join(lines), (), f"<{message.id}@alerts.mlops-assets>")
