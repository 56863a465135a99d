"""Feature rows from raw executions and experiences, against hand-made numbers and a slow, plain computation."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from mlops_assets.features.tables import EXECUTION_LOOKBACK, compute_agent_features, compute_test_features
from mlops_assets.features.views import AGENT_CONTEXT_FEATURES, TEST_EXECUTION_FEATURES
from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets_tests.experiences.synthetic import START, SyntheticSource
from mlops_assets_tests.features.samples import MONDAY, Run, day, executions, snapshot_of

REQUIREMENTS = agent_spec("requirements")


def by_day(rows: pa.Table, test: str = "t1") -> dict[int, dict[str, object]]:
    """Rows of one test by the day that they are stamped, counted from Monday."""
    own = rows.filter(pc.equal(rows["test_id"], test))
    return {(row["event_timestamp"] - MONDAY).days: row for row in own.to_pylist()}


def test_hand_computed_values_of_a_week() -> None:
    """A feature with a plausible but wrong formula is never noticed downstream."""
    runs = [
        Run(0.1, "passed", duration_ms=100),
        Run(0.5, "failed", duration_ms=300, retries=2),
        Run(1.0, "passed", duration_ms=200, retries=1, flaky=True),
        Run(1.5, "skipped", duration_ms=0),
        Run(2.0, "passed", duration_ms=400),
    ]
    rows = by_day(compute_test_features(executions(runs), day(9)))
    assert rows[1]["pass_rate_7d"] == 0.5
    assert rows[1]["last_execution_status"] == "failed"
    assert rows[2]["last_execution_status"] == "skipped"
    row = rows[3]
    assert row["execution_time_ms"] == 250.0  # of four runs: the skipped one took no time
    assert row["pass_rate_7d"] == row["pass_rate_30d"] == 0.75
    assert row["failure_count"] == 1
    assert row["avg_retry_count"] == pytest.approx(3 / 5)
    assert row["flakiness_score"] == 0.5  # passed-failed, then failed-passed; the flaky one is the second of them
    assert rows[8]["pass_rate_7d"] == 1.0  # Monday's runs have left the week
    assert rows[8]["pass_rate_30d"] == 0.75
    assert rows[10]["pass_rate_7d"] is None  # no run for a week is not a pass rate of 0
    assert row["created"] == row["event_timestamp"]


def test_rows_exist_only_while_a_run_is_in_the_window_and_for_complete_days() -> None:
    """A row of a half day leaks the future, and rows without end make the view grow for ever."""
    table = executions([Run(0.0), Run(0.0, test="t2"), Run(3.0, test="t2")])
    rows = compute_test_features(table, day(60))
    assert list(by_day(rows)) == list(range(1, 31))
    assert list(by_day(rows, "t2")) == list(range(1, 34))
    assert compute_test_features(table, day(-1)).num_rows == 0
    assert compute_test_features(executions([]), day(3)).schema == TEST_EXECUTION_FEATURES.schema


def test_a_run_counts_from_the_day_on_which_it_ended() -> None:
    """A run that starts before midnight and fails after it must not be known at midnight."""
    late = 1 - 60 / 86_400
    rows = by_day(compute_test_features(executions([Run(0.2), Run(late, "failed", duration_ms=120_000)]), day(1)))
    assert rows[1]["failure_count"] == 0
    assert rows[2]["failure_count"] == 1


RUNS = st.lists(
    st.builds(
        Run,
        days=st.integers(0, 80 * 24).map(lambda hours: hours / 24),
        status=st.sampled_from(["passed", "passed", "failed", "skipped"]),
        test=st.sampled_from(["t1", "t2"]),
        duration_ms=st.sampled_from([0.0, 0.3, 1234.567, 3_600_000.0, 200_000_000.0]),
        retries=st.integers(0, 3),
        flaky=st.booleans(),
    ),
    min_size=1,
    max_size=40,
    unique_by=lambda run: (run.test, run.days),
)


def plain_features(runs: Sequence[Run], test: str, offset: int) -> dict[str, object] | None:
    """One row by the definitions of the view, run by run."""
    # Of two that end at the same moment, the one that started first came first.
    own = sorted((run for run in runs if run.test == test), key=lambda run: (ended(run), run.days))
    seen = [(run, math_day(run)) for run in own if math_day(run) <= offset]
    month = [(run, d) for run, d in seen if d > offset - 30]
    if not month:
        return None
    unstable = 0
    for run, d in month:
        if run.status == "skipped":
            continue
        before = [(r, e) for r, e in seen if r.status != "skipped" and (ended(r), r.days) < (ended(run), run.days)]
        changed = bool(before) and d - before[-1][1] <= 30 and before[-1][0].status != run.status
        unstable += changed or run.flaky
    judged = [run for run, _ in month if run.status != "skipped"]
    week = [run.status for run, d in month if d > offset - 7 and run.status != "skipped"]
    passed = sum(run.status == "passed" for run in judged)
    return {
        "execution_time_ms": sum(run.duration_ms for run in judged) / len(judged) if judged else None,
        "pass_rate_7d": week.count("passed") / len(week) if week else None,
        "pass_rate_30d": passed / len(judged) if judged else None,
        "failure_count": len(judged) - passed,
        "last_execution_status": seen[-1][0].status,
        "avg_retry_count": sum(run.retries for run, _ in month) / len(month),
        "flakiness_score": unstable / len(judged) if judged else None,
    }


def ended(run: Run) -> float:
    """End of a run in microseconds after Monday, 24 hours after its start at most."""
    return round(run.days * 86_400_000_000) + min(run.duration_ms * 1000, 86_400_000_000)


def math_day(run: Run) -> int:
    """Day of a run's end."""
    return int(ended(run) // 86_400_000_000)


@settings(max_examples=60, deadline=None)
@given(runs=RUNS)
@example(runs=[Run(0.0), Run(283 / 24, "failed", duration_ms=3_600_000.0), Run(284 / 24)])
def test_every_row_equals_the_plain_computation(runs: list[Run]) -> None:
    """Windows of running totals are easy to get wrong by one day, one test or one row."""
    rows = compute_test_features(executions(runs), day(100))
    for test in ("t1", "t2"):
        found = by_day(rows, test)
        for offset in range(101):
            expected = plain_features(runs, test, offset)
            assert (expected is None) == (offset + 1 not in found)
            for name, value in (expected or {}).items():
                seen = found[offset + 1][name]
                assert seen == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value), (name, offset)


