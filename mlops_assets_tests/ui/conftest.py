"""A small lifecycle of one agent, the web server over it, and a browser."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import pytest
from playwright.sync_api import Page, Route, expect, sync_playwright

from mlops_assets_tests.lifecycle.worlds import BIN, ROOT, SMALL, World
from mlops_assets_tests.programs import free_port, system_program

AGENT = "execution"
_SECONDS = 60
_BROWSER_OPTIONS = [
    "--no-sandbox",  # Chromium refuses to start as root with it
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser; asked for first, so that nothing is started in vain."""
    return system_program("chromium", "chromium")


@pytest.fixture(scope="session")
def world(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A home in which `retrain` ran once; of these tests alone, since pages show what is newest."""
    created = World.create(tmp_path_factory.mktemp("ui"), {**SMALL, "MLOPS_SIMULATOR_ROWS": "1500"})
    run = created.run("retrain", AGENT)
    assert run.success, run.failures
    return created


@pytest.fixture(scope="session")
def webserver(world: World) -> Iterator[str]:
    """Start the web server as `make ui` does, from the root of the checkout; yield its address."""
    port = free_port()
    log = world.root / "webserver.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [BIN / "dagster-webserver", "--host", "127.0.0.1", "--port", str(port)],
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(world.root),
                "DAGSTER_HOME": str(world.root / "dagster"),
                "MLOPS_HOME": world.variables["MLOPS_HOME"],
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_until_ready(address, process, log)
        yield address
    finally:
        _end(process)


def _wait_until_ready(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            with urlopen(f"{address}/server_info", timeout=_SECONDS) as answer:  # noqa: S310  (our own server)
                assert answer.status == 200
        except URLError:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.25)
        else:
            return


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the web server, and the code server that it started."""
    family = [*psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
    process.terminate()
    process.wait(timeout=_SECONDS)
    _, alive = psutil.wait_procs(family, timeout=10)
    for child in alive:
        child.kill()


@pytest.fixture(scope="session")
def browser_page(chromium: str) -> Iterator[Page]:
    """A page that sees this machine only, as on a network without a way out."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_BROWSER_OPTIONS)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(_SECONDS * 1000)
        expect.set_options(timeout=_SECONDS * 1000)
        page.route("**/*", _only_this_machine)
        yield page
        browser.close()


def _only_this_machine(route: Route) -> None:
    if route.request.url.startswith(("http://127.0.0.1:", "file://", "data:")):
        route.continue_()
    else:
        route.abort()
