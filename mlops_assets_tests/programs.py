"""Programs of the operating system that tests drive: found, given a port, and ended by their own process."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable

import pytest


def system_program(name: str, package: str) -> str:
    """Path of a program; without it the test is skipped, but fails in CI, where nothing may go untested."""
    found = shutil.which(name)
    if found is None:
        message = f"{name} is not installed; on Debian it is in the package {package}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


def assert_metrics_pass_promtool(exposition: bytes) -> None:
    """Prometheus' own linter has nothing to say: names, units, HELP and TYPE are as its conventions want them."""
    check = [system_program("promtool", "prometheus"), "check", "metrics"]
    done = subprocess.run(check, input=exposition, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def free_port() -> int:
    """A port of the loopback interface on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
