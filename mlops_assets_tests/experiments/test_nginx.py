"""The generated nginx configuration in a real nginx: the same arms as everywhere, and reloads that drop nothing."""

import asyncio
import json
import math
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from mlops_assets.experiments.experiments import Experiment, Treatment
from mlops_assets.experiments.nginx import Arm, write_nginx
from mlops_assets.experiments.segments import Segment
from mlops_assets.foundation.errors import InputError
from mlops_assets_tests.programs import free_port, system_program, wait_for
from mlops_assets_tests.serving.live import run_async
from mlops_assets_tests.serving.loopback import served

EXPERIMENT = Experiment(
    'check"out $1', "execution", "sälz", "challenger", 0.05, "running", datetime(2026, 3, 1, tzinfo=UTC)
)
MODULE = Path("/usr/lib/nginx/modules/ngx_http_js_module.so")
FRAME = """
load_module {module};
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/experiment.conf;
}}
"""


def upstream(name: str) -> Starlette:
    """A server that says which it is."""

    async def answer(_request: Request) -> PlainTextResponse:
        return PlainTextResponse(name)

    return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])


@dataclass
class Proxy:
    """A running nginx over three servers."""

    folder: Path
    program: str
    arms: tuple[Arm, Arm, Arm]
    listen: str

    def write(self, experiment: Experiment) -> None:
        """Write the split."""
        used = self.arms[: 1 + len(experiment.shares)]
        write_nginx(experiment, *used, listen=self.listen, folder=self.folder)

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run nginx on the test's configuration."""
        command = [self.program, "-p", str(self.folder), "-c", str(self.folder / "nginx.conf"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)

    def get(self, user: str | None) -> httpx.Response:
        """Ask as a user."""
        headers = {} if user is None else {"X-User-Id": user}
        return httpx.get(f"http://{self.listen}/predict", headers=headers, timeout=10)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Nginx with the experiment at 5 %."""
    program = system_program("nginx", "nginx-light")
    if not MODULE.exists():
        system_program("ngx_http_js_module.so", "libnginx-mod-http-js")
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "nginx.conf").write_text(FRAME.format(folder=folder, module=MODULE))
    with ExitStack() as stack:
        addresses = [f"127.0.0.1:{stack.enter_context(served(upstream(name)))}" for name in ("old", "new", "other")]
        arms = Arm(addresses[0], "1.0.0"), Arm(addresses[1], "1.1.0"), Arm(addresses[2], "1.2.0")
        found = Proxy(folder, program, arms, f"127.0.0.1:{free_port()}")
        found.write(EXPERIMENT)
        checked = found.call("-t")
        assert checked.returncode == 0, checked.stderr
        process = subprocess.Popen([program, "-p", str(folder), "-c", str(folder / "nginx.conf")])
        try:
            wait_for(lambda: _answers(found))
            yield found
        finally:
            process.terminate()
            process.wait(30)


def _answers(proxy: Proxy) -> bool:
    try:
        return proxy.get(None).status_code == 200
    except httpx.HTTPError:
        return False


async def _arms(proxy: Proxy, users: list[str]) -> list[str]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=50)) as session:

        async def ask(user: str) -> str:
            async with session.get(f"http://{proxy.listen}/predict", headers={"X-User-Id": user}) as answer:
                assert answer.status == 200
                return answer.headers["X-Experiment-Arm"]

        return await asyncio.gather(*map(ask, users))


def _treated(proxy: Proxy, users: list[str]) -> list[str]:
    return [user for user, arm in zip(users, run_async(_arms(proxy, users)), strict=True) if arm == "treatment"]


@pytest.mark.slow
def test_twenty_thousand_users_are_where_python_puts_them(proxy: Proxy) -> None:
    """A user changes the arm with the load balancer, or every second (B-37), and the analysis counts him wrongly."""
    users = [f"user-{i}" if i % 7 else f"üser {i}" for i in range(20_000)]
    proxy.write(EXPERIMENT)
    assert proxy.call("-s", "reload").returncode == 0
    wait_for(lambda: proxy.get("user-1").headers["X-Experiment-Arm"] == EXPERIMENT.variant("user-1"))
    found = run_async(_arms(proxy, users))
    assert found == [EXPERIMENT.variant(user) for user in users]
    treated = sum(arm == "treatment" for arm in found)
    assert abs(treated - 1000) < 4 * math.sqrt(20_000 * 0.05 * 0.95)


def test_an_answer_says_which_version_and_the_log_is_json(proxy: Proxy) -> None:
    """The header leaks the upstream's name instead of the version, or nobody can read the log (B-37)."""
    treated = next(user for user in map(str, range(1000)) if EXPERIMENT.variant(user) == "treatment")
    answer = proxy.get(treated)
    assert (answer.text, answer.headers["X-Model-Version"]) == ("new", "1.1.0")
    assert (proxy.get(None).text, proxy.get("").headers["X-Model-Version"]) == ("old", "1.0.0")

    def logged() -> list[dict[str, object]]:
        lines = (proxy.folder / "ab_test.log").read_text().splitlines()
        return [one for one in map(json.loads, lines) if one["arm"] == "treatment"]

    wait_for(lambda: bool(logged()))
    last = logged()[-1]
    assert (last["experiment"], last["version"], last["status"]) == (EXPERIMENT.name, "1.1.0", 200)


@pytest.mark.slow
def test_a_ramp_is_reloaded_under_load_and_only_adds_users(proxy: Proxy) -> None:
    """A reload drops requests, or moves a treated user back."""
    users = [f"ramp-{i}" for i in range(300)]
    before: set[str] = set()
    for share in (0.05, 0.2, 0.5, 1.0):
        changed = replace(EXPERIMENT, treatment_share=share)
        due = {user for user in users if changed.variant(user) == "treatment"}
        proxy.write(changed)

        async def treated_while_reloading() -> set[str]:
            beside = asyncio.create_task(asyncio.to_thread(proxy.call, "-s", "reload"))
            while not beside.done():
                await _arms(proxy, users)  # asserts 200 of each
            assert beside.result().returncode == 0
            # The worker before answers what it has begun to, and is gone then.
            return {user for user, arm in zip(users, await _arms(proxy, users), strict=True) if arm == "treatment"}

        now = run_async(treated_while_reloading())
        assert before <= now <= due
        wait_for(lambda due=due: set(_treated(proxy, users)) == due)  # type: ignore[misc]
        before = due
    assert before == set(users)
    proxy.write(replace(EXPERIMENT, treatment_share=1.0, status="paused"))
    assert proxy.call("-s", "reload").returncode == 0
    wait_for(lambda: proxy.get("ramp-1").text == "old")


@pytest.mark.slow
def test_several_treatments_have_the_same_users_as_everywhere(proxy: Proxy) -> None:
    """The proxy knows one treatment, and gives the other's users to the control."""
    both = replace(EXPERIMENT, treatment_share=0.3, more=(Treatment("shadow", 0.1),))
    users = [f"user-{i}" if i % 7 else f"üser {i}" for i in range(3_000)]
    proxy.write(both)
    assert proxy.call("-s", "reload").returncode == 0
    other = next(user for user in users if both.variant(user) == "shadow")

    def by_the_new_worker() -> bool:
        answer = proxy.get(other)
        return (answer.text, answer.headers["X-Model-Version"]) == ("other", "1.2.0")

    # The worker before answers what it has accepted; after ten in a row, it is gone.
    wait_for(lambda: all(by_the_new_worker() for _ in range(10)))
    found = run_async(_arms(proxy, users))
    assert found == [both.variant(user) for user in users]
    assert set(found) == {"control", "challenger", "shadow"}
    proxy.write(EXPERIMENT)
    assert proxy.call("-s", "reload").returncode == 0
    wait_for(lambda: proxy.get(other).headers["X-Experiment-Arm"] == EXPERIMENT.variant(other))


def test_what_nginx_cannot_do_is_refused(tmp_path: Path) -> None:
    """A file that nginx misreads splits otherwise than anybody thinks."""
    arms = Arm("a:1", "1.0.0"), Arm("[::1]:2", "1.1.0")
    narrow = replace(EXPERIMENT, segment=Segment(choices={"browser": ("firefox",)}))
    with pytest.raises(InputError, match="is for some requests only"):
        write_nginx(narrow, *arms, listen="127.0.0.1:1", folder=tmp_path)
    with pytest.raises(InputError, match=r"2 addresses for the treatments .* which are treatment; give one for each"):
        write_nginx(EXPERIMENT, *arms, arms[1], listen="127.0.0.1:1", folder=tmp_path)
    for address in ("a", "a:0", "a:70000", "a b:1", "a:1;"):
        with pytest.raises(InputError, match="is no address"):
            Arm(address, "1.0.0")
    with pytest.raises(InputError, match="is no semantic version"):
        Arm("a:1", "latest")
    with pytest.raises(InputError, match="nginx cannot read the path"):
        write_nginx(EXPERIMENT, *arms, listen="127.0.0.1:1", folder=tmp_path / 'a"b')
