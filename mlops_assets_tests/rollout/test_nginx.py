"""A real nginx follows the ledger: no request is dropped by a change, and none reaches a version that was taken back."""

import asyncio
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import httpx
import pytest
from sqlalchemy import Engine

from mlops_assets.experiments.nginx import CONFIGURATION, SCRIPT, Arm, write_nginx
from mlops_assets.foundation.errors import InputError, NotReadyError, TransientError
from mlops_assets.rollout.ledger import current, splits
from mlops_assets.rollout.nginx import NginxAdapter, follow, follow_once
from mlops_assets_tests.experiments.test_nginx import FRAME, MODULE, upstream
from mlops_assets_tests.programs import free_port, system_program, wait_for
from mlops_assets_tests.rollout.conftest import MODEL as TOWER_MODEL
from mlops_assets_tests.rollout.conftest import Tower
from mlops_assets_tests.rollout.ledgers import begin, climb, go, next_change
from mlops_assets_tests.rollout.rollouts import rollout
from mlops_assets_tests.serving.live import run_async
from mlops_assets_tests.serving.loopback import served

MODEL = "execution-agent-dqn"
RATE = 200.0
CHANGES = 50


@dataclass
class Load:
    """Requests at a fixed rate: when each was sent, and who answered."""

    answers: list[tuple[float, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def of(self, arm: str) -> list[float]:
        """When the requests were sent that this arm answered."""
        return [at for at, who in self.answers if who == arm]


async def _load(listen: str, load: Load, stopping: threading.Event) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=100)) as session:

        async def ask(number: int) -> None:
            sent = time.monotonic()
            try:
                headers = {"X-User-Id": f"user-{number}"}
                async with session.get(f"http://{listen}/predict", headers=headers) as answer:
                    text = await answer.text()
                    if answer.status == 200:
                        load.answers.append((sent, text))
                    else:
                        load.problems.append(f"{answer.status}: {text[:100]}")
            except aiohttp.ClientError as error:
                load.problems.append(repr(error))

        asked, began = [], time.monotonic()
        while not stopping.is_set():
            asked.append(asyncio.create_task(ask(len(asked))))
            await asyncio.sleep(max(0.0, began + len(asked) / RATE - time.monotonic()))
        await asyncio.gather(*asked)


@contextmanager
def running(program: str, folder: Path) -> Iterator[None]:
    process = subprocess.Popen([program, "-p", str(folder), "-c", str(folder / "nginx.conf")])
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def nginx() -> str:
    """The program, with its njs module."""
    program = system_program("nginx", "nginx-light")
    if not MODULE.exists():
        system_program("ngx_http_js_module.so", "libnginx-mod-http-js")
    return program


