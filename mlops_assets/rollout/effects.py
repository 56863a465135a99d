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
from mlops_assets.foundation.leases import HeldLease, LeaseHeldError, LeaseLostError, lease
from mlops_assets.foundation.messages import Way
from mlops_assets.foundation.tables import RolloutEffect, RolloutEvent
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.registry.registration import RegisteredVersion
from mlops_assets.rollout.alerts import Alerts, log_step
from mlops_assets.rollout.ledger import SERVICE, EffectKind, NewStep, StaleRolloutError, append, current, step_of
from mlops_assets.rollout.state import Kind, RolloutState, Step, after

ALERT: EffectKind = "alert"
# So long after a crash somebody else goes on; a heartbeat renews it meanwhile.
_LEASE_SECONDS = 60.0
_MAX_WORDS = 1000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivered:
    """One effect that was tried; `problem` says why it is tried again, None when it is done.

    `note`: why there was nothing, or something else, to be done.
    """

    kind: str
    rollout: str
    number: int
    attempts: int
    problem: str | None = None
    note: str | None = None

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

    def tried(self, problem: str | None, note: str | None) -> Delivered:
        return replace(self.as_it_is(), attempts=self.attempts + 1, problem=problem, note=note)


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
        self._alerts = Alerts(engine, clock, ways, recipients)
        self._holder = holder

    def deliver(self, model_name: str | None = None) -> list[Delivered]:
        """Do what the steps of a model, or of all, have yet to do, also what follows from that; what failed is in the answer.

        Registry effects keep their order: after one that failed, the model's later ones wait. An alert waits for none of
        them, and none of them for it. What somebody else delivers at the moment is left to them.

        Raises:
            TransientError: the operational database does not answer.
        """
        done: list[Delivered] = []
        # Registries first: a mail server that does not answer takes its time.
        for what, work in (("effects", self._change), ("alerts", self._tell)):
            for name in self._models(model_name):
                self._under_lease(f"rollout-{what}:{name}", work, name, done)
        return done

    def _models(self, model_name: str | None) -> list[str]:
        waiting = _waiting(self._engine, model_name)
        return list(dict.fromkeys(one.step.state.model_name for one in waiting))

    def _under_lease(
        self,
        resource: str,
        work: Callable[[str, HeldLease, list[Delivered]], None],
        model_name: str,
        done: list[Delivered],
    ) -> None:
        try:
            # A lease is a matter of the machine's time, whatever time the lifecycle is in.
            with lease(self._engine, resource, self._holder, _LEASE_SECONDS, SystemClock()) as held:
                work(model_name, held, done)
        except (LeaseHeldError, LeaseLostError) as error:
            # Each effect is marked once it is done: they go on where this one stopped.
            _log.info("delivered by somebody else: %s", error)

    def _change(self, model_name: str, held: HeldLease, done: list[Delivered]) -> None:
        # One at a time: an effect may be followed by a step with effects of its own.
        while waiting := [one for one in _waiting(self._engine, model_name) if one.kind != ALERT]:
            held.ensure_held()
            done.append(self._try(waiting[0]))
            if done[-1].problem is not None:
                return

    def _tell(self, model_name: str, held: HeldLease, done: list[Delivered]) -> None:
        for one in _waiting(self._engine, model_name):
            if one.kind == ALERT:
                held.ensure_held()
                if one.attempts == 0:
                    log_step(one.step)
                done.append(self._try(one))

    def _try(self, one: _Waiting) -> Delivered:
        note = problem = None
        try:
            note = _EFFECTS[one.kind](self, one.step)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is on record, and keeps no other model back
            unknown = not isinstance(error, MlopsError)
            _log.error("%s of %s failed: %s", one.kind, one.step.state.name, error, exc_info=unknown)
            problem = (f"{type(error).__name__}: {error}" if unknown else str(error))[:_MAX_WORDS]
        if note is not None:
            _log.info("%s of %s: %s", one.kind, one.step.state.name, note)
        with transaction(self._engine) as session:
            record = session.get_one(RolloutEffect, one.id)
            record.attempts += 1
            record.problem = problem or note
            if problem is None:
                record.done_at = self._clock.now()
        return one.tried(problem, note)

    def _point_candidate(self, step: Step) -> str | None:
        now = current(self._engine, step.state.model_name)
        if now is None or now.name != step.state.name or not now.active:
            # To point to it now would only have to be undone.
            return f"{step.state.name} is over"
        self._registry.point_candidate(step.state.model_name, step.state.candidate)
        return None

    def _promote(self, step: Step) -> str | None:
        state = current(self._engine, step.state.model_name)
        if state is None or state.name != step.state.name or state.status != "promoting":
            return f"{step.state.name} is over"
        champion = self._registry.champion(state.model_name)
        try:
            _require_champion(state, champion)
            self._registry.promote_to_production(
                state.model_name, state.candidate, user=SERVICE, reason=f"{state.name} kept every limit at 100 %"
            )
        except PermanentError as error:
            # It would fail the same way for ever, with all users on a version that nobody lets into production.
            return self._follow_up(state, "rolled_back", f"it cannot be promoted: {error}")
        return self._follow_up(state, "completed", f"{state.candidate} is champion")

    def _follow_up(self, state: RolloutState, kind: Kind, reason: str) -> str | None:
        now = self._clock.now()
        followed = NewStep(kind, after(state, kind, now), (reason[:_MAX_WORDS],), SERVICE, {}, expected=state.number)
        try:
            append(self._engine, followed, now)
        except StaleRolloutError:
            if current(self._engine, state.model_name) == state:
                # Nobody wrote another: given up here, nobody would ever end it.
                raise
            # A rollout that is being promoted only ends: the step that ended it has effects, and they are next.
            return f"{state.name} ended meanwhile"
        return None

    def _withdraw(self, step: Step) -> str | None:
        state = step.state
        version = self._version(state)
        if version is None:
            return f"the registry has no {state.candidate}"
        # An abort blames nobody, so what people promoted meanwhile stays; harm is taken back wherever it is.
        if state.status == "rolled_back" and self._reigns(version):
            self._registry.rollback_model(state.model_name, state.champion, user=SERVICE, reason=_why(step))
        self._registry.leave_candidate(state.model_name, state.candidate)
        return None

    def _archive(self, step: Step) -> str | None:
        state = step.state
        version = self._version(state)
        if version is None:
            return f"the registry has no {state.candidate}"
        # It was given back before: who is champion now was made so by people, who know of the rollback.
        if version.stage in {"Production", "Deleted"}:
            return f"{state.candidate} is in stage {version.stage}"
        self._registry.archive(state.model_name, state.candidate, user=SERVICE, reason=_why(step), rolled_back=True)
        return None

    def _alert(self, step: Step) -> None:
        self._alerts.tell(step)

    def _version(self, state: RolloutState) -> RegisteredVersion | None:
        versions = self._registry.versions(state.model_name)
        return next((one for one in versions if one.semver == state.candidate), None)

    def _reigns(self, version: RegisteredVersion) -> bool:
        """Whether it is champion in the database, or a promotion was interrupted after consumers had it."""
        champion = self._registry.champion(version.model_name)
        return version.stage == "Production" or (champion is not None and champion.semver == version.semver)


