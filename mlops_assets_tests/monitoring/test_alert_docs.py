"""docs/alerts.md does what it says: its code, its commands in their order, and its numbers are the default profile's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.settings import variable_names

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
PREFIX = "python -m mlops_assets.monitoring.commands "


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    return str(found)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "MLOPS_HOME": str(tmp_path / "home"),
    }


def do(environ: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=120)


def test_the_code_and_the_commands(environ: dict[str, str]) -> None:
    """A command of the page fails in the night in which somebody reads it for the first time."""
    raised = do(environ, sys.executable, "-c", block("python"))
    assert (raised.returncode, raised.stdout) == (0, "CRITICAL Drift Detected\n"), raised.stderr[-2000:]
    lines = block("bash").splitlines()
    assert all(line.startswith(PREFIX) for line in lines)
    done = [do(environ, "bash", "-c", line) for line in lines]
    # A CRITICAL alert that nobody has acknowledged is no success.
    assert [one.returncode for one in done] == [1, 0, 0, 0], [one.stderr[-500:] for one in done]
    listed, known, delivered, everything = (one.stdout for one in done)
    assert listed.startswith("1: CRITICAL Drift Detected, seen once since ")
    assert "log: 2 notices wait" not in listed
    assert "log: 1 notice waits until" in listed
    assert known.endswith("acknowledged by sre@company.com\n")
    assert delivered == "log: CRITICAL: Drift Detected\nlog: ACKNOWLEDGED, CRITICAL: Drift Detected\n"
    assert everything.count("\n") == 1


def test_the_numbers() -> None:
    """People wait for an escalation that comes later than the page says."""
    profile = load_profile("aiwebtest")
    alerting, levels = profile.alerting, profile.alert_thresholds
    quiet = alerting.quiet_hours
    assert (alerting.cooldown_minutes, alerting.escalation_minutes, alerting.settle_minutes) == (60.0, 15.0, 10.0)
    assert quiet is not None
    assert (quiet.hours, quiet.timezone) == ((22, 6), "UTC")
    assert alerting.routes == {
        "INFO": ("log", "slack"),
        "WARNING": ("log", "slack_alerts", "sentry"),
        "CRITICAL": ("log", "slack_alerts", "email", "pagerduty", "sentry"),
    }
    assert (alerting.email_roles, alerting.escalation_roles) == (("mlops", "sre"), ("mlops", "sre", "ml_engineer"))
    assert alerting.failed_runs == {"rollback_model": "CRITICAL", "advance_rollout": "CRITICAL", "default": "WARNING"}
    assert not alerting.fold_recovered
    delivery = alerting.delivery
    assert (delivery.retry_seconds, delivery.max_retry_seconds) == (15.0, 300.0)
    assert {name: tuple(limits.values()) for name, limits in levels.model_dump().items()} == {
        "accuracy_drop": (0.02, 0.05, 0.1),
        "error_rate": (None, 0.01, 0.02),
        "latency_p95_ms": (None, 100.0, 500.0),
        "latency_p99_ms": (None, 200.0, None),
        "feature_drift": (0.1, 0.2, 0.3),
        "prediction_drift": (0.1, 0.2, 0.3),
        "concept_drift": (None, None, 0.1),
        "confidence_drop": (0.02, 0.05, None),
    }


def test_the_settings() -> None:
    """A setting of the page is refused as unknown."""
    named = set(re.findall(r"`(MLOPS_\w+)`", DOCUMENT))
    assert named <= set(variable_names())
    assert {name for name in variable_names() if "PAGERDUTY" in name or "SENTRY" in name or "ALERT" in name} <= named
