"""Playwright's JSON report: suites nest, `specs[].tests[].results[]` hold every attempt of every project."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from mlops_assets.experiences.execution_rows import RowError, excerpt, parse_duration_ms, parse_status, parse_time
from mlops_assets.experiences.execution_source import Quarantine
from mlops_assets.experiences.identity import SEPARATOR
from mlops_assets.experiences.reports.documents import Locate, counts_problem, objects, text
from mlops_assets.experiences.reports.model import Report, ReportedTest, last_of_attempts

_OUTCOMES = ("expected", "unexpected", "flaky", "skipped")


def parse_playwright(document: dict[str, Any], locate: Locate) -> Report:
    """Parse a report; `locate` finds the line of a title, for what is put aside."""
    problems: list[Quarantine] = []
    tests: list[ReportedTest] = []
    outcomes: Counter[str] = Counter()
    for suite, title, test in _tests(document, problems):
        outcomes[text(test.get("status"))] += 1
        try:
            tests.append(_read(suite, title, test, problems))
        except RowError as error:
            problems.append(error.quarantine(locate(title.rpartition(SEPARATOR)[2]), title))
    stats = document.get("stats")
    stats = stats if isinstance(stats, dict) else {}
    for outcome in _OUTCOMES:
        problems += counts_problem(stats.get(outcome), outcomes[outcome], f"{outcome} tests")
    problems += _run_errors(document, problems)
    return Report(tests=tuple(tests), problems=tuple(problems), started_at=_start(stats, problems))


def _tests(document: dict[str, Any], problems: list[Quarantine]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (file, `describe › title`, test) in the order of the report."""
    top = list(objects(document.get("suites"), "suites", problems))
    stack: list[tuple[dict[str, Any], tuple[str, ...]]] = [(suite, ()) for suite in reversed(top)]
    while stack:
        suite, path = stack.pop()
        file, title = text(suite.get("file")), text(suite.get("title"))
        own: tuple[str, ...] = path if title == file or not title else (*path, title)
        for spec in objects(suite.get("specs"), "specs", problems):
            name = SEPARATOR.join((*own, text(spec.get("title"))))
            for test in objects(spec.get("tests"), "tests", problems):
                yield text(spec.get("file")) or file, name, test
        nested = list(objects(suite.get("suites"), "suites", problems))
        stack += [(child, own) for child in reversed(nested)]


def _read(suite: str, title: str, test: dict[str, Any], problems: list[Quarantine]) -> ReportedTest:
    results = list(objects(test.get("results"), "results", problems))
    status, flaky = _status(test, results)
    starts = [start for start in (parse_time(result.get("startTime")) for result in results) if start is not None]
    return ReportedTest(
        suite=suite,
        name=title,
        project=text(test.get("projectName")) or text(test.get("projectId")),
        framework="playwright",
        status=status,
        duration_ms=parse_duration_ms(results[-1].get("duration") if results else None, unit_ms=1.0),
        started_at=min(starts, default=None),
        retries=max(len(results) - 1, 0),
        flaky=flaky,
    )


def _status(test: dict[str, Any], results: list[dict[str, Any]]) -> tuple[str, bool]:
    """Playwright's own verdict (a test that is expected to fail and does is `expected`), else the attempts'."""
    if text(test.get("status")) or not results:
        return parse_status(text(test.get("status")))
    return last_of_attempts([parse_status(text(result.get("status")))[0] for result in results])


def _run_errors(document: dict[str, Any], problems: list[Quarantine]) -> list[Quarantine]:
    """Errors outside of any test: a file that did not load, a global setup that failed."""
    return [
        Quarantine(None, "run_error", excerpt(f"error outside of the tests: {text(error.get('message'))}"))
        for error in objects(document.get("errors"), "errors", problems)
    ]


def _start(stats: dict[str, Any], problems: list[Quarantine]) -> Any:
    try:
        return parse_time(stats.get("startTime"))
    except RowError as error:
        problems.append(error.quarantine(None, "stats.startTime"))
        return None
