"""docs/dashboards.md does what it says: its commands in their order, its files, and its table of alerts."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from mlops_assets.foundation.profiles import load_profile
from mlops_assets.monitoring.dashboards import all_dashboards
from mlops_assets.monitoring.prometheus_rules import all_rules
from mlops_assets.monitoring.promql import duration
from mlops_assets_tests.monitoring.prometheus import MONITORING, ROOT
from mlops_assets_tests.programs import system_program

DOCUMENT = (ROOT / "docs" / "dashboards.md").read_text(encoding="utf-8")
PROFILE = load_profile("aiwebtest")


def rows(heading: str) -> list[list[str]]:
    """Cells of the table of a section, without its head."""
    section = DOCUMENT.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    table = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1:]]


def test_the_commands(tmp_path: Path) -> None:
    """A command of the page fails, or what it writes is not what is stored."""
    promtool = Path(system_program("promtool", "prometheus"))
    shutil.copytree(MONITORING, tmp_path / "deploy" / "monitoring")
    first, second = re.findall(r"```bash\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    said = [
        subprocess.run(
            ["bash", "-c", line],
            cwd=tmp_path,
            env={
                "PATH": f"{Path(sys.executable).parent}:{promtool.parent}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
            },
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        ).stdout
        for line in first.splitlines()
    ]
    assert said[0] == "deploy/monitoring/rules/aiwebtest.yaml\n"
    assert len(said[1].splitlines()) == 4
    assert "is valid prometheus config file syntax" in said[2]
    assert said[3].count("SUCCESS") == 2
    stored = {path.relative_to(MONITORING): path.read_bytes() for path in MONITORING.rglob("*") if path.is_file()}
    assert stored == {path: (tmp_path / "deploy" / "monitoring" / path).read_bytes() for path in stored}
    # It would go on for ever; that it starts with this configuration is what test_prometheus_live.py shows.
    flags = subprocess.run(
        [system_program("prometheus", "prometheus"), "--help"], capture_output=True, text=True, check=False, timeout=60
    )
    assert all(f"--{flag}=" in flags.stdout + flags.stderr for flag in re.findall(r"--([\w.-]+)=", second))


def test_the_files() -> None:
    """Somebody looks for a file that is elsewhere."""
    named = re.findall(r"^\| (`[^|]+`) \|", DOCUMENT, flags=re.MULTILINE)
    patterns = [name for cell in named for name in re.findall(r"`([^`]+)`", cell)]
    assert len(patterns) == 6
    assert all(list(MONITORING.glob(pattern.rstrip("/"))) for pattern in patterns)
    provisioning = "".join(path.read_text() for path in (MONITORING / "grafana").rglob("*.yaml"))
    assert set(re.findall(r"\$\{(\w+)\}", provisioning)) == {"PROMETHEUS_URL", "DASHBOARDS_FOLDER"}
    assert all(f"{name}=" in DOCUMENT for name in ("PROMETHEUS_URL", "DASHBOARDS_FOLDER", "GF_PATHS_PROVISIONING"))


def test_the_alerts() -> None:
    """People wait for an alert that comes at another number, later, or to somebody else."""
    rules = [rule for group in all_rules(PROFILE).values() for rule in group]
    listed = {cells[0].split(",")[0]: cells[1:] for cells in rows("Alerts")}
    assert list(listed) == list(dict.fromkeys(rule.name for rule in rules))
    for name, (role, info, warning, critical, after) in listed.items():
        own = [rule for rule in rules if rule.name == name]
        assert {rule.role for rule in own} == {role}
        assert dict.fromkeys(after.split(", ")) == dict.fromkeys(duration(rule.for_minutes) for rule in own)
        for severity, cell in (("INFO", info), ("WARNING", warning), ("CRITICAL", critical)):
            told = [rule for rule in own if rule.severity == severity]
            limits = re.findall(r"`([^`]+)`", cell)
            assert (cell == "–") == (not told), (name, severity)
            assert len(limits) == len({(r.labels.get("quantile"), r.labels.get("statistic")) for r in told}), name
            for limit in limits:
                assert any(re.search(rf" {re.escape(limit)}(?= |$)", r.expr) for r in told), (name, limit)


def test_the_dashboards() -> None:
    """A dashboard is made that nobody knows of."""
    assert [cells[0] for cells in rows("Dashboards")] == [one["title"] for one in all_dashboards(PROFILE)]
