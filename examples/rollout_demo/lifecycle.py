"""Versions as the lifecycle makes them: the real assets, in this process, for one agent."""

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg

from examples.rollout_demo.deployment import Deployment
from examples.rollout_demo.users import AGENT
from mlops_assets.definitions import build_definitions
from mlops_assets.foundation.records import read_record, write_record
from mlops_assets.foundation.resources import Platform
from mlops_assets.training.resources import DqnTrainer

# A thirteenth of the usual updates: good enough to be approved, and to be outdone.
_CHAMPION = {"updates": 600}
_JUDGED = ("model_evaluation", "validation_report", "registered_model", "model_card", "approval")
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def make_champion(deployment: Deployment) -> str:
    """Run the whole lifecycle once, with a short training, and return the version that it made champion."""
    definitions = _definitions(deployment, _CHAMPION)
    job = definitions.resolve_job_def("retrain")
    with handlers_kept():
        job.execute_in_process(instance=_instance(), partition_key=AGENT, run_config=QUIET)
    return _approved(deployment, "champion")


def train_better(deployment: Deployment) -> dict[str, Any]:
    """Train on the same data with the shipped settings, and return the record of the run; it is no version yet."""
    _materialize(deployment, ["dqn_model"])
    return read_record(deployment.engine, asset="dqn_model", partition=AGENT, run_id=None)


def judge(deployment: Deployment, model: Mapping[str, Any]) -> str:
    """Evaluate, register and decide on a training run, as the lifecycle does; return the version that may roll out.

    Args:
        deployment: of the demo.
        model: record of the run, as the asset `dqn_model` leaves it.
    """
    run_id, now = f"demo-{model['run_id']}", deployment.clock.now()
    write_record(deployment.engine, asset="dqn_model", partition=AGENT, run_id=run_id, payload=model, now=now)
    _materialize(deployment, _JUDGED)
    return _approved(deployment, "challenger")


def _approved(deployment: Deployment, outcome: str) -> str:
    decided = read_record(deployment.engine, asset="approval", partition=AGENT, run_id=None)
    if decided["outcome"] != outcome:
        raise SystemExit(f"{decided['semver']} was to be {outcome} and is {decided['outcome']}: {decided['summary']}")
    return str(decided["semver"])


def _materialize(deployment: Deployment, assets: Sequence[str]) -> None:
    definitions = _definitions(deployment, {})
    everything: list[Any] = [*(definitions.assets or []), *(definitions.asset_checks or [])]
    with handlers_kept():
        dg.materialize(
            everything,
            selection=dg.AssetSelection.assets(*assets),
            partition_key=AGENT,
            instance=_instance(),
            resources=definitions.resources,
            run_config=QUIET,
        )


def _definitions(deployment: Deployment, training: Mapping[str, Any]) -> dg.Definitions:
    resources = {
        "platform": Platform(settings_override=dict(deployment.variables)),
        "trainer": DqnTrainer(overrides=dict(training)),
    }
    return build_definitions(resources=resources)


def _instance() -> dg.DagsterInstance:
    """One that remembers nothing: what the lifecycle leaves is in the home."""
    return dg.DagsterInstance.ephemeral()


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Give back the handlers of signals as they were: Dagster leaves SIGTERM to whatever SIGINT does."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
