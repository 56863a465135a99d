"""Dispatchers and checks that are killed at random moments: `python -m mlops_assets_tests.monitoring.alert_crashes`.

For test_alert_crashes.py; a process of its own, since forks of one that has threads are unsafe.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from sqlalchemy import Engine

from mlops_assets.foundation.clock import SystemClock
from mlops_assets.foundation.database import create_operational_engine
from mlops_assets.foundation.policies import ChannelName
from mlops_assets.foundation.settings import load_settings
from mlops_assets.monitoring.channels import Send, alert_channels
from mlops_assets.monitoring.delivery import Dispatcher
from mlops_assets.monitoring.findings import Routing
from mlops_assets.monitoring.waiting import waiting
from mlops_assets_tests.monitoring.alerting import finding, gone, limits, policy, see

PATIENCE_SECONDS = 60.0
POLICY = policy(delivery=limits(answer_seconds=2.0, retry_seconds=0.01, max_retry_seconds=0.05), quiet_hours=None)


def dispatch_forever(engine: Engine, channels: dict[ChannelName, Send]) -> None:
    """A daemon that sends what is due; the same name after a restart, as a stateful set has it."""
    to = Routing(POLICY, frozenset(channels))
    while True:
        Dispatcher(engine, to, channels, SystemClock(), "dispatcher").tick()


def find_forever(engine: Engine, channels: dict[ChannelName, Send], number: int) -> None:
    """A check that finds one thing after another, worse, and over."""
    to = Routing(POLICY, frozenset(channels))
    for step in range(1000):
        key = f"{number}:{step}"
        see(engine, finding("WARNING", key), to, datetime.now(UTC))
        see(engine, finding("CRITICAL", key), to, datetime.now(UTC))
        gone(engine, key, to, datetime.now(UTC), for_good=True)
        time.sleep(0.03)


def forked(body: Callable[[Engine], None]) -> int:
    """Run it in a child, on connections of its own; return its id."""
    child = os.fork()
    if child:
        return child
    try:
        body(create_operational_engine(load_settings().database))
    finally:
        os._exit(3)


def main() -> int:
    """Kill until there were enough, then let what is left be told; print how many were killed and what waits."""
    kills, longest_life, draw = int(sys.argv[1]), float(sys.argv[2]), random.Random(int(sys.argv[3]))
    # What is read and compiled once is read before the forks, which then live for what they are killed in.
    channels, engine = alert_channels(load_settings(), POLICY), create_operational_engine(load_settings().database)
    waiting(engine, [])
    engine.dispose()
    killed, until = 0, time.monotonic() + PATIENCE_SECONDS
    while killed < kills and time.monotonic() < until:
        dispatcher = partial(dispatch_forever, channels=channels)
        children = [forked(dispatcher), forked(partial(find_forever, channels=channels, number=killed))]
        time.sleep(draw.uniform(0.0, longest_life))
        for child in children:
            os.kill(child, signal.SIGKILL)
        killed += sum(os.WIFSIGNALED(os.waitpid(child, 0)[1]) for child in children)
    last, left = forked(partial(dispatch_forever, channels=channels)), 1
    while left and time.monotonic() < until:
        time.sleep(0.1)
        left = sum(one.notices for one in waiting(engine, []))
    os.kill(last, signal.SIGKILL)
    os.waitpid(last, 0)
    sys.stdout.write(json.dumps({"killed": killed, "left": left}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
