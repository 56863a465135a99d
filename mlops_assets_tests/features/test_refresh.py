"""Which days are computed: only what is due, and the same in the end as everything at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import Engine

from mlops_assets.experiences.environment import ExperienceBatch
from mlops_assets.experiences.executions import append_executions, read_executions
from mlops_assets.experiences.prediction_log import PredictionLog
from mlops_assets.experiences.snapshots import collect_snapshot
from mlops_assets.features.offline import read_rows, view_folder
from mlops_assets.features.refresh import record_materialization, refresh_agent_features, refresh_test_features
from mlops_assets.features.store import FeatureStoreAdapter, Materialization
from mlops_assets.features.tables import compute_agent_features, compute_test_features
from mlops_assets.features.training_set import build_training_set
from mlops_assets.features.views import AGENT_CONTEXT_FEATURES, TEST_EXECUTION_FEATURES
from mlops_assets.foundation.agents import AgentSpec, agent_spec
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.tables import FeatureViewRecord
from mlops_assets_tests.experiences.served import episode_rows, outcome_row, state_bytes, write
from mlops_assets_tests.experiences.synthetic import NOW, START, SyntheticSource, policy
from mlops_assets_tests.features.samples import MONDAY, Run, day, executions, rows_of, snapshot_of

TESTS, AGENTS = TEST_EXECUTION_FEATURES, AGENT_CONTEXT_FEATURES
REQUIREMENTS = agent_spec("requirements")
HISTORY = [
    Run(n * 1.7, ("passed", "failed", "skipped")[n * n % 3], test=f"t{n % 4}", duration_ms=100.0 + n, retries=n % 2)
    for n in range(60)
]


@dataclass(frozen=True)
class Later(SyntheticSource):
    """Another source, whose first day is a later one."""

    first: int = 0
    source_name: str = "later"

    def batches(self, spec: AgentSpec, cursor: str | None) -> Iterator[ExperienceBatch]:
        del cursor  # from its first day on every time: what is stored already is not stored again
        return super().batches(spec, str(self.first - 1))


def at(days: float) -> datetime:
    """A moment."""
    return MONDAY + timedelta(days=days)


def store_runs(paths: ArtifactPaths, runs: Sequence[Run], name: str = "a") -> None:
    """Append runs as one source would."""
    table = executions(runs)
    ids = pa.array([f"{name}-{run_id}" for run_id in table["execution_id"].to_pylist()], pa.string())
    append_executions(paths, table.set_column(0, table.schema.field(0), ids))


def all_at_once(paths: ArtifactPaths, through: int) -> pa.Table:
    """The rows of a full computation over everything stored."""
    return compute_test_features(read_executions(paths), day(through))


def test_day_by_day_equals_all_at_once(paths: ArtifactPaths) -> None:
    """Windows at the edge of what a refresh reads lose runs."""
    store = FeatureStoreAdapter(paths)
    done = 0.0
    for now in (3.5, 20.0, 20.25, 70.0, 140.0):
        store_runs(paths, [run for run in HISTORY if done <= run.days < now])
        refresh_test_features(store, paths=paths, as_of=at(now))
        done = now
        through = int(now) - 1
        assert (
            read_rows(paths, TESTS)
            .sort_by("event_timestamp")
            .equals(all_at_once(paths, through).sort_by("event_timestamp"))
        )
    assert read_rows(paths, TESTS).num_rows > 200


def test_only_days_that_are_due_are_computed(paths: ArtifactPaths) -> None:
    """A refresh that always computes everything takes longer every day."""
    store = FeatureStoreAdapter(paths)
    store_runs(paths, HISTORY)
    first = refresh_test_features(store, paths=paths, as_of=at(50.5))
    assert (first.first_day, first.through_day) == (day(0), day(49))
    again = refresh_test_features(store, paths=paths, as_of=at(50.9))
    assert (again.first_day, again.rows) == (None, 0)
    next_day = refresh_test_features(store, paths=paths, as_of=at(51.0))
    assert (next_day.first_day, next_day.through_day) == (day(50), day(50))
    assert next_day.rows == 4


def test_runs_that_come_late_are_computed_from_their_day_on(paths: ArtifactPaths) -> None:
    """A report that arrives a week later changes nothing, or only its own day."""
    store = FeatureStoreAdapter(paths)
    store_runs(paths, HISTORY)
    refresh_test_features(store, paths=paths, as_of=at(60))
    store_runs(paths, [Run(30.5, "failed", test="t1", duration_ms=9e6), Run(30.6, "failed", test="late")], name="late")
    refreshed = refresh_test_features(store, paths=paths, as_of=at(60))
    assert refreshed.first_day == day(30)
    assert read_rows(paths, TESTS).equals(all_at_once(paths, 59))


def test_an_old_history_beside_a_live_one_leaves_its_rows(paths: ArtifactPaths) -> None:
    """Replaying a CI history of last year, with its end as the present, drops this year's features."""
    store = FeatureStoreAdapter(paths)
    store_runs(paths, [run for run in HISTORY if run.days > 90])
    refresh_test_features(store, paths=paths, as_of=at(102))
    old = [replace(run, test=f"old-{run.test}") for run in HISTORY if run.days < 20]
    store_runs(paths, old, name="old")
    refresh_test_features(store, paths=paths, as_of=at(20))
    assert read_rows(paths, TESTS).equals(all_at_once(paths, 101))


