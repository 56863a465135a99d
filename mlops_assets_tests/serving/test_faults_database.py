"""The operational database is frozen and stopped under load, and comes back: nothing is lost, nothing twice."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlops_assets.foundation.database import create_operational_engine
from mlops_assets.foundation.settings import load_settings
from mlops_assets_tests.postgres import PostgresTestServer, postgres_server
from mlops_assets_tests.programs import wait_for
from mlops_assets_tests.serving.faults import RATE, answered_ids, requests_for, stored
from mlops_assets_tests.serving.live import LiveServer, frozen, load

pytestmark = pytest.mark.slow


def test_the_database_frozen_and_killed(served_home: Path, new_server: Callable[..., LiveServer]) -> None:
    """The server stops answering with its database, or loses or doubles what it answered meanwhile."""
    settings = load_settings({"MLOPS_HOME": str(served_home)})
    with postgres_server(durable=True) as postgres:
        server = new_server(served_home, MLOPS_DATABASE_URL=postgres.url)
        answers = load(
            server.url, requests_for(settings), rate=RATE, seconds=1, meanwhile=lambda: _disturb(postgres, server)
        )
        assert answers.statuses.keys() == {200}, answers.statuses
        engine = create_operational_engine(postgres.url)
        wait_for(lambda: answered_ids(answers) <= stored(engine).keys())
        assert stored(engine).keys() == answered_ids(answers)
        assert {d["status"] for *_, d in answers.all} == {"ok"}
        wait_for(lambda: server.get("/health")["status"] == "healthy")
        engine.dispose()
        server.end()


def _disturb(postgres: PostgresTestServer, server: LiveServer) -> None:
    time.sleep(2.0)
    with frozen(postgres.port):
        time.sleep(1.0)
        # What needs the database says so, within a bound.
        assert server.status("/monitoring/status") == 503
        time.sleep(1.0)
        assert server.get("/health")["short_of"] == ["operational_database"]
    time.sleep(2.0)
    postgres.stop()
    time.sleep(3.0)
    postgres.start()
    time.sleep(2.0)
