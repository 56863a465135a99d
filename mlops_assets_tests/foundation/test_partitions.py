"""One asset body for one agent or all of them, in real runs: versions, metadata, records, and which failures are retried."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import Engine

from mlops_assets.foundation.agents import AGENTS, AgentSpec
from mlops_assets.foundation.errors import InputError, NotReadyError, PermanentError, StorageError, TransientError
from mlops_assets.foundation.files import digest
from mlops_assets.foundation.partitions import (
    AGENT_PARTITIONS,
    ALL_AGENTS_TAGS,
    Outcome,
    each_agent,
    permanent_failures,
)
from mlops_assets.foundation.records import read_record, write_record
from mlops_assets.foundation.resources import Platform

Body = Callable[[AgentSpec], Outcome]
FUTURE = datetime(2100, 1, 1, tzinfo=UTC)
TWICE = dg.RetryPolicy(max_retries=2, delay=0)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance of the test's own."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def _platform(engine: Engine, home: Path) -> Platform:
    url = engine.url.render_as_string(hide_password=False)
    return Platform(settings_override={"MLOPS_HOME": str(home), "MLOPS_DATABASE_URL": url})


def _asset(body: Body) -> dg.AssetsDefinition:
    @dg.asset(partitions_def=AGENT_PARTITIONS, retry_policy=TWICE)
    def made(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
        return each_agent(context, platform, body)

    return made


def _made(spec: AgentSpec) -> Outcome:
    return Outcome(record={"hash": f"hash of {spec.name}"}, version=f"v-{spec.name}", metadata={"rows": len(spec.name)})


class _FailsFirst:
    """A body that raises on its first calls and counts all of them."""

    def __init__(self, error: Exception, times: int) -> None:
        self._error = error
        self._times = times
        self.calls = 0

    def __call__(self, spec: AgentSpec) -> Outcome:
        self.calls += 1
        if self.calls <= self._times:
            raise self._error
        return _made(spec)


def _materializations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetMaterialization]:
    found = result.asset_materializations_for_node("made")
    by_partition = {each.partition or "": each for each in found}
    assert len(by_partition) == len(found), "a partition was materialised twice"
    return by_partition


def _facts(event: dg.AssetMaterialization) -> tuple[str, dict[str, object]]:
    version = (event.tags or {})["dagster/data_version"]
    return version, {name: value.value for name, value in event.metadata.items()}


def _failure(result: dg.ExecuteInProcessResult) -> dg.DagsterEvent:
    assert not result.success
    (failure,) = result.filter_events(lambda event: event.is_step_failure)
    return failure


def test_a_run_of_one_agent_has_that_agents_version(
    engine: Engine, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """With a digest instead, the data version in the UI could not be found among the snapshots."""
    platform = _platform(engine, tmp_path)
    result = dg.materialize(
        [_asset(_made)], partition_key="execution", instance=instance, resources={"platform": platform}
    )
    (event,) = _materializations(result).values()
    assert event.partition == "execution"
    assert _facts(event) == ("v-execution", {"agent": "execution", "version": "v-execution", "rows": 9})
    record = {"hash": "hash of execution"}
    assert read_record(engine, asset="made", partition="execution", run_id=result.run_id) == record
    with pytest.raises(NotReadyError):
        read_record(engine, asset="made", partition="generation")


def test_a_run_of_all_agents_has_the_digest_and_each_agents_own_metadata(
    engine: Engine, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """All three would carry the last agent's version and rows, and `unchanged` would mean the last agent only."""
    platform = _platform(engine, tmp_path)
    result = dg.materialize([_asset(_made)], tags=ALL_AGENTS_TAGS, instance=instance, resources={"platform": platform})
    events = _materializations(result)
    together = digest({name: f"v-{name}" for name in AGENTS})
    assert {name: _facts(event) for name, event in events.items()} == {
        name: (together, {"agent": name, "version": f"v-{name}", "rows": len(name)}) for name in AGENTS
    }
    for name in AGENTS:
        assert read_record(engine, asset="made", partition=name) == {"hash": f"hash of {name}"}
    assert instance.get_materialized_partitions(dg.AssetKey("made")) == set(AGENTS)


def test_the_tags_of_all_agents_name_all_of_them() -> None:
    """A fourth agent that is not in the range would be left out of every lifecycle without a word."""
    assert ALL_AGENTS_TAGS == {
        "dagster/asset_partition_range_start": "requirements",
        "dagster/asset_partition_range_end": "execution",
    }
    assert AGENT_PARTITIONS.get_partition_keys() == list(AGENTS)


