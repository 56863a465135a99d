"""Votes under forged tokens: every one is on the audit trail, and none of them fills it or waits for the database."""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, event, select, text
from starlette.types import ASGIApp

from mlops_assets.foundation.audit import verify_chain
from mlops_assets.foundation.clock import FixedClock
from mlops_assets.foundation.database import create_operational_engine, read_transaction, transaction, upgrade
from mlops_assets.foundation.errors import StorageError
from mlops_assets.foundation.settings import load_settings
from mlops_assets.foundation.tables import AuditEvent
from mlops_assets.serving import forged_votes
from mlops_assets.serving.app import create_app
from mlops_assets.serving.forged_votes import NAMED, SUMMARY_SECONDS, ForgedVotes
from mlops_assets.serving.runtime import ServingRuntime
from mlops_assets.serving.tokens import active_tokens, create_token
from mlops_assets_tests.postgres import postgres_server
from mlops_assets_tests.programs import wait_for
from mlops_assets_tests.serving.live import run_async
from mlops_assets_tests.serving.loopback import served

MODEL = "requirements-agent-dqn"
PATH = f"/approvals/{MODEL}/1.0.0"
VOTE = {"decision": "approve", "comment": "let me in"}
START = datetime(2026, 3, 6, tzinfo=UTC)
TRIES = 500
FORGED = {"Authorization": "Bearer mlops_forged"}


def written(engine: Engine) -> list[AuditEvent]:
    """The trail's events of forged votes; the whole trail has to verify."""
    with read_transaction(engine) as session:
        assert verify_chain(session).intact
        events = list(session.scalars(select(AuditEvent).order_by(AuditEvent.sequence)))
    found = [one for one in events if one.details.get("reason") == "forged_token"]
    assert all((one.event_type, one.user) == ("approval_refused", "unknown") for one in found)
    return found


def tries(engine: Engine) -> list[int]:
    return [one.details["tries"] for one in written(engine)]


@dataclass
class Desk:
    """Forged votes on a clock that a test moves, without a thread."""

    engine: Engine
    clock: FixedClock = field(default_factory=lambda: FixedClock(START))
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.votes = ForgedVotes(self.engine, clock=self.clock, monotonic=lambda: self.seconds)

    def wait(self, seconds: float) -> None:
        self.seconds += seconds
        self.clock.instant += timedelta(seconds=seconds)

    def guess(self, number: int = 1, *, address: str = "10.0.0.1", model: str = MODEL, version: str = "1.0.0") -> None:
        """Vote so many times, as the middleware does."""
        for _ in range(number):
            first = self.votes.count(model, version, address)
            if first is not None:
                self.votes.write_first(first)


@pytest.fixture
def desk(engine: Engine) -> Desk:
    """Once on each database engine."""
    return Desk(engine)


@pytest.fixture
def small_desk(sqlite_engine: Engine) -> Desk:
    """On SQLite only."""
    return Desk(sqlite_engine)


@pytest.fixture
def runtime(engine: Engine, tmp_path: Any) -> Iterator[ServingRuntime]:
    """A server that is not started: what writes, the test calls."""
    url = engine.url.render_as_string(hide_password=False)
    settings = load_settings({"MLOPS_HOME": str(tmp_path / "home"), "MLOPS_DATABASE_URL": url})
    made = ServingRuntime(settings, mirror=False)
    made.tokens = {}
    yield made
    made.engine.dispose()
    made.readers.dispose()


