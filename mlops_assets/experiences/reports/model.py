"""What every report format is parsed into, and how it becomes rows of `EXECUTIONS`. No format is known here."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa

from mlops_assets.experiences.execution_rows import Row, executions_table, padded
from mlops_assets.experiences.execution_source import Quarantine
from mlops_assets.experiences.identity import IdentityRules, TestIdentity, clean
from mlops_assets.foundation.files import digest

# A run is recognised by its tests' durations when this many have one; fewer may agree by chance.
_FINGERPRINT_TESTS = 5


@dataclass(frozen=True)
class ReportedTest:
    """One test of one run, all its attempts together.

    `status` is the last attempt's, `duration_ms` too; `started_at` is the first attempt's start, None when the report
    has none. `flaky`: it both failed and passed in this run.
    """

    suite: str
    name: str
    project: str
    framework: str
    status: str
    duration_ms: float
    started_at: datetime | None = None
    retries: int = 0
    flaky: bool = False


@dataclass(frozen=True)
class Report:
    """One parsed report; `run_id` and `started_at` are None when it does not say."""

    tests: tuple[ReportedTest, ...]
    problems: tuple[Quarantine, ...] = ()
    run_id: str | None = None
    started_at: datetime | None = None


def last_of_attempts(statuses: Sequence[str]) -> tuple[str, bool]:
    """Return the final status of the attempts in order, and whether they disagreed (flaky)."""
    return statuses[-1], {"passed", "failed"} <= set(statuses)


def report_table(
    report: Report, *, rules: IdentityRules, source_file: str, source_hash: str, fallback_start: datetime
) -> tuple[pa.Table, tuple[Quarantine, ...]]:
    """Return the report's `EXECUTIONS` table and everything that was wrong with it.

    Tests without a start of their own are taken to run one after another from the report's start. A report without any
    time starts at `fallback_start` and says so (`no_timestamp`).

    The cycle is the report's run id. Without one it is recognised by what happened: two reports of one run (JUnit
    beside JSON, say) have the same tests, verdicts and durations on the same day, and so the same cycle and ids.
    """
    if not report.tests:
        nothing = Quarantine(None, "no_tests", "the report holds no usable test; check the run that wrote it")
        return executions_table([], source_file=source_file, source_hash=source_hash), (*report.problems, nothing)
    starts = [test.started_at for test in report.tests if test.started_at is not None]
    start = min([*starts, *([report.started_at] if report.started_at else [])], default=None)
    identities = [rules.identity(test.suite, test.name, test.project) for test in report.tests]
    if report.run_id:
        cycle_id = padded(report.run_id)
    elif start is None:
        cycle_id = f"undated-{source_hash[:16]}"
    else:
        cycle_id = _recognised_cycle(report, identities, start)
    rows = _rows(report, identities, cycle_id, report.started_at or start or fallback_start)
    table = executions_table(rows, source_file=source_file, source_hash=source_hash)
    problems = report.problems
    if start is None:
        problems = (*problems, _undated(fallback_start))
    return table, problems


def _undated(fallback_start: datetime) -> Quarantine:
    return Quarantine(
        None,
        "no_timestamp",
        f"the report has no time; its tests are dated by the file's modification time "
        f"({fallback_start:%Y-%m-%d %H:%M:%S}Z): let the test runner write timestamps",
    )


def _recognised_cycle(report: Report, identities: Sequence[TestIdentity], start: datetime) -> str:
    if sum(test.duration_ms > 0 for test in report.tests) < _FINGERPRINT_TESTS:
        return f"{start:%Y%m%dT%H%M%S.%fZ}"
    happened = sorted(
        (identity.test_id, test.status, round(test.duration_ms))
        for identity, test in zip(identities, report.tests, strict=True)
    )
    return f"{start:%Y%m%d}-{digest(happened)[:16]}"


def _rows(report: Report, identities: Sequence[TestIdentity], cycle_id: str, clock: datetime) -> list[Row]:
    rows: list[Row] = []
    seen: Counter[str] = Counter()
    for identity, test in zip(identities, report.tests, strict=True):
        started_at = test.started_at or clock
        clock = max(clock, started_at) + timedelta(milliseconds=test.duration_ms)
        rows.append(
            Row(
                identity=identity,
                test_name=clean(test.name),
                framework=test.framework,
                status=test.status,
                started_at=started_at,
                duration_ms=test.duration_ms,
                retries=test.retries,
                flaky=test.flaky,
                cycle_id=cycle_id,
                ordinal=seen[identity.test_id],
            )
        )
        seen[identity.test_id] += 1
    return rows
