"""Calls of versions on trial: bounded, one thread for each, and nobody waits for one that is known to be late."""

import threading
import time
from collections.abc import Iterator

import pytest

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.serving.models import SERVED_ALIASES
from mlops_assets.serving.treatments import BoundedCalls, LateError
from mlops_assets_tests.programs import wait_for

FIRST, SECOND = ("execution-agent-dqn", "2.0.0"), ("execution-agent-dqn", "3.0.0")
TIMEOUT_MS, OPEN_SECONDS = 30.0, 0.3


def threads() -> int:
    """Threads of versions on trial."""
    return sum(one.name == "treatment" for one in threading.enumerate())


@pytest.fixture
def calls() -> Iterator[BoundedCalls]:
    before = threads()
    made = BoundedCalls(timeout_ms=TIMEOUT_MS, failures=3, open_seconds=OPEN_SECONDS)
    yield made
    made.stop()
    wait_for(lambda: threads() == before)


def late(calls: BoundedCalls, seconds: float = 2 * TIMEOUT_MS / 1000) -> str:
    """One call that is late; return what is said of it."""
    with pytest.raises(LateError) as refusal:
        calls.call(FIRST, lambda: time.sleep(seconds))
    return str(refusal.value)


def state(calls: BoundedCalls) -> str:
    return calls.states()[FIRST]


def wait_until_idle(calls: BoundedCalls) -> None:
    """Wait until the last call is back, late as it was."""
    trial = calls._trials.get(FIRST)
    wait_for(lambda: trial is None or trial._last is None or trial._last.done)


def test_results_and_errors_come_through(calls: BoundedCalls) -> None:
    """A failed candidate whose error is lost is a candidate that nobody can mend."""
    assert calls.call(FIRST, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        calls.call(FIRST, lambda: 1 / 0)
    # An error of its own of that very kind is none of ours, however often it comes.
    for _ in range(5):
        with pytest.raises(TimeoutError, match="its own"):
            calls.call(FIRST, lambda: (_ for _ in ()).throw(TimeoutError("its own")))
    assert state(calls) == "closed"


def test_a_version_does_not_end_the_process(calls: BoundedCalls) -> None:
    """An extension that panics raises what no `except Exception` holds, and takes the server along."""
    with pytest.raises(RuntimeError, match="SystemExit: 3"):
        calls.call(FIRST, lambda: (_ for _ in ()).throw(SystemExit(3)))
    assert calls.call(FIRST, lambda: 7) == 7


def test_a_hanging_call_costs_one_timeout_and_one_thread(calls: BoundedCalls) -> None:
    """Each of a hanging version's users waits for it, or leaves a thread behind."""
    before, release = threads(), threading.Event()
    with pytest.raises(LateError, match="within 30 ms"):
        calls.call(FIRST, release.wait)
    for _ in range(100):
        with pytest.raises(LateError, match="busy"):
            calls.call(FIRST, release.wait)
    assert threads() == before + 1
    # Another version has a thread of its own.
    assert calls.call(SECOND, lambda: 7) == 7
    release.set()
    wait_for(lambda: _asked(calls))


def _asked(calls: BoundedCalls) -> bool:
    try:
        return calls.call(FIRST, lambda: True)
    except LateError:
        return False


def test_who_is_always_late_is_waited_for_a_few_times_only(calls: BoundedCalls) -> None:
    """A version that takes a little too long blocks the server's event loop again and again, for everybody."""
    for _ in range(3):
        wait_until_idle(calls)
        assert late(calls) == "no answer within 30 ms"
    assert state(calls) == "open"
    # Neither while it is open, nor for the probes that follow, for three more periods.
    deadline, said = time.monotonic() + 3 * OPEN_SECONDS, set()
    while time.monotonic() < deadline:
        said.add(late(calls))
        time.sleep(0.005)
    assert said == {
        "an earlier request still keeps it busy",
        "it was late too often, and is tried again in a moment",
        "it was late too often, and is tried behind this answer",
    }
    assert state(calls) != "closed"


def test_a_probe_that_is_in_time_closes(calls: BoundedCalls) -> None:
    """A version that was slow for a moment, as after a cold start, is never asked again."""
    for _ in range(3):
        wait_until_idle(calls)
        late(calls)
    assert state(calls) == "open"
    wait_for(lambda: state(calls) == "half_open")
    wait_until_idle(calls)
    with pytest.raises(LateError, match="behind this answer"):
        calls.call(FIRST, lambda: 7)
    wait_for(lambda: _asked(calls))
    assert state(calls) == "closed"


def test_threads_of_versions_that_left_are_ended(calls: BoundedCalls) -> None:
    """A server that runs for a year has a thread for every version that it ever had."""
    before, kept = threads(), 2 * len(AGENTS) * len(SERVED_ALIASES)
    for number in range(100):
        assert calls.call(("execution-agent-dqn", f"1.{number}.0"), lambda: 1) == 1
        # Whoever is asked all the time stays.
        assert calls.call(FIRST, lambda: 7) == 7
    wait_for(lambda: threads() == before + kept)
    assert len(calls.states()) == kept
    assert FIRST in calls.states()
