"""The table after a run: from the records of one run, readable, and honest about agents without a decision."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from mlops_assets import summary
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.database import create_operational_engine, upgrade
from mlops_assets.foundation.records import write_record

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[1]
INTERVAL = {"estimate": 0.9512, "low": 0.9401, "high": 0.9604}
RECORDS: dict[str, dict[str, Any]] = {
    "training_experiences": {"rows": 120_000, "new_rows": 2_000, "data_hash": "d" * 64},
    "dqn_model": {"run_id": "e" * 32, "trained": True},
    "validation_report": {
        "accuracy": INTERVAL,
        "share_of_optimal": INTERVAL,
        "champion": "1.0.0",
        "prioritisation": None,
    },
    "registered_model": {"semver": "1.1.0", "created": True},
    "approval": {"status": "approved", "summary": "low risk"},
}


def _record(
    engine: Engine, run_id: str, *, agent: str = "execution", minutes: int = 0, upto: int = 5, **changes: dict[str, Any]
) -> None:
    for number, (asset, payload) in enumerate(RECORDS.items()):
        if number < upto:
            now = NOW + timedelta(minutes=minutes, seconds=number)
            changed = {**payload, **changes.get(asset, {})}
            write_record(engine, asset=asset, partition=agent, run_id=run_id, payload=changed, now=now)


def _row(engine: Engine) -> dict[str, str]:
    row = summary.agent_row(engine, AGENTS["execution"])
    assert row is not None
    return row


def test_a_row_says_what_the_run_made(engine: Engine) -> None:
    """The table is what people read after `make run`: each number has to come from its own record."""
    _record(engine, "run-a")
    assert _row(engine) == {
        "agent": "execution",
        "rows": "120,000 (2,000 new)",
        "data version": "dddddddddddd",
        "MLflow run": "eeeeeeeeeeee",
        "accuracy": "0.951 [0.940, 0.960]",
        "of optimal return": "0.951 [0.940, 0.960]",
        "champion before": "1.0.0",
        "version": "1.1.0",
        "decision": "approved: low risk",
    }


def test_a_run_that_changed_nothing_says_so(engine: Engine) -> None:
    """A second run without new data looked like a second model."""
    _record(
        engine,
        "run-a",
        dqn_model={"trained": False},
        registered_model={"created": False},
        validation_report={"champion": None, "share_of_optimal": None},
        approval={"summary": ""},
    )
    row = _row(engine)
    assert row["MLflow run"] == "eeeeeeeeeeee (unchanged)"
    assert row["version"] == "1.1.0 (nothing new to register)"
    assert (row["champion before"], row["of optimal return"]) == ("none", "not measurable")
    assert row["decision"] == "approved"


def test_a_replayed_history_shows_its_ranking_beside_the_rules(engine: Engine) -> None:
    """NAPFD without the rules on the same cycles says nothing; one cycle has no interval, which broke the table."""
    ranking = {"cycles": 1, "mean_napfd": {"agent": 0.7512, "random": 0.5}, "agent_above": {"random": dict(INTERVAL)}}
    _record(engine, "run-a", validation_report={"prioritisation": ranking})
    row = _row(engine)
    assert row["NAPFD"] == "agent 0.751, random 0.500 on 1 held-out cycles"
    assert row["NAPFD above random"] == "0.951 [0.940, 0.960]"
    ranking["agent_above"] = {"random": {"estimate": 0.25, "low": None, "high": None}}
    _record(engine, "run-a", validation_report={"prioritisation": ranking})
    assert _row(engine)["NAPFD above random"] == "0.250 (too few for an interval)"


@pytest.mark.parametrize("upto", range(1, 5))
def test_an_unfinished_later_run_is_not_mixed_in(engine: Engine, upto: int) -> None:
    """A run was killed on the way: its rows stood beside the decision that an earlier run had taken on other rows."""
    _record(engine, "run-a")
    expected = _row(engine)
    later: dict[str, Any] = {"training_experiences": {"rows": 999}, "dqn_model": {"run_id": "f" * 32}}
    _record(engine, "run-b", minutes=5, upto=upto, **later)
    assert _row(engine) == expected
    _record(engine, "run-b", minutes=6, **later)
    assert _row(engine)["rows"] == "999 (2,000 new)"


def test_an_agent_without_a_decision_has_no_row(engine: Engine) -> None:
    """Half a row would look like a finished lifecycle."""
    assert summary.agent_row(engine, AGENTS["execution"]) is None
    _record(engine, "run-a", upto=4)
    assert summary.agent_row(engine, AGENTS["execution"]) is None


def test_the_table_has_one_column_for_each_agent_and_decisions_below() -> None:
    """A long reason for a rejection would push the other agents' numbers off the screen."""
    names = ("agent", "rows", "decision")
    rows = [
        dict(zip(names, cells, strict=True))
        for cells in (("requirements", "120,000", "approved"), ("execution", "9", "rejected: accuracy 0.80 < 0.90"))
    ]
    assert summary.as_text(rows).split("\n") == [
        "agent     requirements  execution",
        "rows      120,000       9",
        "decision:",
        "  requirements: approved",
        "  execution: rejected: accuracy 0.80 < 0.90",
    ]


def test_a_line_that_only_one_agent_has_is_empty_for_the_others() -> None:
    """Only a replayed history has a NAPFD: the table of all three agents ended in a KeyError."""
    rows = [
        {"agent": "requirements", "version": "1.0.0", "decision": "approved"},
        {"agent": "execution", "NAPFD": "0.75", "version": "2.0.0", "decision": "approved"},
    ]
    assert summary.as_text(rows).split("\n") == [
        "agent     requirements  execution",
        "version   1.0.0         2.0.0",
        "NAPFD                   0.75",
        "decision:",
        "  requirements: approved",
        "  execution: approved",
    ]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's home folder, as the environment says."""
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path))
    return tmp_path


def _operations(home: Path) -> Engine:
    engine = create_operational_engine(f"sqlite:///{home / 'operations.db'}")
    upgrade(engine)
    return engine


def test_the_command_prints_agents_and_names_those_without_a_decision(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An agent whose run failed was simply missing from the table."""
    engine = _operations(home)
    _record(engine, "run-a")
    assert summary.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["agent", "execution"]
    assert lines[-2:] == ["  execution: approved: low risk", "no decision yet: requirements, generation"]
    for agent in ("requirements", "generation"):
        _record(engine, "run-a", agent=agent)
    engine.dispose()
    assert summary.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["agent", "requirements", "generation", "execution"]
    assert lines[-1] == "  execution: approved: low risk"


def test_nothing_to_tell_is_one_line_and_exit_code_one(home: Path) -> None:
    """A CI step after `make run` must not go green on an empty table; run as a program, as the Makefile does."""
    result = subprocess.run(
        [sys.executable, "-m", "mlops_assets.summary"],
        cwd=ROOT,
        env={"MLOPS_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (result.returncode, result.stdout, result.stderr) == (
        1,
        "",
        "no lifecycle has run here yet: make run\n",
    )


def test_a_bad_setting_is_one_line_and_exit_code_one(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceback hides which variable is wrong."""
    monkeypatch.setenv("MLOPS_SIMULATOR_ROWS", "many")
    assert summary.main() == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("MLOPS_SIMULATOR_ROWS='many'")
    assert captured.err.count("\n") == 1
    assert list(home.iterdir()) == []
