"""Experiments from the command line: `python -m mlops_assets.experiments.commands`, then create, share, pause, ... or report.

A running server follows a change within a second. Exit codes: 0 done, 2 refused (the reason goes to standard error).
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sqlalchemy import Engine

from mlops_assets.experiments.experiments import (
    TREATMENT_ALIASES,
    Experiment,
    Treatment,
    all_experiments,
    change_experiment,
    create_experiment,
    experiment_named,
)
from mlops_assets.experiments.nginx import Arm, parse_arm, write_nginx
from mlops_assets.experiments.segments import parse_segment
from mlops_assets.foundation.agents import AGENTS, agent_spec
from mlops_assets.foundation.clock import SystemClock
from mlops_assets.foundation.database import create_operational_engine, upgrade
from mlops_assets.foundation.errors import InputError, MlopsError
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.settings import load_settings

DONE, REFUSED = 0, 2
_STATUSES = {"pause": "paused", "resume": "running", "stop": "stopped"}


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        settings = load_settings(environ)
        engine = create_operational_engine(settings.database)
        try:
            upgrade(engine)
            arguments.settings = settings
            for line in arguments.run(arguments, engine):
                sys.stdout.write(f"{line}\n")
        finally:
            engine.dispose()
    except MlopsError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mlops_assets.experiments.commands", description=__doc__)
    commands = parser.add_subparsers(required=True)
    create = commands.add_parser(
        "create", help="send a share of an agent's users to the challenger, or to two versions"
    )
    create.add_argument("--agent", required=True, choices=list(AGENTS))
    create.add_argument(
        "--alias",
        choices=TREATMENT_ALIASES,
        help=f"registry alias of the one treatment, beside --share; {TREATMENT_ALIASES[0]} unless it is said",
    )
    create.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="CONDITION",
        help="whom it is for: browser=chromium,firefox or ui_complexity_score=0.2..0.8; several are all needed",
    )
    create.set_defaults(run=_create)
    share = commands.add_parser(
        "share", help="change shares; a ramp only adds users, and moves none to another treatment"
    )
    share.set_defaults(run=_share)
    for command in (create, share):
        split = command.add_mutually_exclusive_group(required=True)
        split.add_argument("--share", type=float, help="of the one treatment, 0 to 1, such as 0.05")
        split.add_argument(
            "--treatment",
            action="append",
            default=[],
            metavar="ALIAS=SHARE",
            help="such as challenger=0.1; once for each treatment, each an arm of its own",
        )
    for name, help_text in (
        ("pause", "give everybody the champion for a while"),
        ("resume", "go on with the same users"),
        ("stop", "end it for good"),
    ):
        commands.add_parser(name, help=help_text).set_defaults(run=_change, status=_STATUSES[name])
    for command in commands.choices.values():
        command.add_argument("name")
        command.add_argument("--user", required=True, help="who answers for it")
    plan = commands.add_parser("plan", help="how many users a test takes, by the policy profile")
    plan.add_argument("--baseline", required=True, type=float, help="the control's mean of the primary metric, 0 to 1")
    plan.add_argument("--users-per-day", type=float, help="then in days, too")
    plan.set_defaults(run=_plan)
    nginx = commands.add_parser("nginx", help="write the split for nginx, where each version has servers of its own")
    nginx.add_argument("name")
    nginx.add_argument("--control", required=True, metavar="HOST:PORT=VERSION", help="such as 10.0.0.7:8000=2.1.0")
    nginx.add_argument(
        "--treatment",
        required=True,
        action="append",
        metavar="[ALIAS=]HOST:PORT=VERSION",
        help="once for each treatment, with its alias where there are several",
    )
    nginx.add_argument("--listen", default="127.0.0.1:8080", metavar="HOST:PORT")
    nginx.add_argument("--folder", required=True, type=Path)
    nginx.set_defaults(run=_nginx)
    commands.add_parser("list", help="the newest first").set_defaults(run=_list)
    report = commands.add_parser("report", help="take a look, and say what the experiment proves so far")
    report.add_argument("name")
    report.set_defaults(run=_report)
    return parser


def _list(_arguments: argparse.Namespace, engine: Engine) -> list[str]:
    return [_line(one) for one in all_experiments(engine)]


def _plan(arguments: argparse.Namespace, _engine: Engine) -> list[str]:
    from mlops_assets.experiments.analysis import planned_users

    design = load_profile(arguments.settings.policy_profile).ab_test
    control, treatment = planned_users(design, arguments.baseline)
    users = (
        f"{control:,} users of the control and {treatment:,} of the treatment, with {design.traffic_share:.0%} of the users "
        f"in the treatment, find harm of {design.limits[design.primary_metric].effect:.1%} beyond the limit with a power of "
        f"{design.power:.0%} in one look; looked at along the way, some more at the worst, and fewer as a rule"
    )
    lines = [users]
    if arguments.users_per_day:
        days = (control + treatment) / arguments.users_per_day
        lines.append(
            f"{days:.1f} days at {arguments.users_per_day:,.0f} users a day; the design ends after {design.max_days}"
        )
    return lines


def _nginx(arguments: argparse.Namespace, engine: Engine) -> list[str]:
    experiment = experiment_named(engine, arguments.name)
    treatments = _addresses(experiment, arguments.treatment)
    files = write_nginx(
        experiment, parse_arm(arguments.control), *treatments, listen=arguments.listen, folder=arguments.folder
    )
    return [f"{_line(experiment)}: {files[0]}, {files[1]}", "then: nginx -t && nginx -s reload"]


def _addresses(experiment: Experiment, texts: Sequence[str]) -> list[Arm]:
    """Servers of the treatments, in the experiment's order."""
    if not experiment.more:
        return [parse_arm(text) for text in texts]
    by_alias = {text.partition("=")[0]: parse_arm(text.partition("=")[2]) for text in texts}
    aliases = list(experiment.treatments)
    if len(texts) != len(aliases) or set(by_alias) != set(aliases):
        raise InputError(
            f"experiment {experiment.name!r} has the treatments {' and '.join(aliases)}; give --treatment "
            f"{aliases[0]}=HOST:PORT=VERSION, and so for each"
        )
    return [by_alias[alias] for alias in aliases]


