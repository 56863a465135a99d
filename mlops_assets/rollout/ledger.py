"""The append-only ledger of rollouts in the operational database: read, and extended by one step at a time.

A step is one transaction: the state that it follows from (a fencing number of the model), its idempotency key, its audit
event, and its outbox of what has to be done elsewhere. Of two that saw the same state, one writes. There is no other
record of a rollout's state.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from mlops_assets.experiments.experiments import Experiment
from mlops_assets.foundation.audit import append_event
from mlops_assets.foundation.database import lock_name, read_transaction, transaction
from mlops_assets.foundation.errors import InputError, NotReadyError, TransientError
from mlops_assets.foundation.files import canonical_json
from mlops_assets.foundation.policies import RolloutPolicy
from mlops_assets.foundation.tables import AuditEvent, ExperimentRecord, RolloutEffect, RolloutEvent
from mlops_assets.registry.catalogue import CANDIDATE
from mlops_assets.rollout.state import Kind, RolloutState, Step, fold

# Who takes the steps that nobody asks for, and does what follows from any.
SERVICE = "rollout"
EffectKind = Literal["point_candidate", "promote", "withdraw", "archive", "alert"]
# In the order in which they are done.
_EFFECTS: Mapping[Kind, tuple[EffectKind, ...]] = {
    "started": ("point_candidate", "alert"),
    "advanced": ("alert",),
    "jumped": ("alert",),
    "paused": ("alert",),
    "resumed": ("alert",),
    "stalled": ("alert",),
    "promoting": ("promote",),
    "completed": ("withdraw", "alert"),
    "rolled_back": ("withdraw", "archive", "alert"),
    "aborted": ("withdraw", "alert"),
    "superseded": ("withdraw", "alert"),
}


class StaleRolloutError(TransientError):
    """Somebody else has written the next step: look at it, and decide again."""


@dataclass(frozen=True)
class NewStep:
    """A step to be written; `expected` is the model's number before it, 0 before its first rollout."""

    kind: Kind
    state: RolloutState
    reasons: Sequence[str]
    user: str
    evidence: Mapping[str, Any]
    expected: int
    key: str | None = None

    @property
    def idempotency_key(self) -> str:
        """The caller's key, or one made of what the step is."""
        return self.key or f"{self.state.model_name}:{self.state.number}:{self.kind}"


def append(
    engine: Engine, step: NewStep, now: datetime, *, unless: Callable[[Session], None] | None = None
) -> RolloutState:
    """Write one step, and return the state after it; the same step a second time changes nothing.

    Args:
        engine: operational database.
        step: what to write.
        now: its time.
        unless: asked within the transaction; raises when the step may not be written.

    Raises:
        StaleRolloutError: another step was written since the one that this follows from.
        NotReadyError: a rollout cannot start while the agent has an experiment.
    """
    try:
        with transaction(engine) as session:
            lock_name(session, f"traffic:{step.state.agent}")
            done = _keyed(session, step.idempotency_key)
            if done is not None:
                return done
            newest = newest_event(session, step.state.model_name)
            if step.kind == "started":
                _require_no_experiment(session, step.state.agent)
            number = 0 if newest is None else newest.number
            if number != step.expected or step.state.number != number + 1:
                raise _stale(step, number)
            if unless is not None:
                unless(session)
            _write(session, step, now)
            return step.state
    except IntegrityError:
        with read_transaction(engine) as session:
            done = _keyed(session, step.idempotency_key)
        if done is None:
            raise _stale(step, None) from None
        return done


def current(engine: Engine, model_name: str) -> RolloutState | None:
    """Return the model's newest rollout as it is now, None before the first."""
    with read_transaction(engine) as session:
        event = newest_event(session, model_name)
    return None if event is None else RolloutState.from_document(event.state)


def newest_states(engine: Engine) -> list[RolloutState]:
    """Return the newest rollout of every model that has had one."""
    with read_transaction(engine) as session:
        return newest_states_within(session)


def newest_states_within(session: Session) -> list[RolloutState]:
    """Return what `newest_states` does, in the caller's transaction."""
    newest = (
        select(RolloutEvent.model_name, func.max(RolloutEvent.number).label("number"))
        .group_by(RolloutEvent.model_name)
        .subquery()
    )
    # Not the whole step: every server asks all the time, and a step's evidence is long.
    query = select(RolloutEvent.state).join(
        newest, (RolloutEvent.model_name == newest.c.model_name) & (RolloutEvent.number == newest.c.number)
    )
    return [RolloutState.from_document(state) for state in session.scalars(query.order_by(RolloutEvent.model_name))]


def splits(engine: Engine) -> dict[str, Experiment]:
    """Return, by agent, the traffic split that the ledger wants now; none of a rollout that was taken back or aborted.

    A rollout that is completed keeps its split until its candidate is champion, so that nobody goes back in between.
    """
    return {
        state.agent: Experiment(
            name=state.name,
            agent=state.agent,
            salt=state.salt,
            treatment_alias=CANDIDATE,
            treatment_share=state.share,
            status="paused" if state.status == "paused" else "running",
            created_at=state.started_at,
            treatment_version=state.candidate,
            splits_anonymous=True,
            completed=state.status == "completed",
        )
        for state in newest_states(engine)
        if state.active or state.status == "completed"
    }


def newest_event(session: Session, model_name: str) -> RolloutEvent | None:
    """Return the model's newest step."""
    query = select(RolloutEvent).where(RolloutEvent.model_name == model_name).order_by(RolloutEvent.number.desc())
    return session.scalars(query.limit(1)).one_or_none()