def test_the_record_of_the_own_run_wins_over_a_newer_one(
    sqlite_engine: Engine, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """A second run passes the first between two assets: the first went on with the second one's data."""
    read: dict[str, object] = {}

    def write_as(run_id: str, payload: dict[str, str]) -> None:
        write_record(sqlite_engine, asset="made", partition="generation", run_id=run_id, payload=payload, now=FUTURE)

    @dg.asset(partitions_def=AGENT_PARTITIONS, deps=["made"])
    def downstream(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
        def body(spec: AgentSpec) -> Outcome:
            write_as("a run that overtakes", {"hash": "newer"})
            read[context.run.run_id] = platform.record("made", spec.name, context.run.run_id)["hash"]
            return _made(spec)

        return each_agent(context, platform, body)

    resources = {"platform": _platform(sqlite_engine, tmp_path)}
    both = dg.materialize(
        [_asset(_made), downstream], partition_key="generation", instance=instance, resources=resources
    )
    alone = dg.materialize(
        [_asset(_made), downstream],
        selection=["downstream"],
        partition_key="generation",
        instance=instance,
        resources=resources,
    )
    assert read == {both.run_id: "hash of generation", alone.run_id: "newer"}


def test_a_permanent_error_fails_once_with_its_text(
    engine: Engine, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """Two retries of five minutes each before anybody reads that a file is missing."""
    body = _FailsFirst(InputError("history.csv has no column `duration`: add it"), times=99)
    result = dg.materialize(
        [_asset(body)],
        partition_key="execution",
        instance=instance,
        resources={"platform": _platform(engine, tmp_path)},
        raise_on_error=False,
    )
    shown = _failure(result).step_failure_data.user_failure_data
    assert shown is not None
    assert shown.description == "execution: history.csv has no column `duration`: add it"
    assert body.calls == 1
    with pytest.raises(NotReadyError):
        read_record(engine, asset="made", partition="execution")


def test_an_unexpected_error_fails_once_and_names_its_kind(
    sqlite_engine: Engine, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """A bug gives the same on every try; `'rows'` alone, without KeyError and agent, explains nothing."""
    body = _FailsFirst(KeyError("rows"), times=99)
    result = dg.materialize(
        [_asset(body)],
        tags=ALL_AGENTS_TAGS,
        instance=instance,
        resources={"platform": _platform(sqlite_engine, tmp_path)},
        raise_on_error=False,
    )
    shown = _failure(result).step_failure_data.user_failure_data
    assert shown is not None
    assert (shown.description or "").endswith(": unexpected KeyError: 'rows'")
    assert (shown.description or "").split(":")[0] in AGENTS
    assert body.calls == 1


def test_a_transient_error_is_retried_and_nothing_is_counted_twice(
    sqlite_engine: Engine, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """A lock held for a second failed the night's run; or the second try doubled the materialisations."""

    class FailsInTheMiddle(_FailsFirst):
        def __call__(self, spec: AgentSpec) -> Outcome:
            return _made(spec) if self.calls == 0 and spec.name != "execution" else super().__call__(spec)

    body = FailsInTheMiddle(TransientError("process 7 holds the lock"), times=1)
    result = dg.materialize(
        [_asset(body)],
        tags=ALL_AGENTS_TAGS,
        instance=instance,
        resources={"platform": _platform(sqlite_engine, tmp_path)},
    )
    assert result.success
    assert len(result.filter_events(lambda event: event.is_step_up_for_retry)) == 1
    assert set(_materializations(result)) == set(AGENTS)


def test_a_transient_error_that_stays_fails_after_the_last_retry(
    sqlite_engine: Engine, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """Retried for ever, a store that is gone for good would never be reported."""
    body = _FailsFirst(StorageError("the disk is full: free space there"), times=99)
    result = dg.materialize(
        [_asset(body)],
        partition_key="execution",
        instance=instance,
        resources={"platform": _platform(sqlite_engine, tmp_path)},
        raise_on_error=False,
    )
    error = _failure(result).step_failure_data.error
    assert error is not None
    assert "the disk is full: free space there" in error.to_string()
    assert body.calls == 3


@pytest.mark.parametrize(
    "error", [TransientError("t"), StorageError("s"), ConnectionResetError("c"), TimeoutError("t")], ids=repr
)
def test_what_may_pass_reaches_the_retry_policy_as_it_is(error: Exception) -> None:
    """Wrapped into a failure that allows no retry, a network hiccup ends a run of hours."""
    with pytest.raises(type(error)) as caught, permanent_failures("execution"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("error", [PermanentError("p"), NotReadyError("n"), ValueError("v"), MemoryError()], ids=repr)
def test_what_cannot_pass_allows_no_retry(error: Exception) -> None:
    """The same failure three times, ten minutes later."""
    with pytest.raises(dg.Failure) as caught, permanent_failures("execution"):
        raise error
    assert caught.value.allow_retries is False
    assert caught.value.__cause__ is error
    assert (caught.value.description or "").startswith("execution: ")


def test_an_interrupted_run_is_not_a_failed_one() -> None:
    """Ctrl-C must end the run, not be reported as an error of the data."""
    with pytest.raises(KeyboardInterrupt), permanent_failures("execution"):
        raise KeyboardInterrupt
