"""Training sets: the right state for every decision, the split by time, what is left out, the hash as name."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sqlalchemy import Engine

from mlops_assets.experiences.environment import ExperienceBatch
from mlops_assets.experiences.snapshots import Snapshot
from mlops_assets.features.decision_table import DecisionTable
from mlops_assets.features.refresh import refresh_agent_features
from mlops_assets.features.store import FeatureStoreAdapter
from mlops_assets.features.training_set import TrainingSet, build_training_set, open_training_set
from mlops_assets.features.vector import STATUS_VALUES
from mlops_assets.features.views import TEST_EXECUTION_FEATURES
from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.errors import InputError, NotReadyError
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets_tests.experiences.synthetic import START, SyntheticSource
from mlops_assets_tests.features.samples import rows_of, snapshot_of

SPEC = agent_spec("generation")
SOURCE = SyntheticSource(days=10, episodes=6, steps=4, spec=SPEC)


def built(
    source: SyntheticSource, paths: ArtifactPaths, engine: Engine, share: float = 0.2
) -> tuple[TrainingSet, Snapshot]:
    """Snapshot, features and training set of a source."""
    snapshot = snapshot_of(source, paths, engine)
    store = FeatureStoreAdapter(paths)
    refresh_agent_features(SPEC, snapshot, store, paths=paths)
    tests = [
        {"key": f"test-{n}", "at": at, "failure_count": 10 * n + at, "last_execution_status": "failed"}
        for n in range(3)
        for at in (2, 5)
    ]
    store.write_test_features(rows_of(TEST_EXECUTION_FEATURES, tests))
    return build_training_set(snapshot, SPEC, store, paths=paths, holdout_share=share), snapshot


def column(table: DecisionTable, name: str) -> np.ndarray:
    """One number of the states."""
    return table.state[:, SPEC.state_fields.index(name)]


def test_every_decision_has_its_own_state_label_and_successor(paths: ArtifactPaths, sqlite_engine: Engine) -> None:
    """A join that changes the order of rows gives every decision a stranger's features, and nothing complains."""
    result, snapshot = built(SOURCE, paths, sqlite_engine)
    decisions = {row["experience_id"]: row for row in snapshot.experiences().to_pylist()}
    labels = {row["experience_id"]: row for row in snapshot.labels().to_pylist()}
    texts = snapshot.requirement_texts()
    vectors = snapshot.embedder().transform(texts["text"].to_pylist())
    embedding = dict(zip(texts["requirement_id"].to_pylist(), vectors, strict=True))
    tables = [result.train(), result.holdout()]
    width = len(SPEC.context)
    for table in tables:
        for row, name in enumerate(table.experience_id):
            logged, label = decisions[name], labels.get(name)
            assert table.state[row, :width].tolist() == logged["state"]
            assert (table.state[row, width : width + 16] == embedding[logged["requirement_id"]]).all()
            assert (table.action[row], table.reward[row], table.done[row]) == (
                logged["action"],
                np.float32(logged["reward"]),
                logged["done"],
            )
            assert table.event_time[row] == np.datetime64(logged["event_time"].replace(tzinfo=None), "us")
            assert (table.step[row], table.episode_id[row]) == (logged["step"], logged["episode_id"])
            assert (table.ui_framework[row], table.browser[row]) == (logged["ui_framework"], logged["browser"])
            assert table.best_action[row] == (label["best_action"] if label else -1)
            values = label["action_values"] if label else [np.nan] * len(SPEC.actions)
            np.testing.assert_array_equal(table.action_values[row], np.array(values, np.float32))
            expected = np.zeros_like(table.state[row]) if table.done[row] else table.state[row + 1]
            assert (table.next_state[row] == expected).all()
            if not table.done[row]:
                assert (table.episode_id[row + 1], table.step[row + 1]) == (table.episode_id[row], table.step[row] + 1)
    assert sum(map(len, tables)) == result.rows + result.holdout_rows == 240
    assert result.labelled_rows + result.holdout_labelled_rows == len(labels)


def test_features_are_those_known_at_the_decision(paths: ArtifactPaths, sqlite_engine: Engine) -> None:
    """The newest feature value joined to every decision tells the past about the future."""
    result, snapshot = built(SOURCE, paths, sqlite_engine)
    logged = {row["experience_id"]: row for row in snapshot.experiences().to_pylist()}
    table = result.train()
    failures = column(table, "test_execution_features__failure_count")
    status = column(table, "test_execution_features__last_execution_status")
    for row, name in enumerate(table.experience_id):
        test, days = logged[name]["test_id"], (logged[name]["event_time"] - START) / timedelta(days=1)
        known = test != "test-3" and days >= 2
        expected = 10 * int(test[-1]) + (5 if days >= 5 else 2) if known else 0
        assert failures[row] == expected
        assert status[row] == (STATUS_VALUES["failed"] if known else 0.0)
    rates = result.missing_rates
    assert rates["test_execution_features__pass_rate_7d"] == 1.0
    assert rates["test_execution_features__failure_count"] == pytest.approx(1 - 0.75 * 0.8)
    assert rates["agent_context_features__recent_reward"] == pytest.approx(0.1)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_held_out_episodes_are_whole_and_strictly_later(
    paths: ArtifactPaths, sqlite_engine: Engine, share: float
) -> None:
    """Training decisions from the time of the held-out ones make the accuracy too good."""
    result, _ = built(SOURCE, paths, sqlite_engine, share)
    train, holdout = result.train(), result.holdout()
    assert result.split_time is not None
    split = np.datetime64(result.split_time.replace(tzinfo=None), "us")
    assert train.event_time.max() < split <= holdout.event_time.min()
    assert not set(train.episode_id) & set(holdout.episode_id)
    assert holdout.done.sum() == len(set(holdout.episode_id))
    assert result.holdout_rows == pytest.approx(share * 240, abs=4)
    assert result.straddling_rows == 0


