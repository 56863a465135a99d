"""JUnit XML in its dialects: pytest, Surefire, Playwright, Cypress/mocha, web-test-runner, GoogleTest.

There is no official schema. Read are: root `<testsuites>` or a bare `<testsuite>`, nested suites; children `failure`
and `error` (failed), `skipped`, none of them (passed); Surefire's `flakyFailure`/`flakyError` (passed in the end) and
`rerunFailure`/`rerunError` (failed again); the same testcase repeated in one suite: attempts, the last one counts.
"""

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from xml.etree.ElementTree import Element

from mlops_assets.experiences.execution_rows import RowError, excerpt, parse_duration_ms, parse_time
from mlops_assets.experiences.execution_source import Quarantine
from mlops_assets.experiences.reports.documents import LINE
from mlops_assets.experiences.reports.model import Report, ReportedTest, last_of_attempts

_SECOND_MS = 1_000.0
_PLAYWRIGHT_FILE = re.compile(r"\.(?:spec|test)\.[cm]?[jt]sx?$")
_NAMELESS_SUITES = {"", "pytest", "mocha tests", "root suite", "jest tests"}
_COUNT = re.compile(r"[0-9]{1,9}")
_BROWSER_PROPERTIES = ("browser.name", "browsername", "browser")
_NOT_RUN = {"notrun", "skipped", "disabled", "ignored", "suppressed"}


@dataclass
class _Clock:
    """Where in time the next case of a suite starts: cases carry no start and are taken to run one after another."""

    now: datetime | None

    def start(self, own: datetime | None, duration_ms: float) -> datetime | None:
        started = own or self.now
        if started is not None:
            self.now = started + timedelta(milliseconds=duration_ms)
        return started


@dataclass(frozen=True)
class _Suite:
    path: tuple[str, ...]
    project: str
    framework: str
    clock: _Clock
    number: int = 0


@dataclass(frozen=True)
class _Case:
    key: tuple[object, ...]
    test: ReportedTest
    failures: int


def parse_junit(root: Element) -> Report:
    """Parse a `<testsuites>` or `<testsuite>` element; suites nest at most as deep as the document may."""
    walk = _Walk()
    walk.suite(root, _Suite((), "", "junit", _Clock(None)))
    starts = walk.starts
    return Report(
        tests=tuple(_merge(walk.cases)),
        problems=tuple(walk.problems),
        started_at=min(starts) if starts else None,
    )


