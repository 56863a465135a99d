"""The commands of docs/governance.md do what it says, in their order, on a version that waits."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlops_assets.governance.approval_state import Reason
from mlops_assets_tests.governance.conftest import Office
from mlops_assets_tests.mlflow_runs import SPEC

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "governance.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, flags=re.DOTALL)


@pytest.mark.slow
def test_the_documented_commands(small_office: Office, tmp_path: Path) -> None:
    """A command of the document fails, or ends somewhere else than it says."""
    small_office.decide(0, "approved")
    small_office.clock.instant = datetime.now(UTC) - timedelta(hours=1)
    small_office.decide(1)
    small_office.decide(2)
    (roles,) = blocks("yaml")
    (tmp_path / "roles.yaml").write_text(roles, encoding="utf-8")
    environ = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "MLOPS_HOME": str(small_office.settings.home),
        "MLOPS_DATABASE_URL": small_office.engine.url.render_as_string(hide_password=False),
        "MLFLOW_TRACKING_URI": small_office.runs.tracking_uri,
        "MLOPS_ROLES_FILE": str(tmp_path / "roles.yaml"),
    }
    said = {}
    for block in blocks("bash"):
        for line in block.splitlines():
            if line.startswith("curl"):  # asked in serving/test_approvals.py
                continue
            done = subprocess.run(
                ["bash", "-c", line.replace("trail.jsonl", str(tmp_path / "trail.jsonl"))],
                cwd=ROOT,
                env=environ,
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
            assert done.returncode == 0, (line, done.stderr[-2000:])
            said[line.removeprefix("python -m mlops_assets.governance.commands ")] = done.stdout
    assert "1.1.0: open, 2 more of" in said["requests"]
    every = said["requests --all"].splitlines()
    assert [line.split(":")[1].split(";")[0].strip() for line in every] == ["rejected", "approved"]
    assert said["audit verify"] == said["audit verify --file trail.jsonl"]
    assert "the stores hold what the audit trail says" in said["audit replay"]
    assert "1.0.0 was champion" in said[f"audit champion --model {SPEC.registered_model} --at 2026-03-01T12:00:00Z"]
    assert {request.semver: request.status for request in small_office.approvals.requests()} == {
        "1.1.0": "approved",
        "1.2.0": "rejected",
    }
    champion = small_office.registry.champion(SPEC.registered_model)
    assert champion is not None
    assert champion.semver == "1.0.0"


def test_every_reason_is_documented() -> None:
    """A refusal that is in no table sends people to the source."""
    told = set(re.findall(r"`(\w+)`", DOCUMENT.split("| reason |")[1].split("\n\n")[0]))
    assert told == set(Reason.__args__)
