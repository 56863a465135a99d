"""A Redis server of a test's own, and consumers on it: in this process, in a thread, or in one that can be killed."""

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import redis
from numpy.typing import NDArray
from sqlalchemy import Engine, select

from mlops_assets.features.vector import column_name
from mlops_assets.foundation.agents import AgentSpec, agent_spec
from mlops_assets.foundation.clock import SystemClock
from mlops_assets.foundation.database import create_operational_engine, read_transaction
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.tables import PredictionRecord
from mlops_assets.serving.cache import AnswerCache
from mlops_assets.serving.decide import Decider
from mlops_assets.serving.models import ServedModels
from mlops_assets.serving.redis_stream import RedisStream, StreamNames, connect
from mlops_assets.serving.stream_consumer import ConsumerLimits, StreamConsumer, answer_of
from mlops_assets_tests.programs import free_port, system_program
from mlops_assets_tests.serving.served import champions, favouring, request_of

SPEC = agent_spec("execution")
PASSWORD = "not-shown"
# Redis is away after 1.5 s without an answer; a read waits a second for messages.
ANSWER_SECONDS = 1.5
LIMITS = replace(
    ConsumerLimits.of(load_profile("aiwebtest").serving),
    batch=8,
    claim_idle_seconds=0.4,
    max_deliveries=2,
    first_pause_seconds=0.05,
)
WAIT_SECONDS = 60
KILLER = "killer"


class RedisServer:
    """A real server on loopback that keeps what it acknowledged, over restarts."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            "maxmemory": "128mb",
            "maxmemory-policy": "noeviction",
            "requirepass": PASSWORD,
            "dir": str(folder),
        }
        program = system_program("redis-server", "redis-server")
        self._command = [program, *(part for name, value in options.items() for part in (f"--{name}", value))]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        with redis.Redis.from_url(self.url) as client:
            wait_until(lambda: _answers(client))

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(timeout=WAIT_SECONDS)

    @contextmanager
    def paused(self) -> Iterator[None]:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def stream_at(url: str, prefix: str) -> RedisStream:
    """The streams below a prefix, by a client of their own."""
    return RedisStream(connect(url, answer_seconds=ANSWER_SECONDS), StreamNames(prefix=prefix))


def features_present(
    spec: AgentSpec, test_ids: Sequence[str], agent_ids: Sequence[str], _as_of: datetime
) -> Mapping[str, NDArray[Any]]:
    """An online store that has a value for everything."""
    return {column_name(field): np.zeros(len(test_ids)) for field in spec.features}


def consumer_on(
    stream: RedisStream, engine: Engine, models: ServedModels | None = None, **changes: Any
) -> StreamConsumer:
    """A consumer; by default the champion of `execution` takes action 1."""
    served = models or champions(favouring(SPEC, 1))
    values: dict[str, Any] = {
        "name": "first",
        "models": lambda: served,
        "experiments": dict,
        "features": features_present,
        "decider": Decider(
            epsilon=0.0, cache=AnswerCache(100, 60.0), pseudonym=str.upper, uniform=random.Random(1).random
        ),
        "engine": engine,
        "clock": SystemClock(),
        "limits": LIMITS,
    }
    return StreamConsumer(stream, **(values | changes))


@contextmanager
def running(consumer: StreamConsumer) -> Iterator[threading.Event]:
    """The consumer in a thread, until the end of the block; what it raises fails the test."""
    stop, failures = threading.Event(), []

    def run() -> None:
        try:
            consumer.run(stop)
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(WAIT_SECONDS)
    assert not thread.is_alive()
    assert not failures, failures


def consume_slowly(url: str, prefix: str, database_url: str, name: str) -> None:
    """Consume in a process of its own; the request of the agent `killer` ends it, as a crash of the runtime does."""

    def features(spec: AgentSpec, tests: Sequence[str], agents: Sequence[str], as_of: datetime) -> Any:
        if KILLER in agents:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)
        return features_present(spec, tests, agents, as_of)

    consumer = consumer_on(
        stream_at(url, prefix), create_operational_engine(database_url), name=name, features=features
    )
    consumer.run(threading.Event())


def publish(stream: RedisStream, count: int, *, begin: int = 0, spec: AgentSpec = SPEC, **changes: Any) -> list[str]:
    """Send requests of different tests."""
    return [
        stream.publish(json.dumps(request_of(spec, test_id=f"test-{i}", **changes)), max_backlog=1_000_000)
        for i in range(begin, begin + count)
    ]


def answers_of(stream: RedisStream) -> list[dict[str, Any]]:
    """All answers: the fields, with `answer` decoded."""
    entries = stream._redis.xrange(stream.names.answers)
    fields = [{name.decode(): value.decode() for name, value in found.items()} for _, found in entries]
    return [one | {"answer": json.loads(one["answer"])} for one in fields]


def rows_of(engine: Engine) -> dict[str, PredictionRecord]:
    """The prediction log, by id."""
    with read_transaction(engine) as session:
        return {row.prediction_id: row for row in session.scalars(select(PredictionRecord))}


def assert_each_once(stream: RedisStream, engine: Engine, requests: Sequence[str]) -> list[dict[str, Any]]:
    """Each request has one row and one answer, and they say the same; nothing else is there, nothing is left."""
    answers, rows = answers_of(stream), rows_of(engine)
    assert sorted(one["request_id"] for one in answers) == sorted(requests)
    assert {one["prediction_id"] for one in answers} == rows.keys()
    assert len(rows) == len(requests)
    for one in answers:
        assert one["answer"] == answer_of(rows[one["prediction_id"]])
    lag = stream.lag()
    assert (lag.waiting, lag.pending, lag.oldest_age_seconds, lag.dead_letters) == (0, 0, 0.0, 0)
    return answers


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
