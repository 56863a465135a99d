from copy import deepcopy

import numpy as np
import pytest
import torch

from mlops_assets.training.optimizer import AdamW, FlatParameters


@pytest.mark.parametrize(("weight_decay", "max_norm"), [(0.0, 1e9), (0.1, 1e9), (0.1, 0.05)])
def test_it_is_adamw_with_clipping(weight_decay: float, max_norm: float) -> None:
    """An optimiser of one's own with a wrong bias correction or a coupled decay still learns, only worse."""
    torch.manual_seed(0)
    ours = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    theirs = deepcopy(ours)
    optimizer = AdamW(FlatParameters(ours), weight_decay=weight_decay, max_gradient_norm=max_norm)
    reference = torch.optim.AdamW(theirs.parameters(), weight_decay=weight_decay)
    for update in range(30):
        inputs = torch.randn(16, 3)
        learning_rate = 0.05 / (1 + update)
        ours(inputs).square().mean().backward()
        norm = optimizer.step(learning_rate)
        reference.zero_grad()
        theirs(inputs).square().mean().backward()
        expected_norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
        for group in reference.param_groups:
            group["lr"] = learning_rate
        reference.step()
        assert norm.item() == pytest.approx(expected_norm.item(), rel=1e-5)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(mine.detach().numpy(), other.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_flat_parameters_and_the_module_are_one() -> None:
    """A copy instead of a view: the optimiser would train a vector that no network uses."""
    module = torch.nn.Linear(2, 2)
    before = deepcopy(module.state_dict())
    flat = FlatParameters(module)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    flat.values.fill_(3.0)
    assert module.weight.tolist() == [[3.0, 3.0], [3.0, 3.0]]
    assert module.bias.tolist() == [3.0, 3.0]
    module(torch.ones(1, 2)).sum().backward()
    assert flat.gradients.tolist() == [1.0] * 6


def test_frozen_modules_get_no_gradients() -> None:
    """A target network that collects gradients costs a backward pass and may be trained by accident."""
    module = torch.nn.Linear(2, 2).requires_grad_(requires_grad=False)
    FlatParameters(module)
    assert [parameter.grad for parameter in module.parameters()] == [None, None]
