"""Rollouts from the command line: `python -m mlops_assets.rollout.commands`, then start, status, tick, pause, ... or verify.

Running servers follow a change within a second. Exit codes: 0 done, 2 refused (the reason goes to standard error).
"""

import argparse
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from sqlalchemy import Engine

from mlops_assets.experiments.nginx import parse_arm
from mlops_assets.foundation.access import access_control
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.clock import Clock, deployment_clock
from mlops_assets.foundation.database import create_operational_engine, upgrade
from mlops_assets.foundation.errors import MlopsError
from mlops_assets.foundation.settings import Settings, load_settings
from mlops_assets.registry.mlflow_store import be_impatient
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.rollout.controller import Change, Rollouts, open_rollouts
from mlops_assets.rollout.effects import undelivered
from mlops_assets.rollout.ledger import newest_states, rollout_named, verify
from mlops_assets.rollout.nginx import NginxAdapter, follow, follow_once
from mlops_assets.rollout.report import rollout_png, state_in_words, step_in_words
from mlops_assets.rollout.state import STAGES, stage_named

DONE, REFUSED = 0, 2
_MODELS = [spec.registered_model for spec in AGENTS.values()]


@dataclass(frozen=True)
class _Deployment:
    settings: Settings
    engine: Engine
    clock: Clock

    def rollouts(self, user: str | None = None) -> Rollouts:
        """Open the rollouts for a person, or for the service that advances them."""
        access = access_control(self.settings)
        if user is not None:
            access.require_person(user)
        registry = ModelRegistry(self.settings.tracking_uri, self.engine, self.clock, access)
        return open_rollouts(self.settings, self.engine, self.clock, registry, holder=f"command {os.getpid()}")


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
    parser = argparse.ArgumentParser(prog="python -m mlops_assets.rollout.commands", description=__doc__)
    commands = parser.add_subparsers(required=True)
    start = commands.add_parser("start", help="begin the rollout of an approved, staged version with its shadow stage")
    start.add_argument("--model-name", required=True, choices=_MODELS)
    start.add_argument("--new-version", help="semantic version, by default the challenger")
    start.add_argument(
        "--accept-accuracy", action="store_true", help="also where accuracy so far is below the last stage's floor"
    )
    start.set_defaults(run=_start)
    for change in get_args(Change):
        command = commands.add_parser(change, help=_HELP[change])
        command.add_argument("--model-name", required=True, choices=_MODELS)
        command.set_defaults(run=_roll_back if change == "rollback" else _change, change=change)
        if change == "jump":
            command.add_argument("--to", required=True, choices=STAGES[:-1], help="an earlier stage")
        if change == "rollback":
            command.add_argument("--to-version", help="former champion, where no rollout is under way")
        _add_person(command)
    _add_person(start)
    status = commands.add_parser("status", help="the newest rollout of each model, and what is to be done elsewhere")
    status.set_defaults(run=_status)
    tick = commands.add_parser("tick", help="look at rollouts once, as rollout_sensor does every 300 s")
    tick.add_argument("--model-name", choices=_MODELS, help="by default every model")
    tick.set_defaults(run=_tick)
    deliver = commands.add_parser(
        "deliver", help="do what steps have yet to do elsewhere, without a look at any rollout"
    )
    deliver.set_defaults(run=_deliver)
    history = commands.add_parser("history", help="every step of a rollout")
    history.add_argument("--rollout", required=True, help="its name, as status gives it")
    history.add_argument("--picture", type=Path, help="also draw share and evidence over time into this PNG file")
    history.set_defaults(run=_history)
    nginx = commands.add_parser("nginx", help="let an nginx in front of servers of their own follow a model's rollouts")
    nginx.add_argument("--model-name", required=True, choices=_MODELS)
    nginx.add_argument("--champion", required=True, metavar="HOST:PORT=VERSION", help="servers of the champion")
    nginx.add_argument("--candidate", required=True, metavar="HOST:PORT=VERSION", help="servers of the candidate")
    nginx.add_argument("--listen", default="127.0.0.1:8080", metavar="HOST:PORT")
    nginx.add_argument("--folder", required=True, type=Path, help="where experiment.conf is, which nginx.conf includes")
    nginx.add_argument("--program", default="nginx", help="command line that runs nginx on its main configuration")
    nginx.add_argument("--follow", action="store_true", help="go on until interrupted")
    nginx.set_defaults(run=_nginx)
    aa_test = commands.add_parser(
        "aa-test", help="what the A/A test of each champion has found; an alarm holds rollouts"
    )
    aa_test.set_defaults(run=_aa_test)
    reset = commands.add_parser("reset-aa", help="begin an A/A test anew: what made it alarm is mended")
    reset.add_argument("--model-name", required=True, choices=_MODELS)
    reset.set_defaults(run=_reset_aa)
    _add_person(reset)
    check = commands.add_parser("verify", help="do every step of the ledger again and compare")
    check.set_defaults(run=_verify)
    return parser


