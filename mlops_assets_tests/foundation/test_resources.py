"""The platform resource in real runs: where settings come from, the heartbeat, and the slots of killed runs."""

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from pydantic import ValidationError
from sqlalchemy import Engine, select

from mlops_assets.foundation.database import create_operational_engine, current_revision, read_transaction
from mlops_assets.foundation.resources import Platform, _fail_dead_runs
from mlops_assets.foundation.run_guard import RunGuard
from mlops_assets.foundation.tables import Lease
from mlops_assets_tests.foundation.pooled import POOL, run_and_die, run_trained
from mlops_assets_tests.foundation.processes import run_together

ROOT = Path(__file__).resolve().parents[2]
# Dagster asks for a pool's slot again after 1 s, then ever more seldom; the rest is a busy machine's.
SOME_SECONDS = 20


@pytest.fixture(scope="module")
def dagster_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home of a persistent Dagster instance, configured as the project's own."""
    home = tmp_path_factory.mktemp("dagster")
    shutil.copyfile(ROOT / "dagster.yaml", home / "dagster.yaml")
    return home


@pytest.fixture
def persistent(dagster_home: Path) -> Iterator[dg.DagsterInstance]:
    """The persistent instance."""
    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        yield instance


def _holders(instance: dg.DagsterInstance) -> list[str]:
    return [slot.run_id for slot in instance.event_log_storage.get_concurrency_info(POOL).claimed_slots]


def _leases(engine: Engine) -> list[str]:
    with read_transaction(engine) as session:
        return list(session.scalars(select(Lease.holder)))


def test_a_killed_runs_slot_is_free_within_the_ttl_and_the_run_is_failed(
    dagster_home: Path, tmp_path: Path, persistent: dg.DagsterInstance
) -> None:
    """After `kill -9` the next training waited for ever, and the UI showed the dead run as running."""
    ttl_seconds = 3.0
    assert run_together(run_and_die, [(dagster_home, tmp_path, ttl_seconds)]) == [-signal.SIGKILL]
    begin = time.monotonic()
    (dead,) = persistent.get_runs()
    assert (dead.status, _holders(persistent)) == (dg.DagsterRunStatus.STARTED, [dead.run_id])

    result = run_trained(dagster_home, tmp_path, ttl_seconds, die=False)

    assert result.success
    assert time.monotonic() - begin < ttl_seconds + SOME_SECONDS
    failed = persistent.get_run_by_id(dead.run_id)
    assert failed is not None
    assert failed.status is dg.DagsterRunStatus.FAILURE
    messages = [entry.message for entry in persistent.all_logs(dead.run_id)]
    assert "The run's process died: its heartbeat stopped. Start the run again." in messages
    assert _holders(persistent) == []
    engine = create_operational_engine(f"sqlite:///{tmp_path / 'operations.db'}")
    assert _leases(engine) == []
    engine.dispose()


def test_slots_of_a_dead_run_are_freed_whoever_marked_it_as_failed(persistent: dg.DagsterInstance) -> None:
    """Somebody marks the dead run as failed in the UI: the run was finished then, and its slot stayed taken for ever."""
    run = persistent.create_run_for_job(_job())
    persistent.report_run_failed(run)
    storage = persistent.event_log_storage
    storage.initialize_concurrency_limit_to_default(POOL)
    assert storage.claim_concurrency_slot(POOL, run.run_id, "trained").is_claimed
    logs = len(persistent.all_logs(run.run_id))

    assert _fail_dead_runs(persistent)(run.run_id) is True

    assert _holders(persistent) == []
    assert len(persistent.all_logs(run.run_id)) == logs, "failed twice: two alerts"


def test_a_run_of_another_instance_is_not_reported_here(persistent: dg.DagsterInstance) -> None:
    """`dagster asset materialize` on an instance of its own swallowed the death of a run of `make run`."""
    assert _fail_dead_runs(persistent)("00000000-0000-0000-0000-000000000000") is False


def _job() -> dg.JobDefinition:
    @dg.op
    def nothing() -> None: ...

    @dg.job
    def empty() -> None:
        nothing()

    return empty


def test_a_run_keeps_one_heartbeat_and_leaves_none(engine: Engine, tmp_path: Path) -> None:
    """Without a lease nobody notices the death; with one left over, a run that ended well is reported as dead."""
    seen: dict[str, object] = {}

    @dg.asset
    def probe(context: dg.AssetExecutionContext, platform: Platform) -> None:
        seen["own heartbeats only"] = _leases(platform.engine) == [context.run.run_id]
        seen["home"] = platform.paths.home
        seen["profile"] = platform.profile.name
        seen["zone"] = str(platform.clock.now().tzinfo)

    url = engine.url.render_as_string(hide_password=False)
    settings = {"MLOPS_HOME": str(tmp_path), "MLOPS_DATABASE_URL": url, "MLOPS_POLICY_PROFILE": "agent27"}
    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize(
            [probe], instance=instance, resources={"platform": Platform(settings_override=settings)}
        ).success
    assert seen == {"own heartbeats only": True, "home": tmp_path, "profile": "agent27", "zone": "UTC"}
    assert _leases(engine) == []


def test_run_config_wins_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run started with other settings in the launchpad would silently work on the server's data."""
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "environment"))
    monkeypatch.setenv("MLOPS_SIMULATOR_SEED", "11")
    platform = Platform(settings_override={"MLOPS_HOME": str(tmp_path / "run")})
    with platform.yield_for_execution(dg.build_init_resource_context()) as opened:
        assert opened.settings.home == tmp_path / "run"
        assert opened.settings.simulator_seed == 11
        assert current_revision(opened.engine)
        assert _leases(opened.engine) == [], "no run, no heartbeat"
    assert (tmp_path / "run" / "operations.db").exists()
    assert not (tmp_path / "environment").exists()


def test_a_misspelt_setting_fails_the_run_by_name_and_writes_nothing(tmp_path: Path) -> None:
    """`MLOPS_HOMEE` was ignored, and the run wrote where nobody looked."""

    @dg.asset
    def probe(platform: Platform) -> None:
        assert platform

    settings = {"MLOPS_HOME": str(tmp_path / "home"), "MLOPS_HOMEE": "x"}
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [probe],
            instance=instance,
            resources={"platform": Platform(settings_override=settings)},
            raise_on_error=False,
        )
    (failure,) = result.filter_events(lambda event: event.is_run_failure)
    error = failure.job_failure_data.error
    assert error is not None
    assert "unknown environment variable MLOPS_HOMEE; did you mean MLOPS_HOME?" in error.to_string()
    assert not (tmp_path / "home").exists()


def test_the_default_wait_is_the_guards_own_and_has_to_be_positive() -> None:
    """Two defaults that drift apart; or a ttl of nothing, which declares every other run dead at once."""
    assert Platform().heartbeat_ttl_seconds == RunGuard.ttl_seconds == 30
    with pytest.raises(ValidationError, match="greater than 0"):
        Platform(heartbeat_ttl_seconds=0)
