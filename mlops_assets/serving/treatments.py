"""Calls of a version that is on trial: each bounded in time, so that its users never wait for it longer than that.

A call runs in the version's own thread, which costs 0.05 ms. One that is late keeps that thread, and nothing else: until
it is back, further calls are refused at once. After some in a row the circuit breaker opens, and then nobody waits at all:
whether the version is in time again is tried behind an answer that was given without it.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any, TypeVar

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.serving.breaker import CircuitBreaker, State
from mlops_assets.serving.models import SERVED_ALIASES

Result = TypeVar("Result")
# Registered model and semantic version.
Version = tuple[str, str]
# More than a server has in service at a time (twice, for those that just were): a thread that hangs cannot be ended.
_MOST_VERSIONS = 2 * len(AGENTS) * len(SERVED_ALIASES)
# A machine that stands still for a moment stops the version too, and nobody is late: it costs one of these parts of a wait.
_PARTS = 5


class LateError(Exception):
    """The version did not answer in time, or is not asked because it did not before."""


class BoundedCalls:
    """Runs calls by version, each for at most `timeout_ms`; one thread asks.

    Args:
        timeout_ms: longest wait for one call.
        failures: late calls in a row that open a version's circuit breaker.
        open_seconds: how long it stays open.
    """

    def __init__(self, *, timeout_ms: float, failures: int, open_seconds: float) -> None:
        self._seconds = timeout_ms / 1000.0
        self._failures = failures
        self._open_seconds = open_seconds
        # The version that was not asked for longest comes first.
        self._trials: OrderedDict[Version, _Trial] = OrderedDict()

    def call(self, key: Version, function: Callable[[], Result]) -> Result:
        """Return what `function` returns; its own errors come through.

        Raises:
            LateError: the version `key` is late, or was too often.
        """
        trial = self._trials.get(key)
        if trial is None:
            trial = self._trials[key] = _Trial(CircuitBreaker(self._failures, self._open_seconds), self._seconds)
            while len(self._trials) > _MOST_VERSIONS:
                self._trials.popitem(last=False)[1].stop()
        self._trials.move_to_end(key)
        return trial.call(function)

    def states(self) -> Mapping[Version, State]:
        """Return the state of each version's circuit breaker, of those that were asked lately."""
        now = time.monotonic()
        return {key: trial.breaker.state(now) for key, trial in list(self._trials.items())}

    def stop(self) -> None:
        """End the threads that are idle; one that hangs ends with the process."""
        for trial in self._trials.values():
            trial.stop()
        self._trials.clear()


class _Call:
    """One call, and what came of it."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._result: Any = None
        self._error: Exception | None = None
        self._begun = time.monotonic()
        self._seconds = 0.0
        self._done = threading.Event()

    @property
    def done(self) -> bool:
        """Whether it is back."""
        return self._done.is_set()

    def run(self) -> None:
        try:
            self._result = self._function()
        except Exception as error:  # noqa: BLE001 - whatever a version does is told to who asked
            self._error = error
        except BaseException as error:  # noqa: BLE001 - what would end the process is no more than its failure, too
            self._error = RuntimeError(f"{type(error).__name__}: {error}")
        self._seconds = time.monotonic() - self._begun
        self._done.set()

    def wait(self, seconds: float) -> bool:
        """Wait until it is back; False when that takes longer."""
        for _ in range(_PARTS):
            self._done.wait(seconds / _PARTS)
            if self.done:
                return True
        return False

    def took_longer_than(self, seconds: float) -> bool:
        """Whether it was late; only of one that is back."""
        return self._seconds > seconds

    def result(self) -> Any:
        """Return its result or raise its error; only of one that is back."""
        if self._error is not None:
            raise self._error
        return self._result


class _Trial:
    """One version's thread and circuit breaker."""

    def __init__(self, breaker: CircuitBreaker, seconds: float) -> None:
        self.breaker = breaker
        self._seconds = seconds
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._last: _Call | None = None
        self._probe: _Call | None = None
        threading.Thread(target=self._run, name="treatment", daemon=True).start()

    def call(self, function: Callable[[], Result]) -> Result:
        now = time.monotonic()
        if self._last is not None and not self._last.done:
            raise LateError("an earlier request still keeps it busy")
        self._judge_probe(now)
        open_before = self.breaker.state(now) != "closed"
        if not self.breaker.allow(now):
            raise LateError("it was late too often, and is tried again in a moment")
        self._last = call = _Call(function)
        self._calls.put(call)
        if open_before:
            self._probe = call
            raise LateError("it was late too often, and is tried behind this answer")
        if not call.wait(self._seconds):
            self.breaker.failed(time.monotonic())
            raise LateError(f"no answer within {1000.0 * self._seconds:g} ms")
        # An error that comes in time costs nobody time: each of its users tells of it.
        self.breaker.succeeded()
        result: Result = call.result()
        return result

    def stop(self) -> None:
        self._calls.put(None)

    def _judge_probe(self, now: float) -> None:
        probe, self._probe = self._probe, None
        if probe is None:
            return
        if probe.took_longer_than(self._seconds):
            self.breaker.failed(now)
        else:
            self.breaker.succeeded()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call.run()
