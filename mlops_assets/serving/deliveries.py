"""What follows from a rollback of this server's guard, in registry and messages, done by a process of its own: it takes MLflow."""

import logging
import os
import subprocess
import sys

_STOP_SECONDS = 5.0
_log = logging.getLogger(__name__)


class DeliveryProcess:
    """`python -m mlops_assets.rollout.commands deliver` when it is asked for; one at a time.

    Users do not wait for it, since traffic has followed already; what it does not do, the next tick of a rollout does.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False

    def ask(self) -> None:
        """Ask for it; while one is under way, for another one after it."""
        self._wanted = True

    def follow(self) -> None:
        """Start it if it was asked for and none is under way; say how the last one ended."""
        if self._process is not None:
            ended = self._process.poll()
            if ended is None:
                return
            if ended != 0:
                _log.error(
                    "what follows from a rollback waits for the next look at the rollout: deliver ended with %d", ended
                )
            self._process = None
        if self._wanted:
            command = [sys.executable, "-m", "mlops_assets.rollout.commands", "deliver"]
            self._process = subprocess.Popen(command, env=dict(os.environ), stdin=subprocess.DEVNULL)  # noqa: S603 - own code
            self._wanted = False

    def stop(self) -> None:
        """Let one that is under way end by itself, within a bound; each effect that it has done is marked."""
        if self._process is None:
            return
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