_HELP: Mapping[Change, str] = {
    "pause": "give everybody the champion for a while; the time does not count",
    "resume": "go on where it was paused",
    "abort": "end it without blaming the candidate, which may start again",
    "jump": "go back to an earlier stage",
    "rollback": "take the candidate back and ban it for a while; without a rollout, return to a former champion",
}


def _add_person(command: argparse.ArgumentParser) -> None:
    command.add_argument("--user", required=True, help="who answers for it")
    command.add_argument("--reason", required=True, help="goes to the ledger, the audit trail and the alert")


def _start(arguments: argparse.Namespace, deployment: _Deployment) -> Iterator[str]:
    state = deployment.rollouts(arguments.user).start(
        arguments.model_name,
        arguments.new_version,
        user=arguments.user,
        reason=arguments.reason,
        accept_accuracy=arguments.accept_accuracy,
    )
    yield state_in_words(state)


def _change(arguments: argparse.Namespace, deployment: _Deployment) -> Iterator[str]:
    to = stage_named(arguments.to) if arguments.change == "jump" else None
    state = deployment.rollouts(arguments.user).change(
        arguments.model_name, arguments.change, user=arguments.user, reason=arguments.reason, to=to
    )
    yield state_in_words(state)


def _roll_back(arguments: argparse.Namespace, deployment: _Deployment) -> Iterator[str]:
    yield deployment.rollouts(arguments.user).roll_back(
        arguments.model_name, arguments.to_version, user=arguments.user, reason=arguments.reason
    )


def _tick(arguments: argparse.Namespace, deployment: _Deployment) -> Iterator[str]:
    rollouts = deployment.rollouts()
    ticks = [rollouts.tick(arguments.model_name)] if arguments.model_name else rollouts.tick_all()
    for tick in ticks:
        yield str(tick)
    failed = [tick for tick in ticks if tick.failed]
    if failed:
        raise MlopsError(f"{len(failed)} of {len(ticks)} models could not be looked at; see above")


def _deliver(_arguments: argparse.Namespace, deployment: _Deployment) -> Iterator[str]:
    delivered = deployment.rollouts().deliver()
    yield from (f"{'to be done' if one.problem else 'done'}: {one}" for one in delivered)
    if any(one.problem is not None for one in delivered):
        raise MlopsError("not all could be done; the next look at the rollouts tries again")


def _status(_arguments: argparse.Namespace, deployment: _Deployment) -> Iterator[str]:
    states = newest_states(deployment.engine)
    for state in states:
        yield state_in_words(state)
    if not states:
        yield "there has been no rollout"
    for effect in undelivered(deployment.engine):
        yield f"to be done: {effect}"


def _history(arguments: argparse.Namespace, deployment: _Deployment) -> Iterator[str]:
    for step in rollout_named(deployment.engine, arguments.rollout):
        yield step_in_words(step)
    if arguments.picture is not None:
        rollout_png(deployment.engine, arguments.rollout, arguments.picture)
        yield f"picture: {arguments.picture}"


def _nginx(arguments: argparse.Namespace, deployment: _Deployment) -> Iterator[str]:
    adapter = NginxAdapter(
        shlex.split(arguments.program),
        arguments.folder,
        arguments.listen,
        parse_arm(arguments.champion),
        parse_arm(arguments.candidate),
    )
    if not arguments.follow:
        done = follow_once(deployment.engine, arguments.model_name, adapter)
        yield f"nginx {'is reloaded with' if done else 'has'} the split of {arguments.model_name}"
        return
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    yield f"nginx follows {arguments.model_name}"
    sys.stdout.flush()
    follow(deployment.engine, arguments.model_name, adapter, stopping)


def _aa_test(_arguments: argparse.Namespace, deployment: _Deployment) -> Iterator[str]:
    rollouts = deployment.rollouts()
    for model_name in _MODELS:
        found = rollouts.aa_test(model_name)
        yield f"{model_name}: {'no champion, or no A/A test by the policy profile' if found is None else found}"


def _reset_aa(arguments: argparse.Namespace, deployment: _Deployment) -> Iterator[str]:
    deployment.rollouts(arguments.user).reset_aa_test(
        arguments.model_name, user=arguments.user, reason=arguments.reason
    )
    yield f"the A/A test of {arguments.model_name} begins anew with the next decision"


def _verify(_arguments: argparse.Namespace, deployment: _Deployment) -> Iterator[str]:
    states = verify(deployment.engine)
    yield f"every step follows from the one before it; {len(states)} models have had rollouts"
    yield from (state_in_words(state) for state in states)


if __name__ == "__main__":
    be_impatient()
    sys.exit(main())
