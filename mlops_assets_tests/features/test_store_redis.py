"""The online store on a real Redis server: what serving reads there is what training saw, and nothing else."""

import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
import redis
from sqlalchemy import Engine

from mlops_assets.features.parity import check_parity, sample_decisions
from mlops_assets.features.refresh import refresh_agent_features
from mlops_assets.features.store import FeatureStoreAdapter
from mlops_assets.features.views import AGENT_CONTEXT_FEATURES, TEST_EXECUTION_FEATURES
from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.errors import SettingsError, TransientError
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets_tests.experiences.synthetic import START, SyntheticSource
from mlops_assets_tests.features.samples import MONDAY, rows_of, snapshot_of
from mlops_assets_tests.programs import free_port, system_program

TESTS, AGENTS = TEST_EXECUTION_FEATURES, AGENT_CONTEXT_FEATURES
RATE, REWARD = TESTS.column("pass_rate_7d"), AGENTS.column("recent_reward")
SPEC = agent_spec("generation")
PASSWORD = "not-shown"
_START_SECONDS = 30


def at(days: float) -> datetime:
    """A moment."""
    return MONDAY + timedelta(days=days)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    """A client of a Redis server of this module's own: on loopback, with a password, nothing on disk, little memory."""
    port = free_port()
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "save": "",
        "appendonly": "no",
        "maxmemory": "64mb",
        "maxmemory-policy": "noeviction",
        "requirepass": PASSWORD,
        "dir": str(tmp_path_factory.mktemp("redis")),
    }
    program = system_program("redis-server", "redis-server")
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(host="127.0.0.1", port=port, password=PASSWORD) as client:
            _wait_until_ready(client, process)
            yield client
    finally:
        process.terminate()
        process.wait(timeout=_START_SECONDS)


def _wait_until_ready(client: redis.Redis, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            client.ping()
        except redis.ConnectionError:
            assert process.poll() is None, f"redis-server ended with {process.returncode}"
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.05)
        else:
            return


@pytest.fixture
def redis_url(server: redis.Redis) -> Iterator[str]:
    """URL of a database of the server that is empty at the beginning and at the end."""
    port = server.connection_pool.connection_kwargs["port"]
    with redis.Redis(host="127.0.0.1", port=port, password=PASSWORD, db=3) as database:
        database.flushdb()
        yield f"redis://:{PASSWORD}@127.0.0.1:{port}/3"
        database.flushdb()


@pytest.fixture
def store(paths: ArtifactPaths, redis_url: str) -> FeatureStoreAdapter:
    """A store with rows of two tests (one a month later) and of one agent."""
    adapter = FeatureStoreAdapter(paths, redis_url=redis_url)
    adapter.apply()
    adapter.write_test_features(
        rows_of(
            TESTS,
            [
                {"key": "t1", "at": 2, "pass_rate_7d": 0.2, "failure_count": 2, "last_execution_status": "passed"},
                {"key": "t2", "at": 2, "pass_rate_7d": None, "failure_count": 0, "last_execution_status": "skipped"},
                {"key": "t1", "at": 40, "pass_rate_7d": 0.4, "failure_count": 4, "last_execution_status": "failed"},
            ],
        )
    )
    adapter.write_agent_features(
        "generation", rows_of(AGENTS, [{"key": "a1", "at": day, "recent_reward": day} for day in (1, 2)])
    )
    return adapter


def pairs(*keys: tuple[str, str]) -> pa.Table:
    """Entities `(test_id, agent_id)`."""
    return pa.table({"test_id": [test for test, _ in keys], "agent_id": [agent for _, agent in keys]})


def test_what_is_served_from_redis_is_what_training_saw(
    paths: ArtifactPaths, redis_url: str, server: redis.Redis, sqlite_engine: Engine
) -> None:
    """Types, nulls or times change on the way through Redis: the agent acts on states it never learned from."""
    end = START + timedelta(days=10)
    writer = FeatureStoreAdapter(paths, redis_url=redis_url)
    writer.apply()
    snapshot = snapshot_of(SyntheticSource(days=10, spec=SPEC), paths, sqlite_engine)
    refresh_agent_features(SPEC, snapshot, writer, paths=paths)
    rows = [
        {"key": f"test-{n}", "at": day, "failure_count": day, "pass_rate_7d": 0.1 * day}
        for n in (0, 1)
        for day in (2, 9)
    ]
    writer.write_test_features(rows_of(TESTS, rows))
    done = {one.view: one for one in writer.materialize(end)}
    reader = FeatureStoreAdapter(paths, redis_url=redis_url)  # as a server does, in a process of its own
    report = check_parity(reader, sample_decisions(snapshot, 40, seed=1), end)
    assert report.passed, report.listed
    assert 0 < report.present < report.values
    assert done[TESTS.name].keys_written == 2
    assert server.info("keyspace")["db3"]["keys"] == sum(one.keys_written for one in done.values())
    assert not (paths.features / "online.db").exists()


