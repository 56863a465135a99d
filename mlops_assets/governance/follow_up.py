"""What has to be done about requests when nobody votes: expire, apply after a crash, tell the approvers.

Votes are `approvals.py`'s business, the messages `notification.py`'s.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Engine, select

from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.errors import MlopsError
from mlops_assets.foundation.tables import AuditEvent
from mlops_assets.governance.approval_events import APPLIED
from mlops_assets.governance.approval_requests import ApprovalRequest, approval_requests
from mlops_assets.governance.approvals import Approvals

Notify = Callable[[ApprovalRequest], None]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Action:
    """One thing to do about one request; `way` names how the approvers are told."""

    kind: Literal["expire", "apply", "notify"]
    request: ApprovalRequest
    way: str = ""

    def __str__(self) -> str:
        """Say it in a few words."""
        by = f" by {self.way}" if self.way else ""
        return f"{self.kind}{by} {self.request.model_name} {self.request.semver}"


@dataclass(frozen=True)
class Done:
    """One action that was tried; `problem` says why it is tried again the next time, None when it was done."""

    action: Action
    problem: str | None = None


def plan(requests: Sequence[ApprovalRequest], now: datetime, *, ways: Collection[str]) -> list[Action]:
    """Decide what to do, oldest request first; what is done is not in the next plan.

    Args:
        requests: those that are open, or approved and not applied.
        now: time.
        ways: on which approvers are told.
    """
    actions = []
    for request in sorted(requests, key=lambda one: one.id):
        if request.status == "approved" and not request.applied:
            actions.append(Action("apply", request))
        elif request.status == "open" and now >= request.expires_at:
            actions.append(Action("expire", request))
        elif request.status == "open":
            actions += [Action("notify", request, way) for way in ways if way not in request.notified_by]
    # A message that cannot be sent must not keep a version from its place.
    return sorted(actions, key=lambda action: action.kind == "notify")


def follow_up(approvals: Approvals, now: datetime, *, ways: Mapping[str, Notify]) -> list[Done]:
    """Do what the plan says; what fails is logged, keeps nothing else back, and is in the next plan again.

    Each of `ways` tells the approvers of one request, and raises when it could not.
    """
    done = []
    for action in plan(approvals.requests(unfinished=True), now, ways=ways):
        problem = None
        try:
            _do(approvals, action, ways)
        except MlopsError as error:
            _log.error("%s failed: %s", action, error)
            problem = str(error)
        done.append(Done(action, problem))
    return done


def applied_since(engine: Engine, sequence: int) -> tuple[list[ApprovalRequest], int]:
    """Return the requests whose version was given its place after an audit event, and the sequence to ask from next."""
    query = select(AuditEvent).where(AuditEvent.event_type == APPLIED, AuditEvent.sequence > sequence)
    with read_transaction(engine) as session:
        events = session.scalars(query.order_by(AuditEvent.sequence)).all()
    if not events:
        return [], sequence
    numbers = [event.details["request"] for event in events]
    by_number = {request.id: request for request in approval_requests(engine)}
    return [by_number[number] for number in numbers if number in by_number], events[-1].sequence


def _do(approvals: Approvals, action: Action, ways: Mapping[str, Notify]) -> None:
    if action.kind == "apply":
        approvals.apply(action.request)
    elif action.kind == "expire":
        approvals.look(action.request)
    else:
        ways[action.way](action.request)
        approvals.mark_notified(action.request, action.way)