def test_rows_killed_before_their_record_are_written_again(paths: ArtifactPaths) -> None:
    """A crash after some months were written must not pass for done; nor may deleted rows."""
    store = FeatureStoreAdapter(paths)
    store_runs(paths, HISTORY)
    refresh_test_features(store, paths=paths, as_of=at(60))
    expected = read_rows(paths, TESTS)
    (view_folder(paths, TESTS) / ".tests.json").unlink()
    next(view_folder(paths, TESTS).glob("tests-*.parquet")).unlink()
    refresh_test_features(store, paths=paths, as_of=at(60))
    assert read_rows(paths, TESTS).equals(expected)


def test_no_execution_at_all_is_no_row_and_no_error(paths: ArtifactPaths) -> None:
    """A first run without reports fails in the feature tables."""
    refreshed = refresh_test_features(FeatureStoreAdapter(paths), paths=paths, as_of=at(3))
    assert (refreshed.rows, refreshed.first_day) == (0, None)


def test_agent_features_follow_the_snapshot(paths: ArtifactPaths, sqlite_engine: Engine) -> None:
    """Yesterday's rows stay although labels that came today change them, or a done snapshot is done again."""
    store = FeatureStoreAdapter(paths)
    source = SyntheticSource(days=6, spec=REQUIREMENTS)
    for days in (6, 10):
        snapshot = snapshot_of(source.until(days), paths, sqlite_engine)
        refreshed = refresh_agent_features(REQUIREMENTS, snapshot, store, paths=paths)
        assert (refreshed.first_day, refreshed.rows) == (START.date(), 3 * days)
        assert read_rows(paths, AGENTS).equals(compute_agent_features(REQUIREMENTS, snapshot))
    assert refresh_agent_features(REQUIREMENTS, snapshot, store, paths=paths).rows == 0


def test_rows_outside_a_moved_window_stay(paths: ArtifactPaths, sqlite_engine: Engine) -> None:
    """The window of newest decisions moves on, and the first days of the new one are computed from half a week."""
    store = FeatureStoreAdapter(paths)
    source = SyntheticSource(days=20, spec=REQUIREMENTS)
    full = snapshot_of(source, paths, sqlite_engine)
    refresh_agent_features(REQUIREMENTS, full, store, paths=paths)
    everything = read_rows(paths, AGENTS)
    moved = snapshot_of(source.until(22), paths, sqlite_engine, window_rows=20 * 14)
    assert moved.first_event.date() == (START + timedelta(days=8)).date()
    refreshed = refresh_agent_features(REQUIREMENTS, moved, store, paths=paths)
    assert refreshed.first_day == (START + timedelta(days=15)).date()
    after = read_rows(paths, AGENTS)
    assert after.num_rows == everything.num_rows + 3 * 2
    assert after.slice(0, everything.num_rows).equals(everything)


def test_another_source_starts_over(paths: ArtifactPaths, sqlite_engine: Engine) -> None:
    """Rows of the simulator stay under the same agent ids when real data come."""
    store = FeatureStoreAdapter(paths)
    first = snapshot_of(SyntheticSource(days=20, spec=REQUIREMENTS), paths, sqlite_engine)
    refresh_agent_features(REQUIREMENTS, first, store, paths=paths)
    other = SyntheticSource(days=5, spec=REQUIREMENTS, source_name="other", seed=9)
    second = snapshot_of(other, paths, sqlite_engine)
    refresh_agent_features(REQUIREMENTS, second, store, paths=paths)
    assert read_rows(paths, AGENTS).equals(compute_agent_features(REQUIREMENTS, second))


def test_a_source_that_goes_on_where_the_last_one_ended_keeps_its_rows(
    paths: ArtifactPaths, sqlite_engine: Engine
) -> None:
    """A decision served today saw yesterday's row of the simulator: dropped, it is trained on defaults it never saw."""
    store = FeatureStoreAdapter(paths)
    source = SyntheticSource(days=20, spec=REQUIREMENTS)
    refresh_agent_features(REQUIREMENTS, snapshot_of(source, paths, sqlite_engine), store, paths=paths)
    before = read_rows(paths, AGENTS)
    # Day 20 follows on day 19, the last one of the source before.
    for rows in (3, 6):
        second = snapshot_of(Later(days=20 + rows, first=20, spec=REQUIREMENTS), paths, sqlite_engine)
        refreshed = refresh_agent_features(REQUIREMENTS, second, store, paths=paths)
        assert refreshed.first_day == second.first_event.date() == (START + timedelta(days=20)).date()
        after = read_rows(paths, AGENTS)
        assert after.slice(0, before.num_rows).equals(before)
        assert after.slice(before.num_rows).equals(compute_agent_features(REQUIREMENTS, second))
    # The window of the second source moves on: its own older rows stay, and so do those before it.
    moved = snapshot_of(Later(days=40, first=20, spec=REQUIREMENTS), paths, sqlite_engine, window_rows=20 * 18)
    refresh_agent_features(REQUIREMENTS, moved, store, paths=paths)
    assert read_rows(paths, AGENTS).slice(0, before.num_rows).equals(before)


