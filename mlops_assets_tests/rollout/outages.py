"""A daemon that ticks while its database comes and goes: `python -m mlops_assets_tests.rollout.outages <name> <folder>`.

For test_outages.py. It takes its looks for real, at whoever there is, finds every candidate good, and lives through what
may pass; anything else ends it. Each tick is a line of its file: when it began and ended, and what it said.
"""

import json
import sys
import time
from pathlib import Path

from mlops_assets.foundation.clock import SystemClock
from mlops_assets.foundation.database import create_operational_engine
from mlops_assets.foundation.errors import TransientError
from mlops_assets.foundation.policies import RolloutPolicy
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.settings import load_settings
from mlops_assets.governance.approvals import open_approvals
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.rollout.controller import Rollouts
from mlops_assets.rollout.effects import Outbox
from mlops_assets.rollout.platform import PlatformWatch
from mlops_assets.rollout.start import Starter
from mlops_assets_tests.rollout.write_points import MODEL, PATIENT, Persuaded

STOP = "stop"
STAGE_SECONDS = 1.0
_PAUSE_SECONDS = 0.01


def short() -> RolloutPolicy:
    """The default policy, whose stages take long enough for an outage in each."""
    hours = {"hours": STAGE_SECONDS / 3600.0}
    stages = {name: stage.model_copy(update=hours) for name, stage in PATIENT.stages.items()}
    return PATIENT.model_copy(update={"stages": stages, "shadow": PATIENT.shadow.model_copy(update=hours)})


def rollouts(name: str) -> Rollouts:
    """Open the deployment of the environment."""
    settings, clock, policy = load_settings(), SystemClock(), short()
    engine = create_operational_engine(settings.database)
    registry = ModelRegistry(settings.tracking_uri, engine, clock)
    approvals = open_approvals(settings, engine, clock, registry)
    platform = PlatformWatch(engine, load_profile("aiwebtest"), clock, data_clock=False)
    observer = Persuaded(engine, registry, approvals, platform, clock, data_clock=False)
    starter = Starter(engine, registry, approvals, platform, policy)
    return Rollouts(engine, registry, starter, observer, Outbox(engine, registry, clock, {}, (), name), policy, clock)


def main() -> int:
    """Tick until the folder has a file that says to stop."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    daemon = rollouts(name)
    with (folder / name).open("w", encoding="utf-8", buffering=1) as lines:
        while not (folder / STOP).exists():
            begin, problem = time.monotonic(), None
            try:
                daemon.tick(MODEL)
            except TransientError as error:
                problem = str(error)
            lines.write(json.dumps([begin, time.monotonic(), problem]) + "\n")
            time.sleep(_PAUSE_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
