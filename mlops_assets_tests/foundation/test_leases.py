"""Leases: one holder at a time, dead holders replaced, late holders told."""

import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select, text

from mlops_assets.foundation.clock import FixedClock, SystemClock
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.errors import TransientError
from mlops_assets.foundation.leases import (
    LeaseHeldError,
    LeaseLostError,
    LeaseToken,
    acquire,
    lease,
    release,
    renew,
)
from mlops_assets.foundation.tables import Lease
from mlops_assets_tests.foundation.processes import acquire_or_exit, hold_and_die, run_together

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


def _acquire(engine: Engine, holder: str, seconds: float = 0.0, ttl_seconds: float = 60.0) -> LeaseToken:
    return acquire(engine, "gpu:0", holder, ttl_seconds=ttl_seconds, now=NOW + timedelta(seconds=seconds))


def _holder_of(engine: Engine, resource: str, *, now: datetime) -> str | None:
    with read_transaction(engine) as session:
        return session.scalars(
            select(Lease.holder).where(Lease.resource == resource, Lease.expires_at > now)
        ).one_or_none()


def _wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {seconds} s"
        time.sleep(0.05)


def test_a_held_resource_is_refused_by_name(engine: Engine) -> None:
    """Two trainings on one device, or a refusal that does not say whom to ask."""
    assert _acquire(engine, "run-a") == LeaseToken("gpu:0", "run-a", 1, NOW + timedelta(seconds=60))
    with pytest.raises(
        LeaseHeldError, match=r"gpu:0 is held by run-a until 2026-01-05T12:01:00\+00:00; wait"
    ) as caught:
        _acquire(engine, "run-b", 59.9)
    assert isinstance(caught.value, TransientError)
    assert _holder_of(engine, "gpu:0", now=NOW) == "run-a"


def test_an_expired_lease_is_taken_over_and_the_late_holder_is_told(engine: Engine) -> None:
    """A holder that slept through its lease must not publish over the one that replaced it."""
    late = _acquire(engine, "run-a")
    taken = _acquire(engine, "run-b", 60)
    assert (taken.holder, taken.token) == ("run-b", 2)
    with pytest.raises(LeaseLostError, match=r"run-a \(token 1\) lost its lease to run-b \(token 2\)"):
        renew(engine, late, ttl_seconds=60, now=NOW + timedelta(seconds=61))
    release(engine, late, now=NOW + timedelta(seconds=61))
    assert _holder_of(engine, "gpu:0", now=NOW + timedelta(seconds=61)) == "run-b"


def test_a_restarted_holder_takes_its_own_lease_back(engine: Engine) -> None:
    """After `kill -9` the same run's rerun would otherwise wait for its own ghost; the ghost's token is worthless."""
    ghost = _acquire(engine, "run-a")
    again = _acquire(engine, "run-a", 1)
    assert again.token == ghost.token + 1
    with pytest.raises(LeaseLostError):
        renew(engine, ghost, ttl_seconds=60, now=NOW)


def test_renewing_extends_and_releasing_frees(engine: Engine) -> None:
    """A lease that cannot be extended ends in the middle of every training longer than it."""
    held = _acquire(engine, "run-a")
    held = renew(engine, held, ttl_seconds=60, now=NOW + timedelta(seconds=50))
    assert held.expires_at == NOW + timedelta(seconds=110)
    with pytest.raises(LeaseHeldError):
        _acquire(engine, "run-b", 100)
    release(engine, held, now=NOW + timedelta(seconds=101))
    assert _holder_of(engine, "gpu:0", now=NOW + timedelta(seconds=101)) is None
    assert _acquire(engine, "run-b", 101).token == 2


def test_a_late_renewal_holds_when_nobody_else_came(engine: Engine) -> None:
    """A laptop that slept for an hour must not lose a training that nobody contested."""
    held = _acquire(engine, "run-a")
    assert renew(engine, held, ttl_seconds=60, now=NOW + timedelta(hours=1)).token == held.token


def test_resources_are_independent(engine: Engine) -> None:
    """Two devices are two leases."""
    for number in range(2):
        token = acquire(engine, f"gpu:{number}", f"run-{number}", ttl_seconds=60, now=NOW)
        assert token.token == 1
    assert _holder_of(engine, "gpu:2", now=NOW) is None


_STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 90), st.booleans()), max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_STEPS)
def test_tokens_grow_and_holders_never_overlap(sqlite_engine: Engine, steps: list[tuple[str, int, bool]]) -> None:
    """Any interleaving: a grant while another holder's time runs, or a token seen twice, lets two writers publish."""
    with transaction(sqlite_engine) as session:
        session.execute(text("DELETE FROM lease"))
    now, current, highest = NOW, None, 0
    for holder, seconds, gives_back in steps:
        now += timedelta(seconds=seconds)
        others = current is not None and current.holder != holder and current.expires_at > now
        try:
            granted = acquire(sqlite_engine, "r", holder, ttl_seconds=60, now=now)
        except LeaseHeldError:
            assert others
            continue
        assert not others
        assert granted.token > highest
        current, highest = granted, granted.token
        if gives_back:
            release(sqlite_engine, granted, now=now)
            current = None


