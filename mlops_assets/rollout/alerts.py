"""What people are told of a rollout's step, how bad it is, and on which ways they have been told."""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Engine, select

from mlops_assets.foundation.audit import append_event
from mlops_assets.foundation.clock import Clock, SystemClock
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.errors import MlopsError, TransientError
from mlops_assets.foundation.messages import Message, Way
from mlops_assets.foundation.policies import STAGE_SHARES, SeverityName
from mlops_assets.foundation.tables import AuditEvent
from mlops_assets.rollout.ledger import SERVICE
from mlops_assets.rollout.state import Step

TOLD = "rollout_told"
# One that does not answer takes ten seconds, and a tick has a minute for all models.
_REST = timedelta(minutes=1)
_log = logging.getLogger(__name__)


class Alerts:
    """Tells people of steps on every way, in order, and each way once, but for a crash right after a message was taken.

    Each message is an audit event, so that a way that fails never lets another one say the same again and again.

    Args:
        engine: operational database.
        clock: time of the audit events.
        ways: how people are told, by name.
        recipients: to whom e-mails go.
    """

    def __init__(self, engine: Engine, clock: Clock, ways: Mapping[str, Way], recipients: Sequence[str]) -> None:
        self._engine = engine
        self._clock = clock
        self._ways = ways
        self._recipients = recipients
        self._resting: dict[str, datetime] = {}

    def tell(self, step: Step) -> None:
        """Send the message of a step on every way on which it has not been sent.

        Raises:
            TransientError: a way did not take it; the others have.
        """
        message = alert_of(step, self._recipients)
        told = self._told(step)
        problems = [
            problem
            for name, way in self._ways.items()
            if name not in told and (problem := self._send(name, way, message, step)) is not None
        ]
        if problems:
            raise TransientError("; ".join(problems))

    def _send(self, name: str, way: Way, message: Message, step: Step) -> str | None:
        # A matter of the machine's time: it is the network that is waited for.
        now = SystemClock().now()
        if now < self._resting.get(name, now):
            return f"{name} did not take the message before this one"
        try:
            way(message)
        except MlopsError as error:
            # What follows would overtake this one, and wait as long.
            self._resting[name] = SystemClock().now() + _REST
            return str(error)
        with transaction(self._engine) as session:
            append_event(
                session,
                event_type=TOLD,
                model_name=step.state.model_name,
                version=step.state.candidate,
                user=SERVICE,
                details={"rollout": step.state.name, "number": step.state.number, "way": name},
                now=self._clock.now(),
            )
        return None

    def _told(self, step: Step) -> set[str]:
        query = select(AuditEvent.details).where(
            AuditEvent.event_type == TOLD,
            AuditEvent.model_name == step.state.model_name,
            AuditEvent.version == step.state.candidate,
        )
        with read_transaction(self._engine) as session:
            return {details["way"] for details in session.scalars(query) if details["number"] == step.state.number}


def log_step(step: Step) -> None:
    """Say in the log what people are told: with no way set, it is all there is."""
    level = logging.CRITICAL if step.kind == "rolled_back" else logging.INFO
    _log.log(level, "%s", alert_of(step, ()).text.replace("\n", "; "))


def alert_of(step: Step, recipients: Sequence[str]) -> Message:
    """Say what the step did, of which versions, why, by whom and when."""
    state = step.state
    severity, title = _title(step)
    lines = [
        f"{severity}: {title}",
        f"{state.model_name}: {_versions(step)}, stage {state.stage}, {state.share:.0%} of the users",
        *(f"- {reason}" for reason in step.reasons),
        f"{state.name}, by {step.user}, {step.at:%Y-%m-%d %H:%M:%S} UTC",
    ]
    return Message(f"{severity}: {title} ({state.model_name})", "\n".join(lines), tuple(recipients))


def _versions(step: Step) -> str:
    state = step.state
    if step.kind == "rolled_back":
        return f"from {state.candidate} to {state.champion}"
    return f"{state.candidate} against {state.champion}"


def _title(step: Step) -> tuple[SeverityName, str]:
    if step.kind == "started":
        shares = " → ".join(f"{share:.0%}" for share in STAGE_SHARES.values() if share)
        return "INFO", f"Gradual rollout initiated ({shares})"
    if step.kind == "rolled_back":
        return "CRITICAL", "Model Rollback"
    what = {
        "advanced": f"Rollout at {step.state.share:.0%}",
        "jumped": f"Rollout back to {step.state.stage}",
        "stalled": f"Rollout undecided in {step.state.stage}",
        "completed": f"Rollout completed: {step.state.candidate} is champion",
    }.get(step.kind, f"Rollout {step.kind}")
    return "WARNING" if step.kind in {"aborted", "stalled", "superseded"} else "INFO", what