def shifted(day: int, batch: ExperienceBatch) -> ExperienceBatch:
    """Every second episode's last decision comes a day later."""
    rows = batch.experiences.to_pylist()
    for row in rows:
        if int(row["episode_id"][-1]) % 2 and row["done"] and day < 9:
            row["event_time"] += timedelta(days=1)
    return replace(batch, experiences=pa.Table.from_pylist(rows, schema=batch.experiences.schema))


def test_episodes_on_both_sides_of_the_split_are_left_out_and_counted(
    paths: ArtifactPaths, sqlite_engine: Engine
) -> None:
    """Half an episode in training and half held out, or lost without a word."""
    result, _ = built(replace(SOURCE, alter=shifted), paths, sqlite_engine)
    train, holdout = result.train(), result.holdout()
    assert result.straddling_rows == 4 * result.straddling_episodes > 0
    assert result.rows + result.holdout_rows + result.straddling_rows == 240
    assert train.event_time.max() < holdout.event_time.min()
    for table in (train, holdout):
        assert table.done.sum() * 4 == len(table)


def broken(day: int, batch: ExperienceBatch) -> ExperienceBatch:
    """One episode without its second step, one without its last."""
    gone = ["0003-00001-1", "0004-00002-3"]
    keep = pc.invert(pc.is_in(batch.experiences["experience_id"], value_set=pa.array(gone)))
    return replace(batch, experiences=batch.experiences.filter(keep))


def test_episodes_with_a_missing_step_are_left_out_and_counted(paths: ArtifactPaths, sqlite_engine: Engine) -> None:
    """The state after a missing step is taken for the next one."""
    result, _ = built(replace(SOURCE, alter=broken), paths, sqlite_engine)
    assert (result.incomplete_episodes, result.incomplete_rows) == (2, 6)
    assert result.rows + result.holdout_rows == 240 - 8
    assert not {"0003-00001", "0004-00002"} & {*result.train().episode_id, *result.holdout().episode_id}


def headless(day: int, batch: ExperienceBatch) -> ExperienceBatch:
    """No episode has its first step."""
    return replace(batch, experiences=batch.experiences.filter(pc.greater(batch.experiences["step"], 0)))


def test_without_a_whole_episode_the_reason_is_said(paths: ArtifactPaths, sqlite_engine: Engine) -> None:
    """An empty training set fails in the learner with a shape error."""
    with pytest.raises(InputError, match="each of its 60 episodes lacks a step"):
        built(replace(SOURCE, alter=headless), paths, sqlite_engine)


def test_a_single_episode_trains_and_holds_nothing_out(paths: ArtifactPaths, sqlite_engine: Engine) -> None:
    """A CI history of one cycle crashes the split instead of ending in too little data."""
    result, _ = built(SyntheticSource(days=1, episodes=1, steps=1, spec=SPEC), paths, sqlite_engine)
    assert (result.rows, result.holdout_rows, result.split_time) == (1, 0, None)
    holdout = result.holdout()
    assert len(holdout) == 0
    assert holdout.state.shape == holdout.next_state.shape == (0, len(SPEC.state_fields))


def test_equal_content_has_one_hash_and_other_content_another(paths: ArtifactPaths, sqlite_engine: Engine) -> None:
    """The same data trained twice under two names, or changed features under the old name."""
    first, snapshot = built(SOURCE, paths, sqlite_engine)
    written = (first.folder / "train.parquet").stat().st_mtime_ns
    store = FeatureStoreAdapter(paths)
    again = build_training_set(snapshot, SPEC, store, paths=paths, holdout_share=0.2)
    assert again == first == open_training_set(SPEC.name, first.training_hash, paths=paths)
    assert (first.folder / "train.parquet").stat().st_mtime_ns == written
    assert (
        build_training_set(snapshot, SPEC, store, paths=paths, holdout_share=0.3).training_hash != first.training_hash
    )
    store.write_test_features(rows_of(TEST_EXECUTION_FEATURES, [{"key": "test-1", "at": 3, "failure_count": 99}]))
    changed = build_training_set(snapshot, SPEC, store, paths=paths, holdout_share=0.2)
    assert changed.training_hash != first.training_hash
    assert changed.data_hash == first.data_hash
    with pytest.raises(NotReadyError, match="materialise training_set"):
        open_training_set(SPEC.name, "0" * 64, paths=paths)


def test_leftovers_of_a_killed_build_are_removed(paths: ArtifactPaths, sqlite_engine: Engine) -> None:
    """Every kill leaves hundreds of megabytes behind."""
    leftover = paths.training_sets(SPEC.name) / ".abc.def.tmp"
    leftover.mkdir(parents=True)
    (leftover / "train.parquet").write_bytes(b"half")
    result, _ = built(SOURCE, paths, sqlite_engine)
    assert not leftover.exists()
    assert result.folder.is_dir()


def test_taking_rows_takes_them_of_every_array(paths: ArtifactPaths, sqlite_engine: Engine) -> None:
    """A subset whose labels belong to other rows."""
    table = built(SOURCE, paths, sqlite_engine)[0].train()
    taken = table.take(np.flatnonzero(table.done))
    assert len(taken) == table.done.sum()
    assert taken.done.all()
    assert taken.experience_id.tolist() == table.experience_id[table.done].tolist()
    assert (taken.next_state == 0).all()
    assert table.state.flags.writeable
