"""The demo's own deployment: a home folder that is made anew, its settings, stores, and a clock that goes fast."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from sqlalchemy import Engine

from examples.rollout_demo.users import AGENT
from mlops_assets.experiences.sources import simulator_config
from mlops_assets.foundation.access import access_control
from mlops_assets.foundation.agents import AgentSpec, agent_spec
from mlops_assets.foundation.clock import Clock, ScaledClock, deployment_clock
from mlops_assets.foundation.database import create_operational_engine, upgrade
from mlops_assets.foundation.settings import Settings, load_settings
from mlops_assets.registry.model_registry import ModelRegistry

FOLDER = "demo-rollout"
# What the policy profile asks of training data at least.
_ROWS = 100_000
_SATURDAY = 5


@dataclass(frozen=True)
class Deployment:
    """One home and its settings as environment variables, which the servers get too."""

    variables: Mapping[str, str]

    @classmethod
    def create(cls, home: Path, *, folder: str = FOLDER, variables: Mapping[str, str]) -> "Deployment":
        """Lay it out in a folder below the user's home; what an earlier demo left there is removed.

        Its clock starts at the end of the training data, and goes as fast as the machine's. `variables`: further settings.
        """
        place = home / folder
        if place.exists():
            shutil.rmtree(place)
        place.mkdir(parents=True)
        variables = {
            "MLOPS_HOME": str(place),
            "MLOPS_SIMULATOR_ROWS": str(_ROWS),
            "MLOPS_DEVICE": "cpu",
            **variables,
        }
        return cls({**variables, "MLOPS_CLOCK": _clock(_end_of_data(variables), speed=1.0)})

    def hurried(self, speed: float) -> "Deployment":
        """Return it with a clock that goes `speed` times as fast, from the Saturday on: nothing advances on a Friday."""
        end = _end_of_data(self.variables)
        start = end + timedelta(days=(_SATURDAY - end.weekday()) % 7 or 7)
        return Deployment({**self.variables, "MLOPS_CLOCK": _clock(start, speed=speed)})

    @cached_property
    def settings(self) -> Settings:
        """Its settings."""
        return load_settings(self.variables)

    @cached_property
    def clock(self) -> Clock:
        """Its clock."""
        return deployment_clock(self.settings.clock)

    @cached_property
    def engine(self) -> Engine:
        """Its operational database, migrated."""
        engine = create_operational_engine(self.settings.database)
        upgrade(engine)
        return engine

    @cached_property
    def registry(self) -> ModelRegistry:
        """Its model registry."""
        return ModelRegistry(self.settings.tracking_uri, self.engine, self.clock, access_control(self.settings))

    @property
    def spec(self) -> AgentSpec:
        """The agent of the demo."""
        return agent_spec(AGENT)


def _end_of_data(variables: Mapping[str, str]) -> datetime:
    return simulator_config(load_settings(variables)).end


def _clock(start: datetime, *, speed: float) -> str:
    return str(ScaledClock(start, datetime.now(UTC), speed))
