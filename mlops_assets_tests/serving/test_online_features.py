"""Online features under concurrency: together, in time, in blocks, and without the store."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlops_assets.features.vector import column_name
from mlops_assets.foundation.agents import AGENTS, AgentSpec
from mlops_assets.foundation.policies import ServingPolicy
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.serving.online_features import OnlineFeatures
from mlops_assets_tests.programs import wait_for
from mlops_assets_tests.serving.live import run_async

SPEC = AGENTS["execution"]
NOW = datetime(2026, 3, 6, tzinfo=UTC)


class SlowStore:
    """A store whose reads take as long, and fail, as the test says; a test's first feature is the number in its id."""

    def __init__(self) -> None:
        self.reads: list[int] = []
        self.seconds = 0.0
        self.error: Exception | None = None
        self.open = threading.Event()
        self.open.set()

    def online_features(
        self, spec: AgentSpec, test_ids: Sequence[str], agent_ids: Sequence[str], as_of: Any
    ) -> dict[str, NDArray[Any]]:
        """Answer, late or not at all."""
        self.open.wait()
        time.sleep(self.seconds)
        if self.error is not None and test_ids[0] != "warm-up":
            raise self.error
        self.reads.append(len(test_ids))
        assert len(agent_ids) == len(test_ids)
        assert isinstance(as_of, datetime) or len(as_of) == len(test_ids)
        numbers = np.array([float(one.removeprefix("t")) if one != "warm-up" else 0.0 for one in test_ids])
        return {column_name(field): numbers + i for i, field in enumerate(spec.features)}


def policy(**changes: Any) -> ServingPolicy:
    """The default profile's, with quick bounds."""
    changed = {"feature_timeout_ms": 60.0, "breaker_failures": 3, "breaker_open_seconds": 0.2, **changes}
    return load_profile("aiwebtest").serving.model_copy(update=changed)


@pytest.fixture
def store() -> SlowStore:
    """A store that answers at once."""
    return SlowStore()


@pytest.fixture
def new_features(store: SlowStore) -> Iterator[Callable[..., OnlineFeatures]]:
    """Make started lookups on the store."""
    made: list[OnlineFeatures] = []

    def create(**changes: Any) -> OnlineFeatures:
        features = OnlineFeatures(store, policy(**changes))  # type: ignore[arg-type]
        features.start()
        made.append(features)
        wait_for(lambda: features.warm)
        store.reads.clear()
        return features

    yield create
    store.open.set()
    for one in made:
        one.stop()


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run on a loop of its own."""
    return run_async(work)


def first(features: OnlineFeatures, *numbers: int) -> Coroutine[Any, Any, Any]:
    """Look tests up."""
    names = [f"t{i}" for i in numbers]
    return features.lookup(SPEC, names, ["a"] * len(names), NOW)


def at_once(lookup: Coroutine[Any, Any, Any]) -> Any:
    """The answer of a lookup that waits for nothing: it ends at its first step, without an event loop."""
    with pytest.raises(StopIteration) as ended:
        lookup.send(None)
    return ended.value.value


def test_requests_that_wait_share_a_read_and_get_their_own(
    store: SlowStore, new_features: Callable[..., OnlineFeatures]
) -> None:
    """Each of a hundred requests pays a round trip, or one gets another's features."""
    features = new_features(feature_timeout_ms=5000.0)
    store.seconds = 0.02

    async def ask() -> list[Any]:
        return await asyncio.gather(*(first(features, i) for i in range(100)))

    answers = run(ask())
    for i, answer in enumerate(answers):
        for position, field in enumerate(SPEC.features):
            np.testing.assert_array_equal(answer[column_name(field)], [i + position])
    assert sum(store.reads) == 100
    assert len(store.reads) < 10


def test_a_large_batch_is_read_in_blocks_and_lets_others_pass(
    store: SlowStore, new_features: Callable[..., OnlineFeatures]
) -> None:
    """A batch of a thousand holds up every single request behind it."""
    features = new_features(feature_timeout_ms=5000.0)
    store.open.clear()

    async def both() -> list[Any]:
        batch = asyncio.create_task(first(features, *range(1000)))
        await asyncio.sleep(0.05)
        single = asyncio.create_task(first(features, 7))
        await asyncio.sleep(0.05)
        store.open.set()
        return await asyncio.gather(batch, single)

    large, small = run(both())
    name = column_name(SPEC.features[0])
    np.testing.assert_array_equal(large[name], np.arange(1000.0))
    np.testing.assert_array_equal(small[name], [7.0])
    # It came last, and only the block that was being read is before it.
    assert store.reads.index(1) <= 1
    assert (len(store.reads), sum(store.reads), max(store.reads)) == (17, 1001, 64)


