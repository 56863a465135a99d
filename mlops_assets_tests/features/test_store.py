"""The feature store with the real Feast: retrieval, online reads and writes, as the measured traps would have it."""

import time
import traceback
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mlops_assets.features.redis_url import redis_connection_string
from mlops_assets.features.store import FeatureStoreAdapter
from mlops_assets.features.views import AGENT_CONTEXT_FEATURES, TEST_EXECUTION_FEATURES, VIEWS
from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.errors import InputError, NotReadyError, SettingsError
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets_tests.features.samples import MONDAY, entities, rows_of

TESTS, AGENTS = TEST_EXECUTION_FEATURES, AGENT_CONTEXT_FEATURES
RATE = "test_execution_features__pass_rate_7d"
REWARD = "agent_context_features__recent_reward"


def at(days: float) -> datetime:
    """A moment."""
    return MONDAY + timedelta(days=days)


@pytest.fixture
def store(paths: ArtifactPaths) -> FeatureStoreAdapter:
    """A store with rows of two tests (a month apart) and one agent."""
    adapter = FeatureStoreAdapter(paths)
    adapter.apply()
    adapter.write_test_features(
        rows_of(
            TESTS,
            [
                {"key": "t1", "at": 1, "pass_rate_7d": 0.1, "failure_count": 1, "last_execution_status": "failed"},
                {"key": "t1", "at": 2, "pass_rate_7d": 0.2, "failure_count": 2, "last_execution_status": "passed"},
                {"key": "t2", "at": 2, "pass_rate_7d": None, "failure_count": 0, "last_execution_status": "skipped"},
                {"key": "t1", "at": 40, "pass_rate_7d": 0.4, "failure_count": 4, "last_execution_status": "failed"},
            ],
        )
    )
    adapter.write_agent_features(
        "requirements", rows_of(AGENTS, [{"key": "a1", "at": day, "recent_reward": day} for day in (1, 2, 3)])
    )
    return adapter


PROBES = [
    ("t1", "a1", 0.5),  # before the first row
    ("t1", "a1", 1.0),  # exactly at it
    ("t1", "a1", 1.5),
    ("t2", "a1", 2.5),  # a row whose value is missing
    ("t1", "a1", 2.0),
    ("t1", "a1", 32.0),  # as old as the time to live of the test view allows
    ("t1", "a1", 32.00001),  # expired
    ("t1", "a1", 45.0),
    ("tx", "ax", 2.5),  # unknown
    ("t1", "a1", 2.5),
    ("t1", "a1", 2.5),  # the same decision twice
    ("t1", "a1", 10.0),  # the agent's row exactly at its time to live
]


def test_the_bulk_join_equals_feast_row_by_row(store: FeatureStoreAdapter) -> None:
    """Training on a join that Feast, and so serving, would not make."""
    asked = entities(PROBES)
    bulk, feast = store.historical(asked), store.historical_by_feast(asked)
    assert bulk.select(feast.column_names).equals(feast)
    expected = [None, 0.1, 0.1, None, 0.2, 0.2, None, 0.4, None, 0.2, 0.2, 0.2]
    assert bulk[RATE].to_pylist() == [None if v is None else pytest.approx(v) for v in expected]
    assert bulk[REWARD].to_pylist() == [None, 1, 1, 2, 2, None, None, None, None, 2, 2, 3]


def test_online_values_are_those_of_the_moment_and_expire(store: FeatureStoreAdapter) -> None:
    """Feast's online stores return a value 40 days old as present."""
    store.materialize(at(2.5))
    pairs = pa.table({"test_id": ["t1", "t2", "tx"], "agent_id": ["a1", "a1", "ax"]})
    now = store.online(pairs, at(2.5))
    assert now[RATE].to_pylist() == [pytest.approx(0.2), None, None]
    assert now["test_execution_features__failure_count"].to_pylist() == [2, 0, None]
    assert now["test_execution_features__last_execution_status"].to_pylist() == ["passed", "skipped", None]
    assert now[REWARD].to_pylist() == [2, 2, None]
    assert now["test_execution_features__event_timestamp"].to_pylist() == [at(2), at(2), None]
    later = store.online(pairs, at(9.5))
    assert later[RATE].to_pylist()[0] == pytest.approx(0.2)
    assert later[REWARD].to_pylist() == [None, None, None]
    assert store.online(pairs, at(33))[RATE].to_pylist() == [None, None, None]
    assert store.online(pairs, at(1.5))[RATE].to_pylist() == [None, None, None]  # of the future


