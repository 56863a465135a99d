import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from mlops_assets.evaluation.security import scan_files
from mlops_assets.foundation.errors import InputError
from mlops_assets.training.checkpoint import load_checkpoint, save_checkpoint
from mlops_assets.training.learner import TrainedAgent
from mlops_assets.training.network import weights_hash
from mlops_assets_tests.training.samples import TOY


@pytest.fixture
def path(trained: TrainedAgent, tmp_path: Path) -> Path:
    path = tmp_path / "policy.pt"
    save_checkpoint(path, trained, TOY)
    return path


def test_what_is_loaded_is_what_was_saved(path: Path, trained: TrainedAgent) -> None:
    """A checkpoint without normalisation or architecture gives other Q-values than the training had."""
    loaded = load_checkpoint(path)
    assert (loaded.agent, loaded.actions, loaded.state_fields) == ("toy", TOY.actions, TOY.state_fields)
    assert loaded.weights_hash == trained.weights_hash == weights_hash(loaded.network)
    states = torch.randn(9, 3)
    with torch.no_grad():
        np.testing.assert_array_equal(loaded.network(states).numpy(), trained.network(states).numpy())


def test_it_holds_nothing_that_runs_on_loading(path: Path) -> None:
    """A checkpoint with code in it runs that code in whoever evaluates it."""
    content = torch.load(path, weights_only=True)
    assert content["seed"] == 7
    assert content["config"]["updates"] == 600
    assert scan_files([path]).findings == ()


def test_changed_weights_are_noticed(path: Path) -> None:
    """Weights that are not those of the run that is registered with them."""
    content = torch.load(path, weights_only=True)
    content["state_dict"]["heads.bias"][0] += 1.0
    torch.save(content, path)
    with pytest.raises(InputError, match="changed after training"):
        load_checkpoint(path)


class _Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("boom",)


def test_unloadable_files_are_named(tmp_path: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback out of the unpickler, or code that runs."""
    with pytest.raises(InputError, match="train the agent first"):
        load_checkpoint(tmp_path / "absent.pt")
    truncated = tmp_path / "truncated.pt"
    truncated.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match=r"truncated\.pt is not loadable"):
        load_checkpoint(truncated)
    evil = tmp_path / "evil.pt"
    evil.write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(InputError, match=r"evil\.pt is not loadable"):
        load_checkpoint(evil)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1], {"format": 1, "state_dict": {}, "actions": ["a"]}])
def test_other_torch_files_are_refused(tmp_path: Path, content: object) -> None:
    """Some other project's checkpoint ends in a KeyError."""
    other = tmp_path / "other.pt"
    torch.save(content, other)
    with pytest.raises(InputError, match="is no checkpoint"):
        load_checkpoint(other)