def test_a_store_that_stands_still_costs_its_time_once(
    store: SlowStore, new_features: Callable[..., OnlineFeatures]
) -> None:
    """Every answer waits for a store that does not answer, or none ever asks it again."""
    features = new_features(breaker_open_seconds=3600.0)
    store.open.clear()

    async def waits() -> float:
        begin = time.monotonic()
        assert await first(features, 1) is None
        return time.monotonic() - begin

    # Three late answers open the breaker, and the others are not kept waiting.
    for state in ("closed", "closed", "open"):
        assert run(waits()) >= 0.05
        assert features.breaker.state(time.monotonic()) == state
    for _ in range(7):
        assert at_once(first(features, 1)) is None
    assert "no answer within 60 ms" in (features.problem or "")
    store.open.set()
    assert at_once(first(features, 1)) is None
    # Its hour is over.
    features.breaker.open_seconds = 0.0
    probes = 0

    def is_back() -> bool:
        nonlocal probes
        probes += 1
        return run(first(features, 1)) is not None

    wait_for(is_back)
    assert features.problem is None
    assert features.breaker.state(time.monotonic()) == "closed"
    # Nobody reads for those who had given up, but the one whose read had begun.
    assert len(store.reads) <= 1 + probes


def test_one_pause_is_one_failure_however_many_wait(
    store: SlowStore, new_features: Callable[..., OnlineFeatures]
) -> None:
    """A pause of a fifteenth of a second under load costs a second of answers without features."""
    features = new_features(breaker_failures=20)
    store.open.clear()

    async def ask() -> list[Any]:
        return await asyncio.gather(*(first(features, i) for i in range(20)))

    assert run(ask()) == [None] * 20
    assert features.breaker.state(time.monotonic()) == "closed"
    store.open.set()


def test_a_store_that_is_always_late_opens_the_breaker_too(
    store: SlowStore, new_features: Callable[..., OnlineFeatures]
) -> None:
    """Late answers count as good ones, and every request waits for its time-out."""
    features = new_features(breaker_open_seconds=3600.0)

    async def ask() -> None:
        for number in range(3):
            store.open.clear()
            assert await first(features, 1) is None
            store.open.set()
            while len(store.reads) == number:
                await asyncio.sleep(0.001)
            # The late answer gets to the loop.
            await asyncio.sleep(0.02)

    run(ask())
    assert features.breaker.state(time.monotonic()) == "open"


def test_a_refusal_is_an_answer_without_features(store: SlowStore, new_features: Callable[..., OnlineFeatures]) -> None:
    """An exception of a driver becomes a server error."""
    features = new_features(feature_timeout_ms=5000.0)
    store.error = ConnectionError("refused")

    async def ask() -> list[Any]:
        return [await first(features, 1) for _ in range(5)]

    assert run(ask()) == [None] * 5
    assert features.problem == "ConnectionError: refused"


def test_before_the_first_read_nobody_waits(store: SlowStore) -> None:
    """The first requests wait seconds for Feast's import."""
    store.open.clear()
    features = OnlineFeatures(store, policy())  # type: ignore[arg-type]
    features.start()
    assert at_once(first(features, 1)) is None
    store.open.set()
    features.stop()


def test_a_machine_that_stands_still_makes_nobody_late(
    store: SlowStore, new_features: Callable[..., OnlineFeatures]
) -> None:
    """After a stall of twice the wait, answers go out without the features that the reader was just about to bring."""
    features = new_features()

    async def stall() -> Any:
        store.open.clear()
        waiting = asyncio.ensure_future(first(features, 1))
        # It has been handed to the reader, which gets no further than the event loop does.
        await asyncio.sleep(0)
        time.sleep(0.12)
        asyncio.get_running_loop().call_later(0.005, store.open.set)
        return await waiting

    assert run(stall()) is not None
    assert features.problem is None