def test_an_older_materialisation_never_overwrites_a_newer_one(store: FeatureStoreAdapter) -> None:
    """A replay of last month takes today's values offline; SQLite keeps whatever was written last."""
    newest = {done.view: done for done in store.materialize(at(41))}
    assert (newest[TESTS.name].keys_written, newest[TESTS.name].last_event_time) == (1, at(40))
    older = {done.view: done for done in store.materialize(at(2.5))}
    assert (older[TESTS.name].keys_written, older[TESTS.name].kept_newer) == (1, 1)
    pairs = pa.table({"test_id": ["t1"], "agent_id": ["a1"]})
    assert store.online(pairs, at(41))[RATE].to_pylist() == [pytest.approx(0.4)]


def test_the_store_knows_how_far_it_was_brought(store: FeatureStoreAdapter) -> None:
    """A history that ended years ago was compared with online rows of today, which it must not see: its run stopped."""
    assert store.materialized_until() is None
    store.materialize(at(3), views=[TESTS])
    store.materialize(at(2))
    assert store.materialized_until() == at(3)


def test_late_rows_are_found_by_the_next_materialisation(store: FeatureStoreAdapter) -> None:
    """Feast's incremental materialisation starts where the last one ended, and never sees a corrected day."""
    store.materialize(at(3))
    store.write_agent_features(
        "requirements", rows_of(AGENTS, [{"key": "a1", "at": 3, "recent_reward": 33.0}]), start=at(3)
    )
    store.write_test_features(rows_of(TESTS, [{"key": "t9", "at": 1, "failure_count": 9}]), start=at(1))
    store.materialize(at(3.5))
    seen = store.online(pa.table({"test_id": ["t9"], "agent_id": ["a1"]}), at(3.5))
    assert seen[REWARD].to_pylist() == [33.0]
    assert seen["test_execution_features__failure_count"].to_pylist() == [9]


def test_a_shorter_window_leaves_older_rows_out(store: FeatureStoreAdapter) -> None:
    """A backfill of the last days that silently copies everything, or nothing."""
    done = {one.view: one for one in store.materialize(at(41), start=at(34))}
    assert done[TESTS.name].keys_written == 1
    assert done[AGENTS.name].keys_written == 0
    assert done[AGENTS.name].last_event_time is None
    assert done[AGENTS.name].source_rows == 3


def test_one_ordered_vector_for_inference_in_time(store: FeatureStoreAdapter) -> None:
    """Features served in another order than trained on, or too slowly: 10 ms for one decision is the limit."""
    store.materialize(at(2.5))
    spec = agent_spec("generation")
    block = store.get_features_for_inference(spec, ["t1", "tx"], ["a1", "ax"], at(2.5))
    names = [f"{field.view}__{field.name}" for field in spec.features]
    assert block.values.shape == (2, len(names))
    assert block.values[0, names.index(RATE)] == np.float32(0.2)
    assert block.values[1].tolist() == [field.default for field in spec.features]
    assert block.missing[1].all()
    assert not block.missing[0, names.index(RATE)]
    seconds = []
    for _ in range(50):
        begin = time.process_time()  # not the wall: other processes of the machine are not what is tested
        store.get_features_for_inference(spec, ["t1"], ["a1"], at(2.5))
        seconds.append(time.process_time() - begin)
    assert np.quantile(seconds, 0.95) < 0.010


def test_applying_twice_changes_nothing(store: FeatureStoreAdapter, paths: ArtifactPaths) -> None:
    """A second lifecycle drops the online tables of the first."""
    store.materialize(at(3))
    FeatureStoreAdapter(paths).apply()
    pairs = pa.table({"test_id": ["t1"], "agent_id": ["a1"]})
    assert FeatureStoreAdapter(paths).online(pairs, at(3))[RATE].to_pylist() == [pytest.approx(0.2)]


