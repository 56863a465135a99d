"""Playwright's JSON report."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlops_assets.experiences.reports.detect import parse_report
from mlops_assets.experiences.reports.model import Report


def parse(document: object) -> Report:
    return parse_report(json.dumps(document, indent=1).encode(), "json")


def entry(
    status: str | None, *attempts: tuple[str, object], project: str = "chromium", **more: object
) -> dict[str, Any]:
    results = [{"status": verdict, "duration": duration, "retry": i} for i, (verdict, duration) in enumerate(attempts)]
    return {"status": status, "projectName": project, "results": results, **more}


def report(*tests: dict[str, Any], stats: dict[str, Any] | None = None, **more: object) -> dict[str, Any]:
    specs = [{"title": f"test {i}", "file": "a.spec.ts", "tests": [test]} for i, test in enumerate(tests)]
    return {
        "stats": stats or {"startTime": "2026-01-20T02:01:40.695Z"},
        "suites": [{"title": "a.spec.ts", "file": "a.spec.ts", "suites": [{"title": "Page", "specs": specs}]}],
        **more,
    }


def test_playwrights_verdicts_are_kept() -> None:
    """An expected failure passed, a flaky test passed in the end, the last attempt gives the duration."""
    tests = parse(
        report(
            entry("expected", ("passed", 1_500)),
            entry("unexpected", ("failed", 10), ("timedOut", 30_000)),
            entry("flaky", ("failed", 8_000), ("passed", 4_200)),
            entry("skipped"),
            entry("expected", ("failed", 70), expectedStatus="failed"),
        )
    ).tests
    assert [(t.status, t.flaky, t.retries, t.duration_ms) for t in tests] == [
        ("passed", False, 0, 1_500.0),
        ("failed", False, 1, 30_000.0),
        ("passed", True, 1, 4_200.0),
        ("skipped", False, 0, 0.0),
        ("passed", False, 0, 70.0),
    ]


def test_without_a_verdict_the_attempts_give_it() -> None:
    """Older reports have attempts only; mixed ones are flaky."""
    tests = parse(report(entry(None, ("failed", 1), ("passed", 2)), entry(None, ("interrupted", 1)))).tests
    assert [(t.status, t.flaky) for t in tests] == [("passed", True), ("failed", False)]


def test_titles_hold_the_describe_blocks_and_every_project_is_a_test() -> None:
    """The file's own suite is no describe block; three projects are three tests."""
    document = report(entry("expected", ("passed", 1)))
    document["suites"][0]["suites"][0]["specs"][0]["tests"].append(entry("expected", ("passed", 1), project=""))
    document["suites"].append({"title": "b.spec.ts", "file": "b.spec.ts", "specs": [
        {"title": "top", "file": "b.spec.ts", "tests": [entry("expected", ("passed", 1))]}]})  # fmt: skip
    assert [(t.suite, t.name, t.project) for t in parse(document).tests] == [
        ("a.spec.ts", "Page › test 0", "chromium"),
        ("a.spec.ts", "Page › test 0", ""),
        ("b.spec.ts", "top", "chromium"),
    ]


def test_an_execution_starts_with_its_first_attempt() -> None:
    """A retried test began before its retry."""
    test = entry("flaky", ("failed", 1), ("passed", 2))
    test["results"][0]["startTime"] = "2026-01-20T02:01:44.985Z"
    test["results"][1]["startTime"] = "2026-01-20T02:01:50.000Z"
    parsed = parse(report(test))
    assert parsed.tests[0].started_at == datetime(2026, 1, 20, 2, 1, 44, 985_000, tzinfo=UTC)
    assert parsed.started_at == datetime(2026, 1, 20, 2, 1, 40, 695_000, tzinfo=UTC)


def test_bad_entries_are_put_aside_with_their_line_and_the_rest_stays() -> None:
    """One test without a sense must not cost the report."""
    document = report(
        entry("expected", ("passed", -5)), entry("purple", ("passed", 1)), entry("expected", ("passed", 1))
    )
    document["suites"].append("no suite")
    parsed = parse(document)
    assert [t.name for t in parsed.tests] == ["Page › test 2"]
    assert sorted(p.reason for p in parsed.problems) == ["negative_duration", "unknown_status", "wrong_type"]
    text = json.dumps(document, indent=1).splitlines()
    line = next(p.line for p in parsed.problems if p.reason == "unknown_status")
    assert line is not None
    assert '"test 1"' in text[line - 1]


def test_counts_that_disagree_and_errors_outside_of_tests_are_listed() -> None:
    """A run whose global setup failed, or a merged report, looks healthy otherwise."""
    stats = {"startTime": "2026-01-20T02:01:40Z", "expected": 3, "unexpected": 0, "flaky": 0, "skipped": 0}
    parsed = parse(report(entry("expected", ("passed", 1)), stats=stats, errors=[{"message": "no such module"}]))
    assert [p.reason for p in parsed.problems] == ["counts_disagree", "run_error"]
    assert "3 expected tests" in parsed.problems[0].excerpt
    assert "no such module" in parsed.problems[1].excerpt


def test_real_reports(shared_data: Path) -> None:
    """Verdicts of real reports come out."""
    folder = shared_data / "reports"
    flaky = parse_report((folder / "playwright-json_FIXTURE_with-flaky.json").read_bytes(), "json")
    assert sorted((t.status, t.flaky, t.retries) for t in flaky.tests) == [
        ("failed", False, 0), ("failed", False, 0), ("passed", False, 0), ("passed", False, 0), ("passed", False, 0),
        ("passed", True, 1), ("skipped", False, 0),
    ]  # fmt: skip
    failing = parse_report((folder / "playwright-json_tailwind-grid-layout_21tests_12fail.json").read_bytes(), "json")
    assert (len(failing.tests), sum(t.status == "failed" for t in failing.tests)) == (21, 12)
    assert failing.problems == flaky.problems == ()
