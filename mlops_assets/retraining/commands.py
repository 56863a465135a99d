"""Retraining from the command line: `python -m mlops_assets.retraining.commands request | check | history | status`.

What is decided on is started by the sensor `drift_sensor`. Exit codes: 0 done, 2 refused (the reason goes to standard error).
"""

import argparse
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Engine

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.clock import Clock, deployment_clock
from mlops_assets.foundation.database import create_operational_engine, read_transaction, upgrade
from mlops_assets.foundation.errors import InputError, MlopsError
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.settings import Settings, load_settings
from mlops_assets.retraining.by_hand import request_retraining
from mlops_assets.retraining.evaluate import evaluate_all, evaluations
from mlops_assets.retraining.requests import all_requests, open_request, success_rate
from mlops_assets.retraining.signals import waiting
from mlops_assets.retraining.sources import of_everything

DONE, REFUSED = 0, 2
_MAX_DAYS = 3650.0


@dataclass(frozen=True)
class _Deployment:
    settings: Settings
    engine: Engine
    clock: Clock


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        settings = load_settings(environ)
        engine = create_operational_engine(settings.database)
        try:
            upgrade(engine)
            for line in arguments.run(arguments, _Deployment(settings, engine, deployment_clock(settings.clock))):
                sys.stdout.write(f"{line}\n")
        finally:
            engine.dispose()
    except MlopsError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mlops_assets.retraining.commands", description=__doc__)
    commands = parser.add_subparsers(required=True)
    request = commands.add_parser("request", help="ask for a training of one agent")
    request.add_argument("--agent", required=True, choices=list(AGENTS))
    request.add_argument("--user", required=True, help="who answers for it")
    request.add_argument("--reason", required=True, help="goes to the run, the MLflow run and the model card")
    request.add_argument("--override", action="store_true", help="also within the shortest time between trainings")
    request.add_argument(
        "--key", help="of this request: a second try with the same changes nothing; by default a new one"
    )
    request.set_defaults(run=_request)
    check = commands.add_parser(
        "check", help="look at every source of triggers and decide, as daily_trigger_check does"
    )
    check.set_defaults(run=_check)
    history = commands.add_parser("history", help="what was decided, the newest first")
    history.add_argument("--days", type=float, default=7.0)
    history.add_argument("--agent", choices=list(AGENTS), help="by default every agent")
    history.set_defaults(run=_history)
    status = commands.add_parser("status", help="triggers that wait, trainings under way, how many ended well")
    status.set_defaults(run=_status)
    return parser


def _request(arguments: argparse.Namespace, deployment: _Deployment) -> Iterator[str]:
    done = request_retraining(
        deployment.settings,
        deployment.engine,
        deployment.clock,
        agent=arguments.agent,
        reason=arguments.reason,
        user=arguments.user,
        override=arguments.override,
        key=arguments.key or uuid.uuid4().hex,
    )
    yield str(done)


def _check(_arguments: argparse.Namespace, deployment: _Deployment) -> Iterator[str]:
    policy = load_profile(deployment.settings.policy_profile).retraining
    found = of_everything(deployment.engine, policy, deployment.clock, deployment.settings)
    yield from map(str, evaluate_all(deployment.engine, policy, deployment.clock.now(), found))


def _history(arguments: argparse.Namespace, deployment: _Deployment) -> Iterator[str]:
    if not 0.0 < arguments.days <= _MAX_DAYS:
        raise InputError(f"--days {arguments.days}: expected more than 0, up to {_MAX_DAYS:g}")
    since = deployment.clock.now() - timedelta(days=arguments.days)
    found = evaluations(deployment.engine, since=since, agent=arguments.agent)
    for one in found:
        key = "" if one["run_key"] is None else f" {one['run_key']}"
        times = "" if one["times"] == 1 else f", {one['times']} times since {one['evaluated_at']}"
        yield f"{one['last_evaluated_at']} {one['agent']} {one['decision']}{key}: {one['reason']}{times}"
    if not found:
        yield f"nothing was decided in the last {arguments.days:g} days"


def _status(_arguments: argparse.Namespace, deployment: _Deployment) -> Iterator[str]:
    for agent in AGENTS:
        with read_transaction(deployment.engine) as session:
            under_way, signals = open_request(session, agent), waiting(session, agent)
        yield f"{agent}: {under_way or 'no training is under way'}"
        yield from (f"{agent}: waits: {one}" for one in signals)
    since = deployment.clock.now() - timedelta(days=30)
    requests = all_requests(deployment.engine, since=since)
    rate = success_rate(requests)
    ended = "none has ended" if rate is None else f"{rate:.0%} of those that ended did so well"
    yield f"{len(requests)} trainings in 30 days, {ended}"


if __name__ == "__main__":
    sys.exit(main())
