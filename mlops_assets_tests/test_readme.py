"""README's commands do what it says, word by word, from the root of the checkout."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlops_assets.foundation.agents import AGENTS
from mlops_assets_tests.serving.conftest import first_lifecycle, new_server, served_home
from mlops_assets_tests.serving.live import LiveServer

__all__ = ["first_lifecycle", "new_server", "served_home"]

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
    assert commands("Run it") == ["make run", "make test", "make serve"]
    assert len(commands("On your own test histories")) == 4


@pytest.mark.slow
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


def _blocks(heading: str) -> list[tuple[str, object]]:
    """The curl commands of a section, each with the JSON that README prints behind it."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    found = re.findall(
        r"```bash\n((?:ID=.*?\n)?curl .*?)\n```\n+(?:[^`]*?\n)?```json\n(.*?)\n```", section, flags=re.DOTALL
    )
    return [(command, json.loads(answer)) for command, answer in found]


def _shape(document: object) -> object:
    """Names and kinds of a document's values; lists by the kind of their entries."""
    if isinstance(document, dict):
        return {name: _shape(value) for name, value in document.items()}
    if isinstance(document, list):
        return sorted({type(one).__name__ for one in document})
    return "number" if isinstance(document, int | float) and not isinstance(document, bool) else type(document).__name__


@pytest.mark.slow
def test_every_documented_request_is_answered_as_printed(
    served_home: Path, new_server: Callable[..., LiveServer]
) -> None:
    """The first thing that a user tries is refused, or answered otherwise than README says."""
    server = new_server(served_home)
    blocks = _blocks("Ask an agent")
    routes = [re.findall(r"http://127.0.0.1:8000/(\w+)", command) for command, _ in blocks]
    assert routes == [["predict"], ["outcomes"], ["health"]]
    identifier = ""
    for command, printed in blocks:
        local = command.replace("http://127.0.0.1:8000", server.url)
        local = re.sub(r"^ID=\w+", f"ID={identifier}", local)
        result = subprocess.run(
            ["bash", "-c", local],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=True,
        )
        answered = json.loads(result.stdout)
        assert _shape(answered) == _shape(printed), command
        assert isinstance(answered, dict)
        assert isinstance(printed, dict)
        identifier = answered.get("prediction_id", identifier)
        # What depends neither on the trained weights nor on the time.
        fixed = (
            "agent",
            "model",
            "experiment",
            "variant",
            "propensity",
            "status",
            "fallback",
            "accepted",
            "repeated",
            "short_of",
            "current_model_versions",
            "models_loaded",
        )
        for name in fixed:
            if name in printed:
                assert answered[name] == printed[name], name
    assert server.get(f"/predictions/{identifier}")["outcome"]["reward"] == 12.5


@pytest.mark.slow
def test_the_agent_learns_from_what_it_served(served_home: Path, new_server: Callable[..., LiveServer]) -> None:
    """README's way from outcomes to the next version ends in a refusal."""
    server = new_server(served_home)
    example = json.loads((ROOT / "examples" / "decision.json").read_text())
    random = np.random.default_rng(4)
    told = []
    for _ in range(60):
        context = {f.name: float(random.uniform(f.low, f.high)) for f in AGENTS["execution"].context}
        answer = server.post("/predict", {**example, "context": context}).json()
        told.append({"prediction_id": answer["prediction_id"], "reward": float(random.normal()), "done": True})
    assert server.post("/outcomes", {"outcomes": told}).json()["accepted"] == 60
    server.end()
    command = next(line for line in commands("Ask an agent") if line.endswith("make run agent=execution"))
    result = shell(command, served_home.parent, MLOPS_HOME=str(served_home))
    assert result.returncode == 0, result.stderr[-3000:] + result.stdout[-3000:]
    assert "60 (60 new)" in result.stdout, result.stdout[-2000:]
