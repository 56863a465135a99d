"""Dagster's two instance files and the workspace file."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from sqlalchemy import make_url

from mlops_assets.foundation.trigger import RETRAINING_TAG
from mlops_assets_tests.conftest import NewPostgresDatabase

ROOT = Path(__file__).resolve().parents[1]


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    return content


@dg.asset
def _probe() -> int:
    return 1


def test_both_instances_are_equal_apart_from_storage() -> None:
    """A limit changed in one file only: what was tested on a laptop is not what runs on the servers."""
    root, deployed = _read("dagster.yaml"), _read("deploy/dagster/dagster.yaml")
    storage = deployed.pop("storage")
    assert "storage" not in root
    assert root == deployed
    assert set(storage) == {"postgres"}


def test_root_instance_needs_no_variable(tmp_path: Path) -> None:
    """With PostgreSQL in the root file every `dagster` call on a laptop fails on a missing variable."""
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert dg.materialize([_probe], instance=instance).success
        assert instance.get_runs_count() == 1
        assert not instance.telemetry_enabled
        assert instance.run_monitoring_enabled
        pools = instance.get_concurrency_config().pool_config
        assert (pools.default_pool_limit, str(pools.pool_granularity)) == (1, "PoolGranularity.OP")
        assert instance.get_concurrency_config().run_queue_config is not None
    assert list(tmp_path.rglob("*.db"))


def test_pool_slots_of_dead_runs_are_freed() -> None:
    """Without it Dagster keeps the slot of a killed run, and the next training waits for ever."""
    monitoring = _read("dagster.yaml")["run_monitoring"]
    assert monitoring["enabled"]
    assert 0 < monitoring["free_slots_after_run_end_seconds"] <= 60


def test_failed_steps_are_not_retried_as_whole_runs() -> None:
    """Run retries times step retries: a permanently failing training would run nine times."""
    assert _read("dagster.yaml")["run_retries"]["retry_on_asset_or_op_failure"] is False


def test_one_retraining_per_model() -> None:
    """A tag renamed in the code only would let two retrainings of one agent race for the next version."""
    limits = _read("dagster.yaml")["concurrency"]["runs"]["tag_concurrency_limits"]
    assert limits == [{"key": RETRAINING_TAG, "value": {"applyLimitPerUniqueValue": True}, "limit": 1}]


def test_deployed_instance_runs_on_postgresql(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_postgres_database: NewPostgresDatabase
) -> None:
    """A typo in a storage key, or psycopg 3 behind `postgresql://`, shows only at the first run in production."""
    (tmp_path / "dagster.yaml").write_text((ROOT / "deploy/dagster/dagster.yaml").read_text())
    url = make_url(new_postgres_database())
    for name, value in (
        ("USERNAME", url.username),
        ("PASSWORD", "unused"),
        ("HOST", url.host),
        ("PORT", str(url.port)),
        ("DB", url.database),
    ):
        assert value is not None
        monkeypatch.setenv(f"DAGSTER_PG_{name}", value)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert dg.materialize([_probe], instance=instance).success
        assert instance.get_runs_count() == 1
        assert "Postgres" in type(instance.run_storage).__name__
    assert not list(tmp_path.rglob("*.db"))


def test_deployed_instance_without_its_variables_says_which(tmp_path: Path) -> None:
    """Falling back to SQLite in silence would split the run history between two stores."""
    (tmp_path / "dagster.yaml").write_text((ROOT / "deploy/dagster/dagster.yaml").read_text())
    with pytest.raises(dg.DagsterInvalidConfigError, match="DAGSTER_PG_USERNAME"):
        dg.DagsterInstance.from_config(str(tmp_path))


def test_workspace_loads_without_installation() -> None:
    """Without the working directory the UI finds the package only where it is installed."""
    (target,) = _read("workspace.yaml")["load_from"]
    assert target["python_module"] == {
        "module_name": "mlops_assets.definitions",
        "location_name": "mlops_assets",
        "working_directory": ".",
    }
