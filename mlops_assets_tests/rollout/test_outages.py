"""PostgreSQL crashes and comes back in every stage and at every write: each stage once, as if nothing had happened."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine, NullPool, create_engine, make_url, text

from mlops_assets.foundation.database import create_operational_engine, upgrade
from mlops_assets.foundation.errors import TransientError
from mlops_assets.rollout.effects import undelivered
from mlops_assets.rollout.ledger import current, steps, verify
from mlops_assets.rollout.state import STAGES
from mlops_assets_tests.postgres import PostgresTestServer, postgres_server
from mlops_assets_tests.programs import wait_for
from mlops_assets_tests.rollout.conftest import MODEL, Tower
from mlops_assets_tests.rollout.outages import STOP
from mlops_assets_tests.rollout.test_crashes import ROOT, WHOLE
from mlops_assets_tests.rollout.test_write_points import ended, told_once
from mlops_assets_tests.rollout.write_points import Deployment, Look, Reaper, let_users_come, tick

NAMES = ("daemon 1", "daemon 2")
LONGEST_WAIT_SECONDS = 0.3
AWAY = r"operational database .*: (the server went away: try again|no server answers there: start it)"


@pytest.fixture
def postgres() -> Iterator[PostgresTestServer]:
    """A server of the test's own, which keeps what it said was written."""
    with postgres_server(durable=True) as server:
        yield server


@pytest.fixture
def durable_engine(postgres: PostgresTestServer) -> Iterator[Engine]:
    engine = create_operational_engine(postgres.url)
    upgrade(engine)
    yield engine
    engine.dispose()


@pytest.mark.slow
def test_postgresql_crashes_in_every_stage(
    postgres: PostgresTestServer, new_tower: Callable[[Engine], Tower], durable_engine: Engine, tmp_path: Path
) -> None:
    """A daemon that dies of it, a stage passed by whoever asks first afterwards, a promotion that nobody closes."""
    tower, draw = new_tower(durable_engine), random.Random(7)
    folder = tmp_path / "daemons"
    folder.mkdir()
    away: list[tuple[float, float]] = []
    with ticking(tower, folder):
        for number in range(1, len(WHOLE) + 1):
            wait_for(lambda number=number: len(steps(tower.engine)) >= number)
            time.sleep(draw.uniform(0.0, LONGEST_WAIT_SECONDS))
            away.append(crashed(postgres, folder))
        wait_for(lambda: is_over(tower.engine))
    assert tower.kinds() == WHOLE
    stages = [step.state.stage for step in steps(tower.engine) if step.kind in {"started", "advanced"}]
    assert stages == list(STAGES)
    assert verify(tower.engine) == [current(tower.engine, MODEL)]
    assert tower.stages() == {"1.1.0": "Production", "1.0.0": "Archived"}
    assert tower.aliases() == {"champion": "1.1.0"}
    # Each promotion once, and the audit trail unbroken.
    promoted = [event.version for event in tower.office.events() if event.event_type == "model_promoted_to_production"]
    assert promoted == ["1.0.0", "1.1.0"]
    for name in NAMES:
        ticks = ticks_of(folder / name)
        for stopped, started in away:
            during = [problem for begin, end, problem in ticks if stopped < begin and end < started]
            # Nothing is done without the ledger, and what is said is what to do.
            assert during
            assert all(problem is not None and re.match(AWAY, problem) for problem in during), during
        assert ticks[-1][2] is None


@dataclass
class Crash(Reaper):
    """Crashes the server, and not the process, at a write."""

    server: PostgresTestServer | None = None

    def point(self, name: str) -> None:
        if len(self.names) == self.survived:
            assert self.server is not None
            self.server.stop()
        self.names.append(name)