_EFFECTS: Mapping[str, Callable[[Outbox, Step], str | None]] = {
    "point_candidate": Outbox._point_candidate,  # noqa: SLF001 - of this module
    "promote": Outbox._promote,  # noqa: SLF001
    "withdraw": Outbox._withdraw,  # noqa: SLF001
    "archive": Outbox._archive,  # noqa: SLF001
    ALERT: Outbox._alert,  # noqa: SLF001
}


def undelivered(engine: Engine) -> list[Delivered]:
    """Return what is yet to be done, in its order."""
    return [one.as_it_is() for one in _waiting(engine, None)]


def _require_champion(state: RolloutState, champion: RegisteredVersion | None) -> None:
    """Refuse to overthrow a champion that the candidate was never compared with."""
    if champion is not None and champion.semver not in {state.champion, state.candidate}:
        raise PermanentError(f"{champion.semver} is champion where {state.champion} was when the rollout started")


def _why(step: Step) -> str:
    return "; ".join(step.reasons)[:_MAX_WORDS]


def _waiting(engine: Engine, model_name: str | None) -> list[_Waiting]:
    query = (
        select(RolloutEffect, RolloutEvent)
        .join(RolloutEvent, RolloutEvent.id == RolloutEffect.event_id)
        .where(RolloutEffect.done_at.is_(None))
        .order_by(RolloutEffect.event_id, RolloutEffect.id)
    )
    if model_name is not None:
        query = query.where(RolloutEvent.model_name == model_name)
    with read_transaction(engine) as session:
        return [
            _Waiting(effect.id, effect.kind, effect.attempts, effect.problem, step_of(event))
            for effect, event in session.execute(query)
        ]
