"""A folder of reports: recursive, incremental, told by content, and no bad file stops the others."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_assets.experiences.execution_source import SourceBatch
from mlops_assets.experiences.identity import IdentityRules
from mlops_assets.experiences.reports.folder import ReportFolder
from mlops_assets.experiences.schema import EXECUTIONS
from mlops_assets.foundation.errors import InputError

JUNIT = (
    "<testsuite name='s' timestamp='2026-01-20T02:00:00Z'><testcase classname='c' name='{name}' time='1'/></testsuite>"
)


def read(folder: Path, known: set[str] | None = None, **options: Any) -> dict[str, SourceBatch]:
    source = ReportFolder(folder, IdentityRules(), **options)
    return {batch.source_file: batch for batch in source.batches(known or set())}


def reasons(batch: SourceBatch) -> list[str]:
    return [problem.reason for problem in batch.quarantined]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def allure(name: str, status: str, start: int, history: str) -> str:
    return json.dumps(
        {"uuid": history, "historyId": history, "name": name, "status": status, "start": start, "stop": start + 5}
    )


def test_reports_are_found_below_and_told_by_content(tmp_path: Path) -> None:
    """Names and endings say nothing; pictures, pages, logs and hidden files are no reports and no problem."""
    write(tmp_path / "a" / "b" / "results.txt", JUNIT.format(name="x"))
    ctrf = {"results": {"tests": [{"name": "y", "status": "failed"}], "summary": {"start": 1_700_000_000_000}}}
    write(tmp_path / "report.xml", json.dumps(ctrf))
    for name, content in (
        ("p.png", b"\x89PNG\r\n"),
        ("i.html", b"<!doctype html>"),
        ("run.log", b"started"),
        (".x.xml", b"<"),
    ):
        write(tmp_path / name, content)
    batches = read(tmp_path)
    assert set(batches) == {"a/b/results.txt", "report.xml"}
    table = batches["a/b/results.txt"].executions
    assert table.schema == EXECUTIONS
    assert table["test_id"].to_pylist() == ["c › x"]
    assert table["source_file"].to_pylist() == ["a/b/results.txt"]
    assert batches["report.xml"].executions["status"].to_pylist() == ["failed"]


def test_bad_files_are_listed_and_the_good_one_goes_through(tmp_path: Path) -> None:
    """Every kind of bad file gets its reason, and none of them hides the good one."""
    write(tmp_path / "good.xml", JUNIT.format(name="x"))
    bad: dict[str, tuple[str | bytes, str]] = {
        "cut.xml": (JUNIT.format(name="x")[:-20], "truncated"),
        "cut.json": ('{"results": {"tests": [', "truncated"),
        "empty.xml": ("", "empty"),
        "latin.json": (b'{"suites": "\xe9"}', "bad_encoding"),
        "bomb.xml": ('<!DOCTYPE a [<!ENTITY b "c">]><testsuite name="&b;"/>', "xml_entities"),
        "big.xml": ("<testsuite>" + " " * 2_000 + "</testsuite>", "too_large"),
        "reports.zip": (b"PK\x03\x04" + b"\x00" * 50, "archive"),
        "other.json": ('{"name": "package", "version": "1"}', "unknown_format"),
        "list.json": ("[1]", "unknown_format"),
        "pom.xml": ("<project/>", "unknown_format"),
        "nothing.xml": ("<testsuites/>", "no_tests"),
    }
    for name, (content, _) in bad.items():
        write(tmp_path / name, content)
    batches = read(tmp_path, max_bytes=1_000)
    assert {name: reasons(batch) for name, batch in batches.items() if name != "good.xml"} == {
        name: [reason] for name, (_, reason) in bad.items()
    }
    assert batches["good.xml"].executions.num_rows == 1
    assert all(batches[name].executions.num_rows == 0 for name in bad)
    assert "more than the 0 MiB" in batches["big.xml"].quarantined[0].excerpt


def test_known_files_are_not_read_again_and_new_ones_are(tmp_path: Path) -> None:
    """The second run of a day must cost nothing, also when a file was only moved."""
    write(tmp_path / "a.xml", JUNIT.format(name="x"))
    write(tmp_path / "bad.xml", "<testsuite>")
    known = {batch.source_hash for batch in read(tmp_path).values()}
    write(tmp_path / "moved" / "a.xml", JUNIT.format(name="x"))
    assert read(tmp_path, known) == {}
    write(tmp_path / "b.xml", JUNIT.format(name="y"))
    assert set(read(tmp_path, known)) == {"b.xml"}


def test_a_missing_folder_is_an_error_with_advice(tmp_path: Path) -> None:
    """An empty result would look like "no new reports"."""
    with pytest.raises(InputError, match=r"does not exist.*MLOPS_SOURCE_PATH"):
        read(tmp_path / "nowhere")
    assert read(tmp_path) == {}


def test_a_single_file_is_a_folder_of_one(tmp_path: Path) -> None:
    """People point at the file."""
    path = write(tmp_path / "a.xml", JUNIT.format(name="x"))
    write(tmp_path / "b.xml", JUNIT.format(name="y"))
    assert set(read(path)) == {"a.xml"}


def test_two_reports_of_one_run_are_the_same_executions(tmp_path: Path) -> None:
    """JUnit beside JSON is the usual setting of Playwright: the run must not count twice."""
    cases = [(f"Page › test {i}", 100 + i) for i in range(6)]
    xml = "".join(f"<testcase name='{name}' classname='a.spec.ts' time='{ms / 1000}'/>" for name, ms in cases)
    head = "<testsuite name='a.spec.ts' hostname='webkit' timestamp='2026-01-20T02:01:44.587Z'>"
    write(tmp_path / "r.xml", f"<testsuites>{head}{xml}</testsuite></testsuites>")
    specs = [
        {"title": name.removeprefix("Page › "), "file": "a.spec.ts", "tests": [
            {"projectName": "webkit", "status": "expected", "results": [{"status": "passed", "duration": ms}]}]}
        for name, ms in cases
    ]  # fmt: skip
    suite = {
        "title": "a.spec.ts",
        "file": "a.spec.ts",
        "suites": [{"title": "Page", "file": "a.spec.ts", "specs": specs}],
    }
    write(tmp_path / "r.json", json.dumps({"stats": {"startTime": "2026-01-20T02:01:40Z"}, "suites": [suite]}))
    batches = read(tmp_path)
    ids = [set(batch.executions["execution_id"].to_pylist()) for batch in batches.values()]
    assert len(ids[0]) == 6
    assert ids[0] == ids[1]


def test_two_runs_with_other_durations_are_two_cycles(tmp_path: Path) -> None:
    """The next run of the same tests on the same day is another cycle."""
    for number in (1, 2):
        cases = "".join(f"<testcase name='t{i}' time='{number}.{i}'/>" for i in range(6))
        write(tmp_path / f"{number}.xml", f"<testsuite timestamp='2026-01-20T0{number}:00:00'>{cases}</testsuite>")
    cycles = {batch.executions["cycle_id"][0].as_py() for batch in read(tmp_path).values()}
    assert len(cycles) == 2


def test_without_any_time_the_files_time_is_taken_and_said(tmp_path: Path) -> None:
    """A report without time must not date itself by the clock of the ingest."""
    path = write(
        tmp_path / "a.xml", "<testsuite><testcase name='x' time='1'/><testcase name='y' time='1'/></testsuite>"
    )
    os.utime(path, (1_700_000_000, 1_700_000_000))
    batch = read(tmp_path)["a.xml"]
    assert reasons(batch) == ["no_timestamp"]
    assert [time.astimezone(UTC) for time in batch.executions["started_at"].to_pylist()] == [
        datetime.fromtimestamp(1_700_000_000, UTC),
        datetime.fromtimestamp(1_700_000_001, UTC),
    ]
    before = batch.executions["execution_id"].to_pylist()
    os.utime(path, (1_600_000_000, 1_600_000_000))
    assert read(tmp_path)["a.xml"].executions["execution_id"].to_pylist() == before


def test_allure_results_of_a_folder_are_one_run(tmp_path: Path) -> None:
    """Attempts lie in files of their own; containers, helpers and attachments are no tests."""
    folder = tmp_path / "allure-results"
    write(folder / "1-result.json", allure("pays", "failed", 1_655_475_831_000, "h1"))
    write(folder / "2-result.json", allure("pays", "passed", 1_655_475_832_000, "h1"))
    write(folder / "3-result.json", allure("logs in", "passed", 1_655_475_833_000, "h2"))
    write(folder / "4-result.json", allure("cut", "passed", 1, "h3")[:-9])
    write(folder / "c-container.json", json.dumps({"uuid": "c", "start": 1, "children": ["h1"]}))
    write(folder / "x-attachment.json", '{"anything": 1}')
    write(folder / "categories.json", "[]")
    write(folder / "executor.json", json.dumps({"name": "CI", "buildOrder": 17, "buildName": "nightly"}))
    write(folder / "history" / "history.json", "{}")
    batches = read(tmp_path)
    assert set(batches) == {"allure-results", "allure-results/4-result.json"}
    rows = batches["allure-results"].executions.to_pylist()
    assert [(r["test_name"], r["status"], r["flaky"], r["retries"]) for r in rows] == [
        ("pays", "passed", True, 1),
        ("logs in", "passed", False, 0),
    ]
    assert {r["cycle_id"] for r in rows} == {"0000000017-nightly"}
    assert reasons(batches["allure-results/4-result.json"]) == ["truncated"]
    assert read(tmp_path, {batch.source_hash for batch in batches.values()}) == {}


def test_an_allure_folder_that_grows_keeps_its_ids(tmp_path: Path) -> None:
    """Read while the tests still run, the folder must not give the same tests twice."""
    write(tmp_path / "1-result.json", allure("pays", "passed", 1_655_475_831_000, "h1"))
    (before,) = read(tmp_path).values()
    write(tmp_path / "2-result.json", allure("logs in", "passed", 1_655_475_839_000, "h2"))
    (after,) = read(tmp_path, {before.source_hash}).values()
    assert after.executions["execution_id"].to_pylist()[0] == before.executions["execution_id"].to_pylist()[0]
    assert after.executions.num_rows == 2


def test_of_an_allure_report_only_the_suites_are_read(tmp_path: Path) -> None:
    """The report repeats its tests in a dozen files."""
    leaf = {"name": "pays", "uid": "1", "status": "passed", "time": {"start": 1_655_475_831_000, "duration": 5}}
    tree = {"uid": "r", "name": "suites", "children": [leaf]}
    write(tmp_path / "report" / "data" / "suites.json", json.dumps(tree))
    write(tmp_path / "report" / "data" / "behaviors.json", json.dumps({**tree, "name": "behaviors"}))
    write(tmp_path / "report" / "widgets" / "summary.json", "{}")
    batches = read(tmp_path)
    assert set(batches) == {"report/data/suites.json"}
    assert batches["report/data/suites.json"].quarantined == ()


def test_random_titles_of_one_run_are_several_executions_of_one_test(tmp_path: Path) -> None:
    """Normalised titles may meet; none of them may be lost."""
    xml = "<testsuite timestamp='2026-01-20T02:00:00Z'>{}{}</testsuite>"
    case = "<testcase classname='c' name='delete project {}' time='1'/>"
    write(tmp_path / "a.xml", xml.format(case.format("x7k2p"), case.format("8oo4m")))
    table = read(tmp_path)["a.xml"].executions
    assert table["test_id"].to_pylist() == ["c › delete project <random>"] * 2
    assert table["test_name"].to_pylist() == ["delete project x7k2p", "delete project 8oo4m"]
    assert len(set(table["execution_id"].to_pylist())) == 2


def test_a_file_that_cannot_be_read_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permission denied on one file must not end the ingest; root reads everything, so the refusal is made here."""
    write(tmp_path / "a.xml", JUNIT.format(name="x"))
    write(tmp_path / "b.xml", JUNIT.format(name="y"))
    opened = Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "a.xml":
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    batches = read(tmp_path)
    assert reasons(batches["a.xml"]) == ["unreadable"]
    assert batches["b.xml"].executions.num_rows == 1


