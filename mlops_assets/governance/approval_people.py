"""Whose work a version is, and who is left to approve it. What a vote does is in `approval_state.py`."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from mlops_assets.foundation.tables import AuditEvent
from mlops_assets.foundation.trigger import AUTHOR_TAG
from mlops_assets.governance.approval_state import canonical
from mlops_assets.registry.registration import REGISTERED

_SERVICE = "dagster:"


@dataclass(frozen=True)
class Author:
    """The person whose work a version is, None where none is known; `registered_by` may be a service."""

    person: str | None
    registered_by: str

    def __str__(self) -> str:
        """Say who, or that it is nobody."""
        return self.person or f"no person, registered by {self.registered_by or 'nobody'}"

    @property
    def note(self) -> str | None:
        """What approvers have to know where the rule about one's own model excludes nobody."""
        if self.person is not None:
            return None
        return (
            f"no person is known as the author ({self}), so nobody is kept from approving their own work; "
            f"the run tag {AUTHOR_TAG} names one"
        )


def author_of(session: Session, model_name: str, semver: str) -> Author:
    """Read the author from the audit trail, which nobody edits."""
    query = select(AuditEvent).where(
        AuditEvent.event_type == REGISTERED, AuditEvent.model_name == model_name, AuditEvent.version == semver
    )
    event = session.scalars(query.order_by(AuditEvent.sequence).limit(1)).one_or_none()
    if event is None:
        return Author(None, "")
    if "author" in event.details:
        return Author(event.details["author"], event.user)
    # Events of an older version name the author as user, and the job where the run named nobody.
    return Author(None if event.user.startswith(_SERVICE) else event.user, event.user)


def eligible(required: Sequence[str], author: str) -> list[str]:
    """Return the required approvers who may approve: all but the author."""
    return [person for person in required if canonical(person) != canonical(author)]


def too_few_note(required: Sequence[str], min_approvals: int, author: Author, others: Sequence[str]) -> str | None:
    """Say that nobody can ever approve, and what to do; None where enough people are left.

    Args:
        required: the required approvers.
        min_approvals: how many of them have to approve.
        author: who may not.
        others: people of the role table, who could be named as approvers as well.
    """
    left = eligible(required, author.person or "")
    if len(left) >= min_approvals:
        return None
    taken = {canonical(person) for person in (*required, author.person or "")}
    free = sorted(person for person in others if canonical(person) not in taken)
    who = f"one of {', '.join(free)}" if free else "another person"
    return (
        f"cannot be approved as it is asked: {min_approvals} approvals are needed, {', '.join(left) or 'nobody'} may give "
        f"one, and {author} is the author; add {who} to required_approvers_high_risk of the policy profile, and run the "
        "lifecycle again"
    )
