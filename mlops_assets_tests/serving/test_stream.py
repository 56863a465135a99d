"""Streamed decisions on a real Redis server: each message decided once and answered once, whatever dies in between."""

import json
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import Engine, text

from mlops_assets.experiments.experiments import Experiment
from mlops_assets.foundation.agents import AGENTS, AgentSpec, agent_spec
from mlops_assets.foundation.database import transaction
from mlops_assets.foundation.errors import InputError, NotReadyError, SettingsError, StorageError, TransientError
from mlops_assets.registry.catalogue import CHALLENGER, CHAMPION
from mlops_assets.registry.mlflow_store import SEMVER_TAG, MlflowStore
from mlops_assets.serving import redis_stream
from mlops_assets.serving.cache import AnswerCache
from mlops_assets.serving.decide import Decider
from mlops_assets.serving.models import ServedModels
from mlops_assets.serving.redis_stream import BacklogFullError, Message, RedisStream, StreamNames, connect
from mlops_assets.serving.stream import DONE, REFUSED, consumer_of, main
from mlops_assets.serving.stream_consumer import StreamConsumer, answer_of
from mlops_assets.serving.stream_metrics import StreamMetrics
from mlops_assets.training.tracking import TrainingTracker
from mlops_assets_tests.mlflow_runs import MlflowRuns, mlflow_runs, mlflow_template
from mlops_assets_tests.programs import free_port
from mlops_assets_tests.rollout.ledgers import begin
from mlops_assets_tests.rollout.rollouts import rollout
from mlops_assets_tests.serving.fronts import open_front
from mlops_assets_tests.serving.served import champions, favouring, request_of, served_model, write_linear_policy
from mlops_assets_tests.serving.streams import (
    KILLER,
    LIMITS,
    PASSWORD,
    SPEC,
    RedisServer,
    answers_of,
    assert_each_once,
    consume_slowly,
    consumer_on,
    features_present,
    publish,
    rows_of,
    running,
    stream_at,
    wait_until,
)

__all__ = ["mlflow_runs", "mlflow_template"]
_PROCESSES = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server of this module's own."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def stream(server: RedisServer) -> Iterator[RedisStream]:
    """Streams of the test's own."""
    stream = stream_at(server.url, f"test-{uuid.uuid4().hex}")
    yield stream
    names = stream.names
    stream._redis.delete(names.requests, names.answers, names.dead)
    stream._redis.close()


def drain(consumer: StreamConsumer, stream: RedisStream) -> None:
    """Consume until nothing is left, also of what is retried after a while."""

    def done() -> bool:
        consumer.drain()
        return stream.lag().backlog == 0

    wait_until(done)


def reasons(stream: RedisStream) -> dict[str, str]:
    """Reason of each dead letter by the entry that it came in as."""
    return {letter.origin: letter.reason for letter in stream.dead_letters()}


def deliveries(stream: RedisStream) -> dict[str, int]:
    """How often each pending message was delivered."""
    found = stream._redis.xpending_range(stream.names.requests, stream.names.group, "-", "+", 1000)
    return {one["message_id"].decode(): one["times_delivered"] for one in found}


