"""Means and variances of gradient estimators."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def jacobian(outputs: Tensor, parameters: Sequence[nn.Parameter | Tensor]) -> Tensor:
    """Derivatives of every output, [outputs, all parameters].

    One output after the other: autograd cannot batch over what reads numbers by their bits, as masks do here.
    """

    def row(output: Tensor) -> Tensor:
        found = torch.autograd.grad(output, list(parameters), retain_graph=True, allow_unused=True)
        return torch.cat([gradient.flatten() for gradient in found if gradient is not None])

    return torch.stack([row(output) for output in outputs.flatten()])


def moments(samples: Tensor, weight: Tensor, gram: Tensor | None = None) -> tuple[float, float]:
    """The total variance E|g - E g|² of an estimator g, and |E g|².

    Args:
        samples: values of g, [samples, d].
        weight: their probabilities.
        gram: J Jᵀ where the gradient is Jᵀ g, as that of parameters is when g is the one of a network's outputs.
    """
    samples = samples.double()
    gram = torch.eye(samples.shape[1]).double() if gram is None else gram.double()
    mean = weight.double() @ samples
    centred = samples - mean
    variance = weight.double() @ ((centred @ gram) * centred).sum(1)
    return float(variance), float(mean @ gram @ mean)
