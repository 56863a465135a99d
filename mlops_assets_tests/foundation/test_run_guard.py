"""Run guards: a killed run is reported once, by one process, and no living one ever is."""

import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, select

from mlops_assets.foundation.clock import FixedClock, SystemClock
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.leases import LeaseToken, acquire, release, renew
from mlops_assets.foundation.run_guard import RunGuard, Watcher
from mlops_assets.foundation.tables import Lease
from mlops_assets_tests.foundation.locking import guard_and_die, guard_and_finish
from mlops_assets_tests.foundation.processes import run_together

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
ENOUGH_LOOKS = 10


def _wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {seconds} s"
        time.sleep(0.05)


def _resources(engine: Engine) -> list[str]:
    with read_transaction(engine) as session:
        return list(session.scalars(select(Lease.resource).order_by(Lease.resource)))


def _heart(engine: Engine, run_id: str, process: str = "1") -> LeaseToken:
    """The lease of one process of a run, beating for the last time at NOW."""
    return acquire(engine, f"dagster-run:{run_id}:{process}", run_id, ttl_seconds=20, now=NOW)


class _Reports(list[str]):
    def __call__(self, run_id: str) -> bool:
        self.append(run_id)
        return True


def _watcher(engine: Engine, report: Callable[[str], bool], *, seconds: float = 21.0, run_id: str = "own") -> Watcher:
    return Watcher(RunGuard(engine, FixedClock(NOW + timedelta(seconds=seconds))), run_id, report)


def _look(watcher: Watcher, times: int = ENOUGH_LOOKS) -> None:
    for _ in range(times):
        watcher.look()


def test_a_killed_run_is_reported_once_and_living_ones_never(engine: Engine) -> None:
    """Dagster keeps a killed run STARTED for ever; reported by each watcher it would be failed again after a retry."""
    url, ttl_seconds = engine.url.render_as_string(hide_password=False), 1.8
    guard, reports, begin = RunGuard(engine, SystemClock(), ttl_seconds), _Reports(), time.monotonic()
    assert run_together(guard_and_die, [(url, "killed", ttl_seconds)]) == [-signal.SIGKILL]
    with guard.guard("living-a", reports), guard.guard("living-b", reports):
        _wait_until(lambda: "killed" in reports)
        assert time.monotonic() - begin > ttl_seconds * 2 / 3
        time.sleep(ttl_seconds)
        assert [name.split(":")[1] for name in _resources(engine)] == ["living-a", "living-b"]
    assert reports == ["killed"]
    assert _resources(engine) == []


def test_a_finished_run_is_not_reported(engine: Engine) -> None:
    """Every run that ended well would be failed by the next one; its row must not stay behind either."""
    url, reports = engine.url.render_as_string(hide_password=False), _Reports()
    assert run_together(guard_and_finish, [(url, "finished", 0.6)]) == [0]
    assert _resources(engine) == []
    _look(_watcher(engine, reports, seconds=10**9))
    assert reports == []


def test_a_failed_run_leaves_no_row_and_its_error_stays(engine: Engine) -> None:
    """A run that failed by itself has reported itself; its rows would pile up with every failure."""

    def fail() -> None:
        with RunGuard(engine, SystemClock()).guard("failed", _Reports()):
            raise RuntimeError("training diverged")

    with pytest.raises(RuntimeError, match="training diverged"):
        fail()
    assert _resources(engine) == []
    assert [thread.name for thread in threading.enumerate() if thread.name == "run-guard"] == []


def test_silence_is_watched_for_longer_than_a_heartbeat(engine: Engine) -> None:
    """A laptop wakes up: every lease has run out, and the first watcher to run would fail all the other runs."""
    reports = _Reports()
    heart, watcher = _heart(engine, "slept"), _watcher(engine, reports, seconds=3600)
    for beat in range(1, 4):
        _look(watcher, 4)
        # On a machine whose clock is an hour behind, each of these is expired again: a change counts, not the time.
        heart = renew(engine, heart, ttl_seconds=20, now=NOW + timedelta(seconds=beat))
    assert reports == []
    _look(watcher, 4)
    assert reports == []
    _look(watcher, 1)
    assert reports == ["slept"]
    _look(watcher)
    assert reports == ["slept"]


