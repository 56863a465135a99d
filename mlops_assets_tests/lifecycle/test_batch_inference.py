"""The job `batch_inference` behind a real lifecycle: snapshots, files and tables, from Python and from the command line."""

import json
import os
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from mlops_assets.definitions import build_definitions
from mlops_assets.experiences.simulator.fleet import app_name
from mlops_assets.features.training_set import open_training_set
from mlops_assets.foundation.agents import AGENTS, agent_spec
from mlops_assets.registry.mlflow_store import MlflowStore
from mlops_assets_tests.lifecycle.conftest import FirstLifecycle
from mlops_assets_tests.lifecycle.worlds import BIN, ROOT, SMALL, Run, SmallWorldPlatform, World, read_run

ASSET = "batch_predictions"
EXECUTION = agent_spec("execution")


@pytest.fixture(scope="module")
def all_agents(first_lifecycle: FirstLifecycle) -> Run:
    """One run of the job, with nothing set."""
    run = first_lifecycle.world.run("batch_inference")
    assert run.success, run.failures
    return run


@pytest.mark.slow
@pytest.mark.parametrize("agent", AGENTS)
def test_every_logged_decision_is_answered_as_the_champion_answers_its_training_state(
    first_lifecycle: FirstLifecycle, all_agents: Run, agent: str
) -> None:
    """Batch builds other states than those that the champion was trained and judged on."""
    world, spec = first_lifecycle.world, agent_spec(agent)
    found = predictions(world, all_agents, agent)
    trained = open_training_set(agent, world.record("training_set", agent)["training_hash"], paths=world.settings.paths)
    store = MlflowStore(world.settings.tracking_uri)
    policy = store.load(spec.registered_model, store.aliases(spec.registered_model)["champion"])
    by_id = {row["request_id"]: row for row in found.to_pylist()}
    compared = 0
    for decisions in (trained.train(), trained.holdout()):
        q_values = policy.q_values(decisions.state)
        rows = [by_id[experience_id] for experience_id in decisions.experience_id]
        np.testing.assert_allclose(np.array([row["q_values"] for row in rows]), q_values, rtol=1e-4, atol=1e-4)
        ordered = np.sort(q_values, axis=1)
        clear = ordered[:, -1] - ordered[:, -2] > 1e-3
        actions = np.array([row["action"] for row in rows])
        assert (actions[clear] == q_values.argmax(axis=1)[clear]).all()
        assert {row["action_name"] for row in rows} <= set(spec.actions)
        compared += len(rows)
    facts = all_agents.facts(ASSET, agent)
    assert compared > 500
    assert found["row"].to_pylist() == list(range(facts["rows"]))
    assert facts["rows"] == world.record("training_experiences", agent)["rows"]
    assert (facts["refused_rows"], facts["reused"], facts["agent"]) == (0, False, agent)
    assert facts["network_rows_per_second"] > 0
    assert [line.split("|")[1].strip() for line in facts["actions"].splitlines()[2:]] == list(spec.actions)
    assert world.record(ASSET, agent, all_agents.run_id)["key"] == facts["key"]


@pytest.mark.slow
def test_the_same_again_is_reused(first_lifecycle: FirstLifecycle, all_agents: Run) -> None:
    """A nightly job on data that did not change scores everything every night."""
    again = first_lifecycle.world.run("batch_inference")
    assert again.success, again.failures
    for agent in AGENTS:
        assert again.facts(ASSET, agent)["reused"] is True
        assert again.facts(ASSET, agent)["key"] == all_agents.facts(ASSET, agent)["key"]


@pytest.mark.slow
def test_one_agent_scores_a_file_by_the_online_features(first_lifecycle: FirstLifecycle, tmp_path: Path) -> None:
    """The job's tags ask for all agents; a file of one agent must not fail for the others."""
    table = asked(12)
    pq.write_table(table, tmp_path / "asked.parquet")
    only = dict.fromkeys(("dagster/asset_partition_range_start", "dagster/asset_partition_range_end"), "execution")
    settings = {"MLOPS_BATCH_INPUT": str(tmp_path / "asked.parquet")}
    run = first_lifecycle.world.run("batch_inference", tags=only, settings=settings)
    assert run.success, run.failures
    assert set(run.made) == {(ASSET, "execution")}
    found = predictions(first_lifecycle.world, run, "execution")
    assert found["request_id"].to_pylist() == table["request_id"].to_pylist()
    assert found["reason"].to_pylist() == [None] * 11 + ["budget_left is missing"]
    assert run.facts(ASSET, "execution")["refused_rows"] == 1
    # The agent's instances of the simulated world have features online, the unknown one has none.
    missing = found["missing_features"].to_pylist()
    assert "agent_context_features__recent_reward" in missing[0]
    assert missing[1] != missing[0]

    alone = first_lifecycle.world.materialize([ASSET], "execution", settings=settings)
    assert alone.facts(ASSET, "execution")["reused"] is True


