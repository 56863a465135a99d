"""README's commands do what it says, word by word, from the root of the checkout."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
SMALL = {"MLOPS_SIMULATOR_ROWS": "1500", "MLOPS_DATA_PROFILE": "bootstrap"}


def commands(heading: str) -> list[str]:
    """Lines of the shell blocks of one section, without comments."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"```bash\n(.*?)```", section, flags=re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def shell(command: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run one line as a user would, with the environment that `make install` made active."""
    return subprocess.run(
        ["bash", "-c", f". {BIN / 'activate'} && {command}"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "1", **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that the commands share, as a user's would."""
    return tmp_path_factory.mktemp("readme")


def test_the_section_lists_these_commands() -> None:
    """A command is added to README and run by nobody."""
    assert commands("Command line and CI") == [
        "dagster definitions validate",
        "dagster asset list",
        "dagster job execute -j model_lifecycle",
        "dagster asset materialize --select test_executions,training_experiences --partition execution",
    ]
    assert commands("Run it") == ["make run", "make test"]
    assert len(commands("On your own test histories")) == 4


@pytest.mark.parametrize("command", commands("Command line and CI"))
def test_command_line_works_from_the_root(command: str, home: Path) -> None:
    """A command of README fails with nothing set but the virtual environment."""
    result = shell(command, home, MLOPS_HOME=str(home / "data"), **SMALL)
    assert result.returncode == 0, result.stderr[-3000:] + result.stdout[-3000:]


@pytest.mark.slow
def test_history_command_ends_with_a_registered_agent(home: Path, tmp_path: Path) -> None:
    """The documented command for a CI history ends without the table that it promises."""
    history = tmp_path / "history.csv"
    rows = ["Id;Name;Duration;CalcPrio;LastRun;LastResults;Verdict;Cycle"]
    for cycle in range(1, 31):
        for test in range(6):
            failed = int((cycle + test) % 5 == 0)
            day = f"2026-01-{1 + cycle % 28:02d}" if cycle <= 28 else f"2026-02-{cycle - 28:02d}"
            rows.append(f"{len(rows)};t{test};{100 + test};0;{day} 08:{test:02d}:00;[];{failed};{cycle}")
    history.write_text("\n".join(rows) + "\n", encoding="utf-8")
    command = next(line for line in commands("On your own test histories") if "ci_history" in line)
    command = command.replace("history.csv", str(history)).replace(".mlops-history", str(tmp_path / "home"))
    result = shell(command, home)
    assert result.returncode == 0, result.stderr[-3000:] + result.stdout[-3000:]
    assert "1.0.0" in result.stdout
    assert "NAPFD" in result.stdout
