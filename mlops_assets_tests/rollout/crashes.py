"""Daemons that advance a rollout, killed at random moments: `python -m mlops_assets_tests.rollout.crashes`, for test_crashes.py.

A process of its own, since forks of one that has threads are unsafe; what a fork needs is imported before.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import mlflow.tracking
import mlflow.tracking.client

from mlops_assets.foundation.clock import Clock, ShiftedClock
from mlops_assets.foundation.database import create_operational_engine
from mlops_assets.foundation.errors import MlopsError
from mlops_assets.foundation.policies import DeploymentCalendar, RolloutPolicy
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.settings import load_settings
from mlops_assets.governance.approvals import open_approvals
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.rollout.advance import Observation
from mlops_assets.rollout.controller import Rollouts
from mlops_assets.rollout.effects import Outbox, undelivered
from mlops_assets.rollout.ledger import current
from mlops_assets.rollout.platform import PlatformWatch
from mlops_assets.rollout.start import Starter
from mlops_assets.rollout.state import RolloutState
from mlops_assets_tests.rollout.rollouts import POLICY
from mlops_assets_tests.rollout.test_advance import GOOD_SHADOW, GOOD_STAGE

IMPORTED = (mlflow.tracking, mlflow.tracking.client)
MODEL = "requirements-agent-dqn"
DAEMONS = 2
LONGEST_LIFE_SECONDS = 0.35
PATIENCE_SECONDS = 400.0


def quick() -> RolloutPolicy:
    """The default policy, whose stages take no time."""
    stages = {name: stage.model_copy(update={"hours": 1e-9}) for name, stage in POLICY.stages.items()}
    calendar = DeploymentCalendar(timezone="UTC", hours=None, blocked_days=())
    shadow = POLICY.shadow.model_copy(update={"hours": 1e-9})
    return POLICY.model_copy(
        update={"stages": stages, "shadow": shadow, "calendar": calendar, "automatic_start": False}
    )


class Satisfied:
    """Sees a candidate that has proven everything: what is looked at here is how steps are taken, not on what."""

    def observe(self, state: RolloutState, _policy: RolloutPolicy) -> Observation:
        """Return it."""
        return Observation(champion=state.champion, shadow=GOOD_SHADOW, stage=GOOD_STAGE)


def rollouts(clock: Clock, holder: str) -> Rollouts:
    """Open the deployment of the environment."""
    settings = load_settings()
    engine = create_operational_engine(settings.database)
    registry = ModelRegistry(settings.tracking_uri, engine, clock)
    platform = PlatformWatch(engine, load_profile(settings.policy_profile), clock, data_clock=settings.data_clock)
    starter = Starter(engine, registry, open_approvals(settings, engine, clock, registry), platform, quick())
    outbox = Outbox(engine, registry, clock, {}, (), holder)
    return Rollouts(engine, registry, starter, Satisfied(), outbox, quick(), clock)  # type: ignore[arg-type]


def begin(version: str) -> None:
    """Start the next rollout."""
    starter = rollouts(ShiftedClock(timedelta()), "starter")
    starter.start(MODEL, version, user="mlops@company.com", reason="tests", accept_accuracy=True)


def tick_forever(number: int, hours: int) -> None:
    """A daemon with a clock that may be an hour off; the same name after a restart."""
    daemon = rollouts(ShiftedClock(timedelta(hours=hours)), f"daemon {number}")
    while True:
        daemon.tick(MODEL)


def forked(body: Callable[[], None]) -> int:
    """Run it in a child; its id."""
    child = os.fork()
    if child:
        return child
    try:
        body()
    except MlopsError as error:
        sys.stderr.write(f"{error}\n")
        os._exit(3)
    os._exit(0)


def main() -> int:
    """Let candidates go to the end, one after another, under kills; print how many there were."""
    versions, kills, seed = sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3])
    draw = random.Random(seed)
    engine = create_operational_engine(load_settings().database)
    killed, left, finished, until = 0, list(versions), False, time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        state = current(engine, MODEL)
        idle = (state is None or not state.active) and not undelivered(engine)
        engine.dispose()
        if idle and not left:
            finished = True
            break
        if idle:
            version = left[0]
            child = forked(partial(begin, version))
            # Killed once in three times, also while it starts.
            if draw.random() < 1 / 3:
                time.sleep(draw.uniform(0.0, LONGEST_LIFE_SECONDS))
                os.kill(child, signal.SIGKILL)
            killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
            found = current(engine, MODEL)
            engine.dispose()
            if found is not None and found.candidate == version:
                left.pop(0)
            continue
        # Once enough were killed, they may live.
        life = draw.uniform(0.0, LONGEST_LIFE_SECONDS) if killed < kills else 3.0
        daemons = [forked(partial(tick_forever, number, draw.choice((-1, 0, 1)))) for number in range(DAEMONS)]
        time.sleep(life)
        for daemon in daemons:
            os.kill(daemon, signal.SIGKILL)
        killed += sum(os.WIFSIGNALED(os.waitpid(daemon, 0)[1]) for daemon in daemons)
    sys.stdout.write(json.dumps({"killed": killed, "left": left, "finished": finished}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
