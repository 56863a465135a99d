"""Fixtures of this room: a deployment's settings on each engine, and a Dagster instance of the test's own."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import Engine

from mlops_assets.foundation.clock import FixedClock
from mlops_assets.foundation.partitions import AGENT_PARTITIONS
from mlops_assets.foundation.profiles import PolicyProfile, load_profile
from mlops_assets.foundation.resources import Platform
from mlops_assets.foundation.settings import Settings
from mlops_assets.retraining.jobs import RETRAINING_JOBS, lifecycle_jobs
from mlops_assets.retraining.schedules import retraining_schedules
from mlops_assets.retraining.sensors import retraining_sensors
from mlops_assets_tests.retraining.triggers import NOW

GROUPS = ("experiences", "features", "training", "evaluation", "registry", "governance")


@pytest.fixture
def clock() -> FixedClock:
    """A clock that stands still."""
    return FixedClock(NOW)


@pytest.fixture
def settings(sqlite_engine: Engine, tmp_path: Path) -> Settings:
    """Settings of the deployment on SQLite, whose decisions are in the machine's time."""
    return Settings.model_validate(
        {
            "home": tmp_path / "home",
            "database_url": sqlite_engine.url.render_as_string(hide_password=False),
            "serving_clock": "system",
        }
    )


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance of the test's own."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def platform_at(settings: Settings, clock: str | None = None) -> Platform:
    """The deployment as a run opens it."""
    assert settings.database_url is not None
    override = {
        "MLOPS_HOME": str(settings.home),
        "MLOPS_DATABASE_URL": settings.database_url.get_secret_value(),
        "MLOPS_SERVING_CLOCK": "system",
    }
    return Platform(settings_override=override if clock is None else {**override, "MLOPS_CLOCK": clock})


def location(platform: Platform, profile: PolicyProfile | None = None) -> dg.Definitions:
    """This room's jobs, schedules and sensors, over small assets in place of the lifecycle's."""
    policies = profile or load_profile("aiwebtest")

    def asset(group: str) -> dg.AssetsDefinition:
        @dg.asset(name=f"of_{group}", group_name=group, partitions_def=AGENT_PARTITIONS)
        def nothing() -> None: ...

        return nothing

    return dg.Definitions(
        assets=[asset(group) for group in GROUPS],
        jobs=[*lifecycle_jobs(policies), *RETRAINING_JOBS],
        schedules=retraining_schedules(policies),
        sensors=retraining_sensors(policies),
        resources={"platform": platform},
    )