def test_real_reports(shared_data: Path) -> None:
    """Every report of the shared folder is read, and the run that is reported twice has one set of ids."""
    batches = read(shared_data / "reports")
    rows = {name: batch.executions.num_rows for name, batch in batches.items()}
    assert rows["playwright-json_chroma11y_33tests_3browsers.json"] == rows["playwright-junit_chroma11y.xml"] == 33
    assert sum(rows.values()) == 240
    assert [name for name, count in rows.items() if not count] == ["ctrf.schema.json"]
    twice = ("playwright-json_chroma11y_33tests_3browsers.json", "playwright-junit_chroma11y.xml")
    one, other = (set(batches[name].executions["execution_id"].to_pylist()) for name in twice)
    assert one == other


_KEYS = [
    "suites",
    "specs",
    "tests",
    "results",
    "status",
    "stats",
    "startTime",
    "start",
    "stop",
    "duration",
    "time",
    "name",
    "title",
    "file",
    "children",
    "uid",
    "uuid",
    "labels",
    "parameters",
    "retries",
    "flaky",
    "summary",
    "errors",
]
_WORDS = st.sampled_from(["passed", "flaky", "expected", "suites"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=6),
    max_leaves=25,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from(["suites", "stats", "results", "children", "uid", "uuid", "name", "status"]), _JSON)
)
def test_no_json_is_a_traceback(tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]) -> None:
    """Whatever a reporter writes, the ingest goes on: rows or reasons, never an exception."""
    folder = tmp_path_factory.mktemp("reports")
    write(folder / "report.json", json.dumps(document))
    for batch in read(folder).values():
        assert batch.executions.schema == EXECUTIONS
        assert batch.executions.num_rows or batch.quarantined


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4), st.integers(0, 400))
def test_no_damaged_xml_is_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]], length: int
) -> None:
    """A file that lost or changed bytes on its way gives rows or reasons, never an exception."""
    folder = tmp_path_factory.mktemp("reports")
    content = bytearray(JUNIT.format(name="x").encode() * 2)[: 200 + length]
    for place, byte in damage:
        content[place % len(content)] = byte
    write(folder / "report.xml", bytes(content))
    for batch in read(folder).values():
        assert batch.executions.num_rows or batch.quarantined
