"""What automation does about an incident, in an order that helps users first: rollback, pause, retrain, tell.

The plan is pure. Each of its steps may be done twice without harm, and each that was done is an audit event: a crash in
between is made up for by the same call again.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from mlops_assets.experiments.experiments import change_experiment, unfinished_experiments
from mlops_assets.foundation.access import access_control
from mlops_assets.foundation.audit import CHAMPION_EVENTS, append_event
from mlops_assets.foundation.clock import Clock
from mlops_assets.foundation.database import lock_name, read_transaction, transaction
from mlops_assets.foundation.errors import MlopsError, TransientError
from mlops_assets.foundation.messages import Message, message_ways
from mlops_assets.foundation.policies import RetrainingPolicy
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.settings import Settings
from mlops_assets.foundation.tables import AuditEvent
from mlops_assets.foundation.trigger import TriggerType
from mlops_assets.governance.evidence import spec_of
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.retraining.evaluate import SERVICE, evaluate
from mlops_assets.retraining.signals import NewSignal
from mlops_assets.rollout.controller import Rollouts, open_rollouts
from mlops_assets.rollout.ledger import current

IncidentKind = Literal["accuracy_drop", "high_error_rate", "concept_drift"]
Step = Literal["rollback", "pause_experiment", "retrain", "notify"]
RESPONDED = "incident_response"
_STEPS: Mapping[IncidentKind, tuple[Step, ...]] = {
    "accuracy_drop": ("rollback", "pause_experiment", "retrain", "notify"),
    "high_error_rate": ("rollback", "pause_experiment", "retrain", "notify"),
    "concept_drift": ("retrain", "notify"),
}
_TRIGGERS: Mapping[IncidentKind, TriggerType] = {
    "accuracy_drop": "accuracy_drop",
    "high_error_rate": "error_rate",
    "concept_drift": "accuracy_drop",
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Incident:
    """Something critical about one version; `key` names it, such as its alert's dedupe key and when that was raised.

    `evidence`: numbers by `EvidenceName`.
    """

    key: str
    kind: IncidentKind
    model_name: str
    version: str
    reason: str
    evidence: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Situation:
    """How things stand when the plan is made. None: there is none.

    `candidate`: of the rollout under way. `promoted_at`: when `champion` came to production; `former`: the one before it.
    `experiment`: name of the running one of this model's agent.
    """

    champion: str | None = None
    promoted_at: datetime | None = None
    former: str | None = None
    candidate: str | None = None
    experiment: str | None = None


@dataclass(frozen=True)
class Planned:
    """One step of a plan, and why; `target` is what it is done to."""

    step: Step
    target: str
    why: str


@dataclass(frozen=True)
class Response:
    """One step as it was done, or had been done before; `problem` says why it could not be."""

    planned: Planned
    said: str
    problem: str | None = None


def plan(incident: Incident, situation: Situation, policy: RetrainingPolicy, now: datetime) -> tuple[Planned, ...]:
    """Return what to do, in this order.

    A candidate is taken back whenever it is at fault; a champion only when it came lately: one that was good for weeks did
    not change, the world did, and the version before it is no better there.
    """
    made = []
    for step in _STEPS[incident.kind]:
        found = _PLANNERS[step](incident, situation, policy, now)
        if found is not None:
            made.append(found)
    return tuple(made)


class Responder:
    """Carries plans out.

    Args:
        engine: operational database.
        rollouts: of the deployment.
        policy: limits of retraining.
        clock: time.
        tell: tells people; raises TransientError when nobody was told.
        recipients: to whom e-mails go.
    """

    def __init__(
        self,
        engine: Engine,
        rollouts: Rollouts,
        policy: RetrainingPolicy,
        clock: Clock,
        tell: Callable[[Message], None],
        recipients: tuple[str, ...] = (),
    ) -> None:
        self._engine = engine
        self._rollouts = rollouts
        self._policy = policy
        self._clock = clock
        self._tell = tell
        self._recipients = recipients

    def respond(self, incident: Incident) -> list[Response]:
        """Do what is left to do about an incident; a step that fails keeps none of the later ones back.

        Raises:
            InputError: no such model.
            StorageError: the database cannot be written.
        """
        agent = spec_of(incident.model_name).name
        done = _done(self._engine, incident)
        responses: list[Response] = []
        for one in plan(incident, self._situation(incident.model_name, agent), self._policy, self._clock.now()):
            if one.step in done:
                responses.append(Response(one, done[one.step]))
                continue
            before = [text for step, text in done.items() if step != one.step]
            before += [each.said for each in responses if each.planned.step not in done]
            responses.append(self._carry_out(incident, one, before))
        return responses

    def _carry_out(self, incident: Incident, planned: Planned, before: list[str]) -> Response:
        try:
            said = self._do(incident, planned, before)
        except MlopsError as error:
            _log.exception("%s of incident %s is to be done", planned.step, incident.key)
            return Response(planned, f"{planned.step} is to be done: {error}", str(error))
        self._note(incident, planned, said)
        return Response(planned, said)

    def _do(self, incident: Incident, planned: Planned, before: list[str]) -> str:
        if planned.step == "rollback":
            return self._roll_back(incident, planned)
        if planned.step == "pause_experiment":
            change_experiment(self._engine, planned.target, user=SERVICE, now=self._clock.now(), status="paused")
            return f"experiment {planned.target} is paused"
        if planned.step == "retrain":
            return self._retrain(incident, planned)
        return self._notify(incident, before)

    def _roll_back(self, incident: Incident, planned: Planned) -> str:
        reason = f"incident {incident.kind}: {incident.reason}"
        if planned.target == incident.version:
            # Not `roll_back`, which takes the champion back where the rollout has just ended.
            taken = self._rollouts.change(incident.model_name, "rollback", user=SERVICE, reason=reason)
            return f"{taken.name} is rolled back: everybody has {taken.champion}"
        return self._rollouts.roll_back(incident.model_name, planned.target, user=SERVICE, reason=reason)

    def _retrain(self, incident: Incident, planned: Planned) -> str:
        agent = spec_of(incident.model_name).name
        signal = NewSignal(
            agent,
            _TRIGGERS[incident.kind],
            planned.target,
            f"incident {incident.kind} of version {incident.version}: {incident.reason}",
            # Without the version: after a rollback it is nobody's, and its cause is still there to be learned.
            dict(incident.evidence),
        )
        return str(evaluate(self._engine, agent, self._policy, self._clock.now(), signals=[signal]))

    def _notify(self, incident: Incident, before: list[str]) -> str:
        title = f"CRITICAL: incident {incident.kind} ({incident.model_name} {incident.version})"
        text = "\n".join([title, incident.reason, *(f"- {one}" for one in before)])
        self._tell(Message(title, text, self._recipients))
        return "people were told"

    def _situation(self, model_name: str, agent: str) -> Situation:
        state = current(self._engine, model_name)
        experiment = unfinished_experiments(self._engine).get(agent)
        with read_transaction(self._engine) as session:
            query = select(AuditEvent).where(
                AuditEvent.model_name == model_name, AuditEvent.event_type.in_(CHAMPION_EVENTS)
            )
            crowned = session.scalars(query.order_by(AuditEvent.sequence.desc())).all()
        champion = crowned[0] if crowned else None
        former = next(
            (one.version for one in crowned if champion is not None and one.version != champion.version), None
        )
        return Situation(
            champion=None if champion is None else champion.version,
            promoted_at=None if champion is None else champion.occurred_at,
            former=former,
            candidate=state.candidate if state is not None and state.active else None,
            experiment=experiment.name if experiment is not None and experiment.status == "running" else None,
        )

    def _note(self, incident: Incident, planned: Planned, said: str) -> None:
        details: dict[str, Any] = {"incident": incident.key, "step": planned.step, "why": planned.why, "said": said}
        with transaction(self._engine) as session:
            lock_name(session, f"incident:{incident.key}")
            if planned.step not in _steps_done(session, incident):
                append_event(
                    session,
                    event_type=RESPONDED,
                    model_name=incident.model_name,
                    version=incident.version,
                    user=SERVICE,
                    details=details,
                    now=self._clock.now(),
                )


def open_responder(
    settings: Settings, engine: Engine, clock: Clock, registry: ModelRegistry, *, holder: str
) -> Responder:
    """Return the responder of a deployment, by its policy profile; `holder` names the process."""
    people = access_control(settings).people
    recipients = tuple(person for person, roles in people.items() if {"mlops", "sre"} & set(roles))
    return Responder(
        engine,
        open_rollouts(settings, engine, clock, registry, holder=holder),
        load_profile(settings.policy_profile).retraining,
        clock,
        tell_all(message_ways(settings)),
        recipients,
    )


def tell_all(ways: Mapping[str, Callable[[Message], None]]) -> Callable[[Message], None]:
    """Return what tells people on every way; with none, the log is all there is.

    Raises:
        TransientError: by what is returned, when a way did not take the message.
    """

    def tell(message: Message) -> None:
        _log.critical("%s", message.text.replace("\n", "; "))
        problems = []
        for name, way in ways.items():
            try:
                way(message)
            except MlopsError as error:
                problems.append(f"{name}: {error}")
        if problems:
            raise TransientError("; ".join(problems))

    return tell


def _done(engine: Engine, incident: Incident) -> dict[Step, str]:
    with read_transaction(engine) as session:
        return _steps_done(session, incident)


def _steps_done(session: Session, incident: Incident) -> dict[Step, str]:
    """What was done about the incident, by step, in the order in which it was."""
    query = select(AuditEvent.details).where(
        AuditEvent.event_type == RESPONDED,
        AuditEvent.model_name == incident.model_name,
        AuditEvent.version == incident.version,
    )
    events = session.scalars(query.order_by(AuditEvent.sequence))
    return {event["step"]: event["said"] for event in events if event["incident"] == incident.key}


def _plan_rollback(incident: Incident, situation: Situation, policy: RetrainingPolicy, now: datetime) -> Planned | None:
    if situation.candidate is not None:
        if situation.candidate != incident.version:
            return None
        return Planned("rollback", incident.version, "the candidate is at fault: everybody gets the champion")
    came = situation.promoted_at
    if situation.champion != incident.version or situation.former is None or came is None:
        return None
    if now - came > timedelta(days=policy.rollback_within_days):
        return None
    return Planned("rollback", situation.former, f"{incident.version} is champion since {came:%Y-%m-%d %H:%M} UTC only")


def _plan_pause(incident: Incident, situation: Situation, _policy: RetrainingPolicy, _now: datetime) -> Planned | None:
    if situation.experiment is None:
        return None
    return Planned("pause_experiment", situation.experiment, f"it sends users to versions of {incident.model_name}")


def _plan_retraining(
    incident: Incident, _situation: Situation, _policy: RetrainingPolicy, _now: datetime
) -> Planned | None:
    return Planned("retrain", f"incident:{incident.key}", "throttled like every trigger")


def _plan_notice(
    _incident: Incident, _situation: Situation, _policy: RetrainingPolicy, _now: datetime
) -> Planned | None:
    return Planned("notify", "people", "an incident is never answered in silence")


_PLANNERS: Mapping[Step, Callable[[Incident, Situation, RetrainingPolicy, datetime], Planned | None]] = {
    "rollback": _plan_rollback,
    "pause_experiment": _plan_pause,
    "retrain": _plan_retraining,
    "notify": _plan_notice,
}