@pytest.mark.slow
def test_a_table_is_scored_from_the_command_line_and_its_url_stays_out_of_the_run(
    first_lifecycle: FirstLifecycle, tmp_path: Path
) -> None:
    """What the docstring of the job says does not work, or a password is shown to whoever may look at runs."""
    world, table = first_lifecycle.world, asked(5)
    with sqlite3.connect(tmp_path / "asked.db") as connection:
        connection.execute(f"CREATE TABLE asked ({', '.join(table.column_names)})")
        marks = ", ".join("?" * len(table.column_names))
        connection.executemany(f"INSERT INTO asked VALUES ({marks})", [list(row.values()) for row in table.to_pylist()])
    connection.close()
    query = {"query": "SELECT * FROM asked ORDER BY request_id", "url": {"env": "ASKED_URL"}}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({"ops": {ASSET: {"config": query}}}), encoding="utf-8")
    only = dict.fromkeys(("dagster/asset_partition_range_start", "dagster/asset_partition_range_end"), "execution")
    command = [BIN / "dagster", "job", "execute", "-m", "mlops_assets.definitions", "-j", "batch_inference"]
    result = subprocess.run(
        [*command, "--tags", json.dumps(only), "-c", config],
        cwd=ROOT,
        env={
            **{name: os.environ[name] for name in os.environ if name.endswith(("_TRACK", "_TELEMETRY"))},
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "DAGSTER_HOME": str(world.root / "dagster"),
            "ASKED_URL": f"sqlite:///{tmp_path / 'asked.db'}",
            **world.variables,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "execution: 5 of 5 rows (100%), 0 refused" in result.stderr + result.stdout
    record = world.record(ASSET, "execution")
    assert (record["rows"], record["refused_rows"]) == (5, 0)
    with world.instance() as instance:
        assert ["asked.db" in str(run.run_config) for run in instance.get_runs(limit=1)] == [False]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"alias": "challenger"}, "no version behind the alias 'challenger'; there are champion"),
        ({"input": "a", "query": "SELECT 1"}, "`input` and `query` are both set"),
        ({"url": "sqlite:///x.db"}, "`url` is set without `query`"),
        ({"query": "SELECT 1"}, "`query` is set without `url`; set it, or MLOPS_SOURCE_URL"),
        ({"input": "/nowhere/rows.parquet"}, "batch input /nowhere/rows.parquet does not exist"),
    ],
)
def test_what_cannot_be_scored_says_why(first_lifecycle: FirstLifecycle, config: dict[str, Any], message: str) -> None:
    """A wrong word in the launchpad scores something else than what was meant."""
    run = run_with(first_lifecycle.world, config)
    assert not run.success
    assert message in run.failures[ASSET]


def test_before_the_first_lifecycle_it_names_the_job_to_run(tmp_path: Path) -> None:
    """`RESOURCE_DOES_NOT_EXIST` is no instruction."""
    run = World.create(tmp_path, SMALL).materialize([ASSET], "execution")
    assert not run.success
    assert "execution-agent-dqn has no champion yet; run the job model_lifecycle" in run.failures[ASSET]


def run_with(world: World, config: dict[str, Any]) -> Run:
    """Materialise the asset of one agent with a config of its own."""
    definitions = build_definitions(resources={"platform": SmallWorldPlatform(settings_override=dict(world.variables))})
    with world.instance() as instance:
        result = dg.materialize(
            list(definitions.assets or []),
            selection=dg.AssetSelection.assets(ASSET),
            partition_key="execution",
            instance=instance,
            resources=definitions.resources,
            run_config={"ops": {ASSET: {"config": config}}},
            raise_on_error=False,
        )
        return read_run(instance, result.run_id)


def asked(count: int) -> pa.Table:
    """Rows of the execution agent, the last one without its budget where there are more than ten."""
    rng = np.random.default_rng(1)
    columns: dict[str, Any] = {
        "request_id": [f"r-{number:02d}" for number in range(count)],
        "agent_id": ["nobody"] + [f"execution-{app_name(0)}"] * (count - 1),
        "test_id": ["a test"] * count,
        **{field.name: rng.uniform(field.low, field.high, size=count) for field in EXECUTION.context},
    }
    if count > 10:
        columns["budget_left"][-1] = np.nan
    return pa.table(columns)


def predictions(world: World, run: Run, agent: str) -> pa.Table:
    """The decisions that a run made for one agent."""
    folder = Path(world.record(ASSET, agent, run.run_id)["folder"])
    assert folder.is_relative_to(world.settings.paths.batch_predictions(agent))
    return pq.read_table(folder / "predictions")
