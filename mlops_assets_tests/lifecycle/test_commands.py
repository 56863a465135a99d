"""Dagster's own commands from the root of the checkout, as CI pipelines call them, with nothing set but a home."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlops_assets_tests.lifecycle.worlds import BIN, ROOT, World

# No thresholds and no training here; the days of the simulated world are what takes time.
SETTINGS = {"MLOPS_SIMULATOR_ROWS": "900", "MLOPS_DATA_PROFILE": "bootstrap"}
MODULE = ("-m", "mlops_assets.definitions")


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home of a user who never ran anything."""
    return tmp_path_factory.mktemp("user")


def _call(user: Path, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(user), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def test_assets_are_listed_with_nothing_set(user: Path) -> None:
    """A variable or a folder that only developers have is needed to look at the graph."""
    result = _call(user, BIN / "dagster", "asset", "list", *MODULE)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.split() == [
        "ab_test_report",
        "agent_context_features",
        "approval",
        "batch_predictions",
        "data_validation_report",
        "dqn_model",
        "model_card",
        "model_evaluation",
        "online_features",
        "registered_model",
        "test_execution_features",
        "test_executions",
        "training_experiences",
        "training_set",
        "validation_report",
    ]


@pytest.mark.slow
def test_one_agents_snapshot_is_materialised_from_the_command_line(user: Path) -> None:
    """A selection of a partitioned asset with an unpartitioned one is refused, or fills all partitions."""
    variables = {"MLOPS_HOME": str(user / "data"), **SETTINGS}
    command = ("asset", "materialize", *MODULE, "--select", "test_executions,training_experiences")
    result = _call(user, BIN / "dagster", *command, "--partition", "execution", **variables)
    assert result.returncode == 0, result.stderr[-3000:]
    world = World(user, variables)
    record = world.record("training_experiences", "execution")
    assert record["rows"] >= 900
    (snapshot,) = (path for path in world.settings.paths.snapshots("execution").iterdir() if path.is_dir())
    assert snapshot.name == record["data_hash"]
    assert not world.settings.paths.snapshots("generation").exists()

    table = _call(user, sys.executable, "-m", "mlops_assets.summary", **variables)
    assert (table.returncode, table.stdout) == (1, "")
    assert table.stderr == "no lifecycle has run here yet: make run\n"
