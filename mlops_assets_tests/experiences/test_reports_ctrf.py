"""CTRF reports."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mlops_assets.experiences.reports.detect import parse_report
from mlops_assets.experiences.reports.model import Report

START_MS = 1_609_459_200_000


def parse(
    *tests: object, summary: dict[str, Any] | None = None, environment: dict[str, Any] | None = None, **top: object
) -> Report:
    results = {"tool": {"name": "Playwright Test"}, "summary": summary or {}, "tests": list(tests)}
    if environment is not None:
        results["environment"] = environment
    return parse_report(json.dumps({"results": results, **top}).encode(), "json")


def test_fields_are_read() -> None:
    """Suites may be a path or a text, the browser is the project."""
    tests = parse(
        {
            "name": "a",
            "status": "passed",
            "duration": 150,
            "suite": ["s", "t"],
            "browser": "chrome 101.0",
            "start": START_MS,
        },
        {"name": "b", "status": "failed", "duration": 2, "suite": "s", "retries": 2},
        {"name": "c", "status": "pending", "duration": 0, "filePath": "c.spec.ts"},
        {"name": "d", "status": "other", "duration": 0},
    ).tests
    assert [(t.name, t.suite, t.status, t.retries) for t in tests] == [
        ("a", "s > t", "passed", 0), ("b", "s", "failed", 2), ("c", "c.spec.ts", "skipped", 0), ("d", "", "skipped", 0),
    ]  # fmt: skip
    assert (tests[0].project, tests[0].framework, tests[0].duration_ms) == ("chrome 101.0", "playwright", 150.0)
    assert tests[0].started_at == datetime(2021, 1, 1, tzinfo=UTC)


def test_flaky_is_told_by_the_flag_or_by_the_attempts() -> None:
    """Reporters fill one or the other."""
    attempts = [{"attempt": 1, "status": "failed"}, {"attempt": 2, "status": "passed"}]
    tests = parse(
        {"name": "a", "status": "passed", "duration": 1, "flaky": True, "retries": 1},
        {"name": "b", "status": "passed", "duration": 1, "retries": 1, "retryAttempts": attempts},
        {"name": "c", "status": "failed", "duration": 1, "retries": 1, "retryAttempts": attempts[:1]},
    ).tests
    assert [t.flaky for t in tests] == [True, True, False]


@pytest.mark.parametrize("start", [START_MS, START_MS / 1_000, START_MS * 1_000, str(START_MS)])
def test_units_of_times_are_told_by_magnitude(start: object) -> None:
    """An older reporter writes seconds beside a summary in milliseconds: 1970 would be the wrong answer."""
    report = parse({"name": "a", "status": "passed", "duration": 1, "start": start}, summary={"start": START_MS})
    assert report.tests[0].started_at == report.started_at == datetime(2021, 1, 1, tzinfo=UTC)


def test_a_start_of_zero_is_unknown() -> None:
    """Reporters write 0 when they do not know; it is not 1970."""
    report = parse(
        {"name": "a", "status": "passed", "duration": 1}, summary={"start": 0}, timestamp="2021-01-01T00:00:00Z"
    )
    assert report.started_at == datetime(2021, 1, 1, tzinfo=UTC)
    assert report.problems == ()


@pytest.mark.parametrize(
    ("top", "environment", "run_id"),
    [
        ({"runId": "r-1"}, {"buildId": "b"}, "r-1"),
        ({}, {"buildId": "b"}, "b"),
        ({}, {"buildName": "nightly", "buildNumber": 17}, "nightly-0000000017"),
        ({}, {"buildNumber": 17}, "17"),
        ({"reportId": "of this document"}, {}, None),
    ],
)
def test_the_run_is_the_one_that_shards_share(
    top: dict[str, Any], environment: dict[str, Any], run_id: str | None
) -> None:
    """Two shards of one run are one cycle; the document's own id would make them two."""
    assert parse({"name": "a", "status": "passed"}, environment=environment, **top).run_id == run_id


def test_bad_tests_are_put_aside_and_counts_are_compared() -> None:
    """One odd test must not cost the report, and a lost test must be seen."""
    report = parse(
        {"name": "a", "status": "passed", "duration": -1},
        {"name": "b", "status": "passed", "retries": -2},
        {"name": "c", "status": "passed", "start": "noon"},
        {"name": "d", "status": "passed"},
        summary={"tests": 9, "failed": 1},
    )
    assert [t.name for t in report.tests] == ["d"]
    assert [p.reason for p in report.problems] == [
        "negative_duration", "bad_count", "bad_timestamp", "counts_disagree", "counts_disagree",
    ]  # fmt: skip


def test_real_report(shared_data: Path) -> None:
    """The example of the format comes out."""
    report = parse_report((shared_data / "reports" / "ctrf_example_with-retries.json").read_bytes(), "json")
    assert [(t.name, t.status, t.flaky, t.retries, t.duration_ms) for t in report.tests] == [
        ("stable test", "passed", False, 0, 150.0),
        ("flaky test", "passed", True, 2, 300.0),
    ]
    assert report.problems == ()