def test_one_trip_for_all_views_reads_what_feast_reads(store: FeatureStoreAdapter) -> None:
    """Answers of one pipeline that are dealt out to the wrong view, key or feature."""
    store.materialize(at(2.5))
    asked = pairs(("t2", "a1"), ("t1", "ax"), ("tx", "a1"), ("t1", "a1"))
    ours = store.online(asked, at(2.5))
    references = [f"{view.name}:{feature.name}" for view in (TESTS, AGENTS) for feature in view.features]
    theirs = store._feast.get_online_features(references, asked.to_pylist(), full_feature_names=True).to_dict()
    for view in (TESTS, AGENTS):
        for feature in view.features:
            name = view.column(feature.name)
            assert ours[name].to_pylist() == theirs[name], name


def test_an_older_row_never_overwrites_a_newer_one(store: FeatureStoreAdapter) -> None:
    """A replay of last month takes today's values offline."""
    newest = {one.view: one for one in store.materialize(at(41))}
    assert (newest[TESTS.name].keys_written, newest[TESTS.name].last_event_time) == (1, at(40))
    older = {one.view: one for one in store.materialize(at(2.5))}
    assert (older[TESTS.name].keys_written, older[TESTS.name].kept_newer) == (1, 1)
    served = store.online(pairs(("t1", "a1"), ("t2", "a1")), at(41))
    assert served[RATE].to_pylist() == [pytest.approx(0.4), None]
    assert served[TESTS.timestamp_column].to_pylist() == [at(40), None]


def test_a_corrected_row_of_the_same_time_is_served(store: FeatureStoreAdapter) -> None:
    """Feast's own Redis store drops a row as old as the stored one: a day computed again was never served."""
    store.materialize(at(2.5))
    store.write_agent_features(
        "generation", rows_of(AGENTS, [{"key": "a1", "at": 2, "recent_reward": 22.0}]), start=at(2)
    )
    store.materialize(at(2.5))
    assert store.online(pairs(("t1", "a1")), at(2.5))[REWARD].to_pylist() == [22.0]


def test_inference_gets_one_ordered_vector(store: FeatureStoreAdapter) -> None:
    """Features served in another order or type than trained on, or an unknown test that stops serving."""
    store.materialize(at(2.5))
    block = store.get_features_for_inference(SPEC, ["t1", "t2", "tx"], ["a1", "a1", "ax"], at(2.5))
    names = [f"{field.view}__{field.name}" for field in SPEC.features]
    defaults = [field.default for field in SPEC.features]
    assert block.values.shape == (3, len(names))
    assert block.values.dtype == np.float32
    rate, reward = names.index(RATE), names.index(REWARD)
    assert block.values[0, [rate, reward]].tolist() == [np.float32(0.2), 2.0]
    assert not block.missing[0, [rate, reward]].any()
    assert (block.values[1, rate], block.missing[1, rate]) == (np.float32(defaults[rate]), True)  # null in its row
    assert not block.missing[1, reward]
    assert block.values[2].tolist() == [np.float32(value) for value in defaults]
    assert block.missing[2].all()


def test_expired_rows_are_flagged_defaults(store: FeatureStoreAdapter) -> None:
    """Feast reads a row of any age from Redis as present: the agent acts on the last month's pass rates."""
    store.materialize(at(2.5))
    names = [f"{field.view}__{field.name}" for field in SPEC.features]
    of_tests = np.array([name.startswith(TESTS.name) for name in names])
    rate, reward = names.index(RATE), names.index(REWARD)

    last_moment = at(2) + AGENTS.ttl
    fresh = store.get_features_for_inference(SPEC, ["t1"], ["a1"], last_moment)
    assert not fresh.missing[0, [rate, reward]].any()
    expired = store.get_features_for_inference(SPEC, ["t1"], ["a1"], last_moment + timedelta(seconds=1))
    assert expired.missing[0, ~of_tests].all()
    assert expired.values[0, reward] == np.float32(SPEC.features[reward].default)
    assert expired.values[0, rate] == np.float32(0.2)
    both = store.get_features_for_inference(SPEC, ["t1"], ["a1"], at(2) + TESTS.ttl + timedelta(seconds=1))
    assert both.missing.all()
    assert both.values[0].tolist() == [np.float32(field.default) for field in SPEC.features]


def test_a_server_that_is_away_is_worth_another_try(paths: ArtifactPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart of Redis fails the run for good, prints the password into its log, or is noticed seconds too late."""
    monkeypatch.setattr("redis.retry.sleep", lambda seconds: pytest.fail(f"slept {seconds} s between its tries"))
    away = FeatureStoreAdapter(paths, redis_url=f"redis://:{PASSWORD}@127.0.0.1:{free_port()}")
    away.apply()
    away.write_test_features(rows_of(TESTS, [{"key": "t1", "at": 2}]))
    for call in (lambda: away.materialize(at(2.5)), lambda: away.online(pairs(("t1", "a1")), at(2.5))):
        with pytest.raises(TransientError, match="Redis") as refused:
            call()
        assert PASSWORD not in str(refused.value)


def test_a_wrong_password_is_not_worth_another_try(paths: ArtifactPaths, redis_url: str) -> None:
    """Three retries before anybody hears that the secret is not the right one."""
    wrong = FeatureStoreAdapter(paths, redis_url=redis_url.replace(PASSWORD, "wrong-one"))
    wrong.apply()
    with pytest.raises(SettingsError, match="MLOPS_REDIS_URL") as refused:
        wrong.online(pairs(("t1", "a1")), at(2.5))
    assert "wrong-one" not in str(refused.value)
