"""What teams really have, a CI history, a folder of reports, a list of user stories: from the file to a version."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlops_assets.evaluation.report import read_report
from mlops_assets.experiences.snapshots import open_snapshot
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.tables import DecisionRecord, QuarantinedRow
from mlops_assets_tests.lifecycle.worlds import SMALL, Run, World

AGENT = "execution"
MODEL = AGENTS[AGENT].registered_model
START = datetime(2026, 1, 5, 8, tzinfo=UTC)
CYCLES, TESTS = 30, 8
METHODS = {"agent", "random", "sorting", "recency_rate", "oracle"}
UNCOMMITTED = "1" * 40 + "-dirty"
STORIES = (
    "As a customer I want to pay by card in the checkout form",
    "As an editor I want to search articles by title",
    "As an administrator I want to export the table of orders",
    "As a guest I want to reset my forgotten password",
)


def _fails(cycle: int, test: int) -> bool:
    """Each test is broken for some cycles on end, and every fifth cycle is green."""
    return cycle % 5 != 0 and (cycle // 3 + test) % 4 == 0


FAILING_CYCLES = [cycle for cycle in range(1, CYCLES + 1) if any(_fails(cycle, test) for test in range(TESTS))]


def _write_history(path: Path) -> None:
    lines = ["Id;Name;Duration;CalcPrio;LastRun;LastResults;Verdict;Cycle"]
    for cycle in range(1, CYCLES + 1):
        for test in range(TESTS):
            at = START + timedelta(days=cycle, minutes=test)
            verdict = int(_fails(cycle, test))
            lines.append(f"{len(lines)};t{test};{1000 * (test + 1)};0;{at:%Y-%m-%d %H:%M:%S};[];{verdict};{cycle}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_reports(folder: Path) -> None:
    """One report a day, by turns JUnit XML and CTRF; the last one is cut, as a full disk leaves it."""
    for cycle in range(1, CYCLES + 1):
        at = START + timedelta(days=cycle)
        below = folder / f"build-{cycle:03d}"
        below.mkdir(parents=True)
        (below / "results").write_text(_junit(cycle, at) if cycle % 2 else _ctrf(cycle, at), encoding="utf-8")
    (folder / "cut.xml").write_text(_junit(99, START)[:-30], encoding="utf-8")


def _junit(cycle: int, at: datetime) -> str:
    cases = "".join(
        f"<testcase classname='shop' name='t{test}' time='{test + 1}'>{'<failure/>' * _fails(cycle, test)}</testcase>"
        for test in range(TESTS)
    )
    return f"<testsuites><testsuite name='shop' timestamp='{at.isoformat()}'>{cases}</testsuite></testsuites>"


def _ctrf(cycle: int, at: datetime) -> str:
    """A report that knows its browsers; without any the bias check, and with it the approval, would be open."""
    start_ms = int(at.timestamp() * 1000)
    tests = [
        {
            "name": f"t{test}",
            "suite": "shop",
            "status": "failed" if _fails(cycle, test) else "passed",
            "duration": 1000 * (test + 1),
            "start": start_ms,
            "browser": ("chromium", "firefox")[test % 2],
        }
        for test in range(TESTS)
    ]
    return json.dumps({"results": {"tool": {"name": "playwright"}, "summary": {"start": start_ms}, "tests": tests}})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One home for all sources, which must not mix in it."""
    return World.create(tmp_path_factory.mktemp("sources"), SMALL)


def _retrain(world: World, kind: str, path: Path) -> Run:
    """Retrain from a working tree with changes, so that nothing says that the same weights would come out again."""
    settings = {"MLOPS_EXPERIENCE_SOURCE": kind, "MLOPS_SOURCE_PATH": str(path)}
    run = world.run("retrain", AGENT, settings=settings, git_sha=UNCOMMITTED)
    assert run.success, run.failures
    return run


@pytest.fixture(scope="module")
def from_history(world: World) -> Run:
    """A retraining on a RETECS-like CSV."""
    _write_history(world.root / "history.csv")
    return _retrain(world, "ci_history", world.root / "history.csv")


@pytest.fixture(scope="module")
def from_reports(world: World, from_history: Run) -> Run:
    """A retraining on a folder of reports, in the home that knows the CSV already."""
    assert from_history.success
    _write_reports(world.root / "reports")
    return _retrain(world, "reports", world.root / "reports")


@pytest.fixture(scope="module")
def again(world: World, from_reports: Run) -> Run:
    """The same again."""
    assert from_reports.success
    return _retrain(world, "reports", world.root / "reports")


def _ranking(run: Run) -> dict[str, Any]:
    report = read_report(Path(run.facts("validation_report", AGENT)["report_json"]))
    assert report.prioritisation is not None
    return report.prioritisation


def _check_ranking(ranking: dict[str, Any]) -> None:
    assert ranking["skipped_cycles"] == 0
    for cycle in ranking["cycles"]:
        assert set(cycle["napfd"]) == METHODS
        assert all(0.0 <= value <= 1.0 for value in cycle["napfd"].values()), cycle
        assert cycle["napfd"]["oracle"] == max(cycle["napfd"].values())
        assert cycle["failures"] > 0
    held_out = [cycle for cycle in ranking["cycles"] if cycle["held_out"]]
    assert 0 < len(held_out) == ranking["held_out"]["cycles"] < len(ranking["cycles"])
    assert max(c["started_at"] for c in ranking["cycles"] if not c["held_out"]) < held_out[0]["started_at"]
    assert ranking["held_out"]["verdict_above_random"] in {"pass", "fail", "insufficient_data"}