def test_the_heartbeat_outlives_the_ttl_and_the_end_releases(engine: Engine) -> None:
    """Without renewals a training longer than the lease would share its device."""
    clock = SystemClock()

    def expires_at() -> datetime:
        with read_transaction(engine) as session:
            return session.get_one(Lease, "gpu:0").expires_at

    with lease(engine, "gpu:0", "run-a", 0.6, clock) as held:
        first = expires_at()
        _wait_until(lambda: expires_at() >= first + timedelta(seconds=0.6))
        held.ensure_held()
        assert (held.resource, held.holder, held.token) == ("gpu:0", "run-a", 1)
    assert _holder_of(engine, "gpu:0", now=clock.now()) is None


def test_a_lost_lease_fails_the_block(engine: Engine) -> None:
    """The result of a holder that was replaced must not be published, even if its work ended well."""
    clock = FixedClock(NOW)

    def lose() -> None:
        with lease(engine, "gpu:0", "run-a", 30.0, clock) as held:
            acquire(engine, "gpu:0", "run-b", ttl_seconds=30, now=NOW + timedelta(seconds=31))
            with pytest.raises(LeaseLostError):
                held.ensure_held()

    with pytest.raises(LeaseLostError, match="run-b"):
        lose()
    assert _holder_of(engine, "gpu:0", now=NOW + timedelta(seconds=32)) == "run-b"


def test_the_heartbeat_itself_notices_the_loss(engine: Engine) -> None:
    """A thread's exception that nobody sees would let the work go on."""
    clock = FixedClock(NOW)

    def lose() -> None:
        with lease(engine, "gpu:0", "run-a", 0.3, clock) as held:
            acquire(engine, "gpu:0", "run-b", ttl_seconds=30, now=NOW + timedelta(seconds=31))
            _wait_until(lambda: all(thread.name != "lease gpu:0" for thread in threading.enumerate()))
            held.ensure_held()

    with pytest.raises(LeaseLostError, match="heartbeat of run-a stopped") as caught:
        lose()
    assert isinstance(caught.value.__cause__, LeaseLostError)


def test_a_beat_that_the_database_refuses_is_tried_again(
    postgres_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """A failover of seconds must not end a training of hours, and must be seen in the log."""

    def writable(*, yes: bool) -> None:
        # Only new connections take the setting over.
        with postgres_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("SET default_transaction_read_only = off"))
            mode = "off" if yes else "on"
            connection.execute(
                text(f"ALTER DATABASE {postgres_engine.url.database} SET default_transaction_read_only = {mode}")
            )
        postgres_engine.dispose()

    with lease(postgres_engine, "gpu:0", "run-a", 0.6, SystemClock()) as held:
        writable(yes=False)
        _wait_until(lambda: "lease of gpu:0 not renewed" in caplog.text)
        writable(yes=True)
        held.ensure_held()
    assert "the server accepts reads only" in caplog.text


def test_an_exception_in_the_block_releases_and_stays(engine: Engine) -> None:
    """A failed training must free its device at once, and its own error must reach the caller."""
    clock = FixedClock(NOW)

    def fail() -> None:
        with lease(engine, "gpu:0", "run-a", 30.0, clock):
            raise RuntimeError("training diverged")

    with pytest.raises(RuntimeError, match="training diverged"):
        fail()
    assert _holder_of(engine, "gpu:0", now=NOW) is None


def test_a_killed_holder_is_replaced_within_its_ttl(engine: Engine) -> None:
    """Dagster keeps the slot of a killed process tree for ever; the next training must start by itself."""
    url = engine.url.render_as_string(hide_password=False)
    assert run_together(hold_and_die, [(url, "gpu:0", 1.0)]) == [-signal.SIGKILL]
    _wait_until(lambda: _holder_of(engine, "gpu:0", now=SystemClock().now()) is None)
    assert acquire(engine, "gpu:0", "next", ttl_seconds=60, now=SystemClock().now()).token == 2


def test_first_holders_race_for_one_row(engine: Engine) -> None:
    """With no row yet both would insert: one must win, the other must be told, neither may crash."""
    url = engine.url.render_as_string(hide_password=False)
    codes = run_together(acquire_or_exit, [(url, "gpu:0", holder, NOW) for holder in "ab"])
    assert sorted(code or 0 for code in codes) == [0, 3]
    assert _holder_of(engine, "gpu:0", now=NOW) == "ab"[codes.index(0)]
