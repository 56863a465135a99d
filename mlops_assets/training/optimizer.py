"""AdamW and running averages on flat parameters: one vector instead of a list of tensors. What is minimised lives elsewhere.

torch.optim does the same, but its first step imports torch's compiler, 820 modules and 3.7 s of CPU time in every process,
and loops over parameters in Python at each update.
"""

import math

import torch
from torch import Tensor, nn

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class FlatParameters:
    """A module's parameters and gradients as two vectors; the module's own tensors become views of them."""

    def __init__(self, module: nn.Module) -> None:
        parameters = list(module.parameters())
        self.values = torch.cat([parameter.detach().flatten() for parameter in parameters])
        self.gradients = torch.zeros_like(self.values)
        begin = 0
        for parameter in parameters:
            end = begin + parameter.numel()
            parameter.data = self.values[begin:end].view_as(parameter)
            parameter.grad = self.gradients[begin:end].view_as(parameter) if parameter.requires_grad else None
            begin = end


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), betas 0.9 and 0.999, and gradient clipping by norm."""

    def __init__(self, parameters: FlatParameters, *, weight_decay: float, max_gradient_norm: float) -> None:
        self.parameters = parameters
        self.weight_decay = weight_decay
        self.max_gradient_norm = max_gradient_norm
        self.steps = 0
        self._mean = torch.zeros_like(parameters.values)
        self._square = torch.zeros_like(parameters.values)

    def step(self, learning_rate: float) -> Tensor:
        """Do one update from the gradients and set them to zero; return their norm before clipping."""
        self.steps += 1
        gradients = self.parameters.gradients
        norm = torch.linalg.vector_norm(gradients)
        gradients.mul_((self.max_gradient_norm / (norm + 1e-6)).clamp_(max=1.0))
        self._mean.lerp_(gradients, 1 - _BETA1)
        self._square.mul_(_BETA2).addcmul_(gradients, gradients, value=1 - _BETA2)
        scale = (self._square.sqrt() / math.sqrt(1 - _BETA2**self.steps)).add_(_EPSILON)
        self.parameters.values.mul_(1 - learning_rate * self.weight_decay)
        self.parameters.values.addcdiv_(self._mean, scale, value=-learning_rate / (1 - _BETA1**self.steps))
        gradients.zero_()
        return norm
