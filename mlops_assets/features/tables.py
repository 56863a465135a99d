"""Feature rows from executions and experiences: a row stamped D+1 00:00 UTC holds what happened up to the end of day D.

Only whole UTC days count, so that a day's row is final once its executions are in. "Happened" means that the run had
ended, the decision was taken, the label had arrived; when the run's report was imported does not matter, since
histories are imported late as a rule. Pure functions: which days are due, and where rows go, `refresh.py` decides.
"""

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlops_assets.experiences.snapshots import Snapshot
from mlops_assets.features.daily import (
    MICROSECONDS_PER_DAY,
    DailySums,
    Int64,
    day_number,
    encode,
    share,
)
from mlops_assets.features.point_in_time import microseconds
from mlops_assets.features.views import (
    AGENT_CONTEXT_FEATURES,
    CREATED_TIMESTAMP,
    EVENT_TIMESTAMP,
    TEST_EXECUTION_FEATURES,
    ViewSpec,
)
from mlops_assets.foundation.agents import AgentSpec

EXECUTION_COLUMNS = ("test_id", "status", "started_at", "duration_ms", "retries", "flaky")
_MONTH = 30
_WEEK = 7
# A run belongs to the day on which it ended; none counts as longer than this, so that a day's runs start near it.
_LONGEST_RUN_US = MICROSECONDS_PER_DAY
# Rewards and probabilities are summed in whole millionths; float32 is no finer at a reward of 10.
_MILLIONTHS = 1_000_000
# The window, the run before each of its runs for a change of verdict, and a run that ended the day after its start.
EXECUTION_LOOKBACK = timedelta(days=2 * _MONTH)
AGENT_WINDOW = timedelta(days=_WEEK)


def compute_test_features(executions: pa.Table, through_day: date, *, first_day: date | None = None) -> pa.Table:
    """Compute the rows of `test_execution_features`, one per test and day with a run in the 30 days up to it.

    Args:
        executions: columns `EXECUTION_COLUMNS`, in order of time; none after `first_day - EXECUTION_LOOKBACK` left out.
        through_day: last day to compute; its row is stamped the midnight after it.
        first_day: first day to compute; None: the first day with a run.

    Returns:
        Rows in the view's schema, by event time and test.
    """
    view = TEST_EXECUTION_FEATURES
    started = microseconds(executions["started_at"])
    duration = np.rint(_floats(executions["duration_ms"]) * 1000).astype(np.int64)
    ended = started + np.clip(duration, 0, _LONGEST_RUN_US)
    known = ended // MICROSECONDS_PER_DAY <= day_number(through_day)
    if not known.any():
        return view.schema.empty_table()
    tests, names = encode(executions["test_id"])
    order = np.lexsort((started, ended, tests))
    order = order[known[order]]
    tests, days, duration = tests[order], ended[order] // MICROSECONDS_PER_DAY, duration[order]
    status = executions["status"].take(pa.array(order))
    passed, failed = _equal(status, "passed"), _equal(status, "failed")
    judged = passed | failed
    unstable = judged & (_booleans(executions["flaky"])[order] | _verdict_changed(tests, days, failed, judged))
    sums = DailySums.of(
        tests,
        days,
        {
            "runs": np.ones(len(order), dtype=np.int64),
            "passed": passed.astype(np.int64),
            "failed": failed.astype(np.int64),
            "duration": np.where(judged, duration, 0),
            "retries": np.asarray(executions["retries"].to_numpy(), dtype=np.int64)[order],
            "unstable": unstable.astype(np.int64),
        },
    )
    first = int(days.min()) if first_day is None else day_number(first_day)
    keys, day, last = sums.active(first, day_number(through_day), _MONTH)
    month, week = sums.window(keys, day, _MONTH), sums.window(keys, day, _WEEK)
    verdicts = month["passed"] + month["failed"]
    features = {
        "execution_time_ms": share(month["duration"], verdicts, scale=1000.0),
        "pass_rate_7d": share(week["passed"], week["passed"] + week["failed"]),
        "pass_rate_30d": share(month["passed"], verdicts),
        "failure_count": month["failed"],
        "last_execution_status": status.take(pa.array(last)).combine_chunks(),
        "avg_retry_count": share(month["retries"], month["runs"]),
        "flakiness_score": share(month["unstable"], verdicts),
    }
    return _rows(view, names, keys, day, features)


