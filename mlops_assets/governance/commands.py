"""Commands for CI and operators: `python -m mlops_assets.governance.commands --help`.

Nothing here goes past governance: training and registration are the lifecycle job's, `approve` and `reject` count as one
vote of a required approver, `promote` takes approved versions in Staging only, and roles say who may promote and roll
back. Exit codes: 0 done, 1 a threshold is missed or the audit trail does not hold, 2 refused (the reason goes to
standard error).
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import get_args

from sqlalchemy import Engine

from mlops_assets.evaluation.gates import Gate, gate
from mlops_assets.evaluation.report import REPORT_JSON, ValidationReport, read_report
from mlops_assets.foundation.access import access_control
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.clock import SystemClock
from mlops_assets.foundation.database import create_operational_engine, upgrade
from mlops_assets.foundation.errors import InputError, MlopsError
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.records import read_record
from mlops_assets.foundation.settings import Settings, load_settings
from mlops_assets.governance.approval_requests import approval_requests, in_words
from mlops_assets.governance.approval_state import VoteDecision
from mlops_assets.governance.approvals import open_approvals
from mlops_assets.governance.audit_commands import add_audit_commands
from mlops_assets.governance.evidence import spec_of
from mlops_assets.governance.waivers import all_waivers, grant_waiver, revoke_waiver
from mlops_assets.registry.mlflow_store import be_impatient
from mlops_assets.registry.model_registry import ModelRegistry

DONE, MISSED, REFUSED = 0, 1, 2


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        settings = load_settings(environ)
        engine = create_operational_engine(settings.database)
        try:
            if getattr(arguments, "file", None) is None:  # an exported trail is verified without a database
                upgrade(engine)
            return int(arguments.run(arguments, settings, engine))
        finally:
            engine.dispose()
    except MlopsError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED


def threshold_gates(report: ValidationReport, *, min_accuracy: float, max_latency_ms: float) -> tuple[Gate, ...]:
    """Judge a report by CI's smoke thresholds; too few labels are insufficient data here as well."""
    judged = report.gate("accuracy")
    lacking = judged.reason if judged is not None and judged.verdict == "insufficient_data" else ""
    return (
        gate("accuracy", "absolute", report.metrics.get("accuracy"), ">=", min_accuracy, lacking=lacking),
        gate("latency_p95_ms", "absolute", report.metrics.get("latency_p95_ms"), "<=", max_latency_ms),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mlops_assets.governance.commands", description=__doc__)
    commands = parser.add_subparsers(required=True)
    check = commands.add_parser("check-thresholds", help="fail when the newest validation reports miss a threshold")
    check.add_argument("--model-name", help="one registered model; by default all")
    check.add_argument("--min-accuracy", type=float, help="by default the policy profile's")
    check.add_argument("--max-latency", type=float, help="95th percentile in ms; by default the policy profile's")
    check.set_defaults(run=_check)
    promote = commands.add_parser("promote", help="make an approved version in Staging the champion")
    promote.add_argument("--version", help="semantic version; by default the challenger")
    promote.set_defaults(run=_promote)
    rollback = commands.add_parser("rollback", help="give production back to a former champion")
    rollback.add_argument("--version", help="semantic version; by default the champion before")
    rollback.set_defaults(run=_rollback)
    for command in (promote, rollback):
        command.add_argument("--model-name", required=True)
        command.add_argument("--user", required=True, help="who answers for it")
        command.add_argument("--reason", required=True)
    requests = commands.add_parser("requests", help="list what waits for approval")
    requests.add_argument("--all", action="store_true", help="also what was decided, expired or superseded")
    requests.set_defaults(run=_requests)
    for decision in get_args(VoteDecision):
        command = commands.add_parser(decision, help=f"{decision} a version, as one of its required approvers")
        command.add_argument("--model-name", required=True)
        command.add_argument("--version", required=True, help="semantic version")
        command.add_argument("--user", required=True, help="the approver")
        command.add_argument("--comment", required=True, help="what the decision rests on")
        command.set_defaults(run=_vote, decision=decision)
    _add_waivers(commands)
    add_audit_commands(commands.add_parser("audit", help="verify, export, replay and ask the audit trail"))
    return parser


def _add_waivers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    commands.add_parser("waivers", help="list waivers, the newest first").set_defaults(run=_waivers)
    waive = commands.add_parser("waive", help="let versions of a model miss one check, as a required approver")
    waive.add_argument("--model-name", required=True)
    waive.add_argument("--check", required=True, help="as a decision's reasons name it")
    waive.add_argument("--days", type=float, required=True, help="until it ends")
    waive.add_argument("--user", required=True, help="who decides it")
    waive.add_argument("--reason", required=True)
    waive.set_defaults(run=_waive)
    revoke = commands.add_parser("revoke-waiver", help="end a waiver now")
    revoke.add_argument("--waiver", type=int, required=True, help="its number")
    revoke.add_argument("--user", required=True, help="who answers for it")
    revoke.set_defaults(run=_revoke_waiver)


def _check(arguments: argparse.Namespace, settings: Settings, engine: Engine) -> int:
    policy = load_profile(settings.policy_profile).evaluation
    specs = [spec_of(arguments.model_name)] if arguments.model_name else list(AGENTS.values())
    code = DONE
    for spec in specs:
        run_id = read_record(engine, asset="validation_report", partition=spec.name)["run_id"]
        report = read_report(settings.paths.reports(spec.name) / run_id / REPORT_JSON)
        gates = threshold_gates(
            report,
            min_accuracy=policy.min_accuracy if arguments.min_accuracy is None else arguments.min_accuracy,
            max_latency_ms=policy.max_latency_ms if arguments.max_latency is None else arguments.max_latency,
        )
        for judged in gates:
            sys.stdout.write(f"{spec.registered_model}: {judged.verdict}: {judged.reason}\n")
        if any(judged.verdict != "pass" for judged in gates):
            code = MISSED
    return code


def _promote(arguments: argparse.Namespace, settings: Settings, engine: Engine) -> int:
    name = spec_of(arguments.model_name).registered_model
    registry = _registry(settings, engine, arguments.user)
    version = arguments.version
    if version is None:
        challenger = registry.challenger(name)
        if challenger is None:
            raise InputError(f"{name} has no challenger to promote; run the lifecycle, or name a version")
        version = challenger.semver
    open_approvals(settings, engine, SystemClock(), registry).require_current(name, version, user=arguments.user)
    promoted = registry.promote_to_production(name, version, user=arguments.user, reason=arguments.reason)
    sys.stdout.write(f"{name} {promoted.semver} is in production\n")
    return DONE


def _rollback(arguments: argparse.Namespace, settings: Settings, engine: Engine) -> int:
    name = spec_of(arguments.model_name).registered_model
    registry = _registry(settings, engine, arguments.user)
    restored = registry.rollback_model(name, arguments.version, user=arguments.user, reason=arguments.reason)
    sys.stdout.write(f"{name} {restored.semver} is in production\n")
    return DONE


def _requests(arguments: argparse.Namespace, _settings: Settings, engine: Engine) -> int:
    found = approval_requests(engine, open_only=not arguments.all)
    for request in found:
        sys.stdout.write(f"{in_words(request)}\n")
    if not found:
        sys.stdout.write("nothing waits for approval\n")
    return DONE


def _vote(arguments: argparse.Namespace, settings: Settings, engine: Engine) -> int:
    registry = _registry(settings, engine, arguments.user)
    request = open_approvals(settings, engine, SystemClock(), registry).vote(
        arguments.model_name,
        arguments.version,
        approver=arguments.user,
        decision=arguments.decision,
        comment=arguments.comment,
        channel="cli",
    )
    sys.stdout.write(f"{in_words(request)}\n")
    return DONE


def _waivers(_arguments: argparse.Namespace, _settings: Settings, engine: Engine) -> int:
    now = SystemClock().now()
    for waiver in all_waivers(engine):
        state = "holds" if waiver.holds(now) else "revoked" if waiver.revoked_at is not None else "ended"
        sys.stdout.write(f"{waiver.id}: {waiver.model_name} {waiver.check_name} {state}, {waiver}\n")
    return DONE


def _waive(arguments: argparse.Namespace, settings: Settings, engine: Engine) -> int:
    waiver = grant_waiver(
        engine,
        load_profile(settings.policy_profile),
        model_name=arguments.model_name,
        check_name=arguments.check,
        days=arguments.days,
        user=arguments.user,
        reason=arguments.reason,
        now=SystemClock().now(),
    )
    sys.stdout.write(f"waiver {waiver.id}: {waiver.model_name} {waiver.check_name}, {waiver}\n")
    return DONE


def _revoke_waiver(arguments: argparse.Namespace, settings: Settings, engine: Engine) -> int:
    access_control(settings).require_person(arguments.user)
    revoke_waiver(engine, arguments.waiver, user=arguments.user, now=SystemClock().now())
    sys.stdout.write(f"waiver {arguments.waiver} has ended\n")
    return DONE


def _registry(settings: Settings, engine: Engine, user: str) -> ModelRegistry:
    access = access_control(settings)
    access.require_person(user)
    return ModelRegistry(settings.tracking_uri, engine, SystemClock(), access)


if __name__ == "__main__":
    be_impatient()
    sys.exit(main())
