"""The torch checkpoint of a trained agent: weights and metadata in one file that loads without running code."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.files import atomic_write
from mlops_assets.training.learner import TrainedAgent
from mlops_assets.training.network import DuelingQNetwork, weights_hash

_FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A network in evaluation mode, the agent it was made for, and the hash of its weights."""

    network: DuelingQNetwork
    agent: str
    actions: tuple[str, ...]
    state_fields: tuple[str, ...]
    weights_hash: str


def save_checkpoint(path: Path, trained: TrainedAgent, spec: AgentSpec) -> None:
    """Write weights, architecture, hyper-parameters and seed: tensors and plain values only, no code."""
    content = {
        "format": _FORMAT,
        "state_dict": trained.network.state_dict(),
        "hidden_sizes": list(trained.network.hidden_sizes),
        "agent": spec.name,
        "actions": list(spec.actions),
        "state_fields": list(spec.state_fields),
        "config": trained.config.model_dump(mode="json"),
        "seed": trained.seed,
        "weights_hash": trained.weights_hash,
    }
    with atomic_write(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint with torch's restricted unpickler and check its weights against their hash.

    Raises:
        InputError: the file is missing, is no checkpoint of this project, or its weights were changed.
    """
    content = _read(path)
    try:
        network = DuelingQNetwork(len(content["state_fields"]), len(content["actions"]), content["hidden_sizes"])
        network.load_state_dict(content["state_dict"])
        loaded = Checkpoint(
            network=network.eval(),
            agent=content["agent"],
            actions=tuple(content["actions"]),
            state_fields=tuple(content["state_fields"]),
            weights_hash=content["weights_hash"],
        )
    except (KeyError, RuntimeError, TypeError) as error:
        raise InputError(f"{path} is no checkpoint of this project: {error}. Train the agent again") from error
    found = weights_hash(network)
    if found != loaded.weights_hash:
        raise InputError(
            f"the weights in {path} hash to {found}, its record says {loaded.weights_hash}: "
            "the file was changed after training; train the agent again"
        )
    return loaded


def _read(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"no checkpoint at {path}: train the agent first") from None
    except Exception as error:
        # torch raises a dozen types here, from zip errors to its own refusal of unsafe pickles.
        raise InputError(f"{path} is not loadable as a checkpoint ({type(error).__name__}: {error})") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise InputError(f"{path} is no checkpoint of format {_FORMAT} of this project: train the agent again")
    return content
