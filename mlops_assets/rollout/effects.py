"""The outbox of the ledger: what a step does in the registry and tells people, done once it is written, in its order.

Each effect may be done twice without harm, since a crash may come between doing it and marking it: registry changes are
idempotent, an alert may come twice. Traffic is none of them: routers read the ledger themselves.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Engine, select

from mlops_assets.foundation.clock import Clock, SystemClock
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.errors import MlopsError, PermanentError
from mlops_assets.foundation.leases import LeaseHeldError, acquire, release
from mlops_assets.foundation.messages import Way
from mlops_assets.foundation.tables import RolloutEffect, RolloutEvent
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.rollout.alerts import alert_of
from mlops_assets.rollout.ledger import EffectKind, NewStep, append, current, step_of
from mlops_assets.rollout.state import Kind, Step, after

SERVICE = "rollout"
ALERT: EffectKind = "alert"
# Longer than a delivery takes whose registry answers slowly; after a crash somebody else goes on.
_LEASE_SECONDS = 120.0
_MAX_PROBLEM = 1000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivered:
    """One effect that was tried; `problem` says why it is tried again, None when it is done."""

    kind: str
    rollout: str
    number: int
    attempts: int
    problem: str | None = None

    def __str__(self) -> str:
        """Say which."""
        times = "try" if self.attempts == 1 else "tries"
        tries = f" after {self.attempts} {times}: {self.problem}" if self.problem else ""
        return f"{self.kind.replace('_', ' ')} of step {self.number} of {self.rollout}{tries}"


@dataclass(frozen=True)
class _Waiting:
    id: int
    kind: str
    attempts: int
    problem: str | None
    step: Step

    def as_it_is(self) -> Delivered:
        return Delivered(self.kind, self.step.state.name, self.step.state.number, self.attempts, self.problem)

    def tried(self, problem: str | None) -> Delivered:
        return replace(self.as_it_is(), attempts=self.attempts + 1, problem=problem)


class Outbox:
    """Delivers the effects of one deployment.

    Args:
        engine: operational database.
        registry: where versions live.
        clock: time of steps that follow from an effect.
        ways: how people are told; a step is always in the log.
        recipients: to whom e-mails go.
        holder: names this process; of two that deliver at once, one does.
    """

    def __init__(
        self,
        engine: Engine,
        registry: ModelRegistry,
        clock: Clock,
        ways: Mapping[str, Way],
        recipients: Sequence[str],
        holder: str,
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._clock = clock
        self._ways = ways
        self._recipients = recipients
        self._holder = holder

    def deliver(self, model_name: str) -> list[Delivered]:
        """Do what the steps of a model have yet to do, also what follows from that; what failed is in the answer.

        Registry effects keep their order: after one that failed, the later ones wait. An alert waits for nothing, and
        nothing for it.

        Raises:
            TransientError: the operational database does not answer.
        """
        # A lease is a matter of the machine's time, whatever time the lifecycle is in.
        watch = SystemClock()
        resource = f"rollout-effects:{model_name}"
        try:
            lease = acquire(self._engine, resource, self._holder, ttl_seconds=_LEASE_SECONDS, now=watch.now())
        except LeaseHeldError:
            return []
        try:
            return self._deliver(model_name)
        finally:
            release(self._engine, lease, now=watch.now())

    def _deliver(self, model_name: str) -> list[Delivered]:
        done: list[Delivered] = []
        tried: set[int] = set()
        blocked = False
        # An effect may be followed by a step with effects of its own.
        while waiting := [one for one in _waiting(self._engine, model_name) if one.id not in tried]:
            for one in waiting:
                tried.add(one.id)
                if blocked and one.kind != ALERT:
                    continue
                found = one.tried(self._try(one))
                blocked = blocked or (found.problem is not None and one.kind != ALERT)
                done.append(found)
        return done

    def _try(self, one: _Waiting) -> str | None:
        problem = None
        try:
            _EFFECTS[one.kind](self, one.step)
        except MlopsError as error:
            _log.error("%s of %s failed: %s", one.kind, one.step.state.name, error)
            problem = str(error)[:_MAX_PROBLEM]
        with transaction(self._engine) as session:
            record = session.get_one(RolloutEffect, one.id)
            record.attempts += 1
            record.problem = problem
            if problem is None:
                record.done_at = self._clock.now()
        return problem

    def _point_candidate(self, step: Step) -> None:
        now = current(self._engine, step.state.model_name)
        # Taken back meanwhile: to point to it now would only have to be undone.
        if now is not None and now.name == step.state.name and now.active:
            self._registry.point_candidate(step.state.model_name, step.state.candidate)

    def _promote(self, step: Step) -> None:
        state = current(self._engine, step.state.model_name)
        if state is None or state.name != step.state.name or state.status != "promoting":
            return
        try:
            self._registry.promote_to_production(
                state.model_name, state.candidate, user=SERVICE, reason=f"{state.name} kept every limit at 100 %"
            )
        except PermanentError as error:
            # It would fail the same way for ever, with all users on a version that nobody lets into production.
            self._follow_up(step, "rolled_back", f"it cannot be promoted: {error}")
            return
        self._follow_up(step, "completed", f"{state.candidate} is champion")

    def _follow_up(self, step: Step, kind: Kind, reason: str) -> None:
        state = current(self._engine, step.state.model_name)
        if state is None or state.name != step.state.name or state.status != "promoting":
            return
        now = self._clock.now()
        followed = NewStep(kind, after(state, kind, now), (reason,), SERVICE, {}, expected=state.number)
        append(self._engine, followed, now)

    def _withdraw(self, step: Step) -> None:
        state = step.state
        if state.status != "completed":
            version = self._registry.version(state.model_name, state.candidate)
            if version.stage == "Production":
                # The promotion was under way when the rollout was taken back.
                self._registry.rollback_model(
                    state.model_name, state.champion, user=SERVICE, reason="; ".join(step.reasons)
                )
        self._registry.leave_candidate(state.model_name, state.candidate)

    def _archive(self, step: Step) -> None:
        reason = "; ".join(step.reasons)
        self._registry.archive(
            step.state.model_name, step.state.candidate, user=SERVICE, reason=reason, rolled_back=True
        )

    def _alert(self, step: Step) -> None:
        message = alert_of(step, self._recipients)
        level = logging.CRITICAL if step.kind == "rolled_back" else logging.INFO
        _log.log(level, "%s", message.text.replace("\n", "; "))
        for way in self._ways.values():
            way(message)


_EFFECTS: Mapping[str, Callable[[Outbox, Step], None]] = {
    "point_candidate": Outbox._point_candidate,  # noqa: SLF001 - of this module
    "promote": Outbox._promote,  # noqa: SLF001
    "withdraw": Outbox._withdraw,  # noqa: SLF001
    "archive": Outbox._archive,  # noqa: SLF001
    ALERT: Outbox._alert,  # noqa: SLF001
}


def undelivered(engine: Engine) -> list[Delivered]:
    """Return what is yet to be done, in its order."""
    return [one.as_it_is() for one in _waiting(engine, None)]


def _waiting(engine: Engine, model_name: str | None) -> list[_Waiting]:
    query = (
        select(RolloutEffect, RolloutEvent)
        .join(RolloutEvent, RolloutEvent.id == RolloutEffect.event_id)
        .where(RolloutEffect.done_at.is_(None))
        .order_by(RolloutEffect.id)
    )
    if model_name is not None:
        query = query.where(RolloutEvent.model_name == model_name)
    with read_transaction(engine) as session:
        return [
            _Waiting(effect.id, effect.kind, effect.attempts, effect.problem, step_of(event))
            for effect, event in session.execute(query)
        ]
