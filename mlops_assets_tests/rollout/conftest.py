"""Fixtures of this room: a deployment with a champion and an approved challenger, and its rollouts."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from sqlalchemy import Engine

from mlops_assets.foundation.policies import RolloutPolicy
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.registry.catalogue import CANDIDATE, CHAMPION
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.rollout.controller import Rollouts, open_rollouts
from mlops_assets.rollout.ledger import steps
from mlops_assets_tests.governance.conftest import Office, new_office
from mlops_assets_tests.mlflow_runs import SPEC, clock, mlflow_runs, mlflow_template

__all__ = ["clock", "mlflow_runs", "mlflow_template", "new_office"]

MODEL = SPEC.registered_model


@dataclass
class Tower:
    """One deployment: 1.0.0 is champion, 1.1.0 an approved challenger with an accuracy of .92."""

    office: Office
    rollouts: Rollouts
    policy: RolloutPolicy

    @property
    def engine(self) -> Engine:
        return self.office.engine

    @property
    def registry(self) -> ModelRegistry:
        return self.office.registry

    def kinds(self) -> list[str]:
        """What the ledger says happened."""
        return [step.kind for step in steps(self.engine)]

    def aliases(self) -> dict[str, str]:
        """Version behind champion and candidate."""
        store = self.registry._store
        found = {alias: store.alias_target(MODEL, alias) for alias in (CHAMPION, CANDIDATE)}
        semvers = {version.mlflow_version: version.semver for version in self.registry.versions(MODEL)}
        return {alias: semvers[number] for alias, number in found.items() if number is not None}

    def stages(self) -> dict[str, str]:
        """Stage by version."""
        return {version.semver: version.stage for version in self.registry.versions(MODEL)}


@pytest.fixture
def new_tower(new_office: Callable[[Engine], Office]) -> Callable[[Engine], Tower]:
    def make(engine: Engine) -> Tower:
        office = new_office(engine)
        assert office.decide(1, "approved").outcome == "champion"
        assert office.decide(2, "approved").outcome == "challenger"
        # Users come and go by the test's clock.
        settings = office.settings.model_copy(update={"serving_clock": "system"})
        rollouts = open_rollouts(settings, engine, office.clock, office.registry, holder="tests")
        return Tower(office, rollouts, load_profile("aiwebtest").rollout)

    return make


@pytest.fixture
def tower(new_tower: Callable[[Engine], Tower], engine: Engine) -> Tower:
    """Once on each database engine."""
    return new_tower(engine)


@pytest.fixture
def small_tower(new_tower: Callable[[Engine], Tower], sqlite_engine: Engine) -> Tower:
    """On SQLite only."""
    return new_tower(sqlite_engine)