def test_an_agent_id_belongs_to_one_agent(store: FeatureStoreAdapter) -> None:
    """Two agents with one id overwrite each other's features online."""
    with pytest.raises(InputError, match=r"\['a1'\] of generation are ids of another agent"):
        store.write_agent_features("generation", rows_of(AGENTS, [{"key": "a1", "at": 5}]))
    store.write_agent_features("generation", rows_of(AGENTS, [{"key": "g1", "at": 5}]))


def test_a_store_that_was_never_set_up_says_what_to_do(paths: ArtifactPaths) -> None:
    """`no such table` says nothing to somebody who asked for a feature."""
    empty = FeatureStoreAdapter(paths)
    with pytest.raises(NotReadyError, match="materialise the feature assets first"):
        empty.online(pa.table({"test_id": ["t"], "agent_id": ["a"]}), at(1))
    assert set(empty.historical(entities([("t", "a", 1.0)])).column_names) == {
        column
        for view in VIEWS
        for column in (view.timestamp_column, *(view.column(feature.name) for feature in view.features))
    }


def test_no_entity_and_no_row_are_answered(store: FeatureStoreAdapter) -> None:
    """An empty batch crashes inside numpy."""
    nobody = entities([])
    assert store.historical(nobody).num_rows == 0
    assert store.online(nobody.select(["test_id", "agent_id"]), at(1)).num_rows == 0


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://cache", "cache:6379,db=0"),
        ("redis://cache:7000/2", "cache:7000,db=2"),
        ("rediss://qa:s%40cret@cache:7000", "cache:7000,db=0,username=qa,password=s@cret,ssl=true"),
    ],
)
def test_redis_urls_become_feasts_form(url: str, expected: str) -> None:
    """A password or a database number that is dropped on the way connects to the wrong place."""
    assert redis_connection_string(url).replace(",socket_timeout=5,socket_connect_timeout=5", "") == expected


@pytest.mark.parametrize(
    "url",
    [
        "http://cache",
        "redis://",
        "redis://cache/first",
        "redis://:a,secret@cache",
        "redis://user:secret#x@cache",
        "redis://user:secret?x@cache",
        "redis://user:secret/x@cache",
        "redis://user:secret\u2100@cache",
        "redis://user:12#secret@cache",
        "redis://cache:70000",
        "redis://[cache",
    ],
)
def test_other_urls_are_refused_without_showing_the_password(url: str, paths: ArtifactPaths) -> None:
    """A secret in an error message ends in every log."""
    with pytest.raises(SettingsError) as refused:
        FeatureStoreAdapter(paths, redis_url=url)
    assert "secret" not in "".join(traceback.format_exception(refused.value))


def test_a_reader_that_started_first_sees_a_later_apply(paths: ArtifactPaths) -> None:
    """A server that came up before the first lifecycle answers "not registered" until its registry copy expires."""
    early, lifecycle = FeatureStoreAdapter(paths), FeatureStoreAdapter(paths)
    asked = entities([("t1", "a1", 2.5)])
    with pytest.raises(NotReadyError):
        early.online(asked, at(2.5))
    with pytest.raises(NotReadyError):
        early.historical_by_feast(asked)
    with pytest.raises(NotReadyError):
        early.materialize(at(2.5))
    lifecycle.apply()
    lifecycle.write_agent_features("requirements", rows_of(AGENTS, [{"key": "a1", "at": 2, "recent_reward": 2.0}]))
    lifecycle.materialize(at(2.5))
    assert early.online(asked, at(2.5))[REWARD].to_pylist() == [2.0]
    assert early.historical_by_feast(asked)[REWARD].to_pylist() == [2.0]
    assert [done.keys_written for done in early.materialize(at(2.5))] == [0, 1]


def test_the_registry_may_live_in_postgresql(
    paths: ArtifactPaths, new_postgres_database: Callable[[], str], tmp_path: Path
) -> None:
    """Two machines with a registry file each never see what the other one applied."""
    url = new_postgres_database()
    FeatureStoreAdapter(paths, registry_url=url).apply()
    elsewhere = FeatureStoreAdapter(ArtifactPaths(tmp_path / "elsewhere"), registry_url=url)
    assert {view.name for view in elsewhere._feast.list_feature_views()} == {view.name for view in VIEWS}
    assert not (paths.features / "registry.db").exists()