def compute_agent_features(spec: AgentSpec, snapshot: Snapshot, *, first_day: date | None = None) -> pa.Table:
    """Compute the rows of `agent_context_features`, one per agent id and day with a decision in the 7 days up to it.

    Args:
        spec: the agent.
        snapshot: its experiences and labels; the last day counts as far as it goes, and is stamped after all of it.
        first_day: first day to compute; None: the first day of the snapshot.

    Returns:
        Rows in the view's schema, by event time and agent id.
    """
    view = AGENT_CONTEXT_FEATURES
    decisions = snapshot.experiences(
        columns=["experience_id", "agent_id", "event_time", "action", "reward", "propensity"]
    )
    if decisions.num_rows == 0:
        return view.schema.empty_table()
    agents, names = encode(decisions["agent_id"])
    days = microseconds(decisions["event_time"]) // MICROSECONDS_PER_DAY
    reward = _millionths(decisions["reward"])
    action = np.asarray(decisions["action"].to_numpy(), dtype=np.int64)
    order = np.lexsort((days, agents))
    sums = DailySums.of(
        agents[order],
        days[order],
        {
            "decisions": np.ones(len(order), dtype=np.int64),
            "reward": reward[order],
            "successes": (reward > 0).astype(np.int64)[order],
            "tests": (action != spec.idle_action).astype(np.int64)[order],
            "confidence": _millionths(decisions["propensity"])[order],
        },
    )
    first, last = int(days.min()) if first_day is None else day_number(first_day), int(days.max())
    keys, day, _ = sums.active(first, last, _WEEK)
    week, today = sums.window(keys, day, _WEEK), sums.window(keys, day, 1)
    labels = _label_sums(snapshot.labels(), decisions, agents, action).window(keys, day, _WEEK)
    features = {
        "recent_accuracy": share(labels["right"], labels["labels"]),
        "recent_reward": share(week["reward"], week["decisions"], scale=_MILLIONTHS),
        "tests_generated_24h": today["tests"],
        "success_rate_7d": share(week["successes"], week["decisions"]),
        "avg_confidence_score": share(week["confidence"], week["decisions"], scale=_MILLIONTHS),
    }
    return _rows(view, names, keys, day, features)


def _label_sums(labels: pa.Table, decisions: pa.Table, agents: Int64, action: Int64) -> DailySums:
    """Labels by the day on which they became known, whatever the day of their decision."""
    found = pc.index_in(labels["experience_id"], value_set=decisions["experience_id"].combine_chunks())
    of_snapshot = labels.filter(pc.is_valid(found))
    decision = np.asarray(found.drop_null().to_numpy(), dtype=np.int64)
    right = action[decision] == np.asarray(of_snapshot["best_action"].to_numpy(), dtype=np.int64)
    known_day = microseconds(of_snapshot["label_time"]) // MICROSECONDS_PER_DAY
    order = np.lexsort((known_day, agents[decision]))
    columns = {"labels": np.ones(len(order), dtype=np.int64), "right": right.astype(np.int64)[order]}
    return DailySums.of(agents[decision][order], known_day[order], columns)


def _verdict_changed(
    tests: Int64, days: Int64, failed: NDArray[np.bool_], judged: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Where a verdict is not that of the test's run before, at most 30 days earlier; skipped runs do not count."""
    changed = np.zeros(len(tests), dtype=np.bool_)
    run = np.flatnonzero(judged)
    same_test = tests[run[1:]] == tests[run[:-1]]
    recent = days[run[1:]] - days[run[:-1]] <= _MONTH
    changed[run[1:]] = same_test & recent & (failed[run[1:]] != failed[run[:-1]])
    return changed


def _rows(view: ViewSpec, names: pa.Array, keys: Int64, days: Int64, features: dict[str, object]) -> pa.Table:
    stamps = pa.array((days + 1) * MICROSECONDS_PER_DAY).cast(view.schema.field(EVENT_TIMESTAMP).type)
    columns = {
        view.key: names.take(pa.array(keys)),
        EVENT_TIMESTAMP: stamps,
        # A row is a function of the days before it, the same whenever it is computed: it exists from its event time on.
        CREATED_TIMESTAMP: stamps,
    } | {name: pa.array(values, from_pandas=True) for name, values in features.items()}
    table = pa.table({name: columns[name] for name in view.schema.names}).cast(view.schema)
    return table.take(pa.array(np.lexsort((keys, days))))


def _floats(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return np.asarray(column.to_numpy(), dtype=np.float64)


def _booleans(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.asarray(column.to_numpy(), dtype=np.bool_)


def _millionths(column: pa.ChunkedArray) -> Int64:
    return np.rint(_floats(column) * _MILLIONTHS).astype(np.int64)


def _equal(status: pa.ChunkedArray, value: str) -> NDArray[np.bool_]:
    return np.asarray(pc.equal(status, value).to_numpy(), dtype=np.bool_)
