"""Online features for concurrent requests: one reading thread, which takes together whatever waits, behind a breaker.

Reading takes a Feast call of about a millisecond whether for one decision or ten, so requests that come while one is
being read share the next; nobody waits for company. A large batch is read in blocks, between which single requests have
the right of way. A store that is late or refuses opens the circuit breaker, and answers go out without online features,
flagged, until a probe gets through.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_assets.features.store import FeatureStoreAdapter
from mlops_assets.foundation.agents import AGENTS, AgentSpec
from mlops_assets.foundation.policies import ServingPolicy
from mlops_assets.serving.breaker import CircuitBreaker
from mlops_assets.serving.decide import Features

# A read of so many decisions takes a few milliseconds, which is what a single request then waits at the most.
_BLOCK_ROWS = 64
_STOP_SECONDS = 5.0
# A machine that stands still for a moment stops the reader too, and nobody is late: it costs one of these parts of a wait.
_PARTS = 5
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Lookup:
    spec: AgentSpec
    test_ids: Sequence[str]
    agent_ids: Sequence[str]
    as_of: datetime
    future: asyncio.Future[Features | None]
    loop: asyncio.AbstractEventLoop
    started: float = field(default_factory=time.perf_counter)
    timer: asyncio.TimerHandle = field(init=False)


class OnlineFeatures:
    """The online store of one server process; `lookup` is called on the event loop.

    `observe_seconds` is called with the duration of every lookup that was answered.
    """

    def __init__(
        self, store: FeatureStoreAdapter, policy: ServingPolicy, observe_seconds: Callable[[float], None] | None = None
    ) -> None:
        self._store = store
        self._timeout_seconds = policy.feature_timeout_ms / 1000.0
        self.breaker = CircuitBreaker(policy.breaker_failures, policy.breaker_open_seconds)
        self._observe_seconds = observe_seconds
        self._single: deque[_Lookup] = deque()
        self._blocks: deque[_Lookup] = deque()
        self._arrived = threading.Condition()
        self._stopping = False
        self._late_at = -self._timeout_seconds
        self._warm = threading.Event()
        self._thread = threading.Thread(target=self._read_forever, name="online-features", daemon=True)
        self.problem: str | None = "not read yet"

    def start(self) -> None:
        """Start the reading thread; its first read, which takes Feast's imports, happens at once."""
        self._thread.start()

    @property
    def warm(self) -> bool:
        """Whether the first read is over, answered or refused."""
        return self._warm.is_set()

    async def lookup(
        self, spec: AgentSpec, test_ids: Sequence[str], agent_ids: Sequence[str], as_of: datetime
    ) -> Features | None:
        """Return the features of N decisions as `state_vector` takes them; None when they cannot be had in time.

        The time is the policy's for each started block of 64 decisions.
        """
        if not self._warm.is_set() or not self.breaker.allow(time.monotonic()):
            return None
        if len(test_ids) <= _BLOCK_ROWS:
            return await self._wait(spec, test_ids, agent_ids, as_of, self._single, self._timeout_seconds)
        begins = range(0, len(test_ids), _BLOCK_ROWS)
        patience = self._timeout_seconds * len(begins)
        found = await asyncio.gather(
            *(
                self._wait(
                    spec, test_ids[i : i + _BLOCK_ROWS], agent_ids[i : i + _BLOCK_ROWS], as_of, self._blocks, patience
                )
                for i in begins
            )
        )
        blocks = [one for one in found if one is not None]
        if len(blocks) < len(found):
            return None
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}

    def stop(self) -> None:
        """End the reading thread, within a bound."""
        with self._arrived:
            self._stopping = True
            self._arrived.notify()
        if self._thread.ident is not None:
            self._thread.join(_STOP_SECONDS)

    async def _wait(
        self,
        spec: AgentSpec,
        test_ids: Sequence[str],
        agent_ids: Sequence[str],
        as_of: datetime,
        line: "deque[_Lookup]",
        patience_seconds: float,
    ) -> Features | None:
        loop = asyncio.get_running_loop()
        one = _Lookup(spec, test_ids, agent_ids, as_of, loop.create_future(), loop)
        one.timer = loop.call_later(
            patience_seconds / _PARTS, self._part_over, one, patience_seconds / _PARTS, _PARTS - 1
        )
        with self._arrived:
            line.append(one)
            self._arrived.notify()
        try:
            return await one.future
        finally:
            one.timer.cancel()

    def _part_over(self, one: _Lookup, seconds: float, left: int) -> None:
        if left:
            one.timer = one.loop.call_later(seconds, self._part_over, one, seconds, left - 1)
        else:
            self._expire(one)

    def _expire(self, one: _Lookup) -> None:
        if not one.future.done():
            # Requests that wait together wait for one read: its being late is one failure, however many they are.
            if time.monotonic() - self._late_at > self._timeout_seconds / 2:
                self._late_at = time.monotonic()
                self._failed(f"no answer within {self._timeout_seconds * 1000:.0f} ms")
            one.future.set_result(None)

    def _failed(self, problem: str) -> None:
        if self.problem is None:
            _log.warning("online features: %s", problem)
        self.problem = problem
        self.breaker.failed(time.monotonic())

    def _read_forever(self) -> None:
        self._warm_up()
        while True:
            batch = self._next_batch()
            if batch is None:
                return
            for lookups in _by_agent(batch):
                self._read(lookups)

    def _warm_up(self) -> None:
        try:
            for spec in AGENTS.values():
                self._store.online_features(spec, ["warm-up"], ["warm-up"], datetime.now(UTC))
            self.problem = None
        except Exception as error:  # noqa: BLE001 - whatever the store says, the server serves without it
            self._failed(f"{type(error).__name__}: {error}")
            _log.warning("online features are not there yet: %s", error)
        self._warm.set()

    def _next_batch(self) -> list[_Lookup] | None:
        """Whatever single requests wait, up to a block; else one block of a batch; None at the end."""
        while True:
            with self._arrived:
                while not (self._single or self._blocks or self._stopping):
                    self._arrived.wait()
                if self._stopping:
                    return None
                batch, rows = [], 0
                while self._single and rows < _BLOCK_ROWS:
                    batch.append(self._single.popleft())
                    rows += len(batch[-1].test_ids)
                if not batch:
                    batch.append(self._blocks.popleft())
            # Who does not wait any more need not be read: after a stop of the store these are most.
            waiting = [one for one in batch if not one.future.done()]
            if waiting:
                return waiting

    def _read(self, lookups: list[_Lookup]) -> None:
        loop, error = lookups[0].loop, ""
        answers: list[Features | None]
        try:
            answers = list(self._read_together(lookups))
        except Exception as problem:  # noqa: BLE001 - drivers raise what they like; the answer goes out without features
            error = f"{type(problem).__name__}: {problem}"
            answers = [None] * len(lookups)
        try:
            loop.call_soon_threadsafe(self._deliver, lookups, answers, error)
        except RuntimeError:  # the event loop is closed: nobody waits
            _log.debug("an answer of the online store came after the server's end")

    def _read_together(self, lookups: list[_Lookup]) -> list[Features]:
        test_ids = [key for one in lookups for key in one.test_ids]
        agent_ids = [key for one in lookups for key in one.agent_ids]
        moments = [one.as_of for one in lookups for _ in one.test_ids]
        found = self._store.online_features(lookups[0].spec, test_ids, agent_ids, moments)
        ends = np.cumsum([len(one.test_ids) for one in lookups])
        return [_slice(found, int(end) - len(one.test_ids), int(end)) for one, end in zip(lookups, ends, strict=True)]

    def _deliver(self, lookups: list[_Lookup], answers: list[Features | None], error: str) -> None:
        if error:
            if not all(one.future.done() for one in lookups):
                self._failed(error)
        elif not all(one.future.done() for one in lookups):
            # Only what came in time: a store that answers everything late is as good as none.
            if self.problem is not None:
                _log.info("online features are back")
            self.problem = None
            self.breaker.succeeded()
        for one, answer in zip(lookups, answers, strict=True):
            if not one.future.done():
                one.future.set_result(answer)
                if self._observe_seconds is not None and not error:
                    self._observe_seconds(time.perf_counter() - one.started)


def _slice(found: dict[str, NDArray[Any]], begin: int, end: int) -> Features:
    return {name: values[begin:end] for name, values in found.items()}


def _by_agent(batch: list[_Lookup]) -> list[list[_Lookup]]:
    groups: dict[str, list[_Lookup]] = {}
    for one in batch:
        groups.setdefault(one.spec.name, []).append(one)
    return list(groups.values())
