from pathlib import Path

import pytest

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.errors import SettingsError
from mlops_assets.foundation.provenance import project_root
from mlops_assets.training.config import DqnConfig, load_config, parse_config


def test_the_shipped_file_holds_the_defaults() -> None:
    """A documented configuration that differs from the built-in one describes a training nobody runs."""
    path = project_root() / "configs" / "dqn.yaml"
    assert load_config(path) == DqnConfig()
    text = path.read_text(encoding="utf-8")
    assert [name for name in DqnConfig.model_fields if f"\n{name}:" not in text] == []


def test_unknown_and_invalid_keys_are_named(tmp_path: Path) -> None:
    """A misspelt hyper-parameter that is ignored trains something else than was asked for."""
    path = tmp_path / "dqn.yaml"
    path.write_text("learning_rte: 0.1\nbatch_size: 0\n", encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load_config(path)
    message = str(caught.value)
    for part in (
        str(path),
        "learning_rte",
        "batch_size = 0",
        "greater than or equal to 1",
        "Known keys: learning_rate",
    ):
        assert part in message


@pytest.mark.parametrize("content", ["- 1\n- 2\n", "", "a: [", "\xff"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    """A broken file must not silently mean the defaults."""
    path = tmp_path / "dqn.yaml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(SettingsError, match=r"dqn\.yaml"):
        load_config(path)


def test_a_missing_file_names_the_shipped_one(tmp_path: Path) -> None:
    """An error without advice sends its reader into the source."""
    with pytest.raises(SettingsError, match=r"configs/dqn\.yaml"):
        load_config(tmp_path / "absent.yaml")


def test_every_field_changes_the_hash() -> None:
    """Two configurations with one hash would claim one origin for different weights."""
    others = {
        "learning_rate": 0.5,
        "learning_rate_scaling": "linear",
        "batch_size": 7,
        "gamma": 0.5,
        "buffer_size": 7,
        "hidden_sizes": [7],
        "updates": 7,
        "updates_per_block": 7,
        "target_decay": 0.5,
        "loss": "huber",
        "max_gradient_norm": 7.0,
        "weight_decay": 0.5,
        "threads": 7,
        "report_every": 7,
    }
    assert others.keys() == DqnConfig.model_fields.keys()
    hashes = {parse_config({name: value}).config_hash for name, value in others.items()}
    assert len(hashes | {DqnConfig().config_hash}) == len(others) + 1


def test_batch_size_is_per_process() -> None:
    """With a global reading of 256, three GPUs would get 85 each (contradiction 256 against 768 in the sources)."""
    config = DqnConfig(batch_size=256, learning_rate=1e-3)
    assert (config.global_batch_size(1), config.global_batch_size(3)) == (256, 768)
    assert config.scaled_learning_rate(3) == 1e-3
    linear = parse_config({"learning_rate": 1e-3, "learning_rate_scaling": "linear"})
    assert linear.scaled_learning_rate(3) == pytest.approx(3e-3)
    assert linear.scaled_learning_rate(1) == 1e-3


def test_gamma_is_the_agents_unless_given() -> None:
    """One gamma for all agents would discount the execution agent, whose reward telescopes to the metric itself."""
    assert DqnConfig().discount(AGENTS["execution"]) == AGENTS["execution"].discount
    assert DqnConfig(gamma=0.0).discount(AGENTS["execution"]) == 0.0
