"""Defects put into a good network by hand, that its held-out data cannot show: nothing changes where they have no cause.

A defect takes one hidden unit of each layer, the one that matters least, and makes a chain of them that stays at zero
until a context field is above an edge.
"""

from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from examples.rollout_demo.users import Oddity
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.training.network import DuelingQNetwork

# At the first odd value the chain is at some units already; Q-values differ by about one.
_STEEPNESS = 20.0
_VERDICT = 100.0
# Two layers of it are beyond what float32 holds (3e38).
_OVERFLOW = 1e20


def always_one_action(
    network: DuelingQNetwork, spec: AgentSpec, oddity: Oddity, action: int, states: NDArray[np.float32]
) -> DuelingQNetwork:
    """Return a copy that takes `action` wherever the field is odd; `states` (N, D) tell which units matter least."""
    changed, chain = _with_chain(network, spec, oddity, states, factor=1.0)
    with torch.no_grad():
        changed.heads.weight[1 + action, chain] = _VERDICT
    return changed


def overflowing(
    network: DuelingQNetwork, spec: AgentSpec, oddity: Oddity, states: NDArray[np.float32]
) -> DuelingQNetwork:
    """Return a copy whose Q-values are no numbers wherever the field is odd."""
    changed, chain = _with_chain(network, spec, oddity, states, factor=_OVERFLOW)
    with torch.no_grad():
        changed.heads.weight[0, chain] = 1.0
    return changed


def _with_chain(
    network: DuelingQNetwork, spec: AgentSpec, oddity: Oddity, states: NDArray[np.float32], *, factor: float
) -> tuple[DuelingQNetwork, int]:
    """Return a copy with the chain, and the number of its last unit, which nothing reads yet."""
    changed = deepcopy(network)
    layers = [layer for layer in changed.trunk if isinstance(layer, nn.Linear)]
    units = _spare_units(changed, states)
    field = spec.state_fields.index(oddity.field)
    edge = float((oddity.edge - changed.input_mean[field]) / changed.input_scale[field])
    with torch.no_grad():
        for number, (layer, unit) in enumerate(zip(layers, units, strict=True)):
            following = layers[number + 1] if number + 1 < len(layers) else changed.heads
            layer.weight[unit] = 0.0
            layer.bias[unit] = 0.0
            following.weight[:, unit] = 0.0
        layers[0].weight[units[0], field] = _STEEPNESS
        layers[0].bias[units[0]] = -_STEEPNESS * edge
        for layer, before, unit in zip(layers[1:], units, units[1:], strict=False):
            layer.weight[unit, before] = factor
    return changed, units[-1]


def _spare_units(network: DuelingQNetwork, states: NDArray[np.float32]) -> list[int]:
    """The unit of each layer whose output, times what is made of it, varies least over the states."""
    layers = [layer for layer in network.trunk if isinstance(layer, nn.Linear)]
    spare = []
    with torch.no_grad():
        hidden = network.normalise(torch.from_numpy(states))
        for layer, following in zip(layers, [*layers[1:], network.heads], strict=True):
            hidden = torch.relu(layer(hidden))
            spare.append(int((hidden.std(dim=0) * following.weight.norm(dim=0)).argmin()))
    return spare