def url_of(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def test_each_request_has_one_row_and_one_answer(stream: RedisStream, engine: Engine) -> None:
    """A request that is lost, answered twice, or answered otherwise than logged cannot be learnt from."""
    models = champions(*(served_model(spec, seed=i) for i, spec in enumerate(AGENTS.values())))
    sent = [entry for i, spec in enumerate(AGENTS.values()) for entry in publish(stream, 20, begin=20 * i, spec=spec)]
    reads: list[tuple[str, int]] = []

    def features(spec: AgentSpec, tests: Sequence[str], agents: Sequence[str], now: datetime) -> Any:
        reads.append((spec.name, len(tests)))
        assert len(agents) == len(tests)
        return features_present(spec, tests, agents, now)

    counted: Counter[str] = Counter()
    consumer = consumer_on(
        stream,
        engine,
        models,
        features=features,
        limits=replace(LIMITS, batch=30),
        count=lambda outcome, messages: counted.update({outcome: messages}),
    )
    assert consumer.drain() == 60
    assert_each_once(stream, engine, sent)
    rows = rows_of(engine).values()
    assert {row.channel for row in rows} == {"stream"}
    assert {row.status for row in rows} == {"ok"}
    assert Counter(row.agent for row in rows) == dict.fromkeys(AGENTS, 20)
    # Two batches of 30: one read for each agent in each.
    assert reads == [("requirements", 20), ("generation", 10), ("generation", 10), ("execution", 20)]
    assert +counted == {"answered": 60}
    assert consumer.drain() == 0


def test_a_killed_consumer_is_replaced(stream: RedisStream, server: RedisServer, engine: Engine) -> None:
    """`kill -9` under load: what was in hand would be lost, or decided a second time by whoever takes over."""
    process = _PROCESSES.Process(
        target=consume_slowly, args=(server.url, stream.names.prefix, url_of(engine), "killed"), daemon=True
    )
    process.start()
    sent = publish(stream, 300)
    wait_until(lambda: len(rows_of(engine)) >= 20)
    process.kill()
    process.join()
    taken = len(rows_of(engine))
    assert taken < 300
    second = consumer_on(stream, engine, champions(favouring(SPEC, 2, "2.0.0")), name="second")
    drain(second, stream)
    assert_each_once(stream, engine, sent)
    actions = Counter((row.action, row.model_version) for row in rows_of(engine).values())
    assert actions == {(1, "1.0.0"): taken, (2, "2.0.0"): 300 - taken}


def test_what_is_logged_is_what_is_answered(
    stream: RedisStream, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between commit and answer: a new model, or a new draw, would answer something that was never logged."""
    sent = publish(stream, 5)
    with monkeypatch.context() as patch:
        patch.setattr(stream, "settle", lambda _answers: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            consumer_on(stream, engine).drain()
    assert (len(rows_of(engine)), answers_of(stream)) == (5, [])
    exploring = Decider(epsilon=1.0, cache=AnswerCache(0, 0.0), pseudonym=str, uniform=lambda: 0.99)
    counted: Counter[str] = Counter()
    second = consumer_on(
        stream,
        engine,
        champions(favouring(SPEC, 2, "2.0.0")),
        name="second",
        decider=exploring,
        count=lambda outcome, messages: counted.update({outcome: messages}),
    )
    drain(second, stream)
    answers = assert_each_once(stream, engine, sent)
    assert {(one["answer"]["action"], one["answer"]["model_version"]) for one in answers} == {(1, "1.0.0")}
    assert +counted == {"repeated": 5}


def test_a_slow_consumer_answers_nothing_twice(stream: RedisStream, engine: Engine) -> None:
    """Stopped for a while (a debugger, a suspended machine), it wakes up with messages that others have answered."""
    sent = publish(stream, 3)
    stream.ensure_group()
    stale = stream.read("sleeper", 8, wait=False)
    assert [message.id for message in stale] == sent
    drain(consumer_on(stream, engine), stream)
    before = assert_each_once(stream, engine, sent)
    consumer_on(stream, engine, champions(favouring(SPEC, 3, "3.0.0")), name="sleeper")._handle(stale)
    assert assert_each_once(stream, engine, sent) == before


def test_two_consumers_share_the_work(stream: RedisStream, server: RedisServer, engine: Engine) -> None:
    """A second consumer that answers what the first answers doubles everything instead of the speed."""
    sent = publish(stream, 200)
    counted: Counter[str] = Counter()

    def slow(spec: AgentSpec, tests: Sequence[str], agents: Sequence[str], now: datetime) -> Any:
        time.sleep(0.005)
        return features_present(spec, tests, agents, now)

    def consumer(name: str) -> StreamConsumer:
        return consumer_on(
            stream_at(server.url, stream.names.prefix),
            engine,
            name=name,
            features=slow,
            count=lambda _outcome, messages: counted.update({name: messages}),
        )

    with running(consumer("a")), running(consumer("b")):
        wait_until(lambda: stream.lag().backlog == 0)
    assert_each_once(stream, engine, sent)
    assert counted["a"] + counted["b"] == 200
    assert min(counted["a"], counted["b"]) > 20


def test_a_request_that_is_sent_twice_is_decided_once(stream: RedisStream, engine: Engine) -> None:
    """A producer that repeats a send after a timeout would have two decisions on one question in the log."""
    request = json.dumps(request_of(SPEC, user_id="ana"))
    consumer = consumer_on(stream, engine)
    for _ in range(2):
        stream.publish(request, message_id="order-1", max_backlog=10)
    consumer.drain()
    stream.publish(request, message_id="order-1", max_backlog=10)
    later = consumer_on(stream, engine, champions(favouring(SPEC, 3, "3.0.0")))
    later.drain()
    (row,) = rows_of(engine).values()
    answers = answers_of(stream)
    assert [one["message_id"] for one in answers] == ["order-1"] * 3
    assert [one["answer"] for one in answers] == [answer_of(row)] * 3
    assert not reasons(stream)


def test_a_message_id_names_one_request(stream: RedisStream, engine: Engine) -> None:
    """A reused id would answer one question with the decision on another."""
    consumer = consumer_on(stream, engine)
    stream.publish(json.dumps(request_of(SPEC)), message_id="order-1", max_backlog=10)
    consumer.drain()
    context = request_of(SPEC)["context"]
    others = [
        {"test_id": "other"},
        {"context": context | {"recency": 0.25}},
        {"episode_id": "e", "step": 0},
        {"user_id": "ana"},
    ]
    for changes in others:
        stream.publish(json.dumps(request_of(SPEC, **changes)), message_id="order-1", max_backlog=10)
    consumer.drain()
    assert (len(rows_of(engine)), len(answers_of(stream))) == (1, 1)
    told = list(reasons(stream).values())
    assert len(told) == len(others)
    assert all("used before, for another request" in reason for reason in told)
    with pytest.raises(InputError, match="message_id is empty"):
        stream.publish("{}", message_id="", max_backlog=10)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"request": "{"}, "Invalid JSON"),
        ({"request": b"\xff\xfe"}, "Invalid JSON"),
        ({"request": "[]"}, "Input should be an object"),
        ({"request": json.dumps(request_of(SPEC, agent="painter"))}, "'requirements', 'generation', 'execution'"),
        ({"request": json.dumps(request_of(SPEC, context={}))}, "Field required; and "),
        ({"request": json.dumps(request_of(SPEC, colour="red"))}, "colour: Extra inputs are not permitted"),
        ({"request": " " * 2_000_000}, "2000000 bytes, at most 1048576"),
        ({"payload": "x"}, "no field `request`"),
        ({str(i): "x" for i in range(9000)}, "no field `request`"),
    ],
)
def test_invalid_messages_go_to_the_dead_letters_at_once(
    stream: RedisStream, sqlite_engine: Engine, fields: dict[str, Any], reason: str
) -> None:
    """One bad message that stops the consumer, or that is dropped without a word."""
    before = publish(stream, 1)[0]
    bad = stream._redis.xadd(stream.names.requests, fields).decode()
    after = publish(stream, 1, begin=1)[0]
    assert consumer_on(stream, sqlite_engine).drain() == 3
    assert [one["request_id"] for one in answers_of(stream)] == [before, after]
    (letter,) = stream.dead_letters()
    assert (letter.origin, letter.deliveries) == (bad, 1)
    assert reason in letter.reason
    name, value = next(iter(fields.items()))
    assert letter.fields[name.encode()] == (value if isinstance(value, bytes) else value.encode())
    assert stream.lag().backlog == 0


def test_what_cannot_be_decided_is_tried_again_then_given_up_then_replayed(stream: RedisStream, engine: Engine) -> None:
    """A model that fails on one message must keep nobody else waiting; repaired, the message still counts once."""
    broken = champions(
        served_model(SPEC, values=[float("nan")] * len(SPEC.actions)), favouring(agent_spec("generation"), 1)
    )
    bad, good = publish(stream, 1)[0], publish(stream, 1, spec=agent_spec("generation"))[0]
    consumer = consumer_on(stream, engine, broken)
    consumer.drain()
    assert [one["request_id"] for one in answers_of(stream)] == [good]
    assert deliveries(stream) == {bad: 1}
    drain(consumer, stream)
    (letter,) = stream.dead_letters()
    assert (letter.origin, letter.deliveries) == (bad, 2)
    assert "ArithmeticError: execution-agent-dqn 1.0.0 gave Q-values that are not finite" in letter.reason

    again = stream.replay(letter)
    assert again is not None
    assert stream.replay(letter) is None
    # As by a second operator in the same moment.
    stream._redis.xadd(stream.names.requests, {**letter.fields, "replay_of": letter.origin})
    consumer_on(stream, engine).drain()
    answers = [one for one in answers_of(stream) if one["request_id"] != good]
    assert answers[0]["request_id"] == again
    assert len(answers) == 2
    assert len({one["prediction_id"] for one in answers}) == 1
    assert len(rows_of(engine)) == 2
    assert not reasons(stream)


def test_no_champion_yet_is_no_reason_to_drop_a_message(stream: RedisStream, sqlite_engine: Engine) -> None:
    """A promotion that comes a minute after the first requests would find them in the dead letters."""
    sent = publish(stream, 2)
    consumer_on(stream, sqlite_engine, ServedModels()).drain()
    assert deliveries(stream) == dict.fromkeys(sent, 1)
    drain(consumer_on(stream, sqlite_engine), stream)
    assert_each_once(stream, sqlite_engine, sent)


def test_a_message_that_kills_its_consumers_is_given_up_alone(
    stream: RedisStream, server: RedisServer, sqlite_engine: Engine
) -> None:
    """A crash of the native runtime: consumer after consumer dies, and the innocent of the same batch go with it."""
    good = publish(stream, 3)
    killer = publish(stream, 1, begin=3, agent_id=KILLER)[0]
    good += publish(stream, 3, begin=4)
    arguments = (server.url, stream.names.prefix, url_of(sqlite_engine))
    for number in range(2):
        process = _PROCESSES.Process(target=consume_slowly, args=(*arguments, f"victim-{number}"), daemon=True)
        process.start()
        process.join()
        assert process.exitcode == -9
    drain(consumer_on(stream, sqlite_engine, name="survivor"), stream)
    assert sorted(one["request_id"] for one in answers_of(stream)) == good
    (letter,) = stream.dead_letters()
    assert (letter.origin, letter.deliveries) == (killer, 3)
    assert "its consumers ended while deciding it, 2 times" in letter.reason


def test_a_row_that_the_database_refuses_keeps_no_other_out(stream: RedisStream, postgres_engine: Engine) -> None:
    """One transaction for the batch: a single bad row would fail all of them, for ever."""
    with transaction(postgres_engine) as session:
        session.execute(text("ALTER TABLE prediction ADD CONSTRAINT odd CHECK (test_id <> 'test-1')"))
    sent = publish(stream, 4)
    drain(consumer_on(stream, postgres_engine), stream)
    assert [one["request_id"] for one in answers_of(stream)] == [sent[0], sent[2], sent[3]]
    assert list(reasons(stream)) == [sent[1]]
    assert "violates check constraint" in reasons(stream)[sent[1]]


def test_redis_restarts(
    stream: RedisStream, server: RedisServer, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """A restart of the broker ends the consumer, or floods its log, or costs messages."""
    caplog.set_level(logging.INFO, "mlops_assets.serving")
    sent = publish(stream, 30)
    with running(consumer_on(stream_at(server.url, stream.names.prefix), engine, limits=replace(LIMITS, batch=4))):
        wait_until(lambda: len(answers_of(stream)) >= 8)
        server.stop()
        with pytest.raises(TransientError, match="does not answer"):
            publish(stream, 1)
        wait_until(lambda: "does not answer" in caplog.text)
        time.sleep(0.5)
        server.start()
        sent += publish(stream, 30, begin=30)
        wait_until(lambda: stream.lag().backlog == 0)
    assert_each_once(stream, engine, sent)
    told = [record.getMessage() for record in caplog.records]
    assert sum("does not answer" in line for line in told) == 1
    assert told.count("first goes on") == 1
    assert PASSWORD not in caplog.text


def test_redis_stands_still(stream: RedisStream, server: RedisServer, sqlite_engine: Engine) -> None:
    """A server that accepts and does not answer would hang the consumer for ever; what it delivers late must not be lost."""
    sent = publish(stream, 10)
    with running(consumer_on(stream_at(server.url, stream.names.prefix), sqlite_engine)):
        wait_until(lambda: len(answers_of(stream)) == 10)
        with server.paused():
            with pytest.raises(TransientError, match="does not answer"):
                stream.lag()
            time.sleep(2)
        sent += publish(stream, 30, begin=10)
        wait_until(lambda: stream.lag().backlog == 0)
    assert_each_once(stream, sqlite_engine, sent)


def test_redis_comes_back_empty(stream: RedisStream, server: RedisServer, sqlite_engine: Engine) -> None:
    """A broker without persistence takes the consumer group with it; a consumer that wants the old one never works again."""
    publish(stream, 3)
    with running(consumer_on(stream_at(server.url, stream.names.prefix), sqlite_engine)):
        wait_until(lambda: len(answers_of(stream)) == 3)
        stream._redis.delete(stream.names.requests, stream.names.answers)
        sent = publish(stream, 3, begin=3)
        wait_until(lambda: len(answers_of(stream)) == 3)
    assert sorted(one["request_id"] for one in answers_of(stream)) == sent
    assert len(rows_of(sqlite_engine)) == 6


def test_redis_is_full(stream: RedisStream, sqlite_engine: Engine) -> None:
    """Out of memory, Redis acknowledges but adds nothing: the answer would be gone, with nobody to repeat it."""
    sent = publish(stream, 1)
    stream.ensure_group()
    (taken,) = stream.read("first", 1, wait=False)
    consumer = consumer_on(stream, sqlite_engine)
    stream._redis.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(TransientError, match="takes nothing at present"):
            consumer._handle([taken])
        assert deliveries(stream) == {sent[0]: 1}
        assert answers_of(stream) == []
        with pytest.raises(TransientError):
            publish(stream, 1)
    finally:
        stream._redis.config_set("maxmemory", "128mb")
    drain(consumer, stream)
    assert_each_once(stream, sqlite_engine, sent)


@contextmanager
def database_away(engine: Engine) -> Iterator[None]:
    """SQLite's file is moved away; PostgreSQL takes no writes, as in a failover."""
    if engine.dialect.name == "sqlite":
        path = Path(str(engine.url.database))
        engine.dispose()
        moved = path.with_suffix(".moved")
        path.rename(moved)
        path.mkdir()
        yield
        path.rmdir()
        moved.rename(path)
        return

    def writable(*, yes: bool) -> None:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("SET default_transaction_read_only = off"))
            mode = "off" if yes else "on"
            connection.execute(text(f"ALTER DATABASE {engine.url.database} SET default_transaction_read_only = {mode}"))
        engine.dispose()

    writable(yes=False)
    yield
    writable(yes=True)


def test_the_database_is_away(stream: RedisStream, engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """A failover of the database must not send good messages to the dead letters, nor answer what is not logged."""
    caplog.set_level(logging.INFO, "mlops_assets.serving")
    with database_away(engine):
        sent = publish(stream, 5)
        with running(consumer_on(stream, engine, limits=replace(LIMITS, longest_pause_seconds=0.1))):
            wait_until(lambda: "first waits with 5 messages in hand: operational database" in caplog.text)
            # Longer than it takes until others may claim them.
            time.sleep(3 * LIMITS.claim_idle_seconds)
            assert stream.claim("thief", LIMITS.claim_idle_seconds) is None
            assert deliveries(stream) == dict.fromkeys(sent, 1)
        assert "first leaves 5 messages to others" in caplog.text
    assert answers_of(stream) == []
    assert caplog.text.count("first waits") == 1
    drain(consumer_on(stream, engine, name="second"), stream)
    assert_each_once(stream, engine, sent)


def test_drain_tells_of_a_database_that_is_away(stream: RedisStream, engine: Engine) -> None:
    """A cron job that hangs, or says that all is done."""
    sent = publish(stream, 2)
    with database_away(engine), pytest.raises(StorageError):
        consumer_on(stream, engine).drain()
    drain(consumer_on(stream, engine), stream)
    assert_each_once(stream, engine, sent)


def test_the_database_hangs(stream: RedisStream, server: RedisServer, engine: Engine) -> None:
    """A lock held for minutes hands the messages from consumer to consumer, until the last gives them up."""
    sent = publish(stream, 3)
    stream.ensure_group()
    with transaction(engine) as session:
        session.execute(text("LOCK TABLE prediction" if engine.dialect.name == "postgresql" else "SELECT 1"))
        with running(consumer_on(stream_at(server.url, stream.names.prefix), engine)):
            wait_until(lambda: len(deliveries(stream)) == 3)
            time.sleep(3 * LIMITS.claim_idle_seconds)
            assert stream.claim("thief", LIMITS.claim_idle_seconds) is None
            assert deliveries(stream) == dict.fromkeys(sent, 1)
            session.commit()
            wait_until(lambda: stream.lag().backlog == 0)
    assert_each_once(stream, engine, sent)


def test_the_feature_store_is_away_for_a_moment(stream: RedisStream, sqlite_engine: Engine) -> None:
    """A stream can wait: answers on default features, only because Redis restarted, are worse answers."""
    tries: list[None] = []

    def features(spec: AgentSpec, tests: Sequence[str], agents: Sequence[str], now: datetime) -> Any:
        tries.append(None)
        if len(tries) < 4:
            raise TransientError("Redis does not answer")
        return features_present(spec, tests, agents, now)

    sent = publish(stream, 2)
    with running(consumer_on(stream, sqlite_engine, features=features)):
        wait_until(lambda: len(answers_of(stream)) == 2)
    answers = assert_each_once(stream, sqlite_engine, sent)
    assert [one["answer"]["status"] for one in answers] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("error", "patience", "tries"), [(NotReadyError("apply first"), 60.0, 1), (OSError("gone"), 0.3, 2)]
)
def test_the_feature_store_stays_away(
    stream: RedisStream, sqlite_engine: Engine, error: Exception, patience: float, tries: int
) -> None:
    """A feature store that never comes back must not stop all decisions; the answers say that they are degraded."""
    tried: list[None] = []

    def features(*_arguments: object) -> Mapping[str, Any]:
        tried.append(None)
        raise error

    sent = publish(stream, 2)
    limits = replace(LIMITS, feature_patience_seconds=patience)
    with running(consumer_on(stream, sqlite_engine, features=features, limits=limits)):
        wait_until(lambda: len(answers_of(stream)) == 2)
        before = len(tried)
        assert before >= tries
        # Patience is had once, not at every batch.
        sent += publish(stream, 1, begin=2)
        wait_until(lambda: len(answers_of(stream)) == 3)
        assert len(tried) == before + 1
    answers = assert_each_once(stream, sqlite_engine, sent)
    assert {one["answer"]["status"] for one in answers} == {"degraded"}
    assert len(answers[0]["answer"]["missing_features"]) == len(SPEC.features)


def test_experiments_reach_the_stream(stream: RedisStream, sqlite_engine: Engine) -> None:
    """Streamed users that always get the champion would fall out of every A/B test."""
    experiment = Experiment("e", SPEC.name, "salt", CHALLENGER, 1.0, "running", datetime(2026, 3, 1, tzinfo=UTC))
    models = ServedModels(
        {(SPEC.name, CHAMPION): favouring(SPEC, 1), (SPEC.name, CHALLENGER): favouring(SPEC, 2, "2.0.0")}
    )
    publish(stream, 1, user_id="ana")
    publish(stream, 1, begin=1)
    consumer_on(stream, sqlite_engine, models, experiments=lambda: {SPEC.name: experiment}).drain()
    arms = [
        (one["answer"]["variant"], one["answer"]["action"], one["answer"]["experiment"]) for one in answers_of(stream)
    ]
    assert arms == [("treatment", 2, "e"), ("control", 1, None)]
    assert sorted(row.user_hash or "" for row in rows_of(sqlite_engine).values()) == ["", "ANA"]


def test_producers_are_held_back(stream: RedisStream, sqlite_engine: Engine) -> None:
    """Without a limit a consumer that stands still fills the broker's memory, and takes everything on it down."""
    request = json.dumps(request_of(SPEC))
    for _ in range(3):
        stream.publish(request, max_backlog=3)
    with pytest.raises(BacklogFullError, match=r"3 requests on .* have no answer yet, the limit is 3"):
        stream.publish(request, max_backlog=3)
    stream.ensure_group()
    taken = stream.read("first", 2, wait=False)
    with pytest.raises(BacklogFullError):  # delivered is not answered
        stream.publish(request, max_backlog=3)
    consumer_on(stream, sqlite_engine)._handle(taken)
    stream.publish(request, max_backlog=3)
    assert stream.lag().backlog == 2


def test_lag_is_counted_and_shown(stream: RedisStream) -> None:
    """An autoscaler that sees no lag starts nobody; one that sees zero while the broker is away believes all is well."""
    registry = CollectorRegistry()
    metrics = StreamMetrics(registry, stream.lag)
    assert stream.lag() == redis_stream.StreamLag(0, 0, 0.0, 0)
    publish(stream, 5)
    before = stream.lag()  # nobody has ever consumed
    assert (before.waiting, before.pending, before.backlog) == (5, 0, 5)
    stream.ensure_group()
    stream.ensure_group()
    taken = stream.read("first", 2, wait=False)
    time.sleep(0.3)
    lag = stream.lag()
    assert (lag.waiting, lag.pending) == (3, 2)
    assert 0.3 <= lag.oldest_age_seconds < 30
    metrics.count("answered", 2)
    metrics.count("dead", 0)
    stream.bury([(taken[0], "for the test")])
    shown = generate_latest(registry).decode()
    for line in (
        "stream_up 1.0",
        "stream_lag_messages 3.0",
        "stream_pending_messages 1.0",
        "stream_dead_letters 1.0",
        'stream_messages_total{outcome="answered"} 2.0',
    ):
        assert line in shown.splitlines()
    assert "stream_oldest_age_seconds 0." in shown
    assert 'outcome="dead"' not in shown
    # An entry deleted by hand in the middle: Redis itself no longer knows the lag.
    stream._redis.xdel(stream.names.requests, stream._redis.xrange(stream.names.requests)[3][0])
    assert stream.lag().waiting == 2

    away = CollectorRegistry()
    StreamMetrics(away, stream_at(f"redis://127.0.0.1:{free_port()}", "x").lag)
    assert [line for line in generate_latest(away).decode().splitlines() if line.startswith("stream_")] == [
        "stream_up 0.0"
    ]


def test_answered_requests_do_not_pile_up(stream: RedisStream, sqlite_engine: Engine) -> None:
    """Redis holds everything in memory: a month of answered requests would be the end of it; pending ones must stay."""
    publish(stream, 1)
    stream.ensure_group()
    (kept,) = stream.read("first", 1, wait=False)
    publish(stream, 300, begin=1)
    consumer = consumer_on(stream, sqlite_engine, limits=replace(LIMITS, batch=100, claim_idle_seconds=60))
    consumer.drain()
    stream.tidy()
    assert stream._redis.xlen(stream.names.requests) == 301
    consumer._handle([kept])
    stream.tidy()
    assert stream._redis.xlen(stream.names.requests) < 150
    publish(stream, 2, begin=301)
    lag = stream.lag()
    assert (lag.waiting, lag.pending) == (2, 0)
    consumer.drain()
    assert len(answers_of(stream)) == 303


def test_shadows_are_asked_what_came_over_the_stream(stream: RedisStream, tmp_path: Path) -> None:
    """Requests count for a rollout in the shadow that its candidate is never asked: it is held there for ever."""
    with open_front(
        tmp_path, SPEC, champion=served_model(SPEC, "1.0.0", seed=0), candidate=served_model(SPEC, "1.1.0", seed=1)
    ) as front:
        begin(front.engine, rollout())
        front.follow(0.0)
        sent = publish(stream, 3)
        consumer_of(front.runtime, stream, name="first").drain()
        rows = rows_of(front.engine)
        assert len(rows) == len(sent)
        for row in rows.values():
            assert (row.model_version, row.experiment, row.treatment_share) == ("1.0.0", rollout().name, 0.0)
            assert front.shadows(row.prediction_id, 2) == ["1.0.0", "1.1.0"]


def test_consumers_that_are_gone_are_forgotten(stream: RedisStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pod has a new name: the group would grow for ever. Who has messages in hand must stay, they would be lost."""
    monkeypatch.setattr(redis_stream, "_IDLE_CONSUMER_MS", 100)
    sent = publish(stream, 1)
    stream.ensure_group()
    stream.read("busy", 1, wait=False)
    stream._redis.xgroup_createconsumer(stream.names.requests, stream.names.group, "gone")
    time.sleep(0.3)
    stream._redis.xgroup_createconsumer(stream.names.requests, stream.names.group, "new")
    stream.tidy()
    names = {one["name"].decode() for one in stream._redis.xinfo_consumers(stream.names.requests, stream.names.group)}
    assert names == {"busy", "new"}
    assert deliveries(stream) == {sent[0]: 1}


def test_stop_ends_at_the_next_batch(stream: RedisStream, server: RedisServer, sqlite_engine: Engine) -> None:
    """A consumer that is asked to end must end what it has begun, and begin nothing more."""
    sent = publish(stream, 40)
    begun, stopped = threading.Event(), threading.Event()

    def features(spec: AgentSpec, tests: Sequence[str], agents: Sequence[str], now: datetime) -> Any:
        begun.set()
        stopped.wait(10)
        return features_present(spec, tests, agents, now)

    with running(consumer_on(stream_at(server.url, stream.names.prefix), sqlite_engine, features=features)) as stop:
        assert begun.wait(10)
        stop.set()
        stopped.set()
    assert [one["request_id"] for one in answers_of(stream)] == sent[:8]
    lag = stream.lag()
    assert (lag.waiting, lag.pending) == (32, 0)


@pytest.mark.parametrize("url", ["http://127.0.0.1", "127.0.0.1:6379"])
def test_an_address_that_is_none(url: str) -> None:
    """A traceback out of the driver tells nobody which variable to correct."""
    with pytest.raises(SettingsError, match="MLOPS_STREAM_URL"):
        connect(url)


def test_a_wrong_password_is_not_worth_another_try(server: RedisServer, sqlite_engine: Engine) -> None:
    """A consumer that waits for a server which refuses it waits for ever."""
    stream = RedisStream(connect(server.url.replace(PASSWORD, "wrong-one")), StreamNames(prefix="x"))
    with pytest.raises(SettingsError, match="MLOPS_STREAM_URL") as refused:
        consumer_on(stream, sqlite_engine).run(threading.Event())
    assert "wrong-one" not in str(refused.value)


def test_a_key_that_holds_something_else(stream: RedisStream, sqlite_engine: Engine) -> None:
    """A prefix that another program uses: acknowledged, but with no stream to answer on, messages would vanish."""
    sent = publish(stream, 1)
    stream._redis.set(stream.names.answers, "taken")
    with pytest.raises(SettingsError, match="holds something else below test-"):
        consumer_on(stream, sqlite_engine).drain()
    assert deliveries(stream) == {sent[0]: 1}


def test_ids_of_decisions() -> None:
    """Two messages with one id would be one decision; one message with two ids, two."""
    from mlops_assets.serving.stream_consumer import prediction_id_of

    def id_of(**changes: Any) -> str:
        values = {"id": "1-0", "origin": "1-0", "request": b"{}", "message_id": None, "fields": {}, "deliveries": 1}
        return prediction_id_of("s", Message(**(values | changes)))

    one = id_of()
    assert len(one) == 32
    assert id_of(deliveries=3, fields={b"a": b"b"}) == one
    assert id_of(id="9-0") == one  # a replay
    others = {one, id_of(origin="2-0"), id_of(request=b"[]"), id_of(message_id=b"1-0"), id_of(message_id=b"1-1")}
    assert len(others) == 5
    assert id_of(message_id=b"k", origin="3-0", request=b"[]") == id_of(message_id=b"k")


@pytest.fixture
def environ(tmp_path: Path, server: RedisServer, sqlite_engine: Engine) -> Iterator[dict[str, str]]:
    """Settings of commands: the home and database of the test, streams under their default names, emptied afterwards."""
    yield {
        "MLOPS_HOME": str(tmp_path / "home"),
        "MLOPS_DATABASE_URL": url_of(sqlite_engine),
        "MLOPS_STREAM_URL": server.url,
    }
    stream = RedisStream(connect(server.url))
    names = stream.names
    stream._redis.delete(names.requests, names.answers, names.dead)


def test_commands(
    environ: dict[str, str],
    server: RedisServer,
    sqlite_engine: Engine,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Who operates it at night has these commands and nothing else."""
    stream = RedisStream(connect(server.url))
    path = tmp_path / "requests.jsonl"
    lines = [json.dumps(request_of(SPEC, test_id=f"test-{i}")) for i in range(3)] + ["", "{}"]
    path.write_text("\n".join(lines), encoding="utf-8")

    assert main(["publish", str(path), "--max-backlog", "3"], environ) == REFUSED
    told = capsys.readouterr().err
    assert told.startswith("3 of 4 requests sent: 3 requests on mlops:decisions:requests have no answer yet")
    assert told.endswith("go on with --from-line 5\n")
    assert told.count("\n") == 1
    assert main(["publish", str(path)], environ) == DONE
    assert capsys.readouterr().out == "4 requests sent\n"
    assert main(["status"], environ) == DONE
    shown = json.loads(capsys.readouterr().out)
    assert shown.pop("oldest_age_seconds") < 60
    assert shown == {"lag_messages": 7, "pending_messages": 0, "dead_letters": 0}

    consumer_on(stream, sqlite_engine).drain()
    assert len(rows_of(sqlite_engine)) == 3
    assert main(["dead-letters"], environ) == DONE
    letter = json.loads(capsys.readouterr().out)
    assert letter["fields"]["request"] == "{}"
    assert "Unable to extract tag using discriminator 'agent'" in letter["reason"]
    assert main(["dead-letters", "--replay"], environ) == DONE
    assert capsys.readouterr().out == "1 messages sent once more\n"
    assert stream.lag().backlog == 1


def test_a_file_longer_than_the_backlog_is_sent_in_parts(
    environ: dict[str, str],
    server: RedisServer,
    sqlite_engine: Engine,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Sent again from its beginning, a file fills the backlog with what was sent before, and never comes to its end."""
    stream = RedisStream(connect(server.url))
    consumer = consumer_on(stream, sqlite_engine)
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(json.dumps(request_of(SPEC, test_id=f"test-{i}")) for i in range(8)), encoding="utf-8")
    command, line = ["publish", str(path), "--max-backlog", "3"], 1
    while main([*command, "--from-line", str(line)], environ) == REFUSED:
        told = capsys.readouterr().err
        assert int(told.rpartition(" ")[2]) == line + 3
        line += 3
        consumer.drain()
    assert (line, capsys.readouterr().out) == (7, "2 requests sent\n")
    consumer.drain()
    assert len(rows_of(sqlite_engine)) == len(answers_of(stream)) == 8
    # Sent once more by mistake: the ids are those of the file, whatever line it began with.
    assert main(["publish", str(path)], environ) == DONE
    consumer.drain()
    assert (len(rows_of(sqlite_engine)), len(answers_of(stream))) == (8, 16)


def registered_champion(runs: MlflowRuns, folder: Path) -> None:
    """Register a version of `execution` that takes action 2, and make it the champion."""
    from mlflow import MlflowClient

    values = np.eye(len(SPEC.actions), dtype=np.float32)[2]
    path = folder / "policy.onnx"
    write_linear_policy(path, SPEC, np.zeros((len(SPEC.state_fields), len(values))), values)
    client = MlflowClient(tracking_uri=runs.tracking_uri, registry_uri=runs.tracking_uri)
    run_id = client.create_run(client.get_run(runs.good[0]).info.experiment_id).info.run_id
    states = np.zeros((1, len(SPEC.state_fields)), dtype=np.float32)
    TrainingTracker(runs.tracking_uri).log_model(run_id, path, SPEC, states, values[None])
    client.set_terminated(run_id, "FINISHED")
    store = MlflowStore(runs.tracking_uri)
    number = store.create_version(
        SPEC.registered_model,
        store.verified_model(run_id, SPEC),
        run_id=run_id,
        tags={SEMVER_TAG: "4.0.0"},
        purpose="tests",
        description="tests",
    )
    store.set_alias(SPEC.registered_model, CHAMPION, number)


@pytest.mark.slow
def test_consume_as_it_is_deployed(
    environ: dict[str, str], server: RedisServer, sqlite_engine: Engine, mlflow_runs: MlflowRuns, tmp_path: Path
) -> None:
    """The parts fit, but not together: registry, features, database and broker as the settings name them, ended by SIGTERM."""
    registered_champion(mlflow_runs, tmp_path)
    stream = RedisStream(connect(server.url))
    sent = publish(stream, 30)
    port = free_port()
    command = [sys.executable, "-m", "mlops_assets.serving.stream", "consume", "--metrics-port", str(port)]
    variables = {**os.environ, **environ, "MLFLOW_TRACKING_URI": mlflow_runs.tracking_uri}
    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: process.poll() is not None or len(answers_of(stream)) == 30)
            with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
                shown = page.read().decode()
        finally:
            process.terminate()
            told = process.communicate(timeout=60)[1]
    assert process.returncode == DONE, told
    answers = assert_each_once(stream, sqlite_engine, sent)
    assert {(one["answer"]["action"], one["answer"]["model_version"]) for one in answers} == {(2, "4.0.0")}
    assert 'stream_messages_total{outcome="answered"} 30.0' in shown
    assert "stream_lag_messages 0.0" in shown
    # Nobody has registered features in this home.
    assert {one["answer"]["status"] for one in answers} == {"degraded"}
    assert "ml_prediction_requests_total" in shown


@pytest.mark.parametrize(
    ("changes", "command", "message"),
    [
        ({"MLOPS_STREAM_URL": ""}, ["status"], "MLOPS_STREAM_URL: needed"),
        ({"MLOPS_STREAM_URL": "redis://127.0.0.1:1"}, ["status"], "Redis on 127.0.0.1 does not answer"),
        ({}, ["publish", __file__, "--from-line", "0"], "--from-line 0 is not within 1.."),
        ({}, ["publish", __file__, "--from-line", "1000000"], "--from-line 1000000 is not within 1.."),
        ({}, ["publish", "/nowhere.jsonl"], "/nowhere.jsonl cannot be read: No such file or directory"),
    ],
)
def test_refusals_are_one_line(
    environ: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str],
    command: list[str],
    message: str,
) -> None:
    """A traceback tells the operator of a broken night nothing."""
    assert main(command, environ | changes) == REFUSED
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
