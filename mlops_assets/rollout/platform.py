"""Whether the platform can be trusted with a comparison: what the A/A test of an agent's champion says. It holds rollouts."""

from datetime import datetime

from sqlalchemy import Engine

from mlops_assets.experiments.aa_test import AaTest, look_at_aa_test, reset_aa_test
from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.clock import Clock
from mlops_assets.foundation.profiles import PolicyProfile
from mlops_assets.rollout.looks import served_now


class PlatformWatch:
    """Looks at the A/A tests of one deployment.

    Args:
        engine: operational database.
        profile: of the deployment: its A/B test design, and the latency that is slow.
        clock: of the deployment.
        data_clock: served decisions are in the time of the data (`Settings.data_clock`).
    """

    def __init__(self, engine: Engine, profile: PolicyProfile, clock: Clock, *, data_clock: bool) -> None:
        self._engine = engine
        self._profile = profile
        self._clock = clock
        self._data_clock = data_clock

    def look(self, agent: str, champion: str) -> AaTest | None:
        """Return what the A/A test of an agent's champion has found, None where the profile wants none.

        Raises:
            TransientError: the operational database does not answer.
        """
        design = self._profile.ab_test
        if not design.aa_share:
            return None
        slow_ms = self._profile.governance.max_latency_ms
        return look_at_aa_test(self._engine, design, slow_ms, agent, champion, self._served_now(agent))

    def alarm(self, agent: str, champion: str) -> str | None:
        """Return why no comparison can be trusted, and what to do; None while nothing speaks against it."""
        found = self.look(agent, champion)
        if found is None or found.alarm is None:
            return None
        model_name = agent_spec(agent).registered_model
        return (
            f"{found}; mend the platform, then begin the test anew: python -m mlops_assets.rollout.commands reset-aa "
            f"--model-name {model_name} --user YOUR_NAME --reason WHAT_WAS_WRONG"
        )

    def reset(self, agent: str, *, user: str, reason: str) -> None:
        """Begin an agent's A/A test anew."""
        served = self._served_now(agent)
        reset_aa_test(self._engine, agent, served, user=user, reason=reason, now=self._clock.now())

    def _served_now(self, agent: str) -> datetime:
        return served_now(self._engine, self._data_clock, agent, self._clock)
