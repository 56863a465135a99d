"""The world as a rollout sees it at a moment, read from the registry, the approvals, the prediction log and the guard."""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Engine

from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.clock import Clock
from mlops_assets.foundation.errors import NotReadyError, TransientError
from mlops_assets.foundation.policies import RolloutPolicy
from mlops_assets.governance.approval_state import ApprovalRefusedError
from mlops_assets.governance.approvals import Approvals
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.registry.semver import SemVer
from mlops_assets.rollout.advance import Observation, ShadowFindings, StageFindings
from mlops_assets.rollout.guard import watched_harm
from mlops_assets.rollout.ledger import SERVICE
from mlops_assets.rollout.looks import look_at, served_now
from mlops_assets.rollout.platform import PlatformWatch
from mlops_assets.rollout.shadow import LAG, shadow_findings
from mlops_assets.rollout.state import RolloutState

# e^700 is the largest that a double holds: JSON has no infinity.
_MOST_LOG_E = 700.0


class Observer:
    """Observes the rollouts of one deployment.

    Args:
        engine: operational database.
        registry: where versions live.
        approvals: whether the candidate may still go on.
        platform: whether comparisons can be trusted.
        clock: of the deployment.
        data_clock: served decisions are in the time of the data (`Settings.data_clock`).
    """

    def __init__(
        self,
        engine: Engine,
        registry: ModelRegistry,
        approvals: Approvals,
        platform: PlatformWatch,
        clock: Clock,
        *,
        data_clock: bool,
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._approvals = approvals
        self._platform = platform
        self._clock = clock
        self._data_clock = data_clock

    def observe(self, state: RolloutState, policy: RolloutPolicy) -> Observation:
        """Take a look at the users of a rollout, and return all that its next step depends on.

        A registry that does not answer is said in `platform`, so that harm is still acted on.

        Raises:
            TransientError: the operational database does not answer.
        """
        shadow = ShadowFindings()
        if state.stage == "shadow":
            now = served_now(self._engine, self._data_clock, state.agent, self._clock)
            until = now - self._clock.speed * LAG
            shadow = shadow_findings(self._engine, state, agent_spec(state.agent), until)
        stage = self._stage(state, policy)
        alarm = self._platform.alarm(state.agent, state.champion)
        try:
            champion = self._registry.champion(state.model_name)
            return Observation(
                champion=None if champion is None else champion.semver,
                withdrawn=self._withdrawn(state),
                newer=self._newer(state),
                platform=alarm,
                shadow=shadow,
                stage=stage,
            )
        except TransientError as error:
            return Observation(champion=state.champion, platform=f"held: {error}", shadow=shadow, stage=stage)

    def _stage(self, state: RolloutState, policy: RolloutPolicy) -> StageFindings:
        now = served_now(self._engine, self._data_clock, state.agent, self._clock)
        evidence = look_at(self._engine, state, policy, agent_spec(state.agent), now, at=self._clock.now())
        found = evidence.findings(policy)
        guard = watched_harm(self._engine, state.name)
        words = guard.words(policy) if guard.log_e > found.log_e_harm else found.harm
        return replace(found, log_e_harm=float(np.logaddexp(found.log_e_harm, guard.log_e)), harm=words)

    def _withdrawn(self, state: RolloutState) -> str | None:
        version = self._registry.version(state.model_name, state.candidate)
        if version.stage != "Staging":
            return f"{state.candidate} is in stage {version.stage}, no longer in Staging"
        try:
            self._approvals.require_current(state.model_name, state.candidate, user=SERVICE)
        except (ApprovalRefusedError, NotReadyError) as error:
            return str(error)
        return None

    def _newer(self, state: RolloutState) -> str | None:
        challenger = self._registry.challenger(state.model_name)
        if challenger is None or challenger.stage != "Staging":
            return None
        newer = SemVer.parse(challenger.semver) > SemVer.parse(state.candidate)
        return challenger.semver if newer else None


def recorded(seen: Observation, now: datetime) -> dict[str, Any]:
    """Return what a step was decided on, as JSON values for the ledger."""
    return {
        "observed_at": now.isoformat(),
        **{
            name: value for name, value in asdict(seen).items() if name not in {"shadow", "stage"} and value is not None
        },
        "shadow": _numbers(asdict(seen.shadow)),
        "stage": _numbers({name: value for name, value in asdict(seen.stage).items() if name != "baseline"}),
    }


def _numbers(value: Any) -> Any:
    """Return it without what JSON cannot hold."""
    if isinstance(value, float):
        return max(-_MOST_LOG_E, min(_MOST_LOG_E, value)) if not math.isnan(value) else None
    if isinstance(value, Mapping):
        return {name: _numbers(one) for name, one in value.items()}
    return [_numbers(one) for one in value] if isinstance(value, list | tuple) else value