def test_watching_takes_longer_than_a_heartbeat_and_ends_within_the_ttl() -> None:
    """Numbers that drift apart: a living run is buried between two beats, or a rerun waits longer than it was told."""
    from mlops_assets.foundation import leases, run_guard

    beat = run_guard._LEASE_SHARE / leases._BEATS_PER_TTL
    watched = (run_guard._LOOKS_TO_BE_SURE - 1) / run_guard._LOOKS_PER_TTL
    first_look = 1 / run_guard._LOOKS_PER_TTL
    assert beat < watched
    assert run_guard._LEASE_SHARE + first_look + watched <= 1


def test_a_run_in_time_is_not_reported(engine: Engine) -> None:
    """The instant before the lease runs out still belongs to the run."""
    reports = _Reports()
    _heart(engine, "living")
    _look(_watcher(engine, reports, seconds=20))
    assert reports == []
    _look(_watcher(engine, reports, seconds=20.001))
    assert reports == ["living"]


def test_of_two_watchers_one_reports(engine: Engine) -> None:
    """Each of ten waiting runs would report the dead one: ten failure alerts."""
    reports = _Reports()

    def report(run_id: str) -> bool:
        time.sleep(0.2)  # long enough for all of them to come along
        return reports(run_id)

    _heart(engine, "dead")
    watchers = [_watcher(engine, report) for _ in range(4)]
    for watcher in watchers:
        _look(watcher, 4)
    threads = [threading.Thread(target=watcher.look) for watcher in watchers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reports == ["dead"]


def test_a_run_with_a_living_process_is_not_dead(engine: Engine) -> None:
    """One step's process is killed, the run's others go on: Dagster itself reports that step."""
    reports, watcher = _Reports(), None
    _heart(engine, "run", "killed")
    other = _heart(engine, "run", "other")
    renew(engine, other, ttl_seconds=20, now=NOW + timedelta(seconds=10))
    watcher = _watcher(engine, reports)
    _look(watcher)
    assert reports == []
    _look(_watcher(engine, reports, seconds=31))
    assert reports == ["run"]
    assert _resources(engine) == []


def test_a_run_never_reports_itself(engine: Engine) -> None:
    """A step's process would fail the run of its own killed sibling, which Dagster handles."""
    reports = _Reports()
    _heart(engine, "own", "sibling")
    _look(_watcher(engine, reports))
    assert reports == []


def test_other_leases_and_released_ones_are_left_alone(engine: Engine) -> None:
    """An expired training lease is no run; a released one was given back by its holder just before it died."""
    reports = _Reports()
    acquire(engine, "training:execution", "run-a", ttl_seconds=20, now=NOW)
    release(engine, _heart(engine, "released"), now=NOW)
    _look(_watcher(engine, reports))
    assert reports == []
    assert len(_resources(engine)) == 2


def test_a_run_of_another_dagster_instance_is_left_to_its_own(engine: Engine) -> None:
    """Two instances share the database: one that does not know the run would swallow the report for good."""
    asked, reports = [], _Reports()

    def unknown(run_id: str) -> bool:
        asked.append(run_id)
        return False

    _heart(engine, "elsewhere")
    _look(_watcher(engine, unknown))
    assert asked == ["elsewhere"]
    _look(_watcher(engine, reports))
    assert reports == ["elsewhere"]


def test_a_report_that_fails_is_made_again(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """Dagster's database is away for a moment: the row was gone already, and nobody ever reported the run."""
    reports = _Reports()

    def report(run_id: str) -> bool:
        reports(run_id)
        if len(reports) == 1:
            raise ConnectionError("event log is away")
        return True

    _heart(engine, "dead")
    with RunGuard(engine, SystemClock(), ttl_seconds=0.9).guard("living", report):
        _wait_until(lambda: len(_resources(engine)) == 1)
    assert reports == ["dead", "dead"]
    assert "dead runs not looked for, next try follows: ConnectionError: event log is away" in caplog.text


def test_a_long_write_of_somebody_else_kills_no_run(sqlite_engine: Engine) -> None:
    """SQLite has one writer: while it writes no heart can beat, and the first to come after must not be the reaper."""
    # Not much shorter: SQLite's waiters sleep up to 0.1 s between two tries, and a beat has to get its turn among them.
    guard, reports = RunGuard(sqlite_engine, SystemClock(), ttl_seconds=3.0), _Reports()
    with guard.guard("living-a", reports), guard.guard("living-b", reports):
        with transaction(sqlite_engine) as session:
            session.connection()
            time.sleep(3.1)
        time.sleep(1.0)
    assert reports == []
