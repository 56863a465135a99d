"""The real server as users start it, on loopback, and a load of requests on it."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import httpx
import psutil

from mlops_assets_tests.programs import free_port, wait_for

ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 120.0
Result = TypeVar("Result")


class LiveServer:
    """`python -m mlops_assets.serving` on a home, in a process group of its own."""

    def __init__(self, home: Path, log: Path, variables: Mapping[str, str]) -> None:
        self.home = home
        self.port = free_port()
        self._log = log
        self._variables = {"MLOPS_HOME": str(home), "MLOPS_SERVING_PORT": str(self.port), **variables}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it said."""
        return self._log.read_text(errors="replace")

    def start(self, *, wait: bool = True) -> float:
        """Start it and return the seconds until it was ready."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self._log.parent), **self._variables}
        started = time.monotonic()
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlops_assets.serving"],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        if wait:
            self.wait_ready()
        return time.monotonic() - started

    def wait_ready(self) -> None:
        """Wait until decisions can be asked for."""
        deadline = time.monotonic() + _SECONDS
        while self.status("/readyz") != 200:
            assert self._process is not None
            assert self._process.poll() is None, f"the server ended:\n{self.log[-4000:]}"
            assert time.monotonic() < deadline, f"the server is not ready:\n{self.log[-4000:]}"
            time.sleep(0.1)

    def status(self, path: str) -> int:
        """Status of a GET; 0 where nobody answers."""
        try:
            return httpx.get(f"{self.url}{path}", timeout=10).status_code
        except httpx.HTTPError:
            return 0

    def get(self, path: str) -> Any:
        """The JSON behind a path."""
        answer = httpx.get(f"{self.url}{path}", timeout=30)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, document: Any) -> httpx.Response:
        """Post JSON."""
        return httpx.post(f"{self.url}{path}", json=document, timeout=30)

    def decide(self, document: Any) -> Any:
        """A decision with online features, which a machine that does much else may not read in time at first."""
        answers: list[Any] = []

        def complete() -> bool:
            answer = self.post("/predict", document)
            assert answer.status_code == 200, answer.text
            answers.append(answer.json())
            return bool(answers[-1]["status"] == "ok")

        wait_for(complete)
        return answers[-1]

    def kill(self) -> None:
        """SIGKILL to all of its processes, as when the machine loses them."""
        assert self._process is not None
        root = psutil.Process(self._process.pid)
        for one in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self._process.wait()
        self._wait_port_free()

    def kill_worker(self) -> None:
        """SIGKILL to the process that answers; the one that supervises it goes on."""
        assert self._process is not None
        (worker,) = psutil.Process(self._process.pid).children()
        worker.kill()

    def end(self) -> None:
        """Stop it as a supervisor does; killed when that takes too long."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()

    def _wait_port_free(self) -> None:
        wait_for(lambda: not self.status("/livez"), 10)


@dataclass
class Answers:
    """What a load brought: (asked at, answered at, status, document) of every request, in seconds since 1970.

    Without an answer, the document has the `request` and the client's `error`.
    """

    all: list[tuple[float, float, int, Any]] = field(default_factory=list)

    def of(self, status: int) -> list[tuple[float, float, int, Any]]:
        """Those with one status; 0: no answer at all."""
        return [one for one in self.all if one[2] == status]

    @property
    def statuses(self) -> dict[int, int]:
        """How many of each status."""
        counts: dict[int, int] = {}
        for _, _, status, _ in self.all:
            counts[status] = counts.get(status, 0) + 1
        return counts


def run_async(work: Coroutine[Any, Any, Result]) -> Result:
    """Run on an event loop of its own, also where another one runs: a browser's tests leave theirs in the thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def load(
    url: str,
    make: Callable[[int], Any],
    *,
    rate: float,
    seconds: float,
    meanwhile: Callable[[], None] | None = None,
) -> Answers:
    """Send `rate` requests a second for `seconds`, each at its time whether others were answered or not.

    `meanwhile` runs in a thread beside it; the load goes on until it is done.
    """
    return run_async(_load(url, make, rate, seconds, meanwhile))


async def _load(
    url: str, make: Callable[[int], Any], rate: float, seconds: float, meanwhile: Callable[[], None] | None
) -> Answers:
    answers = Answers()
    connector = aiohttp.TCPConnector(limit=200)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=20)) as session:

        async def ask(number: int) -> None:
            request = make(number)
            asked = time.time()
            try:
                async with session.post(f"{url}/predict", json=request) as answer:
                    status, document = answer.status, await answer.json(content_type=None)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                status, document = 0, {"request": request, "error": repr(error)}
            answers.all.append((asked, time.time(), status, document))

        beside = None if meanwhile is None else asyncio.create_task(asyncio.to_thread(meanwhile))
        begin, number, tasks = time.monotonic(), 0, set()
        while time.monotonic() - begin < seconds or (beside is not None and not beside.done()):
            task = asyncio.create_task(ask(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
            await asyncio.sleep(max(0.0, begin + number / rate - time.monotonic()))
        await asyncio.gather(*tasks)
        if beside is not None:
            await beside
    return answers


def processes_at(port: int) -> list[psutil.Process]:
    """The process that listens on a port of loopback, and its children."""
    owners = {c.pid for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port == port}
    found = [psutil.Process(pid) for pid in owners if pid]
    return [*found, *(child for one in found for child in one.children(recursive=True))]


@contextlib.contextmanager
def frozen(port: int) -> Any:
    """Stop everything that listens on a port, and let it go on afterwards."""
    stopped = processes_at(port)
    assert stopped
    for one in stopped:
        one.suspend()
    try:
        yield
    finally:
        for one in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.resume()