def vote_at_once(app: ASGIApp, number: int) -> list[int]:
    """So many votes at a time, from 50 addresses in turn; the statuses of the answers."""

    async def one(address: str) -> int:
        transport = httpx.ASGITransport(app, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return (await client.post(PATH, json=VOTE, headers=FORGED)).status_code

    async def everyone() -> list[int]:
        return await asyncio.gather(*(one(f"10.0.0.{i % 50}") for i in range(number)))

    return run_async(everyone())


def test_a_burst_over_http(engine: Engine, runtime: ServingRuntime) -> None:
    """Each guess takes a write, or guesses are missing from the count."""
    app = create_app(runtime, manage=False)
    assert set(vote_at_once(app, TRIES)) == {401}
    assert tries(engine) == [1]
    runtime.forged_votes.write()
    runtime.forged_votes.write()
    assert tries(engine) == [1, TRIES - 1]
    vote_at_once(app, 7)
    runtime.forged_votes.write()
    assert tries(engine) == [1, TRIES - 1, 7]
    first, summary, _ = written(engine)
    assert (first.model_name, first.version, first.details["address"]) == (MODEL, "1.0.0", "10.0.0.0")
    assert (len(summary.details["addresses"]), summary.details["more_addresses"]) == (NAMED, True)
    assert "mlops_forged" not in str([one.details for one in written(engine)])


def test_a_burst_over_sockets_while_summaries_are_written(
    runtime: ServingRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A try that comes while a summary is written is lost, or told twice."""
    monkeypatch.setattr(forged_votes, "SUMMARY_SECONDS", 0.05)
    votes = ForgedVotes(runtime.engine)
    runtime.forged_votes = votes
    with served(create_app(runtime, manage=False)) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        votes.start()
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: client.post(PATH, json=VOTE, headers=FORGED), range(TRIES)))
    votes.stop()
    assert {answer.status_code for answer in answers} == {401}
    assert (sum(tries(runtime.engine)), votes.unwritten) == (TRIES, 0)


def test_only_forged_tokens_count(engine: Engine, runtime: ServingRuntime) -> None:
    """A try beyond the rate is not seen, or a client without a token or with a good one is called a forger."""
    runtime.policy = runtime.policy.model_copy(update={"rate_per_second": 0.001, "rate_burst": 2})
    name = "qa-lead@company.com"
    good = create_token(engine, name, rate_per_second=0.001, expires_at=None, user="tests", now=datetime.now(UTC))
    runtime.tokens = active_tokens(engine, datetime.now(UTC))
    app = create_app(runtime, manage=False)

    async def ask(method: str, path: str, **headers: str) -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return (await client.request(method, path, json=VOTE, headers=headers)).status_code

    assert run_async(ask("POST", PATH)) == 401
    assert run_async(ask("GET", "/approvals", **FORGED)) == 200
    assert [run_async(ask("POST", PATH, Authorization=f"Bearer {good}")) for _ in range(4)][-1] == 429
    assert runtime.forged_votes.unwritten == 0
    assert run_async(ask("POST", PATH, **FORGED)) == 429
    runtime.tokens = None
    assert run_async(ask("POST", PATH, **FORGED)) == 503
    assert (tries(engine), runtime.forged_votes.unwritten) == ([1], 0)


def test_what_a_summary_tells(desk: Desk) -> None:
    """Nobody can say when it was, where it came from, or what it was about."""
    desk.guess()
    desk.wait(1)
    desk.guess(2, address="10.0.0.2")
    desk.wait(2)
    desk.guess(1, version="1.1.0")
    desk.wait(7)
    desk.votes.write()
    first, summary = written(desk.engine)
    assert (first.occurred_at, first.details["tries"], first.details["address"]) == (START, 1, "10.0.0.1")
    assert (summary.model_name, summary.version) == (MODEL, "")
    assert summary.occurred_at == START + timedelta(seconds=10)
    told = {name: summary.details[name] for name in summary.details if name not in ("batch", "message")}
    assert told == {
        "channel": "http",
        "reason": "forged_token",
        "tries": 3,
        "first_at": "2026-03-06T00:00:01.000000+00:00",
        "last_at": "2026-03-06T00:00:03.000000+00:00",
        "addresses": ["10.0.0.2", "10.0.0.1"],
        "more_addresses": False,
        "versions": [{"model": MODEL, "version": "1.0.0"}, {"model": MODEL, "version": "1.1.0"}],
        "more_versions": False,
    }


def test_when_a_burst_ends(small_desk: Desk) -> None:
    """A slow guesser writes with every guess, or the first of another day is told late."""
    small_desk.guess()
    for _ in range(5):
        small_desk.wait(SUMMARY_SECONDS - 1)
        small_desk.guess()
        assert tries(small_desk.engine) == [1]
    small_desk.wait(SUMMARY_SECONDS)
    small_desk.guess()
    assert (tries(small_desk.engine), small_desk.votes.unwritten) == ([1], 6)
    small_desk.votes.write()
    small_desk.guess()
    assert tries(small_desk.engine) == [1, 6]
    small_desk.votes.write()
    small_desk.wait(SUMMARY_SECONDS)
    small_desk.guess(2, address="10.0.0.9")
    assert tries(small_desk.engine) == [1, 6, 1, 1]
    assert written(small_desk.engine)[-1].details["address"] == "10.0.0.9"


def test_nothing_is_written_of_nothing(small_desk: Desk) -> None:
    """Every ten seconds an event without a try, or a write lock for none."""
    small_desk.guess()
    small_desk.votes.write()
    asked: list[str] = []
    event.listen(small_desk.engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    small_desk.votes.write()
    assert asked == []
    assert tries(small_desk.engine) == [1]


def test_a_guess_is_counted_without_the_database(small_desk: Desk) -> None:
    """A guess waits for a database that another holds, and with it whoever comes next."""
    small_desk.guess()
    with transaction(small_desk.engine) as session:
        session.execute(text("SELECT 1"))
        small_desk.guess(1000)
    small_desk.votes.write()
    assert tries(small_desk.engine) == [1, 1000]


def test_memory_and_events_are_bounded(desk: Desk) -> None:
    """Addresses and names that a client makes up fill the memory, or an event that no database takes."""
    desk.guess()
    for i in range(1000):
        desk.guess(address=f"{i}\x00" + "a" * 1000, model=f"{i}\ud800" + "m" * 1000, version=f"{i}" + "v" * 1000)
    counted = desk.votes._counted
    assert counted is not None
    for named in (counted.addresses, counted.versions):
        assert (len(named.names), named.more) == (NAMED, True)
        assert all(len(part) <= 128 for name in named.names for part in name)
    desk.votes.write()
    summary = written(desk.engine)[-1]
    assert (summary.model_name, summary.version, summary.details["tries"]) == ("", "", 1000)
    assert [one[0] for one in summary.details["addresses"][:3]] == ["0", "1", "2"]
    assert (len(summary.details["versions"]), summary.details["more_versions"]) == (NAMED, True)


def test_exactly_as_many_as_are_named(small_desk: Desk) -> None:
    """More are promised than there are."""
    small_desk.guess()
    for i in range(2 * NAMED):
        small_desk.guess(address=f"10.0.0.{i % NAMED}")
    small_desk.votes.write()
    details = written(small_desk.engine)[-1].details
    assert details["addresses"] == [f"10.0.0.{i}" for i in range(NAMED)]
    assert details["more_addresses"] is False


def test_counted_by_many_threads(desk: Desk) -> None:
    """Two tries at a time count once."""
    done = threading.Event()

    def keep_writing() -> None:
        while not done.is_set():
            desk.votes.write()

    with ThreadPoolExecutor(9) as pool:
        writer = pool.submit(keep_writing)
        for guesser in [pool.submit(desk.guess, 200) for _ in range(8)]:
            guesser.result()
        done.set()
        writer.result()
    desk.votes.write()
    assert (sum(tries(desk.engine)), desk.votes.unwritten) == (1600, 0)


def test_the_database_goes_away() -> None:
    """What was tried meanwhile is forgotten, or every try knocks at a database that is away."""
    with postgres_server(durable=True) as postgres:
        engine = create_operational_engine(postgres.url)
        upgrade(engine)
        desk = Desk(engine)
        desk.guess(3)
        postgres.stop()
        with pytest.raises(StorageError):
            desk.votes.write()
        desk.guess(4)
        with pytest.raises(StorageError):
            desk.votes.write()
        assert desk.votes.unwritten == 6
        postgres.start()
        desk.votes.write()
        assert tries(engine) == [1, 6]
        engine.dispose()


def test_the_first_finds_no_database(caplog: pytest.LogCaptureFixture) -> None:
    """The first of a burst is lost, or its client gets a server error."""
    with postgres_server(durable=True) as postgres:
        engine = create_operational_engine(postgres.url)
        upgrade(engine)
        postgres.stop()
        desk = Desk(engine)
        desk.guess(5)
        assert [one.levelno for one in caplog.records] == [logging.ERROR]
        postgres.start()
        desk.votes.write()
        assert tries(engine) == [1, 4]
        engine.dispose()


@pytest.mark.parametrize("arrived", [True, False])
def test_a_commit_without_an_answer(desk: Desk, monkeypatch: pytest.MonkeyPatch, *, arrived: bool) -> None:
    """Tries whose commit was not answered are told twice when it arrived, or not at all when it did not."""
    desk.guess()
    desk.guess(4)
    dialect = desk.engine.dialect
    commit = dialect.do_commit
    calls = count()

    def cut(connection: Any) -> None:
        if next(calls):
            commit(connection)
            return
        if arrived:
            commit(connection)
        raise sqlite3.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(dialect, "do_commit", cut)
    with pytest.raises((StorageError, sqlite3.OperationalError)):
        desk.votes.write()
    assert desk.votes.unwritten == 4
    desk.guess(2)
    desk.votes.write()
    assert tries(desk.engine) == ([1, 4, 2] if arrived else [1, 6])
    assert desk.votes.unwritten == 0
    desk.votes.write()
    assert sum(tries(desk.engine)) == 7


def test_the_server_ends(runtime: ServingRuntime) -> None:
    """The counts of the last seconds end with the process."""
    upgrade(runtime.engine)
    runtime.forged_votes.start()
    vote_at_once(create_app(runtime, manage=False), 20)
    assert tries(runtime.engine)[0] == 1
    runtime.stop()
    assert (sum(tries(runtime.engine)), runtime.forged_votes.unwritten) == (20, 0)


def test_the_server_ends_without_its_database(
    small_desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that stands still keeps the server from ending, or what is lost with it is not even in the log."""
    monkeypatch.setattr(forged_votes, "_STOP_SECONDS", 0.2)
    small_desk.guess(8)
    with transaction(small_desk.engine) as session:
        session.execute(text("SELECT 1"))
        small_desk.votes.stop()
    assert "ends with 7 votes under forged tokens that are not on the audit trail" in caplog.text
    # The thread was left behind, as a process that ends leaves it.
    wait_for(lambda: small_desk.votes.unwritten == 0)
    assert tries(small_desk.engine) == [1, 7]
