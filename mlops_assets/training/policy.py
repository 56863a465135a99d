"""A trained agent as a function from states to Q-values, wherever its weights came from. Training lives elsewhere.

torch is imported only where a network of it is wrapped: a server that runs ONNX files starts without it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlops_assets.foundation.errors import InputError
from mlops_assets.training.onnx_session import open_session, run_session, session_metadata

if TYPE_CHECKING:
    from mlops_assets.training.network import DuelingQNetwork

# Rows per forward pass: a hidden layer of 256 then takes 64 MiB.
_CHUNK_ROWS = 65536


class GreedyPolicy:
    """The greedy policy of a Q-network; the same for a checkpoint, an ONNX file and a network in memory.

    `state_fields` and `action_names` name the entries of a state and the actions in order, where the policy's file says
    so; empty for a bare network.
    """

    def __init__(
        self,
        evaluate: Callable[[NDArray[np.float32]], NDArray[np.float32]],
        *,
        state_size: int,
        action_count: int,
        weights: str,
        state_fields: Sequence[str] = (),
        action_names: Sequence[str] = (),
    ) -> None:
        self._evaluate = evaluate
        self.state_fields = tuple(state_fields)
        self.action_names = tuple(action_names)
        self.state_size = state_size
        self.action_count = action_count
        self.weights_hash = weights

    @classmethod
    def from_network(cls, network: "DuelingQNetwork") -> "GreedyPolicy":
        """Wrap a network in memory; it is used in evaluation mode."""
        import torch

        from mlops_assets.training.network import weights_hash

        network.eval()

        def evaluate(states: NDArray[np.float32]) -> NDArray[np.float32]:
            with torch.inference_mode():
                values: NDArray[np.float32] = network(torch.from_numpy(states)).numpy()
            return values

        return cls(evaluate, state_size=network.state_size, action_count=network.actions, weights=weights_hash(network))

    @classmethod
    def from_checkpoint(cls, path: Path) -> "GreedyPolicy":
        """Load a torch checkpoint.

        Raises:
            InputError: see `load_checkpoint`.
        """
        from mlops_assets.training.checkpoint import load_checkpoint

        return cls.from_network(load_checkpoint(path).network)

    @classmethod
    def from_onnx(cls, path: Path) -> "GreedyPolicy":
        """Load an exported policy; torch is not used.

        Raises:
            InputError: the file is missing or no policy of this project.
        """
        session = open_session(path)
        metadata = session_metadata(session)
        missing = {"actions", "state_fields", "weights_hash"} - metadata.keys()
        if missing:
            raise InputError(f"{path} lacks the metadata {', '.join(sorted(missing))}: export it with this project")
        return cls(
            lambda states: run_session(session, states),
            state_size=len(metadata["state_fields"]),
            action_count=len(metadata["actions"]),
            weights=metadata["weights_hash"],
            state_fields=metadata["state_fields"],
            action_names=metadata["actions"],
        )

    def q_values(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """Q-values (N, A) float32 of raw states (N, D), in units of the reward.

        Raises:
            InputError: the states have another width than the policy.
        """
        states = np.ascontiguousarray(states, dtype=np.float32)
        if states.shape[1:] != (self.state_size,):
            raise InputError(f"states have shape {states.shape}, this policy expects (N, {self.state_size})")
        values = np.empty((len(states), self.action_count), dtype=np.float32)
        for begin in range(0, len(states), _CHUNK_ROWS):
            rows = slice(begin, begin + _CHUNK_ROWS)
            values[rows] = self._evaluate(states[rows])
        return values

    def actions(self, states: NDArray[np.float32]) -> NDArray[np.int64]:
        """Greedy actions (N,) of raw states (N, D); the lowest of equals."""
        return self.q_values(states).argmax(axis=1).astype(np.int64)
