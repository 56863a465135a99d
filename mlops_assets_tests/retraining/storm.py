"""Daemons that are killed in a storm of triggers: `python -m mlops_assets_tests.retraining.storm`, for test_storm.py.

A process of its own, since forks of one that has threads are unsafe. The daemon does what Dagster's does with a sensor's
run requests: a key that has a run is skipped, each other one becomes a run; runs end after a while.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import get_args

import dagster as dg
from sqlalchemy import Engine, func, select

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.clock import Clock, deployment_clock
from mlops_assets.foundation.database import create_operational_engine, read_transaction, transaction
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.settings import load_settings
from mlops_assets.foundation.tables import RetrainingRunRecord, TriggerSignalRecord
from mlops_assets.foundation.trigger import TriggerType
from mlops_assets.retraining.evaluate import evaluate_all
from mlops_assets.retraining.requests import RunRequest, reconcile
from mlops_assets.retraining.sensors import _run_request, _runs_of
from mlops_assets.retraining.signals import NewSignal, submit

POLICY = load_profile("aiwebtest").retraining
RUN_KEY = "dagster/run_key"
BATCH = 250
PATIENCE_SECONDS = 110.0


def triggers(count: int) -> list[NewSignal]:
    """As many as asked for, of all sources and agents."""
    kinds: tuple[TriggerType, ...] = get_args(TriggerType)
    agents = list(AGENTS)
    return [
        NewSignal(
            agents[n % len(agents)], kinds[n % len(kinds)], f"storm:{n}", f"trigger {n}", user="storm@company.com"
        )
        for n in range(count)
    ]


def opened() -> tuple[Engine, Clock]:
    """The deployment of the environment."""
    settings = load_settings()
    return create_operational_engine(settings.database), deployment_clock(settings.clock)


def storm(count: int) -> None:
    """Raise every trigger, from the first one on: keys make what is there already harmless."""
    engine, clock = opened()
    everything = triggers(count)
    for start in range(0, count, BATCH):
        with transaction(engine) as session:
            submit(session, everything[start : start + BATCH], clock.now(), POLICY.signal_expiry_hours)


def evaluator() -> None:
    """A sensor that only evaluates, again and again."""
    engine, clock = opened()
    while True:
        evaluate_all(engine, POLICY, clock.now())
        time.sleep(0.1)


def daemon(folder: str) -> None:
    """The sensor that hands over, and Dagster's part of it."""
    engine, clock = opened()
    with dg.DagsterInstance.local_temp(folder) as instance:
        while True:
            left = reconcile(engine, _runs_of(instance), clock.now())
            done = evaluate_all(engine, POLICY, clock.now())
            for request in [*left, *(one.request for one in done if one.request is not None)]:
                launch(instance, request)
            end_runs(instance)
            time.sleep(0.05)


def end_runs(instance: dg.DagsterInstance) -> None:
    """Let every run end well."""
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        ended = dg.DagsterEvent(event_type_value="PIPELINE_SUCCESS", job_name=run.job_name)
        instance.report_dagster_event(ended, run.run_id)


def warm() -> None:
    """Import what an instance needs, so that a child's short life is not spent on it."""
    with tempfile.TemporaryDirectory() as folder, dg.DagsterInstance.local_temp(folder) as instance:
        instance.add_run(dg.DagsterRun(job_name="retrain", status=dg.DagsterRunStatus.STARTED))
        end_runs(instance)


def launch(instance: dg.DagsterInstance, request: RunRequest) -> None:
    """Make the run, unless its key has one."""
    asked = _run_request(request)
    if instance.get_runs(dg.RunsFilter(tags={RUN_KEY: str(asked.run_key)})):
        return
    tags = {**asked.tags, RUN_KEY: str(asked.run_key), "dagster/partition": str(asked.partition_key)}
    instance.add_run(dg.DagsterRun(job_name="retrain", tags=tags, status=dg.DagsterRunStatus.STARTED))


def forked(body: Callable[[], None]) -> int:
    """Run it in a child; its id."""
    child = os.fork()
    if child:
        return child
    body()
    os._exit(0)


def left(count: int) -> tuple[int, int]:
    """Triggers that are not raised or not settled, and trainings that have not ended."""
    engine, _ = opened()
    with read_transaction(engine) as session:
        settled = session.scalar(select(func.count()).where(TriggerSignalRecord.settled_by.is_not(None)))
        running = session.scalar(select(func.count()).where(RetrainingRunRecord.ended_at.is_(None)))
    engine.dispose()
    return count - int(settled or 0), int(running or 0)


def main() -> int:
    """Let the storm pass under kills; print how many there were."""
    folder, count, kills, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    draw = random.Random(seed)
    warm()
    killed, until = 0, time.monotonic() + PATIENCE_SECONDS
    finished = False
    while time.monotonic() < until:
        if killed >= kills and left(count) == (0, 0):
            finished = True
            break
        # Once enough were killed, they may live.
        life = draw.uniform(0.05, 1.5) if killed < kills else PATIENCE_SECONDS
        children = [forked(body) for body in (partial(storm, count), evaluator, partial(daemon, folder))]
        born = time.monotonic()
        time.sleep(min(life, 1.5))
        while killed >= kills and time.monotonic() < min(until, born + life) and left(count) != (0, 0):
            time.sleep(0.5)
        for child in children:
            os.kill(child, signal.SIGKILL)
        killed += sum(os.WIFSIGNALED(os.waitpid(child, 0)[1]) for child in children)
    sys.stdout.write(json.dumps({"killed": killed, "finished": finished}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
