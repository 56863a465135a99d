"""Rollouts of one deployment: started, advanced on evidence, changed by people.

Every way in comes here: sensor, jobs, command line. What is decided is `advance.py`'s business, what is written
`ledger.py`'s; what follows elsewhere is delivered by `effects.py`, by whoever comes by next.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Engine

from mlops_assets.experiments.aa_test import AaTest
from mlops_assets.foundation.access import access_control
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.clock import Clock
from mlops_assets.foundation.errors import InputError, MlopsError, PermanentError
from mlops_assets.foundation.messages import message_ways
from mlops_assets.foundation.policies import Permission, RolloutPolicy, StageName
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.settings import Settings
from mlops_assets.governance.approvals import open_approvals
from mlops_assets.governance.evidence import spec_of
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.rollout.advance import Action, Decision, advance
from mlops_assets.rollout.effects import Delivered, Outbox
from mlops_assets.rollout.ledger import (
    SERVICE,
    NewStep,
    StaleRolloutError,
    active_rollout,
    append,
    current,
    pinned_policy,
)
from mlops_assets.rollout.observation import Observer, recorded
from mlops_assets.rollout.platform import PlatformWatch
from mlops_assets.rollout.start import Starter
from mlops_assets.rollout.state import Kind, RolloutState, after

Change = Literal["pause", "resume", "abort", "jump", "rollback"]
_KINDS: Mapping[Change, Kind] = {
    "pause": "paused",
    "resume": "resumed",
    "abort": "aborted",
    "jump": "jumped",
    "rollback": "rolled_back",
}
_DECIDED: Mapping[Action, Kind] = {
    "advance": "advanced",
    "promote": "promoting",
    "rollback": "rolled_back",
    "abort": "aborted",
    "supersede": "superseded",
}
_MAX_REASON = 1000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tick:
    """What one look at one model came to: the rollout after it, the step that it wrote, and why, in sentences.

    `failed`: it could not be looked at.
    """

    model_name: str
    state: RolloutState | None
    kind: Kind | None
    reasons: tuple[str, ...]
    delivered: tuple[Delivered, ...] = ()
    failed: bool = False

    def __str__(self) -> str:
        """Say it in a line."""
        undone = [f"{one} is to be done: {one.problem}" for one in self.delivered if one.problem is not None]
        why = "; ".join((*self.reasons, *undone))
        if self.failed:
            return f"{self.model_name} cannot be looked at: {why}"
        if self.state is None:
            what = "no rollout"
        else:
            step = self.kind or ("held" if self.state.active else self.state.status)
            what = f"{self.state.name}, {self.state.stage}, {step.replace('_', ' ')}"
        return f"{self.model_name}: {what}: {why}"


class Rollouts:
    """The rollouts of one operational database.

    Args:
        engine: operational database.
        registry: where versions live, with the deployment's access control.
        starter: whether a version may start.
        observer: how a rollout sees the world.
        outbox: what steps do elsewhere.
        policy: of new rollouts; one under way goes by the policy that it began with.
        clock: time of every step.
    """

    def __init__(
        self,
        engine: Engine,
        registry: ModelRegistry,
        starter: Starter,
        observer: Observer,
        outbox: Outbox,
        policy: RolloutPolicy,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._starter = starter
        self._observer = observer
        self._outbox = outbox
        self._policy = policy
        self._clock = clock

    def start(
        self, model_name: str, version: str | None = None, *, user: str, reason: str, accept_accuracy: bool = False
    ) -> RolloutState:
        """Start the rollout of a version, by default the challenger; its first stage is the shadow.

        Raises:
            AccessDeniedError: `user` has no role for it.
            InputError, NotReadyError, ApprovalRefusedError: see `Starter.first_state`.
            StaleRolloutError: somebody else wrote a step at the same moment.
        """
        self._registry.require(user, "deploy_production", model_name, version or "")
        now = self._clock.now()
        state = self._starter.first_state(model_name, version, now, user=user, accept_accuracy=accept_accuracy)
        evidence = {"policy": self._policy.model_dump(mode="json"), "accept_accuracy": accept_accuracy}
        written = self._write("started", state, (_said(reason),), user, evidence, state.number - 1, now)
        self._outbox.deliver(model_name)
        return written

    def change(
        self, model_name: str, change: Change, *, user: str, reason: str, to: StageName | None = None
    ) -> RolloutState:
        """Change the rollout under way by hand; `to` is the stage to jump back to.

        Traffic follows within a second, what else follows is delivered before this returns, or by the next tick.

        Raises:
            AccessDeniedError: `user` has no role for it.
            InputError: it makes no sense after the present state; the message says what does.
            NotReadyError: there is no rollout under way.
            StaleRolloutError: somebody else wrote a step at the same moment.
        """
        spec_of(model_name)
        permission: Permission = "rollback" if change == "rollback" else "deploy_production"
        self._registry.require(user, permission, model_name, "")
        state = active_rollout(self._engine, model_name)
        kind, now = _KINDS[change], self._clock.now()
        changed = after(state, kind, now, to=to)
        written = self._write(kind, changed, (_said(reason),), user, {"by_hand": change}, state.number, now)
        self._outbox.deliver(model_name)
        return written

    def roll_back(self, model_name: str, to_version: str | None = None, *, user: str, reason: str) -> str:
        """Take back what came last: the rollout under way, else the champion; returns what was done, in a sentence.

        Args:
            model_name: registered model.
            to_version: former champion to return to, by default the last one; only without a rollout under way.
            user: who asks for it.
            reason: goes to ledger, audit trail and alert.

        Raises:
            AccessDeniedError: `user` has no role for it.
            InputError: a version is named during a rollout, or was never champion.
            NotReadyError: there is neither a rollout nor a former champion.
        """
        spec_of(model_name)
        state = current(self._engine, model_name)
        if state is not None and state.active:
            if to_version is not None and to_version.removeprefix("v") != state.champion:
                raise InputError(
                    f"{model_name} has the rollout {state.name} under way, which is taken back to {state.champion}; "
                    f"to return to {to_version}, roll back once more after that"
                )
            taken = self.change(model_name, "rollback", user=user, reason=reason)
            return f"{taken.name} is rolled back: everybody has {taken.champion}"
        restored = self._registry.rollback_model(model_name, to_version, user=user, reason=_said(reason))
        return f"{model_name} {restored.semver} is in production again"

    def aa_test(self, model_name: str) -> AaTest | None:
        """Return what the A/A test of a model's champion has found; None without a champion, or where none is wanted."""
        champion = self._registry.champion(model_name)
        return None if champion is None else self._starter.platform.look(spec_of(model_name).name, champion.semver)

    def reset_aa_test(self, model_name: str, *, user: str, reason: str) -> None:
        """Begin the A/A test anew, so that rollouts go on: what made it alarm is mended.

        Raises:
            AccessDeniedError: `user` has no role for it.
        """
        agent = spec_of(model_name).name
        self._registry.require(user, "deploy_production", model_name, "")
        self._starter.platform.reset(agent, user=user, reason=_said(reason))

    def tick(self, model_name: str) -> Tick:
        """Look at a model's rollout once: take the step that the evidence allows, or start what waits.

        Two that tick at the same time take one step. What a crash left undone is done.

        Raises:
            TransientError: the operational database does not answer.
        """
        spec_of(model_name)
        delivered = tuple(self._outbox.deliver(model_name))
        state = current(self._engine, model_name)
        try:
            found = self._advanced(state) if state is not None and state.active else self._started(model_name, state)
        except StaleRolloutError as error:
            return Tick(model_name, current(self._engine, model_name), None, (str(error),), delivered)
        if found.kind is None:
            return Tick(model_name, found.state, None, found.reasons, delivered)
        return Tick(model_name, found.state, found.kind, found.reasons, (*delivered, *self._outbox.deliver(model_name)))

    def deliver(self) -> list[Delivered]:
        """Do what steps have yet to do in the registry, and tell people, without a look at any rollout.

        Raises:
            TransientError: the operational database does not answer.
        """
        return self._outbox.deliver()

    def tick_all(self) -> list[Tick]:
        """Tick every agent's model; one that fails keeps no other back, and is ticked again the next time."""
        found = []
        for spec in AGENTS.values():
            try:
                found.append(self.tick(spec.registered_model))
            except MlopsError as error:
                _log.exception("%s cannot be looked at", spec.registered_model)
                found.append(Tick(spec.registered_model, None, None, (str(error),), failed=True))
        return found

    def _advanced(self, state: RolloutState) -> Tick:
        policy = pinned_policy(self._engine, state.name, self._policy)
        seen = self._observer.observe(state, policy)
        now = self._clock.now()
        decision = advance(state, seen, now, policy)
        kind = _kind_of(decision, state)
        if kind is None:
            return Tick(state.model_name, state, None, decision.reasons)
        changed = after(state, kind, now, to=decision.to, slow_ms=decision.slow_ms, baseline=decision.baseline)
        written = self._write(kind, changed, decision.reasons, SERVICE, recorded(seen, now), state.number, now)
        return Tick(state.model_name, written, kind, decision.reasons)

    def _started(self, model_name: str, before: RolloutState | None) -> Tick:
        """Start the challenger that has never had a rollout, if the policy wants that."""
        waiting = self._starter.waiting(model_name) if self._policy.automatic_start else None
        if waiting is None:
            alarm = self._starter.platform_alarm(model_name)
            return Tick(model_name, before, None, ("nothing waits for a rollout", *([alarm] if alarm else [])))
        try:
            state = self.start(model_name, waiting, user=SERVICE, reason="an approved challenger starts by itself")
        except PermanentError as error:
            return Tick(model_name, before, None, (f"{waiting} waits: {error}",))
        return Tick(model_name, state, "started", (f"{waiting} starts against {state.champion}",))

    def _write(
        self,
        kind: Kind,
        state: RolloutState,
        reasons: Sequence[str],
        user: str,
        evidence: Mapping[str, Any],
        expected: int,
        now: datetime,
    ) -> RolloutState:
        """Write a step; `now` is the time that its state was made with, by which the ledger is verified."""
        step = NewStep(kind=kind, state=state, reasons=reasons, user=user, evidence=evidence, expected=expected)
        return append(self._engine, step, now)


def open_rollouts(
    settings: Settings, engine: Engine, clock: Clock, registry: ModelRegistry, *, holder: str
) -> Rollouts:
    """Return the rollouts of a deployment, by its policy profile; `holder` names the process that delivers effects."""
    profile = load_profile(settings.policy_profile)
    policy = profile.rollout
    platform = PlatformWatch(engine, profile, clock, data_clock=settings.data_clock)
    approvals = open_approvals(settings, engine, clock, registry)
    people = access_control(settings).people
    recipients = [person for person, roles in people.items() if {"mlops", "sre"} & set(roles)]
    return Rollouts(
        engine,
        registry,
        Starter(engine, registry, approvals, platform, policy),
        Observer(engine, registry, approvals, platform, clock, data_clock=settings.data_clock),
        Outbox(engine, registry, clock, message_ways(settings), recipients, holder),
        policy,
        clock,
    )


def _kind_of(decision: Decision, state: RolloutState) -> Kind | None:
    if decision.action != "hold":
        return _DECIDED[decision.action]
    return "stalled" if decision.stalled and not state.stalled else None


def _said(reason: str) -> str:
    """What a person gives as reason, as the ledger holds it."""
    return " ".join(reason.split())[:_MAX_REASON] or "no reason was given"
