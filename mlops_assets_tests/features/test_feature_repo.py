"""The `feast` command on feature_repo/: the same registry and the same stores as the adapter's."""

import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from click.testing import CliRunner

from mlops_assets.features.store import FeatureStoreAdapter
from mlops_assets.features.views import AGENT_CONTEXT_FEATURES, ENTITIES, PROJECT, VIEWS
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets_tests.features.samples import rows_of

REPOSITORY = Path(__file__).resolve().parents[2] / "feature_repo"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project root with a copy of feature_repo/, entered as a shell would."""
    shutil.copytree(REPOSITORY, tmp_path / "feature_repo", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path / "feature_repo"))
    return tmp_path


def feast(*arguments: str) -> str:
    """Run the `feast` command in this process (its imports take seconds), and come back to the folder."""
    from feast.cli.cli import cli

    here = Path.cwd()
    result = CliRunner().invoke(cli, ["-c", "feature_repo", *arguments])
    os.chdir(here)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_the_command_and_the_adapter_share_definitions_and_values(project: Path) -> None:
    """Two sources of truth: what the command registers is not what the assets write and the server reads."""
    feast("apply")  # in a fresh clone, before any lifecycle
    store = FeatureStoreAdapter(ArtifactPaths(project / ".mlops"))
    registered = {view.name: store._feast.get_feature_view(view.name) for view in VIEWS}
    assert {entity.name for entity in store._feast.list_entities()} == {entity.name for entity in ENTITIES}
    FeatureStoreAdapter(ArtifactPaths(project / ".mlops")).apply()
    after = FeatureStoreAdapter(ArtifactPaths(project / ".mlops"))
    assert {view.name: after._feast.get_feature_view(view.name) for view in VIEWS} == registered
    store.write_agent_features(
        "requirements", rows_of(AGENT_CONTEXT_FEATURES, [{"key": "a1", "at": 2, "recent_reward": 5.0}])
    )
    feast("materialize", "2026-01-05T00:00:00", "2026-01-08T00:00:00")
    pairs = pa.table({"test_id": ["t1"], "agent_id": ["a1"]})
    moment = store.historical(pairs.append_column("event_time", _times("2026-01-08")))
    online = after.online(pairs, moment_of("2026-01-08"))
    assert online["agent_context_features__recent_reward"].to_pylist() == [5.0]
    assert online.equals(moment)
    feast("materialize-incremental", "2026-01-09T00:00:00")


def test_the_configuration_is_that_of_the_adapter() -> None:
    """The command talks to a registry that nobody else reads."""
    text = (REPOSITORY / "feature_store.yaml").read_text()
    config: dict[str, Any] = yaml.safe_load(text.replace("${PWD}", "/project"))
    adapter = FeatureStoreAdapter(ArtifactPaths(Path("/project/.mlops")))
    assert config["project"] == PROJECT
    assert config["registry"]["path"] == adapter._registry_url
    assert config["online_store"] == adapter._online_store


def _times(day: str) -> pa.Array:
    return pa.array([moment_of(day)], pa.timestamp("us", "UTC"))


def moment_of(day: str) -> Any:
    """Midnight of a day in UTC."""
    from datetime import UTC, datetime

    return datetime.fromisoformat(day).replace(tzinfo=UTC)
