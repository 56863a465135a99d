"""The commands of docs/retraining.md do what it says, in their order; its numbers are the default profile's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine

from mlops_assets.foundation.settings import Settings
from mlops_assets.retraining.commands import DONE, REFUSED, main
from mlops_assets.retraining.requests import all_requests
from mlops_assets_tests.retraining.triggers import NOW, POLICY, hours

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "retraining.md").read_text(encoding="utf-8")
PREFIX = "python -m mlops_assets.retraining.commands "


def lines(word: str) -> list[str]:
    """Commands of the shell block that holds the word."""
    (block,) = [one for one in re.findall(r"```bash\n(.*?)```", DOCUMENT, flags=re.DOTALL) if word in one]
    return block.splitlines()


def environ(settings: Settings) -> dict[str, str]:
    assert settings.database_url is not None
    return {"MLOPS_HOME": str(settings.home), "MLOPS_DATABASE_URL": settings.database_url.get_secret_value()}


def test_the_documented_commands(settings: Settings, sqlite_engine: Engine, tmp_path: Path) -> None:
    """A command of the document fails, or ends somewhere else than it says."""
    said: dict[str, list[str]] = {}
    variables = {
        **environ(settings),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
    by_people, by_dagster = lines(f"{PREFIX}status"), lines("request_retraining")
    assert {line.removeprefix(PREFIX).split()[0] for line in by_people} == {"request", "check", "status", "history"}
    for line in [*by_people, *by_dagster]:
        done = subprocess.run(
            ["bash", "-c", line], cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=180
        )
        assert done.returncode == 0, (line, done.stderr[-2000:])
        said.setdefault(line.removeprefix(PREFIX).split()[0], []).append(done.stdout)
    first, second = said["request"]
    assert first == "execution: retrain (retrain-execution-1): manual: a new browser\n"
    assert (
        "execution: suppressed: 1 trigger waits: manual: it cannot wait; held: in_flight: retrain-execution-1" in second
    )
    assert "min_hours" not in second
    assert "generation: idle: no trigger waits" in said["check"][0]
    assert "execution: waits: manual: it cannot wait" in said["status"][0]
    assert "1 trainings in 30 days, none has ended" in said["status"][0]
    assert "execution retrain retrain-execution-1: manual: a new browser" in said["history"][0]
    assert len(all_requests(sqlite_engine, since=NOW - hours(24 * 3650))) == 1


def test_refusals_go_to_standard_error(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """CI takes a refused request for one that was made."""
    asked = ["request", "--agent", "execution", "--reason", "why", "--user"]
    assert main([*asked, "retraining"], environ(settings)) == REFUSED
    assert "is the name of a service" in capsys.readouterr().err
    assert main(["history", "--days", "nan"], environ(settings)) == REFUSED
    assert "expected more than 0" in capsys.readouterr().err
    assert main(["history"], environ(settings)) == DONE
    assert capsys.readouterr().out == "nothing was decided in the last 7 days\n"
    for _ in range(2):
        assert main([*asked, "ana@company.com", "--key", "once"], environ(settings)) == DONE
    assert capsys.readouterr().out.splitlines()[1] == "execution: idle: no trigger waits"


def test_its_numbers_are_the_default_profiles() -> None:
    """The profile moves on, and people wait for what the document says."""
    limits = POLICY.limits
    assert (limits.psi_critical, limits.psi_warning, limits.psi_monitor) == (0.3, 0.2, 0.1)
    assert (limits.accuracy_critical_rel, limits.accuracy_warning_rel, limits.max_error_rate) == (0.1, 0.05, 0.05)
    assert (POLICY.psi_deadline_hours, POLICY.accuracy_deadline_hours, POLICY.max_days_without) == (48.0, 24.0, 7.0)
    assert (POLICY.min_hours_between, POLICY.max_per_day, POLICY.min_new_samples) == (6.0, 4, 1000)
    assert (POLICY.off_peak.timezone, POLICY.off_peak.hours) == ("UTC", (2, 4))
    assert (POLICY.files.directories, POLICY.files.settle_seconds) == (("data/raw", "data/processed"), 60.0)
    assert (POLICY.rollback_within_days, POLICY.signal_expiry_hours, limits.min_labelled) == (14.0, 168.0, 200)
