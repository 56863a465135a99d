"""Allure's result files and report trees."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlops_assets.experiences.reports.allure import parse_allure_results
from mlops_assets.experiences.reports.detect import parse_report

START_MS = 1_655_475_831_414


def leaf(name: str, status: str = "passed", **more: object) -> dict[str, Any]:
    time = {"start": START_MS, "stop": START_MS + 40, "duration": 40}
    return {"name": name, "uid": "u", "status": status, "time": time, "parameters": ["chrome-102.0.5005.115"], **more}


def result(name: str, status: str, start: int, history: str = "h", **more: object) -> dict[str, Any]:
    labels = [{"name": "parentSuite", "value": "p"}, {"name": "suite", "value": "s"}]
    return {"uuid": "u", "historyId": history, "name": name, "status": status, "start": start, "stop": start + 500,
            "labels": labels, **more}  # fmt: skip


def test_tree_leaves_are_tests_in_order_with_their_path() -> None:
    """Inner nodes are suites; broken is failed; the browser is a parameter, other parameters belong to the name."""
    tree = {"uid": "x", "name": "suites", "children": [
        {"name": "Filters", "uid": "y", "children": [
            leaf("by country"),
            {"name": "deep", "uid": "z", "children": [leaf("by type", "broken", parameters=["admin", "firefox-99.0"])]},
        ]},
        leaf("alone", "unknown", parameters=[], retriesCount=2, flaky=True),
    ]}  # fmt: skip
    report = parse_report(json.dumps(tree).encode(), "json")
    assert [(t.suite, t.name, t.project, t.status, t.retries, t.flaky) for t in report.tests] == [
        ("Filters", "by country", "chrome-102.0.5005.115", "passed", 0, False),
        ("Filters > deep", "by type (admin)", "firefox-99.0", "failed", 0, False),
        ("", "alone", "", "skipped", 2, True),
    ]
    assert report.tests[0].duration_ms == 40.0
    assert report.started_at == datetime(2022, 6, 17, 14, 23, 51, 414_000, tzinfo=UTC)


def test_bad_leaves_are_put_aside() -> None:
    """A leaf without a verdict must not cost the tree."""
    tree = {"uid": "x", "name": "suites", "children": [leaf("good"), {"name": "odd", "uid": "o"}, 7]}
    report = parse_report(json.dumps(tree).encode(), "json")
    assert [t.name for t in report.tests] == ["good"]
    assert sorted(p.reason for p in report.problems) == ["unknown_status", "wrong_type"]


def test_attempts_are_joined_by_history_id_in_order_of_time() -> None:
    """Each attempt is a file of its own, in no order; the last in time counts."""
    files = [
        ("b.json", result("pays", "passed", START_MS + 1_000)),
        ("a.json", result("pays", "broken", START_MS)),
        ("c.json", result("pays", "failed", START_MS, history="other")),
    ]
    report, problems = parse_allure_results(files, run_id=None)
    assert [(t.status, t.flaky, t.retries, t.duration_ms) for t in report.tests] == [
        ("passed", True, 1, 500.0),
        ("failed", False, 0, 500.0),
    ]
    assert (report.tests[0].suite, report.tests[0].started_at) == (
        "p > s",
        datetime(2022, 6, 17, 14, 23, 51, 414_000, tzinfo=UTC),
    )
    assert problems == {}
    assert report.run_id == "20220617T142351.414000Z"


def test_hidden_parameters_are_no_part_of_the_name_and_flags_count() -> None:
    """Excluded parameters hold timestamps and the like."""
    parameters = [
        {"name": "browser", "value": "webkit-17.4"},
        {"name": "role", "value": "admin"},
        {"name": "now", "value": "1655475831", "excluded": True},
        {"name": "token", "value": "s3cret", "mode": "hidden"},
    ]
    document = result("pays", "passed", START_MS, parameters=parameters, statusDetails={"flaky": True})
    report, _ = parse_allure_results([("a.json", document)], run_id="17")
    test = report.tests[0]
    assert (test.name, test.project, test.flaky, report.run_id) == ("pays (admin)", "webkit-17.4", True, "17")


def test_a_bad_result_file_is_named_and_the_others_stay() -> None:
    """One file of a thousand must not cost the run."""
    files = [("bad.json", result("a", "passed", -5)), ("good.json", result("b", "passed", START_MS, history="g"))]
    report, problems = parse_allure_results(files, run_id=None)
    assert [t.name for t in report.tests] == ["b"]
    assert {name: [p.reason for p in found] for name, found in problems.items()} == {"bad.json": ["absurd_timestamp"]}


def test_real_tree(shared_data: Path) -> None:
    """101 tests of a real report come out, all on chrome."""
    report = parse_report((shared_data / "reports" / "allure-report-suites_agm_101tests.json").read_bytes(), "json")
    assert len(report.tests) == 101
    assert sum(t.status == "failed" for t in report.tests) == 2
    assert {t.project for t in report.tests} == {"chrome-102.0.5005.115"}
