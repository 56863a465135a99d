"""The dueling Q-network. How it is trained, stored and served lives elsewhere."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Standardised inputs beyond this are outliers of a feature, not information: a test that once ran for an hour.
INPUT_LIMIT = 8.0


class DuelingQNetwork(nn.Module):
    """Q(s, a) = V(s) + A(s, a) - mean over a' of A(s, a') (Wang et al. 2016, eq. 9), in units of the reward.

    Value and advantage heads are one linear layer of 1 + actions outputs on a shared ReLU trunk. Normalisation of the
    inputs and the scale of the outputs are buffers fitted on the training set, so they travel with the weights.
    Input (N, state size) float32, output (N, actions) float32.
    """

    input_mean: Tensor
    input_scale: Tensor
    value_scale: Tensor

    def __init__(self, state_size: int, actions: int, hidden_sizes: Sequence[int]) -> None:
        super().__init__()
        self.state_size, self.actions, self.hidden_sizes = state_size, actions, tuple(hidden_sizes)
        self.register_buffer("input_mean", torch.zeros(state_size))
        self.register_buffer("input_scale", torch.ones(state_size))
        self.register_buffer("value_scale", torch.ones(()))
        layers: list[nn.Module] = []
        width = state_size
        for hidden in hidden_sizes:
            layers += [nn.Linear(width, hidden), nn.ReLU()]
            width = hidden
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.Linear(width, 1 + actions)

    def normalise(self, states: Tensor) -> Tensor:
        """Standardise raw states, limited to 8 standard deviations of the training set."""
        return ((states - self.input_mean) / self.input_scale).clamp(-INPUT_LIMIT, INPUT_LIMIT)

    def scaled_values(self, normalised: Tensor) -> Tensor:
        """Q-values in units of `value_scale` for already normalised states: what the learner works on."""
        heads = self.heads(self.trunk(normalised))
        advantage = heads[:, 1:]
        return heads[:, :1] + advantage - advantage.mean(dim=1, keepdim=True)

    def forward(self, states: Tensor) -> Tensor:
        """Q-values of raw states, in units of the reward."""
        return self.scaled_values(self.normalise(states)) * self.value_scale


def weights_hash(network: nn.Module) -> str:
    """Hex sha256 over names, types, shapes and bytes of all weights and buffers: equal when they are, bit for bit."""
    hasher = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        array = tensor.detach().cpu().contiguous().numpy()
        hasher.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        hasher.update(array.tobytes())
    return hasher.hexdigest()
