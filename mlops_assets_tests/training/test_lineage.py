from dataclasses import fields, replace
from datetime import UTC, datetime

import pytest

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.training.config import DqnConfig
from mlops_assets.training.device import DeviceChoice
from mlops_assets.training.lineage import Lineage, run_name, run_params, run_tags

CPU = DeviceChoice("cpu", "cpu", "device 'cpu' was asked for")
GPU = DeviceChoice("cuda", "NVIDIA GeForce RTX 3070", "device 'auto'")
LINEAGE = Lineage(
    git_sha="a1",
    data_hash="b2",
    training_hash="c3",
    config_hash="d4",
    seed=7,
    lock_hash="e5",
    feature_views={"agent_context_features": "f6"},
    dvc_md5="g7",
)


@pytest.mark.parametrize("name", ["git_sha", "data_hash", "training_hash", "config_hash", "seed", "lock_hash"])
def test_every_input_changes_the_fingerprint(name: str) -> None:
    """A run that is taken for a repetition although its data, code or seed differ."""
    other: dict[str, object] = {name: 8 if name == "seed" else "other"}
    assert replace(LINEAGE, **other).fingerprint != LINEAGE.fingerprint  # type: ignore[arg-type]


@pytest.mark.parametrize(("sha", "reproducible"), [("a1", True), ("a1-dirty", False), ("unknown", False)])
def test_only_a_clean_commit_says_which_code_ran(sha: str, reproducible: bool) -> None:
    """An edited working tree under an old commit's name: the edit would never be trained."""
    assert replace(LINEAGE, git_sha=sha).reproducible is reproducible


def test_names_alone_do_not_change_the_fingerprint() -> None:
    """The same data under DVC or not are the same data."""
    assert replace(LINEAGE, dvc_md5=None, feature_views={}).fingerprint == LINEAGE.fingerprint
    assert "dvc_md5" not in replace(LINEAGE, dvc_md5=None).tags()


def test_tags_carry_the_whole_lineage() -> None:
    """A run that cannot be repeated, for want of one of its five inputs."""
    tags = run_tags(AGENTS["generation"], CPU, LINEAGE)
    assert {field.name for field in fields(Lineage)} - {"feature_views"} <= tags.keys()
    assert tags["feature_view.agent_context_features"] == "f6"
    assert (tags["model_type"], tags["framework"], tags["agent"], tags["stage"]) == (
        "DQN",
        "pytorch",
        "generation",
        "dev",
    )
    assert (tags["gpu"], tags["gpu_type"]) == ("0", "none")
    gpu = run_tags(AGENTS["generation"], GPU, LINEAGE, stage="prod")
    assert (gpu["gpu"], gpu["gpu_type"], gpu["stage"]) == ("1", "NVIDIA GeForce RTX 3070", "prod")


def test_params_hold_every_hyper_parameter_and_the_reason() -> None:
    """A training that nobody can tell apart from last week's, or say why it ran."""
    config = DqnConfig()
    reason = {"trigger_type": "drift", "drift_score": "0.31"}
    params = run_params(AGENTS["execution"], config, CPU, seed=7, reason=reason)
    assert set(DqnConfig.model_fields) <= params.keys()
    assert params["gamma"] == "1.0"
    assert params["network_architecture"] == "dueling-dqn"
    assert params["agent_type"] == "execution_agent"
    assert (params["gpu_count"], params["num_gpus"], params["global_batch_size"]) == ("0", "0", str(config.batch_size))
    assert (params["trigger_type"], params["drift_score"]) == ("drift", "0.31")
    assert all(isinstance(value, str) for value in params.values())


def test_run_names_are_date_and_description() -> None:
    """The convention that runs are found by: 20251027_baseline."""
    assert run_name(datetime(2025, 10, 27, 2, tzinfo=UTC), "baseline") == "20251027_baseline"
