"""Alerts from the command line: `python -m mlops_assets.monitoring.commands alerts | acknowledge | deliver`.

Exit codes: 0 done, 1 something is wrong (alerts: a CRITICAL one is open; deliver: a notice waits for a channel that does
not take it), 2 refused (the reason goes to standard error).
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from mlops_assets.foundation.access import access_control
from mlops_assets.foundation.clock import Clock, deployment_clock
from mlops_assets.foundation.database import create_operational_engine, upgrade
from mlops_assets.foundation.errors import InputError, MlopsError
from mlops_assets.foundation.settings import Settings, load_settings
from mlops_assets.monitoring.alerts import acknowledge, alerts
from mlops_assets.monitoring.channels import alert_routing
from mlops_assets.monitoring.delivery import open_dispatcher
from mlops_assets.monitoring.findings import Alert
from mlops_assets.monitoring.severity import Severity
from mlops_assets.monitoring.waiting import waiting

DONE, WRONG, REFUSED = 0, 1, 2


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
            return int(arguments.run(arguments, _Deployment(settings, engine, deployment_clock(settings.clock))))
        finally:
            engine.dispose()
    except MlopsError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED


def in_words(alert: Alert) -> str:
    """Say how bad, what, of whom, since when, how often, and who looks after it."""
    finding, state = alert.finding, alert.state
    whom = f" ({finding.model_name or finding.agent})" if finding.model_name or finding.agent else ""
    times = "once" if state.occurrences == 1 else f"{state.occurrences} times"
    who = f", acknowledged by {state.acknowledged_by}" if state.acknowledged_by else ""
    told = f", {state.status}{who}" if state.status != "acknowledged" else who
    escalated = ", escalated" if state.escalated_at else ""
    return (
        f"{alert.id}: {state.severity} {finding.title}{whom}, seen {times} since "
        f"{state.raised_at:%Y-%m-%d %H:%M} UTC{told}{escalated}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mlops_assets.monitoring.commands", description=__doc__)
    commands = parser.add_subparsers(required=True)
    listed = commands.add_parser("alerts", help="list the alerts that go on, and what waits to be told")
    listed.add_argument("--all", action="store_true", help="also those that have recovered")
    listed.set_defaults(run=_alerts)
    known = commands.add_parser("acknowledge", help="look after an alert: it is told no more, unless it gets worse")
    known.add_argument("alert", help="its number, or its key")
    known.add_argument("--user", required=True, help="who looks after it")
    known.set_defaults(run=_acknowledge)
    commands.add_parser("deliver", help="escalate what is late, and send what is due now").set_defaults(run=_deliver)
    return parser


def _alerts(arguments: argparse.Namespace, deployment: _Deployment) -> int:
    found = alerts(deployment.engine, open_only=not arguments.all)
    for alert in found:
        sys.stdout.write(f"{in_words(alert)}\n")
    if not found:
        sys.stdout.write("there is no alert\n")
    _say_waiting(deployment)
    urgent = [one for one in found if one.state.status == "open" and one.state.severity is Severity.CRITICAL]
    return WRONG if urgent else DONE


def _acknowledge(arguments: argparse.Namespace, deployment: _Deployment) -> int:
    access_control(deployment.settings).require_person(arguments.user)
    which = int(arguments.alert) if arguments.alert.isdecimal() else arguments.alert
    if isinstance(which, int) and which.bit_length() > 62:  # noqa: PLR2004 - what the database counts in
        raise InputError(f"there is no alert {which}; `alerts` lists those that go on")
    alert = acknowledge(
        deployment.engine,
        which,
        user=arguments.user,
        routing=alert_routing(deployment.settings),
        now=deployment.clock.now(),
    )
    sys.stdout.write(f"{in_words(alert)}\n")
    return DONE


def _deliver(_arguments: argparse.Namespace, deployment: _Deployment) -> int:
    tried = open_dispatcher(deployment.settings, deployment.engine, deployment.clock).tick()
    for one in tried:
        sys.stdout.write(f"{one}\n")
    if not tried:
        sys.stdout.write("nothing was due\n")
    _say_waiting(deployment)
    return WRONG if any(one.problem for one in tried) else DONE


def _say_waiting(deployment: _Deployment) -> None:
    for one in waiting(deployment.engine, alert_routing(deployment.settings).channels):
        sys.stdout.write(f"{one}\n")


if __name__ == "__main__":
    sys.exit(main())