def _tag(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _line(element: Element) -> int:
    return int(element.attrib[LINE])


class _Walk:
    """Collects cases, in document order, with what their suites say about them."""

    def __init__(self) -> None:
        self.cases: list[_Case] = []
        self.problems: list[Quarantine] = []
        self.starts: list[datetime] = []
        self._suites = 0

    def suite(self, element: Element, parent: _Suite) -> None:
        own = self._context(element, parent)
        before = len(self.cases)
        found = 0
        for child in element:
            tag = _tag(child)
            if tag == "testsuite":
                self.suite(child, own)
            elif tag == "testcase":
                found += 1
                self._case(child, own)
        self._check_counts(element, self.cases[before:], found)

    def _context(self, element: Element, parent: _Suite) -> _Suite:
        name = element.get("name", "").strip()
        hostname = element.get("hostname", "")
        playwright = bool(_PLAYWRIGHT_FILE.search(name)) and "hostname" in element.attrib
        started_at = self._timestamp(element)
        self._suites += 1
        if started_at is not None:
            self.starts.append(started_at)
        return _Suite(
            path=parent.path if name.lower() in _NAMELESS_SUITES else (*parent.path, name),
            project=hostname if playwright else (_browser(element) or parent.project),
            framework="playwright" if playwright else (_framework(element) or parent.framework),
            clock=parent.clock if started_at is None else _Clock(started_at),
            number=self._suites,
        )

    def _timestamp(self, element: Element) -> datetime | None:
        try:
            return parse_time(element.get("timestamp"))
        except RowError as error:
            self.problems.append(error.quarantine(_line(element), f"{_tag(element)} {element.get('name', '')!r}"))
            return None

    def _case(self, element: Element, suite: _Suite) -> None:
        try:
            self.cases.append(_read_case(element, suite, self._timestamp(element)))
        except RowError as error:
            self.problems.append(error.quarantine(_line(element), f"testcase {element.get('name', '')!r}"))

    def _check_counts(self, element: Element, cases: list[_Case], direct: int) -> None:
        everything = sum(1 for node in element.iter() if _tag(node) == "testcase")
        distinct = len({case.key for case in cases})
        failing = sum(case.failures > 0 for case in cases)
        finally_failing = sum(test.status == "failed" for test in _merge(cases))
        checks = (
            ("tests", _count(element, "tests"), {everything, direct, distinct}),
            ("failures + errors", _failures(element), {failing, finally_failing, sum(case.failures for case in cases)}),
        )
        for what, announced, found in checks:
            if announced is not None and announced not in found:
                message = (
                    f"{_tag(element)} {element.get('name', '')!r} counts {announced} {what}, its cases give "
                    f"{' or '.join(map(str, sorted(found)))}: the report may be cut, or merged from several"
                )
                self.problems.append(Quarantine(_line(element), "counts_disagree", excerpt(message)))


def _count(element: Element, attribute: str) -> int | None:
    value = element.get(attribute, "")
    return int(value) if _COUNT.fullmatch(value) else None


def _failures(element: Element) -> int | None:
    failures, errors = _count(element, "failures"), _count(element, "errors")
    return None if failures is None and errors is None else (failures or 0) + (errors or 0)


def _browser(element: Element) -> str:
    for properties in element:
        if _tag(properties) != "properties":
            continue
        for item in properties:
            if item.get("name", "").lower() in _BROWSER_PROPERTIES:
                return item.get("value") or (item.text or "").strip()
    return ""


def _framework(element: Element) -> str:
    name = element.get("name", "").lower()
    if name.startswith("pytest"):
        return "pytest"
    if name == "mocha tests":
        return "cypress" if any("cypress" in child.get("file", "") for child in element) else "mocha"
    if any("surefire" in value for value in element.attrib.values()):
        return "surefire"
    if any(
        _tag(child) == "properties" and any(p.get("name") == "browser.launcher" for p in child) for child in element
    ):
        return "web-test-runner"
    return ""


def _read_case(element: Element, suite: _Suite, own_start: datetime | None) -> _Case:
    duration_ms = parse_duration_ms(element.get("time"), unit_ms=_SECOND_MS)
    status, flaky, retries, failures = _outcome(element)
    name, suite_name = _names(element, suite)
    test = ReportedTest(
        suite=suite_name,
        name=name,
        project=suite.project,
        framework=suite.framework,
        status=status,
        duration_ms=duration_ms,
        started_at=suite.clock.start(own_start, duration_ms),
        retries=retries,
        flaky=flaky,
    )
    key = (suite.number, element.get("classname"), element.get("name"), element.get("file"))
    return _Case(key, test, failures)


def _outcome(element: Element) -> tuple[str, bool, int, int]:
    """Status, flaky, retries, and the number of failure and error elements."""
    tags = [_tag(child) for child in element]
    failures = sum(tag in {"failure", "error"} for tag in tags)
    passed_later = sum(tag in {"flakyFailure", "flakyError"} for tag in tags)
    failed_again = sum(tag in {"rerunFailure", "rerunError"} for tag in tags)
    if failures:
        return "failed", False, failed_again, failures
    if "skipped" in tags or {element.get("status", "").lower(), element.get("result", "").lower()} & _NOT_RUN:
        return "skipped", False, 0, 0
    return "passed", passed_later > 0, passed_later, 0


def _names(element: Element, suite: _Suite) -> tuple[str, str]:
    """Name and suite of a case: mocha puts the full title into `name` and the short one into `classname`."""
    name, classname = element.get("name", "").strip(), element.get("classname", "").strip()
    path = " > ".join(suite.path)
    if classname and name != classname and name.endswith(f" {classname}"):
        return classname, name.removesuffix(classname).strip()
    if not classname or classname == name:
        return name, path
    return name, classname


def _merge(cases: list[_Case]) -> list[ReportedTest]:
    """Join the attempts of a test: its place and start are the first one's, its outcome is the last one's."""
    attempts: dict[tuple[object, ...], list[ReportedTest]] = {}
    for case in cases:
        attempts.setdefault(case.key, []).append(case.test)
    return [_joined(tests) for tests in attempts.values()]


def _joined(tests: list[ReportedTest]) -> ReportedTest:
    status, disagree = last_of_attempts([test.status for test in tests])
    return replace(
        tests[-1],
        status=status,
        started_at=tests[0].started_at,
        retries=len(tests) - 1 + sum(test.retries for test in tests),
        flaky=disagree or any(test.flaky for test in tests),
    )
