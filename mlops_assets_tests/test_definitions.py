"""The code location: what it holds, word by word, and that it loads anywhere."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from mlops_assets.definitions import build_definitions

ROOT = Path(__file__).resolve().parents[1]

ASSETS_BY_GROUP = {
    "experiences": ["data_validation_report", "test_executions", "training_experiences"],
    "features": ["agent_context_features", "online_features", "test_execution_features", "training_set"],
    "training": ["dqn_model"],
    "evaluation": ["model_evaluation", "validation_report"],
    "registry": ["model_card", "registered_model"],
    "governance": ["approval"],
    "experiments": ["ab_test_report"],
    "rollout": [
        "rollout_100_percent",
        "rollout_20_percent",
        "rollout_50_percent",
        "rollout_5_percent",
        "rollout_shadow",
    ],
    "serving": ["batch_predictions"],
    "monitoring": ["drift_reference", "drift_report", "performance_report", "slo_report"],
}
UNPARTITIONED = {"test_executions", "test_execution_features", "slo_report"}
CHECKS = {
    ("data_validation_report", "expectations_met"),
    ("online_features", "offline_equals_online"),
    ("training_set", "no_value_from_the_future"),
    ("validation_report", "gates_passed"),
}
JOBS = {
    "advance_rollout",
    "batch_inference",
    "change_rollout",
    "daily_report",
    "drift_monitoring",
    "decide_approval",
    "model_lifecycle",
    "request_retraining",
    "retrain",
    "rollback_model",
}
SENSORS = {
    "alert_delivery": 30,
    "approval_sensor": 60,
    "drift_sensor": 300,
    "new_data_sensor": 300,
    "rollout_sensor": 300,
    "run_failure_alerts": 30,
    "staleness_sensor": 3600,
}
SCHEDULES = {
    "daily_reports": "0 1 * * *",
    "daily_trigger_check": "0 2 * * *",
    "hourly_drift_check": "0 * * * *",
    "weekly_retraining": "0 2 * * 0",
}


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    """The loaded code location."""
    return build_definitions().get_repository_def()


def test_assets_and_groups_are_these(repository: dg.RepositoryDefinition) -> None:
    """An asset key or group changes by accident, and with it every link, alert and dashboard of the users."""
    groups: dict[str, list[str]] = {}
    for node in repository.asset_graph.asset_nodes:
        groups.setdefault(node.group_name or "", []).append(node.key.to_user_string())
    assert {group: sorted(keys) for group, keys in groups.items()} == ASSETS_BY_GROUP


def test_agent_shaped_assets_are_partitioned_by_agent(repository: dg.RepositoryDefinition) -> None:
    """A fourth agent, or one agent's failure, would touch all of them."""
    for node in repository.asset_graph.asset_nodes:
        name = node.key.to_user_string()
        keys = node.partitions_def.get_partition_keys() if node.partitions_def else None
        assert keys == (None if name in UNPARTITIONED else ["requirements", "generation", "execution"]), name


def test_every_asset_says_who_owns_it_what_it_is_and_of_which_kind(repository: dg.RepositoryDefinition) -> None:
    """The graph in the UI is the users' map; a nameless box on it leads nowhere."""
    for node in repository.asset_graph.asset_nodes:
        assert node.owners, node.key
        assert node.description, node.key
        assert node.kinds, node.key


def test_checks_are_these(repository: dg.RepositoryDefinition) -> None:
    """A check that nobody lists is a check that nobody misses."""
    found = {(key.asset_key.to_user_string(), key.name) for key in repository.asset_graph.asset_check_keys}
    assert found == CHECKS


def test_jobs_schedules_and_sensors_are_these(repository: dg.RepositoryDefinition) -> None:
    """A renamed job breaks the CI pipelines that start it."""
    jobs = {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")}
    schedules = {schedule.name: schedule.cron_schedule for schedule in repository.schedule_defs}
    assert jobs == JOBS
    assert schedules == SCHEDULES
    sensors = {sensor.name: sensor.minimum_interval_seconds for sensor in repository.sensor_defs}
    assert sensors == SENSORS


def test_every_run_is_one_process_also_what_the_ui_starts(repository: dg.RepositoryDefinition) -> None:
    """A step that waits for its pool in a run without resources looks for no dead run, and waits for it for ever."""
    assert {job.executor_def.name for job in repository.get_all_jobs()} == {"in_process"}


def test_training_holds_one_slot_per_device(repository: dg.RepositoryDefinition) -> None:
    """Two trainings on one device would each take twice as long, or run out of memory together."""
    model = repository.asset_graph.get(dg.AssetKey("dqn_model"))
    assert model.pools == {"training_device"}


def test_loads_in_a_fresh_interpreter_with_an_empty_environment() -> None:
    """Import-time work (environment, folders, heavy vendors) shows only on a clean machine, or as a slow UI."""
    heavy = ("torch", "mlflow", "feast", "great_expectations", "sklearn", "matplotlib", "onnxruntime", "dagster_mlflow")
    heavy = (*heavy, "ray", "evidently")
    code = (
        f"import sys, mlops_assets.definitions as d\nassert d.defs\nprint([m for m in {heavy!r} if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={}, capture_output=True, text=True, check=True, timeout=120
    )
    assert result.stdout.strip() == "[]"


def test_definitions_validate() -> None:
    """The UI and the daemon load through workspace.yaml, not through an import."""
    result = subprocess.run(
        [Path(sys.executable).parent / "dagster", "definitions", "validate"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "DAGSTER_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert result.returncode == 0, result.stderr
