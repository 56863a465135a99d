"""The server and the users' process: started, waited for, and ended by their process ids."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

from examples.rollout_demo.deployment import Deployment

_START_SECONDS = 120.0
_END_SECONDS = 30.0
_ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """Return a port of the loopback interface on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(deployment: Deployment) -> Iterator[str]:
    """Run `python -m mlops_assets.serving` on the deployment, and give its address once it is ready.

    Raises:
        SystemExit: it does not get ready; its log is in the deployment's home.
    """
    url = f"http://{deployment.settings.serving_host}:{deployment.settings.serving_port}"
    log = deployment.settings.home / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlops_assets.serving"],
            cwd=_ROOT,
            env={**os.environ, **deployment.variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # What the terminal sends to the demo's group is no business of the server's: it is ended below.
            start_new_session=True,
        )
    try:
        _wait_ready(f"{url}/readyz", process, log)
        yield url
    finally:
        _end(process)


class Users:
    """The simulated users, in a process of their own.

    Args:
        deployment: of the demo.
        url: of its server.
        seed: of the crowd.
        rate: requests a second.
    """

    def __init__(self, deployment: Deployment, url: str, *, seed: int, rate: float) -> None:
        self._deployment = deployment
        self._log = deployment.settings.home / "users.log"
        self._command = [sys.executable, "-m", "examples.rollout_demo.traffic", "--url", url]
        self._command += ["--seed", str(seed), "--rate", str(rate)]
        self._process: subprocess.Popen[str] | None = None
        self.answers: dict[str, int] = {}

    def __enter__(self) -> Self:
        """Start them, and wait for the first answer."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=_ROOT,
                env={**os.environ, **self._deployment.variables},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                start_new_session=True,
            )
        if not self._pipe(self._process.stdout).readline():
            _end(self._process)
            raise SystemExit(f"no user was answered; see {self._log}")
        return self

    def __exit__(self, *_: object) -> None:
        """Let them leave, and count what they were answered."""
        if self._process is None:
            return
        self._pipe(self._process.stdin).close()
        said = self._pipe(self._process.stdout).read()
        _end(self._process, patience=_END_SECONDS)
        self.answers = json.loads(said) if said else {}

    def require_alive(self) -> None:
        """See that they are still asking.

        Raises:
            SystemExit: their process has ended by itself.
        """
        if self._process is not None and self._process.poll() is not None:
            raise SystemExit(f"the users ended by themselves, with {self._process.returncode}; see {self._log}")

    def make_it_later(self) -> None:
        """Tell them that the shadow stage is over."""
        self._tell("later")

    def calm_down(self) -> None:
        """Let half as many ask."""
        self._tell("calm")

    def _tell(self, line: str) -> None:
        pipe = self._pipe(self._process.stdin if self._process else None)
        pipe.write(f"{line}\n")
        pipe.flush()

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        if pipe is None:
            raise RuntimeError("the users have not been started")
        return pipe


def _wait_ready(url: str, process: "subprocess.Popen[Any]", log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not _answers(url):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the server did not get ready; what it said is in {log}")
        time.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - an address of our own
            return bool(answer.status == 200)  # noqa: PLR2004 - as HTTP says it
    except OSError:
        return False


def _end(process: "subprocess.Popen[Any]", *, patience: float = 0.0) -> None:
    """Wait for `patience` seconds, then end it as a supervisor does; killed with its children when that takes too long."""
    for seconds, end in ((patience, signal.SIGTERM), (_END_SECONDS, signal.SIGKILL)):
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            # Its group is its own, and has its number.
            os.killpg(process.pid, end) if end is signal.SIGKILL else process.send_signal(end)
    process.wait()
