"""Calls of a version that is on trial: each bounded in time, so that its users never wait for it longer than that.

A call runs in the version's own thread. One that is late keeps that thread, and nothing else: until it is back, further
calls are refused at once, and after some in a row the circuit breaker lets one at a time try again.
"""

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from mlops_assets.serving.breaker import CircuitBreaker

Result = TypeVar("Result")
# Versions on trial at a time, and some that were: a thread that hangs cannot be ended.
_MOST_VERSIONS = 8


class LateError(Exception):
    """The version did not answer in time, or is not asked because it did not before."""


class BoundedCalls:
    """Runs calls by version, each for at most `timeout_ms`.

    Args:
        timeout_ms: longest wait for one call.
        failures: late calls in a row that open a version's circuit breaker.
        open_seconds: how long it stays open.
    """

    def __init__(self, *, timeout_ms: float, failures: int, open_seconds: float) -> None:
        self._seconds = timeout_ms / 1000.0
        self._failures = failures
        self._open_seconds = open_seconds
        self._trials: dict[Hashable, _Trial] = {}

    def call(self, key: Hashable, function: Callable[[], Result]) -> Result:
        """Return what `function` returns; its own errors come through. One thread asks.

        Raises:
            LateError: the version `key` is late, or was too often.
        """
        trial = self._trials.get(key)
        if trial is None:
            trial = self._trials[key] = _Trial(CircuitBreaker(self._failures, self._open_seconds))
            while len(self._trials) > _MOST_VERSIONS:
                self._trials.pop(next(iter(self._trials))).stop()
        return trial.call(function, self._seconds)

    def stop(self) -> None:
        """End the threads that are idle; one that hangs ends with the process."""
        for trial in self._trials.values():
            trial.stop()
        self._trials.clear()


class _Trial:
    """One version's thread and circuit breaker."""

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._last: Future[Any] | None = None
        threading.Thread(target=self._run, name="treatment", daemon=True).start()

    def call(self, function: Callable[[], Result], seconds: float) -> Result:
        now = time.monotonic()
        if self._last is not None and not self._last.done():
            raise LateError("an earlier request still keeps it busy")
        if not self._breaker.allow(now):
            raise LateError("it was late too often, and is asked again in a moment")
        future: Future[Result] = Future()
        self._last = future
        self._calls.put((future, function))
        try:
            result = future.result(seconds)
        except TimeoutError as error:
            if future.done():  # an error of its own
                self._breaker.succeeded()
                raise
            self._breaker.failed(time.monotonic())
            raise LateError(f"no answer within {1000.0 * seconds:g} ms") from error
        except BaseException:
            self._breaker.succeeded()
            raise
        self._breaker.succeeded()
        return result

    def stop(self) -> None:
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function = call
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - whatever a version does is told to who asked
                future.set_exception(error)
