"""Records between assets: a run reads its own, later runs read the newest, nothing is mixed."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, func, select

from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.errors import NotReadyError
from mlops_assets.foundation.records import newest_run, read_record, write_record
from mlops_assets.foundation.tables import AssetRecord

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def _write(engine: Engine, run_id: str, value: object, *, seconds: float = 0, partition: str = "generation") -> None:
    now = NOW + timedelta(seconds=seconds)
    write_record(engine, asset="dqn_model", partition=partition, run_id=run_id, payload={"value": value}, now=now)


def _read(engine: Engine, run_id: str | None = None, partition: str = "generation") -> object:
    return read_record(engine, asset="dqn_model", partition=partition, run_id=run_id)["value"]


def test_own_record_wins_over_a_newer_one(engine: Engine) -> None:
    """Two runs at the same time: the second one's snapshot went into the first one's training."""
    _write(engine, "run-a", "a")
    _write(engine, "run-b", "b", seconds=1)
    assert (_read(engine, "run-a"), _read(engine, "run-b")) == ("a", "b")


def test_a_run_without_a_record_of_its_own_reads_the_newest(engine: Engine) -> None:
    """Materialising one asset alone must go on from what the last run made, not from the first or any."""
    for run_id, seconds in (("run-b", 5), ("run-c", 9), ("run-a", 1)):
        _write(engine, run_id, run_id, seconds=seconds)
    assert (_read(engine, "run-d"), _read(engine), newest_run(engine, asset="dqn_model", partition="generation")) == (
        "run-c",
        "run-c",
        "run-c",
    )


def test_records_of_one_instant_are_ordered_by_writing(engine: Engine) -> None:
    """A frozen clock, or two writes in one microsecond, must not make the choice a matter of luck."""
    for run_id in ("run-b", "run-c", "run-a"):
        _write(engine, run_id, run_id)
    assert _read(engine) == "run-a"


def test_a_second_write_of_a_run_replaces_the_first(engine: Engine) -> None:
    """A retried step writes again: a second row would break the unique key, or leave the first try's record in force."""
    _write(engine, "run-a", "first try")
    _write(engine, "run-b", "other")
    _write(engine, "run-a", "second try", seconds=1)
    assert (_read(engine, "run-a"), _read(engine)) == ("second try", "second try")
    with read_transaction(engine) as session:
        assert session.scalar(select(func.count()).select_from(AssetRecord)) == 2


def test_agents_and_assets_do_not_mix(engine: Engine) -> None:
    """One agent's model must never be registered under another agent's name."""
    _write(engine, "run-a", "generation")
    _write(engine, "run-a", "execution", partition="execution", seconds=1)
    assert (_read(engine, "run-a"), _read(engine, partition="execution")) == ("generation", "execution")
    with pytest.raises(NotReadyError):
        _read(engine, "run-a", partition="requirements")
    with pytest.raises(NotReadyError):
        read_record(engine, asset="approval", partition="generation", run_id="run-a")


def test_nothing_recorded_says_what_to_run_first(engine: Engine) -> None:
    """`None has no attribute` tells nobody that the asset upstream was never materialised."""
    with pytest.raises(NotReadyError, match="'dqn_model' has not been materialised for 'generation' yet: materialise"):
        _read(engine, "run-a")
    with pytest.raises(NotReadyError, match="'test_executions' has not been materialised yet"):
        read_record(engine, asset="test_executions", partition="")
    with pytest.raises(NotReadyError, match="'approval'"):
        newest_run(engine, asset="approval", partition="generation")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_JSON)
def test_what_was_written_is_what_is_read(sqlite_engine: Engine, value: object) -> None:
    """A number that comes back rounded, or an empty list as None, changes the next asset's work."""
    _write(sqlite_engine, "run-a", value)
    assert _read(sqlite_engine, "run-a") == value


def test_a_reader_changes_nothing_but_its_own_copy(engine: Engine) -> None:
    """An asset that edits its input in place must not edit the record."""
    payload = {"value": "kept"}
    write_record(engine, asset="dqn_model", partition="generation", run_id="run-a", payload=payload, now=NOW)
    payload["value"] = "edited"
    read_record(engine, asset="dqn_model", partition="generation")["value"] = "edited"
    assert _read(engine) == "kept"


def test_reading_waits_for_no_writer(engine: Engine) -> None:
    """One run's long transaction would stop every reader: other runs, the summary table, the UI's checks."""
    _write(engine, "run-a", "a")
    with transaction(engine) as session:
        session.add(AssetRecord(asset="x", partition="", run_id="run-b", payload={}, recorded_at=NOW))
        session.flush()
        assert _read(engine) == "a"


def test_a_time_without_zone_is_refused(engine: Engine) -> None:
    """A naive time on one machine makes its records the newest for hours."""
    with pytest.raises(Exception, match="aware datetimes only"):
        write_record(
            engine,
            asset="a",
            partition="",
            run_id="r",
            payload={},
            now=datetime(2026, 1, 5),  # noqa: DTZ001
        )
    with pytest.raises(NotReadyError):
        read_record(engine, asset="a", partition="")
