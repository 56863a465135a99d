"""Rows of decisions, votes and waivers, as the audit trail tells them and as the database holds them.

An event of an older version of this project says less of its row; what it does not say is not compared.
"""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from mlops_assets.foundation.files import canonical_json
from mlops_assets.foundation.tables import (
    ApprovalRequestRecord,
    ApprovalVoteRecord,
    AuditEvent,
    DecisionRecord,
    WaiverRecord,
)
from mlops_assets.governance.approval_events import SUPERSEDED, VOTED
from mlops_assets.governance.decision_records import VOID, decision_facts
from mlops_assets.governance.decisions import DECIDED
from mlops_assets.governance.waivers import GRANTED, REVOKED

Rows = dict[str, dict[str, Any]]
_STATUS = {**{event: status for status, event in DECIDED.items()}, SUPERSEDED: VOID}


class ToldRows:
    """The rows that events, taken in their order, lead to, each by a name for people."""

    def __init__(self) -> None:
        self.rows: Rows = {}
        self._counts: dict[str, int] = {}

    def take(self, event: AuditEvent) -> None:
        """Follow one event."""
        decision = _decision(event)
        details = event.details
        if decision is not None:
            _add(self.rows, self._counts, f"{event.model_name} {event.version}", decision)
        elif event.event_type == VOTED:
            known = ("decision", "comment", "voted_at")
            self.rows[_vote(details["request"], event.user)] = {key: details[key] for key in known if key in details}
        elif event.event_type == GRANTED:
            self.rows[_waiver(details["waiver"])] = {
                "model_name": event.model_name,
                "check_name": details["check"],
                "reason": details["reason"],
                "granted_by": event.user,
                "granted_at": _plain(event.occurred_at),
                "ends_at": details["ends_at"],
                "revoked_at": None,
            }
        elif event.event_type == REVOKED:
            self.rows.setdefault(_waiver(details["waiver"]), {})["revoked_at"] = _plain(event.occurred_at)


def held_rows(session: Session) -> Rows:
    """Read the same rows from the database."""
    rows: Rows = {}
    counts: dict[str, int] = {}
    for record in session.scalars(select(DecisionRecord).order_by(DecisionRecord.id)):
        facts = {**decision_facts(record), "run_id": record.run_id}
        _add(rows, counts, f"{record.model_name} {record.semver}", _plain(facts))
    names = ("decision", "comment", "voted_at")
    for vote in session.scalars(select(ApprovalVoteRecord).join(ApprovalRequestRecord)):
        rows[_vote(vote.request_id, vote.approver)] = _plain({name: getattr(vote, name) for name in names})
    for waiver in session.scalars(select(WaiverRecord)):
        columns = [column.name for column in WaiverRecord.__table__.columns if column.name != "id"]
        rows[_waiver(waiver.id)] = _plain({name: getattr(waiver, name) for name in columns})
    return rows


def row_differences(told: Rows, held: Rows) -> list[str]:
    """Name every row, and every field of one, in which the two differ."""
    found = []
    for name in sorted({*told, *held}):
        if name not in told or name not in held:
            says = "it" if name in told else "nothing"
            holds = "it" if name in held else "nothing"
            found.append(f"{name}: the audit trail says {says}, the stores hold {holds}")
            continue
        for field, value in told[name].items():
            if held[name].get(field) != value:
                there = canonical_json(held[name].get(field))
                found.append(f"{name} {field}: the audit trail says {canonical_json(value)}, the stores hold {there}")
    return found


def _decision(event: AuditEvent) -> dict[str, Any] | None:
    """Return what an event says of the decision that was stored with it; None where it stored none."""
    status = _STATUS.get(event.event_type)
    if status is None:
        return None
    said = {"run_id": event.details["run_id"]} if "run_id" in event.details else {}
    if "decision" in event.details:
        facts: Mapping[str, Any] | None = event.details["decision"]
        return None if facts is None else {**facts, **said}
    # An older event: of the policy with its reasons, of people with the request.
    by_policy = ("risk", "reasons", "evidence_hash") if "request" not in event.details else ()
    return {"status": status, **said, **{name: event.details[name] for name in by_policy if name in event.details}}


def _add(rows: Rows, counts: dict[str, int], version: str, facts: dict[str, Any]) -> None:
    """Decisions are numbered along the version's life: numbers of rows have gaps where a transaction failed."""
    counts[version] = counts.get(version, 0) + 1
    rows[f"decision {counts[version]} on {version}"] = facts


def _vote(request: int, approver: str) -> str:
    return f"vote of {approver} on request {request}"


def _waiver(number: int) -> str:
    return f"waiver {number}"


def _plain(value: Any) -> Any:
    """Give a value the form that it has in an audit event."""
    return json.loads(canonical_json(value))