@settings(max_examples=60, deadline=None)
@given(runs=RUNS, first=st.integers(0, 100), length=st.integers(0, 20))
def test_days_computed_alone_equal_a_full_computation_bit_for_bit(runs: list[Run], first: int, length: int) -> None:
    """An incremental refresh that differs in the last bit gives another training set, and another model."""
    table = executions(runs)
    full = compute_test_features(table, day(first + length))
    stamp = pa.scalar(MONDAY + timedelta(days=first + 1), pa.timestamp("us", "UTC"))
    expected = full.filter(pc.greater_equal(full["event_timestamp"], stamp))
    recent = pa.scalar(MONDAY + timedelta(days=first) - EXECUTION_LOOKBACK, pa.timestamp("us", "UTC"))
    enough = table.filter(pc.greater_equal(table["started_at"], recent))
    assert compute_test_features(enough, day(first + length), first_day=day(first)).equals(expected)


def test_agent_features_equal_a_plain_computation(tmp_path: Path, sqlite_engine: Engine, paths: ArtifactPaths) -> None:
    """A label that arrived after midnight, or another agent's reward, enters the row of the day."""
    snapshot = snapshot_of(SyntheticSource(days=12, spec=REQUIREMENTS), paths, sqlite_engine)
    decisions = snapshot.experiences().to_pylist()
    labels = {row["experience_id"]: row for row in snapshot.labels().to_pylist()}
    rows = compute_agent_features(REQUIREMENTS, snapshot)
    assert rows.schema == AGENT_CONTEXT_FEATURES.schema
    assert rows.num_rows == 3 * 12
    for row in rows.to_pylist():
        until, since = row["event_timestamp"], row["event_timestamp"] - timedelta(days=7)
        own = [d for d in decisions if d["agent_id"] == row["agent_id"]]
        week = [d for d in own if since <= d["event_time"] < until]
        known = [(d, labels[d["experience_id"]]) for d in own if d["experience_id"] in labels]
        known = [(d, label) for d, label in known if since <= label["label_time"] < until]
        right = [d["action"] == label["best_action"] for d, label in known]
        today = [d for d in week if d["event_time"] >= until - timedelta(days=1)]
        assert row["recent_accuracy"] == (pytest.approx(np.mean(right)) if right else None)
        assert row["recent_reward"] == pytest.approx(np.mean([d["reward"] for d in week]), abs=1e-5)
        assert row["success_rate_7d"] == pytest.approx(np.mean([d["reward"] > 0 for d in week]))
        assert row["tests_generated_24h"] == sum(d["action"] != 0 for d in today)
        assert row["avg_confidence_score"] == pytest.approx(0.25)
    assert rows["recent_accuracy"].null_count == 3  # labels come a day late: none is known after the first day


def test_agent_days_computed_alone_equal_a_full_computation(sqlite_engine: Engine, paths: ArtifactPaths) -> None:
    """Days computed later than others must have the same bits."""
    snapshot = snapshot_of(SyntheticSource(days=12, spec=REQUIREMENTS), paths, sqlite_engine)
    full = compute_agent_features(REQUIREMENTS, snapshot)
    alone = compute_agent_features(REQUIREMENTS, snapshot, first_day=(START + timedelta(days=9)).date())
    stamp = pa.scalar(START + timedelta(days=10), pa.timestamp("us", "UTC"))
    assert alone.num_rows == 9
    assert alone.equals(full.filter(pc.greater_equal(full["event_timestamp"], stamp)))


def test_the_idle_action_is_the_first_one() -> None:
    """`tests_generated_24h` counts the wrong decisions when an agent's actions are reordered."""
    for name in ("requirements", "generation", "execution"):
        spec = agent_spec(name)
        assert spec.actions[spec.idle_action] in {"skip", "reuse"}