def steps(engine: Engine, *, model_name: str | None = None, rollout: str | None = None) -> list[Step]:
    """Return the steps of one model or rollout, or all, in the order in which they were written."""
    query = select(RolloutEvent).order_by(RolloutEvent.id)
    if model_name is not None:
        query = query.where(RolloutEvent.model_name == model_name)
    if rollout is not None:
        query = query.where(RolloutEvent.rollout == rollout)
    with read_transaction(engine) as session:
        return [step_of(event) for event in session.scalars(query)]


def step_of(event: RolloutEvent) -> Step:
    """Read one entry of the ledger."""
    return Step(
        kind=cast("Kind", event.kind),
        state=RolloutState.from_document(event.state),
        reasons=tuple(event.reasons),
        evidence=event.evidence,
        user=event.user,
        at=event.occurred_at,
    )


def verify(engine: Engine) -> list[RolloutState]:
    """Do every step of the ledger again, compare each with its audit event, and return the states that they lead to.

    Raises:
        InputError: a step does not follow from the one before it, or one of the two has what the other does not.
    """
    done = steps(engine)
    states = list(fold(done).values())
    kept = {(step.state.model_name, step.state.number): canonical_json(step.state.document()) for step in done}
    with read_transaction(engine) as session:
        query = select(AuditEvent.model_name, AuditEvent.details).where(
            AuditEvent.event_type.in_([f"rollout_{kind}" for kind in _EFFECTS])
        )
        audited = {(model, details["number"]): details["state"] for model, details in session.execute(query)}
    for model_name, number in sorted(kept.keys() | audited.keys()):
        if kept.get((model_name, number)) != audited.get((model_name, number)):
            raise InputError(
                f"step {number} of {model_name} is not in the ledger as it is in the audit trail; "
                "`python -m mlops_assets.governance.commands audit verify` tells whether the trail is whole"
            )
    return states


def rollout_named(engine: Engine, name: str) -> list[Step]:
    """Return the steps of one rollout.

    Raises:
        InputError: no such rollout; the newest ones are named.
    """
    found = steps(engine, rollout=name)
    if not found:
        known = ", ".join(state.name for state in newest_states(engine)) or "none"
        raise InputError(f"there is no rollout {name!r}; the newest of each model: {known}")
    return found


def pinned_policy(engine: Engine, rollout: str, live: RolloutPolicy) -> RolloutPolicy:
    """Return the policy that a rollout began with; when it may go on, and what a newer candidate does, follows `live`.

    Limits that change under way would judge by one what was proven by another.

    Raises:
        InputError: no such rollout.
    """
    first = rollout_named(engine, rollout)[0]
    pinned = RolloutPolicy.model_validate_json(canonical_json(first.evidence["policy"]))
    return pinned.model_copy(update={"calendar": live.calendar, "when_newer": live.when_newer})


def active_rollout(engine: Engine, model_name: str) -> RolloutState:
    """Return the model's rollout under way.

    Raises:
        NotReadyError: there is none.
    """
    state = current(engine, model_name)
    if state is None or not state.active:
        last = (
            "it never had one" if state is None else f"the last one, {state.name}, is {state.status.replace('_', ' ')}"
        )
        raise NotReadyError(f"{model_name} has no rollout under way: {last}; start one first")
    return state


def _require_no_experiment(session: Session, agent: str) -> None:
    """Raise NotReadyError while the agent's users are split by an experiment."""
    query = select(ExperimentRecord).where(ExperimentRecord.agent == agent, ExperimentRecord.status != "stopped")
    other = session.scalars(query.limit(1)).one_or_none()
    if other is not None:
        raise NotReadyError(
            f"agent {agent!r} has the experiment {other.name!r} ({other.status}), which would share its users with a "
            f"rollout; stop it first: `python -m mlops_assets.experiments.commands stop {other.name}`"
        )


def _write(session: Session, step: NewStep, now: datetime) -> None:
    state = step.state
    event = RolloutEvent(
        model_name=state.model_name,
        number=state.number,
        rollout=state.name,
        agent=state.agent,
        kind=step.kind,
        active=state.active,
        state=state.document(),
        reasons=list(step.reasons),
        evidence=dict(step.evidence),
        user=step.user[:255],
        occurred_at=now,
        idempotency_key=step.idempotency_key,
    )
    session.add(event)
    session.flush()
    session.add_all(RolloutEffect(event_id=event.id, kind=kind, attempts=0) for kind in _EFFECTS[step.kind])
    append_event(
        session,
        event_type=f"rollout_{step.kind}",
        model_name=state.model_name,
        version=state.candidate,
        user=step.user[:255],
        details={
            "rollout": state.name,
            "number": state.number,
            "stage": state.stage,
            "share": state.share,
            "status": state.status,
            "reasons": list(step.reasons),
            "state": canonical_json(state.document()),
        },
        now=now,
    )


def _keyed(session: Session, key: str) -> RolloutState | None:
    event = session.scalars(select(RolloutEvent).where(RolloutEvent.idempotency_key == key)).one_or_none()
    return None if event is None else RolloutState.from_document(event.state)


def _stale(step: NewStep, number: int | None) -> StaleRolloutError:
    found = "at the same moment" if number is None else f"since: {number} where {step.expected} was expected"
    return StaleRolloutError(f"{step.state.model_name}: another step was written {found}; look again")
