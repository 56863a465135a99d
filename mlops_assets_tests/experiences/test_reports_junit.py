"""JUnit XML in its dialects."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlops_assets.experiences.reports.detect import parse_report
from mlops_assets.experiences.reports.model import Report, ReportedTest


def parse(xml: str) -> Report:
    return parse_report(xml.encode(), "xml")


def one(xml: str) -> ReportedTest:
    report = parse(xml)
    assert len(report.tests) == 1
    return report.tests[0]


def case(body: str = "", attributes: str = "") -> str:
    return f'<testsuite name="s"><testcase classname="c" name="n" time="0.5" {attributes}>{body}</testcase></testsuite>'


@pytest.mark.parametrize(
    ("body", "status", "flaky", "retries"),
    [
        ("", "passed", False, 0),
        ("<failure/>", "failed", False, 0),
        ("<error/>", "failed", False, 0),
        ("<skipped/>", "skipped", False, 0),
        ("<flakyFailure/><flakyError/>", "passed", True, 2),
        ("<failure/><rerunFailure/><rerunError/>", "failed", False, 2),
        ("<system-out>x</system-out>", "passed", False, 0),
    ],
)
def test_children_of_a_case_are_its_verdict(body: str, status: str, flaky: bool, retries: int) -> None:
    """A rerun that passed in the end is flaky and not failed; an error is a failure."""
    test = one(case(body))
    assert (test.status, test.flaky, test.retries) == (status, flaky, retries)
    assert test.duration_ms == 500.0


def test_a_case_that_was_not_run_is_skipped() -> None:
    """GoogleTest says so in an attribute, without any child."""
    assert one(case(attributes='status="notrun"')).status == "skipped"


def test_repeated_cases_are_attempts_and_the_last_one_counts() -> None:
    """Three attempts of one test are one execution with two retries; mixed verdicts are flaky."""
    attempt = '<testcase classname="c" name="n" time="{time}">{body}</testcase>'
    bodies = ((1, "<failure/>"), (2, "<error/>"), (3, ""))
    xml = "<testsuite name='s'>" + "".join(attempt.format(time=t, body=b) for t, b in bodies)
    xml += '<testcase classname="other" name="n" time="1"/></testsuite>'
    report = parse(xml)
    assert [(t.suite, t.status, t.flaky, t.retries, t.duration_ms) for t in report.tests] == [
        ("c", "passed", True, 2, 3_000.0),
        ("other", "passed", False, 0, 1_000.0),
    ]


def test_attempts_that_all_failed_are_not_flaky() -> None:
    """A broken test must not look flaky because it was tried again."""
    body = '<testcase classname="c" name="n" time="1"><failure/></testcase>'
    test = one(f"<testsuite name='s'>{body}{body}</testsuite>")
    assert (test.status, test.flaky, test.retries) == ("failed", False, 1)


def test_the_same_case_in_two_suites_is_two_executions() -> None:
    """Merged reports of two jobs hold the same names; they are no retries."""
    body = '<testsuite name="{name}"><testcase classname="c" name="n" time="1"/></testsuite>'
    report = parse("<testsuites>" + body.format(name="a") + body.format(name="b") + "</testsuites>")
    assert [test.retries for test in report.tests] == [0, 0]


def test_playwright_puts_the_browser_into_hostname() -> None:
    """Three browsers of one test must stay three tests; elsewhere hostname is a machine and must not be one."""
    suite = '<testsuite name="a.spec.ts" timestamp="2026-01-20T02:01:44.587Z" hostname="{host}">{case}</testsuite>'
    body = '<testcase name="Page › works" classname="a.spec.ts" time="0.8"/>'
    report = parse(
        "<testsuites>" + "".join(suite.format(host=h, case=body) for h in ("chromium", "webkit")) + "</testsuites>"
    )
    assert [(t.project, t.suite, t.name, t.framework) for t in report.tests] == [
        ("chromium", "a.spec.ts", "Page › works", "playwright"),
        ("webkit", "a.spec.ts", "Page › works", "playwright"),
    ]
    pytest_xml = (
        '<testsuite name="pytest" hostname="19dbb6183a63"><testcase classname="t.T" name="test_x"/></testsuite>'
    )
    assert (one(pytest_xml).project, one(pytest_xml).framework) == ("", "pytest")


def test_mocha_puts_the_full_title_into_name() -> None:
    """Cypress' classname is the short title, not the suite."""
    xml = """<testsuites name="Mocha Tests"><testsuite name="Root Suite" file="cypress/a-spec.js" tests="0"/>
    <testsuite name="grid"><testcase name="grid sorts rows" classname="sorts rows" time="1.3"/></testsuite>
    </testsuites>"""
    test = one(xml)
    assert (test.suite, test.name, test.framework) == ("grid", "sorts rows", "cypress")


def test_web_test_runner_names_its_browser_in_a_property() -> None:
    """The browser is a property there."""
    xml = """<testsuites><testsuite name="Chrome_1"><properties><property name="browser.name" value="Chrome"/>
    <property name="browser.launcher" value="puppeteer"/></properties>
    <testcase name="works" classname="x" time="0"/></testsuite></testsuites>"""
    assert (one(xml).project, one(xml).framework) == ("Chrome", "web-test-runner")