def test_a_source_that_reaches_back_starts_over_for_good(paths: ArtifactPaths, sqlite_engine: Engine) -> None:
    """Late episodes from before the change of source meet rows that mix both."""
    store = FeatureStoreAdapter(paths)
    source = SyntheticSource(days=20, spec=REQUIREMENTS)
    refresh_agent_features(REQUIREMENTS, snapshot_of(source, paths, sqlite_engine), store, paths=paths)
    for first in (20, 15):
        later = snapshot_of(Later(days=26, first=first, spec=REQUIREMENTS), paths, sqlite_engine)
        refresh_agent_features(REQUIREMENTS, later, store, paths=paths)
    assert read_rows(paths, AGENTS).equals(compute_agent_features(REQUIREMENTS, later))
    # And the source before, read again, is no continuation either.
    again = snapshot_of(source, paths, sqlite_engine)
    refresh_agent_features(REQUIREMENTS, again, store, paths=paths)
    assert read_rows(paths, AGENTS).equals(compute_agent_features(REQUIREMENTS, again))


def test_the_training_vector_of_a_served_decision_is_the_one_that_was_logged(
    paths: ArtifactPaths, engine: Engine
) -> None:
    """After the change of source, the model was trained on other features than those it had decided on."""
    spec = agent_spec("execution")
    store = FeatureStoreAdapter(paths)
    store.apply()
    simulated = SyntheticSource(days=20, spec=spec)
    refresh_agent_features(spec, snapshot_of(simulated, paths, engine), store, paths=paths)
    tests = [{"key": f"test-{n}", "at": 20, "failure_count": n, "last_execution_status": "failed"} for n in range(3)]
    store.write_test_features(rows_of(TEST_EXECUTION_FEATURES, tests))
    switch = START + timedelta(days=20)
    store.materialize(switch)
    served = [
        row
        for number in range(12)
        for row in episode_rows(
            spec,
            f"served-{number}",
            3,
            event_time=switch + timedelta(hours=number),
            agent_id=f"app-{number % 3}",
            test_id=f"test-{number % 4}",
        )
    ]
    contexts = np.random.default_rng(3).random((len(served), len(spec.context)), dtype=np.float32)
    for row, context in zip(served, contexts, strict=True):
        block = store.get_features_for_inference(spec, [row.test_id], [row.agent_id], row.event_time)
        assert block.missing.sum() < len(spec.features)
        row.state = state_bytes(np.concatenate([context, block.values[0]]))
    write(engine, [*served, *(outcome_row(row, 1.0, done=row.step == 2) for row in served)])
    log = PredictionLog(engine)
    snapshot = collect_snapshot(log, spec, paths=paths, engine=engine, policy=policy(), now=NOW, versions=None)
    assert (snapshot.source, snapshot.rows) == ("prediction-log", 36)
    refresh_agent_features(spec, snapshot, store, paths=paths)
    built = build_training_set(snapshot, spec, store, paths=paths, holdout_share=0.25)
    logged = {row.prediction_id: np.frombuffer(row.state, "<f4") for row in served}
    for table in (built.train(), built.holdout()):
        assert len(table.state) > 0
        for name, state in zip(table.experience_id, table.state, strict=True):
            np.testing.assert_array_equal(state, logged[name])


def test_what_went_online_is_recorded(engine: Engine) -> None:
    """Nobody can say how old the online features are."""
    done = [Materialization(TESTS.name, 10, 3, 0, at(5)), Materialization(AGENTS.name, 0, 0, 0, None)]
    record_materialization(engine, done, at(6))
    record_materialization(engine, [replace(done[0], source_rows=12)], at(7))
    with read_transaction(engine) as session:
        records = {name: session.get_one(FeatureViewRecord, name) for name in (TESTS.name, AGENTS.name)}
        assert (records[TESTS.name].source_rows, records[TESTS.name].last_materialized_at) == (12, at(7))
        assert records[TESTS.name].last_event_time == at(5)
        assert (records[AGENTS.name].source_rows, records[AGENTS.name].last_event_time) == (0, None)


@pytest.mark.parametrize("now", [-3.0, 0.5])
def test_a_present_before_any_complete_day_computes_nothing(paths: ArtifactPaths, now: float) -> None:
    """Half a day is computed as if it were whole."""
    store_runs(paths, HISTORY)
    assert refresh_test_features(FeatureStoreAdapter(paths), paths=paths, as_of=at(now)).rows == 0