@pytest.mark.slow
@pytest.mark.parametrize("look", [Look(5), Look(5, harm=True)], ids=lambda look: look.name)
def test_postgresql_crashes_at_every_write_of_a_look(
    postgres: PostgresTestServer,
    new_tower: Callable[[Engine], Tower],
    durable_engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    look: Look,
) -> None:
    """A promotion or a rollback of which one store has heard, and which nobody completes."""
    tower = new_tower(durable_engine)
    monkeypatch.setenv("MLOPS_HOME", str(tower.office.settings.home))
    begin, folder = tower.office.clock.instant, tmp_path / "before"
    before = Deployment(folder, begin, postgres.url)
    shutil.copyfile(tower.office.runs.database, folder / "mlflow.db")
    for number in range(look.number):
        tick(before, "daemon 1", Look(number), 0)
        let_users_come(before, number)
    before.engine.dispose()
    durable_engine.dispose()
    whole, none = copied(postgres, before, tmp_path / "whole"), Crash()
    with none.watching():
        whole.daemon("daemon 1", look, 0, none).tick(MODEL)
    whole.engine.dispose()
    for survived, write in enumerate(none.names):
        one, crash = copied(postgres, before, tmp_path / str(survived)), Crash(survived, server=postgres)
        with crash.watching(), pytest.raises(TransientError, match=AWAY):
            one.daemon("daemon 1", look, 0, crash).tick(MODEL)
        postgres.start()
        one.daemon("daemon 1", look, 0, Reaper()).tick(MODEL)
        assert told_once({"then": one.facts()}, "then") == ended(look), f"{survived}: {write}"
        one.engine.dispose()
    # The look, its evidence, the step, leases and renewals, registry, messages and marks: fewer and it dies of nothing.
    assert len(none.names) >= 20


def copied(postgres: PostgresTestServer, before: Deployment, folder: Path) -> Deployment:
    """The deployment in a database of its own, of the same name each time."""
    url = make_url(postgres.url)
    admin = create_engine(url.set(database="template1"), isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with admin.connect() as connection:
        connection.execute(text("DROP DATABASE IF EXISTS copied WITH (FORCE)"))
        connection.execute(text(f"CREATE DATABASE copied TEMPLATE {url.database}"))
        # Before the first one, a copy's sequences go back with a crash, to where they were copied.
        connection.execute(text("CHECKPOINT"))
    copy = Deployment(folder, before.begin, url.set(database="copied").render_as_string(hide_password=False))
    copy.put(before.folder)
    return copy


def crashed(postgres: PostgresTestServer, folder: Path) -> tuple[float, float]:
    """Crash the server and start it again once every daemon has met it; return when it was gone, and until when."""
    postgres.stop()
    stopped = time.monotonic()
    # The first one may have begun before.
    before = {name: len(ticks_of(folder / name)) for name in NAMES}
    wait_for(lambda: all(len(ticks_of(folder / name)) > before[name] + 1 for name in NAMES))
    started = time.monotonic()
    postgres.start()
    return stopped, started


def ticks_of(file: Path) -> list[tuple[float, float, str | None]]:
    """When each tick of a daemon began and ended, and what it said of the database."""
    if not file.exists():
        return []
    return [
        tuple(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if "\n" in line
    ]


def is_over(engine: Engine) -> bool:
    state = current(engine, MODEL)
    return state is not None and not state.active and not undelivered(engine)


@contextmanager
def ticking(tower: Tower, folder: Path) -> Iterator[None]:
    """Two daemons during the block, which have to outlive it."""
    environment = {
        **os.environ,
        "MLOPS_HOME": str(tower.office.settings.home),
        "MLOPS_DATABASE_URL": tower.engine.url.render_as_string(hide_password=False),
        "MLFLOW_TRACKING_URI": tower.office.runs.tracking_uri,
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    command = [sys.executable, "-m", "mlops_assets_tests.rollout.outages"]
    daemons = []
    for name in NAMES:
        with (folder / f"{name}.log").open("wb") as log:
            daemons.append(
                subprocess.Popen([*command, name, str(folder)], cwd=ROOT, env=environment, stdout=log, stderr=log)
            )
    try:
        yield
    finally:
        (folder / STOP).touch()
        codes = [daemon.wait(60) for daemon in daemons]
    assert codes == [0, 0], "".join((folder / f"{name}.log").read_text(encoding="utf-8")[-3000:] for name in NAMES)
