"""The commands of docs/rollout.md do what it says, in their order, on a version that waits for its users."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlops_assets.foundation.clock import ScaledClock
from mlops_assets.rollout.ledger import steps
from mlops_assets_tests.rollout.conftest import MODEL, Tower

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "rollout.md").read_text(encoding="utf-8")
PREFIX = "python -m mlops_assets.rollout.commands "


def lines(word: str) -> list[str]:
    """Commands of the shell block that holds the word."""
    (block,) = [one for one in re.findall(r"```bash\n(.*?)```", DOCUMENT, flags=re.DOTALL) if word in one]
    return block.splitlines()


@pytest.mark.slow
def test_the_documented_commands(small_tower: Tower, tmp_path: Path) -> None:
    """A command of the document fails, or ends somewhere else than it says."""
    tower = small_tower
    tower.office.decide(3, "approved")
    for name in ("rollback.yaml", "rollout.yaml"):
        text = (ROOT / "examples" / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("execution-agent-dqn", MODEL), encoding="utf-8")
    environ = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "MLOPS_HOME": str(tower.office.settings.home),
        "MLOPS_DATABASE_URL": tower.engine.url.render_as_string(hide_password=False),
        "MLFLOW_TRACKING_URI": tower.office.runs.tracking_uri,
        # Not on a Friday.
        "MLOPS_CLOCK": str(ScaledClock(tower.office.clock.instant, datetime.now(UTC), 1.0)),
    }
    said = {}

    def do(line: str) -> None:
        command = line.replace("execution-agent-dqn", MODEL).replace(
            "rollout-execution-1.1.0", "rollout-requirements-1.2.0"
        )
        command = command.replace("examples/", f"{tmp_path}/").replace("rollout.png", f"{tmp_path}/rollout.png")
        done = subprocess.run(
            ["bash", "-c", command], cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=180
        )
        assert done.returncode == 0, (command, done.stderr[-2000:])
        said[line.removeprefix(PREFIX).split()[0]] = done.stdout

    by_people, by_dagster = lines(f"{PREFIX}status"), lines("advance_rollout")
    assert [line.split("-j ")[1].split()[0] for line in by_dagster] == [
        "advance_rollout",
        "change_rollout",
        "rollback_model",
    ]
    for line in by_people:
        do(line)
    assert said["status"] == "there has been no rollout\n"
    assert "rollout-requirements-1.2.0-1: running in shadow" in said["start"]
    assert "shadow goes on for 2.0 h more" in said["tick"]
    assert said["rollback"] == "rollout-requirements-1.2.0-1 is rolled back: everybody has 1.0.0\n"
    kinds = ["started", "paused", "resumed", "rolled back"]
    assert [
        next(kind for kind in kinds if f" {kind} by " in line) for line in said["history"].splitlines()[:4]
    ] == kinds
    assert (tmp_path / "rollout.png").read_bytes().startswith(b"\x89PNG")
    assert "every step follows from the one before it; 1 models have had rollouts" in said["verify"]
    do(f'{PREFIX}start --new-version 1.1.0 --model-name {MODEL} --user mlops@company.com --reason "the older one"')
    for line in by_dagster:
        do(line)
    assert [step.kind for step in steps(tower.engine)][4:] == ["started", "paused", "rolled_back"]
    assert tower.stages() == {"1.2.0": "Archived", "1.1.0": "Archived", "1.0.0": "Production"}
