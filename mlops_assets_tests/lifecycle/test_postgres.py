"""The lifecycle as it is deployed: Dagster's storage, the operational database and MLflow on PostgreSQL."""

from pathlib import Path

import pytest
from sqlalchemy import make_url

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.audit import champion_at, verify_chain
from mlops_assets.foundation.clock import SystemClock
from mlops_assets.foundation.database import current_revision, read_transaction
from mlops_assets.foundation.trigger import RETRAINING_TAG, TriggerReason
from mlops_assets_tests.conftest import NewPostgresDatabase
from mlops_assets_tests.lifecycle.worlds import SMALL, World

AGENT = "execution"
MODEL = AGENTS[AGENT].registered_model
REASON = TriggerReason(trigger_type="drift", reason="PSI of suite_failure_rate 0.41 > 0.3")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_postgres_database: NewPostgresDatabase) -> World:
    """A home whose databases are all on the server."""
    dagster, operations, mlflow = (make_url(new_postgres_database()) for _ in range(3))
    variables = {
        "USERNAME": dagster.username,
        "PASSWORD": "unused",
        "HOST": dagster.host,
        "PORT": str(dagster.port),
        "DB": dagster.database,
    }
    for name, value in variables.items():
        assert value is not None
        monkeypatch.setenv(f"DAGSTER_PG_{name}", value)
    production = {
        "MLOPS_ENVIRONMENT": "production",
        # As people write it: without a driver.
        "MLOPS_DATABASE_URL": operations.set(drivername="postgresql").render_as_string(hide_password=False),
        "MLFLOW_TRACKING_URI": mlflow.render_as_string(hide_password=False),
    }
    return World.create(tmp_path, {**SMALL, **production}, instance="deploy/dagster/dagster.yaml")


@pytest.mark.slow
def test_a_retraining_runs_on_postgresql_alone_and_keeps_its_reason(world: World) -> None:
    """What was tested on SQLite fails, or falls back to SQLite in silence, at the first run in production."""
    from mlflow import MlflowClient

    run = world.run("retrain", AGENT, tags={**REASON.tags(), RETRAINING_TAG: AGENT})

    assert run.success, run.failures
    assert {agent for _, agent in run.made} == {"", AGENT}
    for asset, agent in run.made:
        if agent:
            assert run.made[asset, agent].data_version == run.facts(asset, agent)["version"]
    assert run.made["training_experiences", AGENT].data_version == run.facts("dqn_model", AGENT)["data_hash"]
    assert run.made["dqn_model", AGENT].data_version == run.facts("dqn_model", AGENT)["weights_hash"]
    assert run.tags["dagster/partition"] == run.tags[RETRAINING_TAG] == AGENT

    with world.instance() as instance:
        stores = (instance.run_storage, instance.event_log_storage, instance.schedule_storage)
        assert ["Postgres" in type(store).__name__ for store in stores] == [True] * 3
        assert instance.event_log_storage.get_concurrency_info("training_device").claimed_slots == []
    # The online store is embedded unless MLOPS_REDIS_URL is set; DVC keeps indexes of its own.
    assert {path.name for path in world.root.rglob("*.db") if ".dvc" not in path.parts} == {"online.db"}

    with world.database() as engine, world.registry() as registry, read_transaction(engine) as session:
        assert engine.dialect.name == "postgresql"
        assert current_revision(engine)
        assert verify_chain(session).intact
        assert champion_at(session, MODEL, SystemClock().now()) == "1.0.0"
        champion = registry.champion(MODEL)
        assert champion is not None
        assert champion.run_id == run.facts("dqn_model", AGENT)["run_id"]
        assert registry.load_production_model(MODEL) is not None
    assert world.versions() == {"requirements": [], "generation": [], AGENT: ["1.0.0"]}

    client = MlflowClient(tracking_uri=world.settings.tracking_uri, registry_uri=world.settings.tracking_uri)
    trained = client.get_run(run.facts("dqn_model", AGENT)["run_id"])
    version = client.get_model_version(MODEL, "1")
    for kept in (trained.data.params, version.tags):
        assert (kept["trigger_type"], kept["reason"]) == ("drift", REASON.reason)
    assert trained.info.run_name.endswith("_drift")
    assert REASON.reason in version.description
