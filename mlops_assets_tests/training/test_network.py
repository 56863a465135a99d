import numpy as np
import pytest
import torch

from mlops_assets.training.network import DuelingQNetwork, weights_hash


@pytest.fixture
def network() -> DuelingQNetwork:
    torch.manual_seed(1)
    return DuelingQNetwork(3, 4, (8, 8)).eval()


def test_q_values_are_value_plus_centred_advantage(network: DuelingQNetwork) -> None:
    """Without the subtracted mean, value and advantage are not identifiable (Wang et al. 2016)."""
    states = torch.randn(5, 3)
    with torch.no_grad():
        heads = network.heads(network.trunk(states)).numpy()
        values = network(states).numpy()
    expected = heads[:, :1] + heads[:, 1:] - heads[:, 1:].mean(axis=1, keepdims=True)
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    np.testing.assert_allclose(values.mean(axis=1), heads[:, 0], atol=1e-6)


def test_inputs_are_standardised_and_limited(network: DuelingQNetwork) -> None:
    """One feature in milliseconds drowns all others, and one outlier of it sends the Q-values anywhere."""
    network.input_mean.copy_(torch.tensor([1000.0, 0.0, 0.0]))
    network.input_scale.copy_(torch.tensor([100.0, 1.0, 2.0]))
    normalised = network.normalise(torch.tensor([[1200.0, 1.0, 1.0], [1e9, -1e9, 0.0]]))
    assert normalised.tolist() == [[2.0, 1.0, 0.5], [8.0, -8.0, 0.0]]


def test_q_values_come_in_units_of_the_reward(network: DuelingQNetwork) -> None:
    """A network that learned on scaled rewards but answers in scaled values cannot be compared with returns."""
    states = torch.randn(2, 3)
    with torch.no_grad():
        before = network(states).numpy()
        network.value_scale.fill_(20.0)
        np.testing.assert_allclose(network(states).numpy(), 20.0 * before, rtol=1e-6)


def test_the_hash_sees_every_bit_of_weights_and_buffers(network: DuelingQNetwork) -> None:
    """Two policies with one hash pass as one in the reproducibility check."""
    first = weights_hash(network)
    assert first == weights_hash(network)
    with torch.no_grad():
        network.heads.bias[0] = torch.nextafter(network.heads.bias[0], torch.tensor(9.0))
    second = weights_hash(network)
    network.input_mean[1] = 1.0
    assert len({first, second, weights_hash(network)}) == 3
