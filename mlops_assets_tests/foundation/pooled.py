"""An asset with a pool slot, and a process that is killed while it holds that slot."""

import os
import signal
from multiprocessing.synchronize import Barrier
from pathlib import Path

import dagster as dg

from mlops_assets.foundation.resources import Platform

POOL = "training_device"


class Behaviour(dg.Config):
    """What the asset does once it has the slot."""

    die: bool = False


@dg.asset(pool=POOL)
def trained(config: Behaviour, platform: Platform) -> None:
    """Hold the slot of the pool."""
    assert platform.engine
    if config.die:
        os.kill(os.getpid(), signal.SIGKILL)


def run_trained(
    dagster_home: Path, home: Path, ttl_seconds: float, *, die: bool, database_url: str = ""
) -> dg.ExecuteInProcessResult:
    """Run the asset on the persistent instance of `dagster_home`."""
    settings = {"MLOPS_HOME": str(home), "MLOPS_DATABASE_URL": database_url}
    platform = Platform(settings_override=settings, heartbeat_ttl_seconds=ttl_seconds)
    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        return dg.materialize(
            [trained],
            instance=instance,
            resources={"platform": platform},
            run_config={"ops": {"trained": {"config": {"die": die}}}},
            raise_on_error=False,
        )


def run_and_die(dagster_home: Path, home: Path, ttl_seconds: float, barrier: Barrier) -> None:
    """Run the asset and get `kill -9` inside it."""
    barrier.wait()
    run_trained(dagster_home, home, ttl_seconds, die=True)
