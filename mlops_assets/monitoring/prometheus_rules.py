"""The rule file of Prometheus for a policy profile: `python -m mlops_assets.monitoring.prometheus_rules` writes it.

Exit codes: 0 done, 2 refused (the reason goes to standard error).
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mlops_assets.foundation.errors import MlopsError
from mlops_assets.foundation.files import atomic_write
from mlops_assets.foundation.profiles import PolicyProfile, load_profile
from mlops_assets.foundation.settings import load_settings
from mlops_assets.monitoring.alert_rule import AlertRule
from mlops_assets.monitoring.promql import duration
from mlops_assets.monitoring.state_rules import drift_rules, operation_rules
from mlops_assets.monitoring.traffic_rules import decision_rules, process_rules

DONE, REFUSED = 0, 2
FOLDER = Path("deploy/monitoring/rules")
RUNBOOKS = "docs/runbooks.md"
_HEAD = "# Made by `python -m mlops_assets.monitoring.prometheus_rules` from the policy profile {}; change it there.\n"


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Write the rules of the deployment's profile and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m mlops_assets.monitoring.prometheus_rules", description=__doc__)
    parser.add_argument("--profile", help="another policy profile than the deployment's (MLOPS_POLICY_PROFILE)")
    parser.add_argument("--runbooks", default=RUNBOOKS, help="where docs/runbooks.md is read, for the links in alerts")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where <profile>.yaml is written")
    arguments = parser.parse_args(argv)
    try:
        profile = load_profile(arguments.profile or load_settings(environ).policy_profile)
        path = arguments.folder / f"{profile.name}.yaml"
        with atomic_write(path) as temporary:
            temporary.write_text(rule_text(profile, arguments.runbooks), encoding="utf-8")
    except MlopsError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    sys.stdout.write(f"{path}\n")
    return DONE


def all_rules(profile: PolicyProfile) -> dict[str, list[AlertRule]]:
    """Return every rule, by group."""
    return {
        "processes": process_rules(profile),
        "decisions": decision_rules(profile),
        "drift": drift_rules(profile),
        "operations": operation_rules(profile),
    }


def rule_file(profile: PolicyProfile, runbooks: str = RUNBOOKS) -> dict[str, Any]:
    """Return the document of the rule file; `runbooks` is the address of docs/runbooks.md."""
    return {
        "groups": [
            {"name": group, "rules": [_document(rule, runbooks) for rule in rules]}
            for group, rules in all_rules(profile).items()
        ]
    }


def rule_text(profile: PolicyProfile, runbooks: str = RUNBOOKS) -> str:
    """Return the rule file as YAML."""
    document = yaml.safe_dump(rule_file(profile, runbooks), sort_keys=False, allow_unicode=True, width=150)
    return _HEAD.format(profile.name) + document


def _document(rule: AlertRule, runbooks: str) -> dict[str, Any]:
    return {
        "alert": rule.name,
        "expr": rule.expr,
        "for": duration(rule.for_minutes),
        "labels": {"severity": rule.severity.value, "role": rule.role, **rule.labels},
        "annotations": {
            "summary": rule.summary,
            "description": rule.description,
            "runbook_url": f"{runbooks}#{rule.name.lower()}",
        },
    }


if __name__ == "__main__":
    sys.exit(main())