@pytest.fixture
def adapter(nginx: str, tmp_path: Path) -> Iterator[NginxAdapter]:
    """For an nginx that does not run yet, before two servers that say who they are."""
    (tmp_path / "nginx.conf").write_text(FRAME.format(folder=tmp_path, module=MODULE))
    with ExitStack() as stack:
        champion, candidate = (
            Arm(f"127.0.0.1:{stack.enter_context(served(upstream(name)))}", version)
            for name, version in (("champion", "1.0.0"), ("candidate", "1.1.0"))
        )
        command = (nginx, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"))
        yield NginxAdapter(command, tmp_path, f"127.0.0.1:{free_port()}", champion, candidate)


def first_split(adapter: NginxAdapter, engine: Engine) -> None:
    """Write the files that nginx needs at its start; a reload is refused, since it does not run yet."""
    try:
        follow_once(engine, MODEL, adapter)
    except TransientError:
        split = splits(engine)["execution"]
        write_nginx(split, adapter.champion, adapter.candidate, listen=adapter.listen, folder=adapter.folder)


@pytest.mark.slow
def test_fifty_changes_under_load(adapter: NginxAdapter, sqlite_engine: Engine) -> None:
    """A reload that drops requests, or a bad version that still answers seconds after it was taken back."""
    engine = sqlite_engine
    state = begin(engine, rollout())
    first_split(adapter, engine)
    load, stopping = Load(), threading.Event()
    taken_back: list[tuple[float, float]] = []
    with running(adapter.program[0], adapter.folder):
        wait_for(lambda: _answers(adapter.listen))
        follower = threading.Thread(target=follow, args=(engine, MODEL, adapter, stopping))
        sender = threading.Thread(target=lambda: run_async(_load(adapter.listen, load, stopping)))
        follower.start()
        sender.start()
        for number in range(CHANGES):
            time.sleep(0.3)
            before, state = state, next_change(engine, state, number)
            if state.share == 0.0 < before.share or state.status == "paused":
                decided = time.monotonic()
                # Long enough to see whether it still answers.
                time.sleep(2.0)
                taken_back.append((decided, time.monotonic()))
        stopping.set()
        sender.join(60)
        follower.join(60)
    assert load.problems == []
    assert len(load.answers) > 0.8 * RATE * (taken_back[-1][1] - taken_back[0][0])
    assert len(load.of("candidate")) > 100
    assert len(taken_back) >= 8
    late = [at - decided for decided, until in taken_back for at in load.of("candidate") if decided + 2.0 < at < until]
    assert late == []
    last = [max((at - decided for at in load.of("candidate") if decided < at < until), default=0.0)
            for decided, until in taken_back]  # fmt: skip
    assert max(last) < 2.0


def _answers(listen: str) -> bool:
    try:
        return httpx.get(f"http://{listen}/predict", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_configuration_that_nginx_refuses_leaves_the_old_one(adapter: NginxAdapter, sqlite_engine: Engine) -> None:
    """A proxy that cannot be started again after a bad write takes everybody's answers away."""
    begin(sqlite_engine, rollout())
    first_split(adapter, sqlite_engine)
    good = (adapter.folder / CONFIGURATION).read_bytes()
    with running(adapter.program[0], adapter.folder):
        wait_for(lambda: _answers(adapter.listen))
        with pytest.raises(InputError, match="nginx refuses the new configuration, the old one stays"):
            follow_once(sqlite_engine, MODEL, replace(adapter, listen="no-such-host.invalid:80"))
        assert (adapter.folder / CONFIGURATION).read_bytes() == good
        assert _answers(adapter.listen)
    with pytest.raises(TransientError, match="cannot be reloaded, is it running"):
        follow_once(sqlite_engine, MODEL, replace(adapter, candidate=Arm("127.0.0.1:9", "1.1.0")))
    assert (adapter.folder / CONFIGURATION).read_bytes() == good
    with pytest.raises(TransientError, match="cannot be run"):
        follow_once(
            sqlite_engine, MODEL, replace(adapter, program=("/no/nginx",), candidate=Arm("127.0.0.1:9", "1.1.0"))
        )


def test_without_a_rollout_there_is_nothing_to_follow(tmp_path: Path, sqlite_engine: Engine) -> None:
    """Who names the wrong model would wait for ever."""
    adapter = NginxAdapter(("nginx",), tmp_path, "127.0.0.1:1", Arm("a:1", "1.0.0"), Arm("b:1", "1.1.0"))
    with pytest.raises(NotReadyError, match="never had a rollout; start one"):
        follow_once(sqlite_engine, MODEL, adapter)
    with pytest.raises(InputError, match="unknown model 'another'"):
        follow_once(sqlite_engine, "another", adapter)
    assert current(sqlite_engine, MODEL) is None


def test_the_next_rollout_needs_its_own_servers(tmp_path: Path, sqlite_engine: Engine) -> None:
    """The servers of the last rollout would answer under the names of versions that they do not have."""
    begin(sqlite_engine, rollout(candidate="1.2.0", champion="1.1.0"))
    adapter = NginxAdapter(("nginx",), tmp_path, "127.0.0.1:1", Arm("a:1", "1.0.0"), Arm("b:1", "1.1.0"))
    with pytest.raises(
        InputError, match=r"is of 1\.2\.0 against 1\.1\.0, and the servers are said to have 1\.1\.0 and 1\.0\.0"
    ):
        follow_once(sqlite_engine, MODEL, adapter)
    assert not (tmp_path / CONFIGURATION).exists()


@pytest.mark.parametrize(("champion", "arm"), [("1.1.0", "treatment"), ("1.0.0", "control")])
def test_production_that_was_given_back_is_followed(
    tmp_path: Path, small_tower: Tower, champion: str, arm: str
) -> None:
    """The day after its promotion a version is rolled back by hand, and the proxy goes on sending everybody to it."""
    tower = small_tower
    state = begin(tower.engine, rollout(model_name=TOWER_MODEL, agent="requirements"))
    state = go(tower.engine, climb(tower.engine, state, "100_percent"), "promoting")
    tower.registry.promote_to_production(TOWER_MODEL, "1.1.0", user="tests", reason="tests")
    go(tower.engine, state, "completed")
    if champion == "1.0.0":
        tower.registry.rollback_model(TOWER_MODEL, "1.0.0", user="tests", reason="tests")
    adapter = NginxAdapter(("true",), tmp_path, "127.0.0.1:1", Arm("a:1", "1.0.0"), Arm("b:1", "1.1.0"))
    assert follow_once(tower.engine, TOWER_MODEL, adapter)
    script = (tmp_path / SCRIPT).read_text()
    assert ("return 'treatment'" in script) == (arm == "treatment")
    assert not follow_once(tower.engine, TOWER_MODEL, adapter)
