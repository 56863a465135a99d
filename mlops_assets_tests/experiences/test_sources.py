"""Which source a setting gives, and which of the stored executions it reads."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine

from mlops_assets.experiences.execution_source import NoNewExecutions
from mlops_assets.experiences.executions import read_executions
from mlops_assets.experiences.ingest import ingest
from mlops_assets.experiences.prediction_log import PredictionLog
from mlops_assets.experiences.replay.source import HistoryReplay
from mlops_assets.experiences.reports.folder import ReportFolder
from mlops_assets.experiences.simulator.simulate import Simulator
from mlops_assets.experiences.sources import execution_source, experience_source
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.errors import SettingsError
from mlops_assets.foundation.settings import Settings, load_settings

NOW = datetime(2026, 3, 1, tzinfo=UTC)
EXECUTION = AGENTS["execution"]


def _settings(home: Path, history: Path) -> Settings:
    return load_settings(
        {"MLOPS_HOME": str(home), "MLOPS_EXPERIENCE_SOURCE": "ci_history", "MLOPS_SOURCE_PATH": str(history)}
    )


def _write(path: Path, day: int, cycles: int) -> Path:
    rows = [f"t;1000;2026-01-{day + cycle:02d} 08:00:00;1;{cycle}" for cycle in range(1, cycles + 1)]
    path.write_text("\n".join(["Name;Duration;LastRun;Verdict;Cycle", *rows]) + "\n", encoding="utf-8")
    return path


def _replay(settings: Settings, engine: Engine) -> HistoryReplay:
    ingest(execution_source(settings), paths=settings.paths, engine=engine, now=NOW)
    source = experience_source(settings, EXECUTION, engine)
    assert isinstance(source, HistoryReplay)
    return source


def test_two_histories_in_one_home_are_two_sources(sqlite_engine: Engine, tmp_path: Path) -> None:
    """The second history's cycles were older than the first one's last: none was new, and the first was learned again."""
    first = _replay(_settings(tmp_path / "home", _write(tmp_path / "shop.csv", 10, 3)), sqlite_engine)
    second = _replay(_settings(tmp_path / "home", _write(tmp_path / "bank.csv", 1, 2)), sqlite_engine)
    assert (first.name, second.name) == ("history-replay-ci_history-shop", "history-replay-ci_history-bank")
    assert [[cycle.cycle_id[:5] for cycle in source.cycles] for source in (first, second)] == [
        ["shop-"] * 3,
        ["bank-"] * 2,
    ]
    (batch, *_) = second.batches(EXECUTION, None)
    assert set(batch.experiences["agent_id"].to_pylist()) == {"execution-ci_history-bank"}


def test_a_history_that_has_grown_or_was_renamed_is_the_same_one(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Its old rows were known already, so that a longer or a renamed file seemed to hold nothing, or only its end."""
    home = tmp_path / "home"
    _replay(_settings(home, _write(tmp_path / "shop.csv", 1, 3)), sqlite_engine)
    grown = _replay(_settings(home, _write(tmp_path / "shop.csv", 1, 5)), sqlite_engine)
    assert len(grown.cycles) == 5
    renamed = (tmp_path / "shop.csv").rename(tmp_path / "store.csv")
    assert len(_replay(_settings(home, renamed), sqlite_engine).cycles) == 5


def test_a_history_of_tests_teaches_the_execution_agent_only(sqlite_engine: Engine, tmp_path: Path) -> None:
    """A CI history says nothing about requirements; the error has to say what would."""
    simulated = load_settings({"MLOPS_HOME": str(tmp_path), "MLOPS_SIMULATOR_ROWS": "100"})
    for spec in AGENTS.values():
        assert isinstance(experience_source(simulated, spec, sqlite_engine), Simulator)
    settings = _settings(tmp_path, tmp_path / "history.csv")
    with pytest.raises(SettingsError, match=r"only the agent 'execution' can learn, not 'requirements'.*USER_STORIES"):
        experience_source(settings, AGENTS["requirements"], sqlite_engine)


def test_the_prediction_log_teaches_every_agent(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Two of three agents would go on learning from the simulator, or stop, once decisions are served."""
    settings = load_settings({"MLOPS_HOME": str(tmp_path), "MLOPS_EXPERIENCE_SOURCE": "prediction_log"})
    for spec in AGENTS.values():
        source = experience_source(settings, spec, sqlite_engine)
        assert isinstance(source, PredictionLog)
        assert source.name == "prediction-log"


def test_executions_known_stay_when_decisions_are_served(sqlite_engine: Engine, tmp_path: Path) -> None:
    """A live system without test reports failed at its first step, or lost the history of its tests."""
    home = tmp_path / "home"
    _replay(_settings(home, _write(tmp_path / "shop.csv", 1, 3)), sqlite_engine)
    settings = load_settings({"MLOPS_HOME": str(home), "MLOPS_EXPERIENCE_SOURCE": "prediction_log"})
    source = execution_source(settings)
    assert isinstance(source, NoNewExecutions)
    assert (source.kind, source.as_of(NOW)) == ("prediction_log", NOW)
    report = ingest(source, paths=settings.paths, engine=sqlite_engine, now=NOW)
    assert (report.rows, report.files_read, report.quarantined, report.first) == (0, 0, 0, None)
    assert read_executions(settings.paths).num_rows == 3


def test_reports_may_come_beside_served_decisions(sqlite_engine: Engine, tmp_path: Path) -> None:
    """The test features of a live system would stand still."""
    reports = tmp_path / "reports"
    reports.mkdir()
    case = "<testcase classname='shop' name='t' time='1'/>"
    suite = f"<testsuite name='shop' timestamp='2026-02-01T08:00:00'>{case}</testsuite>"
    (reports / "junit.xml").write_text(f"<testsuites>{suite}</testsuites>", encoding="utf-8")
    settings = load_settings(
        {
            "MLOPS_HOME": str(tmp_path / "home"),
            "MLOPS_EXPERIENCE_SOURCE": "prediction_log",
            "MLOPS_SOURCE_PATH": str(reports),
        }
    )
    source = execution_source(settings)
    assert isinstance(source, ReportFolder)
    assert ingest(source, paths=settings.paths, engine=sqlite_engine, now=NOW).rows == 1