def test_a_ci_history_ends_with_a_version_and_napfd_for_each_cycle(from_history: Run, world: World) -> None:
    """The team's own history was read, and nobody could see whether the agent ranks it better than chance."""
    executions = from_history.facts("test_executions")
    assert (executions["source"], executions["new_executions"]) == ("ci_history", CYCLES * TESTS)
    ranking = _ranking(from_history)
    _check_ranking(ranking)
    assert [cycle["cycle_id"] for cycle in ranking["cycles"]] == [f"history-{cycle:010d}" for cycle in FAILING_CYCLES]
    assert [cycle["failures"] for cycle in ranking["cycles"]] == [
        sum(_fails(cycle, test) for test in range(TESTS)) for cycle in FAILING_CYCLES
    ]
    assert from_history.facts("registered_model", AGENT)["semver"] == "1.0.0"
    approval = from_history.facts("approval", AGENT)
    assert (approval["status"], approval["outcome"]) == ("requires_review", "waiting")
    assert "no UI framework or browser has two slices" in approval["reasons"]
    assert world.record("validation_report", AGENT, from_history.run_id)["prioritisation"] == ranking["held_out"]
    page = Path(from_history.facts("validation_report", AGENT)["report"].removeprefix("file://")).read_text("utf-8")
    assert "NAPFD" in page
    assert f"history-{FAILING_CYCLES[-1]:010d}" in page


def test_a_folder_of_reports_ends_with_a_version_of_its_own(from_reports: Run, world: World) -> None:
    """Reports of one project were mixed with the CI history of another that had been tried in the same home."""
    executions = from_reports.facts("test_executions")
    assert (executions["source"], executions["new_executions"]) == ("reports", CYCLES * TESTS)
    assert executions["quarantine_reasons"] == {"truncated": 1}
    with world.database() as engine, read_transaction(engine) as session:
        (row,) = session.query(QuarantinedRow).all()
        assert (row.source_file, row.reason) == ("cut.xml", "truncated")
    ranking = _ranking(from_reports)
    _check_ranking(ranking)
    assert len(ranking["cycles"]) == len(FAILING_CYCLES)
    assert not [cycle["cycle_id"] for cycle in ranking["cycles"] if cycle["cycle_id"].startswith("history-")]
    registered = from_reports.facts("registered_model", AGENT)
    assert (registered["semver"], registered["created"]) == ("1.1.0", True)
    approval = from_reports.facts("approval", AGENT)
    assert (approval["status"], approval["outcome"]) == ("approved", "champion")


def test_training_the_same_again_gives_no_version_and_no_second_decision(
    from_reports: Run, again: Run, world: World
) -> None:
    """The twin of a champion was no better than the champion: the champion was marked as rejected."""
    first, second = (run.facts("dqn_model", AGENT) for run in (from_reports, again))
    assert (first["trained"], second["trained"]) == (True, True)
    assert first["run_id"] != second["run_id"]
    assert first["weights_hash"] == second["weights_hash"]
    registered = again.facts("registered_model", AGENT)
    assert (registered["created"], registered["semver"], registered["run_id"]) == (False, "1.1.0", first["run_id"])
    approval = again.facts("approval", AGENT)
    assert (approval["status"], approval["outcome"], approval["recorded_now"]) == ("approved", "unchanged", False)
    with world.database() as engine, read_transaction(engine) as session:
        decisions = session.query(DecisionRecord).where(DecisionRecord.semver == "1.1.0").all()
        assert [decision.status for decision in decisions] == ["approved"]


def test_user_stories_become_the_requirements_of_the_decisions(world: World) -> None:
    """The team's stories were accepted, and the built-in ones were used."""
    stories = world.root / "stories.md"
    stories.write_text("# Backlog\n" + "".join(f"- {story}\n" for story in STORIES), encoding="utf-8")
    run = world.run("retrain", "requirements", settings={"MLOPS_USER_STORIES": str(stories)})
    assert run.success, run.failures
    with world.database() as engine:
        data_hash = run.facts("training_experiences", "requirements")["data_hash"]
        snapshot = open_snapshot("requirements", data_hash, paths=world.settings.paths, engine=engine)
    assert set(snapshot.requirement_texts()["text"].to_pylist()) == set(STORIES)
    assert run.facts("registered_model", "requirements")["model_name"] == "requirements-agent-dqn"


@pytest.mark.slow
def test_another_history_in_the_same_home_is_learned_from_alone(
    world: World, from_reports: Run, shared_data: Path
) -> None:
    """Two histories in one home: the older one was taken for known, and the agent was trained on the other again."""
    run = _retrain(world, "ci_history", shared_data / "ci_histories" / "agm_web_e2e.csv")
    ranking = _ranking(run)
    _check_ranking(ranking)
    assert {cycle["cycle_id"].rsplit("-", 1)[0] for cycle in ranking["cycles"]} == {"agm_web_e2e"}
    assert ranking["cycles"][0]["started_at"] < _ranking(from_reports)["cycles"][0]["started_at"]
    registered = run.facts("registered_model", AGENT)
    assert (registered["model_name"], registered["created"]) == (MODEL, True)


@pytest.mark.slow
def test_real_reports_of_many_tools_end_with_a_version(shared_data: Path, tmp_path: Path) -> None:
    """Only reports that we wrote ourselves were ever read to the end."""
    run = _retrain(World.create(tmp_path, SMALL), "reports", shared_data / "reports")
    assert run.facts("test_executions")["new_executions"] > 100
    _check_ranking(_ranking(run))
    assert run.facts("registered_model", AGENT)["semver"] == "1.0.0"
