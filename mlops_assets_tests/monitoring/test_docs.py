"""The commands and the code of docs/reports.md do what it says, in their order, on a day that was served."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.clock import ScaledClock
from mlops_assets_tests.monitoring.traffic import serve

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "reports.md").read_text(encoding="utf-8")
START = datetime(2026, 3, 9, tzinfo=UTC)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, flags=re.DOTALL)


def test_the_documented_commands(sqlite_engine: Engine, tmp_path: Path) -> None:
    """A command or a line of the document fails, or ends somewhere else than it says."""
    serve(sqlite_engine, AGENTS["execution"], 240, start=START)
    environ = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "MLOPS_HOME": str(tmp_path / "home"),
        "MLOPS_DATABASE_URL": str(sqlite_engine.url),
        "MLOPS_CLOCK": str(ScaledClock(START + timedelta(days=1), datetime.now(UTC), 1.0)),
    }

    def do(*command: str) -> str:
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=180)
        assert done.returncode == 0, (command, done.stderr[-2000:])
        return done.stdout

    (code,) = blocks("python")
    said = {
        line.split("monitoring.")[-1].split()[0]: do("bash", "-c", line)
        for block in blocks("bash")
        for line in block.splitlines()
    }
    assert "execution-agent-dqn: never checked for drift; accuracy " in said["overview"]
    assert said["declared"].startswith("ci_cd_success is 0.98: CI statistics of March")
    reports = sorted(path.relative_to(tmp_path / "home" / "monitoring") for path in tmp_path.rglob("*_report.html"))
    agents = [str(path) for path in reports if path.name == "performance_report.html"]
    assert agents == [f"{agent}/2026-03-10/performance_report.html" for agent in sorted(AGENTS)]
    assert "platform/2026-03-10/slo_report.html" in map(str, reports)
    printed = do(sys.executable, "-c", code).splitlines()
    assert printed[0].startswith("240 (240, ")
    assert [line.split()[0] for line in printed[1:3]] == ["None", "1.0.0"]
    assert [line.split()[1] for line in printed[3:]] == ["0"] * 6 + ["240"]
