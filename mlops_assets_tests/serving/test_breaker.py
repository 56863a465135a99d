"""The circuit breaker, second by second."""

from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.serving.breaker import CircuitBreaker


def test_it_opens_only_after_failures_in_a_row() -> None:
    """One late answer among many must not cut off the feature store."""
    breaker = CircuitBreaker(failures=3, open_seconds=10.0)
    for _ in range(5):
        breaker.failed(0.0)
        breaker.failed(0.0)
        breaker.succeeded()
    assert breaker.state(0.0) == "closed"
    for _ in range(3):
        assert breaker.allow(1.0)
        breaker.failed(1.0)
    assert breaker.state(1.0) == "open"
    assert not breaker.allow(10.9)


def test_one_probe_at_a_time_decides() -> None:
    """A store that comes back is asked by everybody at once, and breaks down again."""
    breaker = CircuitBreaker(failures=1, open_seconds=10.0)
    breaker.failed(0.0)
    assert breaker.state(10.0) == "half_open"
    assert breaker.allow(10.0)
    assert not breaker.allow(10.1)
    breaker.failed(10.2)
    assert breaker.state(20.1) == "open"
    assert breaker.allow(20.2)
    breaker.succeeded()
    assert breaker.state(20.3) == "closed"
    assert breaker.allow(20.3)
    assert breaker.allow(20.3)


def test_a_probe_that_never_reports_is_given_up() -> None:
    """A probe lost in a frozen store would keep the breaker open for ever."""
    breaker = CircuitBreaker(failures=1, open_seconds=2.0)
    breaker.failed(0.0)
    assert breaker.allow(2.0)
    assert not breaker.allow(3.9)
    assert breaker.allow(4.0)


@given(st.lists(st.tuples(st.sampled_from(["ok", "bad"]), st.floats(0.0, 3.0)), max_size=60))
def test_it_always_closes_again(steps: list[tuple[str, float]]) -> None:
    """Some sequence of failures leaves it open although the store answers."""
    breaker, now = CircuitBreaker(failures=3, open_seconds=5.0), 0.0
    for outcome, seconds in steps:
        now += seconds
        if breaker.allow(now):
            breaker.succeeded() if outcome == "ok" else breaker.failed(now)
    now += 5.001
    assert breaker.allow(now)
    breaker.succeeded()
    assert breaker.state(now) == "closed"
