"""Commands for CI and operators: `python -m mlops_assets.governance.commands check-thresholds | promote | rollback`.

Nothing here goes past governance: training, registration and approval are the lifecycle job's, and `promote` takes
approved versions in Staging only. Exit codes: 0 done, 1 a threshold is missed, 2 refused (the reason goes to standard
error).
"""

import argparse
import sys
from collections.abc import Mapping, Sequence

from sqlalchemy import Engine

from mlops_assets.evaluation.gates import Gate, gate
from mlops_assets.evaluation.report import REPORT_JSON, ValidationReport, read_report
from mlops_assets.foundation.agents import AGENTS, AgentSpec
from mlops_assets.foundation.clock import SystemClock
from mlops_assets.foundation.database import create_operational_engine, upgrade
from mlops_assets.foundation.errors import InputError, MlopsError
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.records import read_record
from mlops_assets.foundation.settings import Settings, load_settings
from mlops_assets.registry.model_registry import ModelRegistry

DONE, MISSED, REFUSED = 0, 1, 2


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        settings = load_settings(environ)
        engine = create_operational_engine(settings.database)
        try:
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
    return parser


def _check(arguments: argparse.Namespace, settings: Settings, engine: Engine) -> int:
    policy = load_profile(settings.policy_profile).evaluation
    specs = [_spec(arguments.model_name)] if arguments.model_name else list(AGENTS.values())
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
    name = _spec(arguments.model_name).registered_model
    registry = ModelRegistry(settings.tracking_uri, engine, SystemClock())
    version = arguments.version
    if version is None:
        challenger = registry.challenger(name)
        if challenger is None:
            raise InputError(f"{name} has no challenger to promote; run the lifecycle, or name a version")
        version = challenger.semver
    promoted = registry.promote_to_production(name, version, user=arguments.user, reason=arguments.reason)
    sys.stdout.write(f"{name} {promoted.semver} is in production\n")
    return DONE


def _rollback(arguments: argparse.Namespace, settings: Settings, engine: Engine) -> int:
    name = _spec(arguments.model_name).registered_model
    registry = ModelRegistry(settings.tracking_uri, engine, SystemClock())
    restored = registry.rollback_model(name, arguments.version, user=arguments.user, reason=arguments.reason)
    sys.stdout.write(f"{name} {restored.semver} is in production\n")
    return DONE


def _spec(model_name: str) -> AgentSpec:
    for spec in AGENTS.values():
        if spec.registered_model == model_name:
            return spec
    known = ", ".join(spec.registered_model for spec in AGENTS.values())
    raise InputError(f"unknown model {model_name!r}; registered models: {known}")


if __name__ == "__main__":
    sys.exit(main())