def _report(arguments: argparse.Namespace, engine: Engine) -> list[str]:
    # scipy, pandas and matplotlib come with it.
    from mlops_assets.experiments.report import report_experiment, summary

    settings = arguments.settings
    found = report_experiment(
        engine,
        arguments.name,
        load_profile(settings.policy_profile),
        settings.paths.experiments(arguments.name),
        now=SystemClock().now(),
        data_clock=settings.data_clock,
    )
    return [summary(found), "", f"files: {found.json}, {found.picture}"]


def _create(arguments: argparse.Namespace, engine: Engine) -> list[str]:
    treatments = [Treatment(alias, share) for alias, share in _shares(arguments.treatment)]
    if treatments and arguments.alias is not None:
        raise InputError(f"--alias {arguments.alias} is for --share; write --treatment {arguments.alias}=SHARE")
    first, *more = treatments or [Treatment(arguments.alias or TREATMENT_ALIASES[0], arguments.share)]
    made = create_experiment(
        engine,
        arguments.name,
        arguments.agent,
        treatment_share=first.share,
        treatment_alias=first.alias,
        more=more,
        segment=parse_segment(arguments.only, agent_spec(arguments.agent)),
        user=arguments.user,
        now=SystemClock().now(),
    )
    return [_line(made)]


def _share(arguments: argparse.Namespace, engine: Engine) -> list[str]:
    changed = change_experiment(
        engine,
        arguments.name,
        user=arguments.user,
        now=SystemClock().now(),
        treatment_share=arguments.share,
        shares=dict(_shares(arguments.treatment)),
    )
    return [_line(changed)]


def _shares(texts: Sequence[str]) -> list[tuple[str, float]]:
    found = []
    for text in texts:
        alias, _, share = text.partition("=")
        try:
            found.append((alias, float(share)))
        except ValueError:
            raise InputError(f"the treatment {text!r} is none; write ALIAS=SHARE, such as challenger=0.1") from None
    return found


def _change(arguments: argparse.Namespace, engine: Engine) -> list[str]:
    now = SystemClock().now()
    return [_line(change_experiment(engine, arguments.name, user=arguments.user, now=now, status=arguments.status))]


def _line(one: Experiment) -> str:
    shares = ", ".join(
        f"{treated.share:.1%} of {one.agent}'s users to {treated.alias}" for treated in one.treatments.values()
    )
    return f"{one.name}: {one.status}, {shares}"


if __name__ == "__main__":
    sys.exit(main())
