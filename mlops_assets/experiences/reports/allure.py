"""Allure 2: result files (one an attempt) and the tree of a finished report (`data/suites.json`).

`historyId` joins the attempts of one test within a run. It is not the identity across runs: many reporters hash the
title into it, random data included; the normalised title is.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

from mlops_assets.experiences.execution_rows import RowError, parse_count, parse_duration_ms, parse_status, parse_time
from mlops_assets.experiences.execution_source import Quarantine
from mlops_assets.experiences.reports.documents import Locate, objects, text
from mlops_assets.experiences.reports.model import Report, ReportedTest, last_of_attempts

_BROWSER = re.compile(
    r"(?:headless[ _-]?)?(?:chrome|chromium|firefox|edge|msedge|safari|webkit|opera)\b.*", re.IGNORECASE
)
_SUITE_LABELS = ("parentSuite", "suite", "subSuite")


def parse_allure_tree(document: dict[str, Any], locate: Locate) -> Report:
    """Parse `data/suites.json`: inner nodes are suites, leaves are tests."""
    problems: list[Quarantine] = []
    tests: list[ReportedTest] = []
    for path, leaf in _leaves(document, problems):
        name = text(leaf.get("name"))
        try:
            tests.append(_read_leaf(path, name, leaf))
        except RowError as error:
            problems.append(error.quarantine(locate(name), name))
    return Report(tests=tuple(tests), problems=tuple(problems), started_at=_first_start(tests))


def _leaves(document: dict[str, Any], problems: list[Quarantine]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    stack: list[tuple[dict[str, Any], tuple[str, ...]]] = [(document, ())]
    while stack:
        node, path = stack.pop()
        if "children" not in node:
            yield path, node
            continue
        name = text(node.get("name"))
        own = path if node is document else (*path, name)
        children = list(objects(node.get("children"), f"children of {name!r}", problems))
        stack += [(child, own) for child in reversed(children)]


def _read_leaf(path: tuple[str, ...], name: str, leaf: dict[str, Any]) -> ReportedTest:
    status, flaky = parse_status(text(leaf.get("status")))
    time = leaf.get("time")
    time = time if isinstance(time, dict) else {}
    values = leaf.get("parameters")
    project, others = _parameters(map(text, values) if isinstance(values, list) else ())
    return ReportedTest(
        suite=" > ".join(path),
        name=_with_parameters(name, others),
        project=project,
        framework="allure",
        status=status,
        duration_ms=_duration_ms(time),
        started_at=parse_time(time.get("start")),
        retries=parse_count(leaf.get("retriesCount"), "retriesCount"),
        flaky=flaky or leaf.get("flaky") is True or (leaf.get("retriesStatusChange") is True and status == "passed"),
    )


def _duration_ms(time: dict[str, Any]) -> float:
    if time.get("duration") is not None:
        return parse_duration_ms(time["duration"], unit_ms=1.0)
    start, stop = parse_time(time.get("start")), parse_time(time.get("stop"))
    if start is None or stop is None:
        return 0.0
    return parse_duration_ms((stop - start).total_seconds(), unit_ms=1_000.0)


def _parameters(values: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """Split parameter values into the browser (several browsers are one project) and the others."""
    browsers: list[str] = []
    others: list[str] = []
    for value in values:
        (browsers if _BROWSER.fullmatch(value) else others).append(value)
    return browsers[0] if browsers else "", tuple(other for other in others if other)


def _with_parameters(name: str, values: tuple[str, ...]) -> str:
    return f"{name} ({', '.join(values)})" if values else name


def is_allure_result(document: dict[str, Any]) -> bool:
    """True for a `<uuid>-result.json`: one attempt of one test."""
    return "uuid" in document and "status" in document and "name" in document and "children" not in document


def parse_allure_results(
    documents: Iterable[tuple[str, dict[str, Any]]], *, run_id: str | None
) -> tuple[Report, dict[str, list[Quarantine]]]:
    """Join the result files of one folder, (file, document) each, into one run.

    Returns the report, and the problems by file: a result file that cannot be used does not stop the others.
    """
    problems: dict[str, list[Quarantine]] = {}
    attempts: dict[str, list[ReportedTest]] = {}
    for file, document in documents:
        own: list[Quarantine] = []
        try:
            test = _read_result(document, own)
            attempts.setdefault(_history(document, test), []).append(test)
        except RowError as error:
            own.append(error.quarantine(None, text(document.get("name"))))
        if own:
            problems[file] = own
    tests = [_joined(several) for several in attempts.values()]
    started_at = _first_start(tests)
    if run_id is None and started_at is not None:
        # The folder fills while the tests run: its first start stays, what it holds does not.
        run_id = f"{started_at:%Y%m%dT%H%M%S.%fZ}"
    return Report(tests=tuple(tests), run_id=run_id, started_at=started_at), problems


def _history(document: dict[str, Any], test: ReportedTest) -> str:
    return text(document.get("historyId")) or f"{test.suite}\n{test.name}\n{test.project}"


def _read_result(document: dict[str, Any], problems: list[Quarantine]) -> ReportedTest:
    status, flaky = parse_status(text(document.get("status")))
    labels: dict[str, str] = {}
    for label in objects(document.get("labels"), "labels", problems):
        labels.setdefault(text(label.get("name")), text(label.get("value")))
    parameters = [
        text(parameter.get("value"))
        for parameter in objects(document.get("parameters"), "parameters", problems)
        if parameter.get("excluded") is not True and parameter.get("mode") != "hidden"
    ]
    project, others = _parameters(parameters)
    details = document.get("statusDetails")
    flaky = flaky or (isinstance(details, dict) and details.get("flaky") is True)
    suites = [labels[name] for name in _SUITE_LABELS if labels.get(name)]
    return ReportedTest(
        suite=" > ".join(suites) or labels.get("testClass", "") or labels.get("package", ""),
        name=_with_parameters(text(document.get("name")), others),
        project=project or labels.get("browser", ""),
        framework=labels.get("framework", "").lower() or "allure",
        status=status,
        duration_ms=_duration_ms({"start": document.get("start"), "stop": document.get("stop")}),
        started_at=parse_time(document.get("start")),
        flaky=flaky,
    )


def _joined(attempts: list[ReportedTest]) -> ReportedTest:
    ordered = sorted(attempts, key=lambda test: (test.started_at is not None, test.started_at))
    status, disagree = last_of_attempts([test.status for test in ordered])
    return replace(
        ordered[-1],
        status=status,
        started_at=ordered[0].started_at,
        retries=len(ordered) - 1,
        flaky=disagree or any(test.flaky for test in ordered),
    )


def _first_start(tests: Iterable[ReportedTest]) -> datetime | None:
    return min((test.started_at for test in tests if test.started_at is not None), default=None)
