"""CTRF, the Common Test Report Format (JSON): one object a test, attempts already joined."""

from datetime import datetime
from typing import Any

from mlops_assets.experiences.execution_rows import RowError, parse_count, parse_duration_ms, parse_status, parse_time
from mlops_assets.experiences.execution_source import Quarantine
from mlops_assets.experiences.reports.documents import Locate, counts_problem, objects, text
from mlops_assets.experiences.reports.model import Report, ReportedTest, last_of_attempts

_TOOLS = ("playwright", "cypress", "pytest", "jest", "vitest", "mocha", "webdriverio", "testcafe", "k6", "junit")


def parse_ctrf(document: dict[str, Any], locate: Locate) -> Report:
    """Parse a report; `locate` finds the line of a title, for what is put aside."""
    problems: list[Quarantine] = []
    tests: list[ReportedTest] = []
    results = _object(document.get("results"))
    framework = _framework(text(_object(results.get("tool")).get("name")))
    items = list(objects(results.get("tests"), "results.tests", problems))
    for item in items:
        name = text(item.get("name"))
        try:
            tests.append(_read(item, name, framework, problems))
        except RowError as error:
            problems.append(error.quarantine(locate(name), name))
    summary = _object(results.get("summary"))
    problems += counts_problem(summary.get("tests"), len(items), "tests")
    problems += counts_problem(
        summary.get("failed"), sum(text(item.get("status")) == "failed" for item in items), "failed tests"
    )
    return Report(
        tests=tuple(tests),
        problems=tuple(problems),
        run_id=_run_id(document, _object(results.get("environment"))),
        started_at=_start(document, summary, problems),
    )


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _framework(tool: str) -> str:
    return next((name for name in _TOOLS if name in tool.lower()), "ctrf")


def _read(item: dict[str, Any], name: str, framework: str, problems: list[Quarantine]) -> ReportedTest:
    status, flaky = parse_status(text(item.get("status")))
    attempts = [
        text(attempt.get("status")) for attempt in objects(item.get("retryAttempts"), "retryAttempts", problems)
    ]
    if attempts:
        flaky = flaky or last_of_attempts([*(parse_status(attempt)[0] for attempt in attempts), status])[1]
    suite = item.get("suite")
    return ReportedTest(
        suite=" > ".join(map(text, suite)) if isinstance(suite, list) else text(suite) or text(item.get("filePath")),
        name=name,
        project=text(item.get("browser")) or text(item.get("device")),
        framework=framework,
        status=status,
        duration_ms=parse_duration_ms(item.get("duration"), unit_ms=1.0),
        started_at=parse_time(item.get("start")),
        retries=parse_count(item.get("retries"), "retries"),
        flaky=flaky or item.get("flaky") is True,
    )


def _run_id(document: dict[str, Any], environment: dict[str, Any]) -> str | None:
    """The run that several shards may share; `reportId` names this document only."""
    run_id = text(document.get("runId")) or text(environment.get("buildId"))
    if run_id:
        return run_id
    number = text(environment.get("buildNumber"))
    if not number:
        return None
    name = text(environment.get("buildName"))
    return f"{name}-{number.zfill(10)}" if name else number


def _start(document: dict[str, Any], summary: dict[str, Any], problems: list[Quarantine]) -> datetime | None:
    for value in (summary.get("start"), document.get("timestamp")):
        try:
            # A start of 0 is how reporters write that they do not know it.
            if value and (start := parse_time(value)):
                return start
        except RowError as error:
            problems.append(error.quarantine(None, "start of the run"))
    return None