def test_nested_suites_and_namespaces_are_read() -> None:
    """Suites nest, and some writers put everything into a namespace."""
    xml = """<testsuites xmlns="urn:x"><testsuite name="outer"><testsuite name="inner">
    <testcase name="works" time="1"/></testsuite></testsuite></testsuites>"""
    assert one(xml).suite == "outer > inner"


def test_cases_follow_one_another_from_the_suites_timestamp() -> None:
    """JUnit gives no start per case; without a zone the timestamp is UTC, and each suite has its own clock."""
    xml = """<testsuites><testsuite name="a" timestamp="2022-05-30T12:24:32"><testcase name="x" time="1.5"/>
    <testcase name="y" time="1"/></testsuite><testsuite name="b" timestamp="2022-05-30T14:00:00+02:00">
    <testcase name="z" time="1"/></testsuite></testsuites>"""
    report = parse(xml)
    assert [test.started_at for test in report.tests] == [
        datetime(2022, 5, 30, 12, 24, 32, tzinfo=UTC),
        datetime(2022, 5, 30, 12, 24, 33, 500_000, tzinfo=UTC),
        datetime(2022, 5, 30, 12, 0, tzinfo=UTC),
    ]
    assert report.started_at == datetime(2022, 5, 30, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("time", "duration_ms"), [("1,234.5", 1_234_500.0), ("0,5", 500.0), ("", 0.0), ("2", 2_000.0), ("1e-3", 1.0)]
)
def test_times_in_the_notations_of_the_world(time: str, duration_ms: float) -> None:
    """Surefire writes thousands commas, some locales a decimal comma."""
    assert one(f"<testsuite><testcase name='n' time='{time}'/></testsuite>").duration_ms == pytest.approx(duration_ms)


@pytest.mark.parametrize(
    ("time", "reason"),
    [("-1", "negative_duration"), ("garbage", "bad_duration"), ("nan", "bad_duration"), ("1e9", "absurd_duration"),
     ("inf", "absurd_duration")],
)  # fmt: skip
def test_a_bad_duration_puts_only_its_case_aside(time: str, reason: str) -> None:
    """One stopwatch gone wrong must not poison durations, nor cost the other cases."""
    report = parse(f"<testsuite>\n<testcase name='bad' time='{time}'/>\n<testcase name='good' time='1'/></testsuite>")
    assert [test.name for test in report.tests] == ["good"]
    assert [(p.line, p.reason) for p in report.problems] == [(2, reason)]
    assert "bad" in report.problems[0].excerpt


def test_a_bad_timestamp_is_listed_and_the_cases_stay() -> None:
    """A suite without a usable time still has verdicts."""
    report = parse("<testsuite timestamp='yesterday'><testcase name='n' time='1'/></testsuite>")
    assert [p.reason for p in report.problems] == ["bad_timestamp"]
    assert report.tests[0].started_at is None


@pytest.mark.parametrize(
    "attributes",
    ["tests='2' failures='1' errors='0'", "tests='2'", "", "tests='many'", "tests='2' failures='0' errors='1'"],
)
def test_counts_that_agree_or_say_nothing_are_no_problem(attributes: str) -> None:
    """Honest reports must not be flagged."""
    body = "<testcase name='a' time='1'><failure/></testcase><testcase name='b' time='1'/>"
    assert parse(f"<testsuite {attributes}>{body}</testsuite>").problems == ()


def test_counts_that_disagree_are_listed_and_the_cases_stay() -> None:
    """A report that lost half of its cases looks healthy but for its counts."""
    suite = "<testsuite tests='1' failures='3'><testcase name='a' time='1'/></testsuite>"
    report = parse(f"<testsuites tests='5'>\n{suite}</testsuites>")
    assert [(p.line, p.reason) for p in report.problems] == [(2, "counts_disagree"), (1, "counts_disagree")]
    assert "counts 5 tests" in report.problems[1].excerpt
    assert len(report.tests) == 1


def test_counts_of_a_report_with_retries_may_count_attempts_or_tests() -> None:
    """Runners differ in what they count; both are honest."""
    body = "<testcase name='a' time='1'><failure/></testcase><testcase name='a' time='1'/>"
    for attributes in ("tests='2' failures='1'", "tests='1' failures='0'"):
        assert parse(f"<testsuite {attributes}>{body}</testsuite>").problems == ()


def test_real_reports(shared_data: Path) -> None:
    """The counts of real reports come out, with the flaky test of the retries fixture."""
    folder = shared_data / "reports"
    skyspy = parse_report((folder / "junit-pytest_skyspy_34tests_16fail.xml").read_bytes(), "xml")
    assert (len(skyspy.tests), sum(t.status == "failed" for t in skyspy.tests)) == (34, 16)
    assert skyspy.problems == ()
    retries = parse_report((folder / "junit_repeated-testcase-retries.xml").read_bytes(), "xml")
    assert [(t.suite, t.status, t.flaky, t.retries) for t in retries.tests] == [
        ("test_foo.TestFoo", "passed", True, 2),
        ("test_bar.TestBar", "passed", False, 0),
        ("test_baz.TestBaz", "passed", False, 0),
    ]
    browsers = {t.project for t in parse_report((folder / "playwright-junit_chroma11y.xml").read_bytes(), "xml").tests}
    assert browsers == {"chromium", "firefox", "webkit"}
