"""Normal distributions over actions, unbounded (PPO) and squashed into a box (SAC) (algorithms.md 1.4)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0
"""Range of a network's log σ in squashed policies."""


def gaussian_log_prob(
    x: Float[Tensor, "*rest d"], mean: Float[Tensor, "*rest d"], log_std: Float[Tensor, "*#rest d"]
) -> Float[Tensor, "*rest"]:
    r""":math:`\sum_d \log N(x_d; \mu_d, \sigma_d)`."""
    z = (x - mean) * (-log_std).exp()
    return (-0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def gaussian_entropy(log_std: Float[Tensor, "*rest d"]) -> Float[Tensor, "*rest"]:
    r""":math:`\sum_d (\log \sigma_d + \frac12 \log 2 \pi e)`."""
    return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


def gaussian_sample(
    mean: Float[Tensor, "*rest d"], log_std: Float[Tensor, "*#rest d"], rng: torch.Generator
) -> Float[Tensor, "*rest d"]:
    r""":math:`\mu + \sigma \xi`, differentiable in both."""
    noise = torch.randn(mean.shape, generator=rng, device=mean.device, dtype=mean.dtype)
    return mean + log_std.exp() * noise


def squashed(x: Float[Tensor, "*rest d"], scale: float | Float[Tensor, "*#rest #d"]) -> Float[Tensor, "*rest d"]:
    r"""The action :math:`a_{max} \tanh(x)`; ``scale`` is a_max."""
    return scale * torch.tanh(x)


def boxed(
    x: Float[Tensor, "*rest d"], low: Float[Tensor, "*#rest #d"], high: Float[Tensor, "*#rest #d"]
) -> Float[Tensor, "*rest d"]:
    """x squashed into the box from ``low`` to ``high``; 0 is its centre. Rounding may reach past the box's faces."""
    return (low + high) / 2 + squashed(x, (high - low) / 2)


def squashed_log_prob(
    x: Float[Tensor, "*rest d"],
    mean: Float[Tensor, "*rest d"],
    log_std: Float[Tensor, "*#rest d"],
    scale: float | Float[Tensor, "*#rest #d"],
) -> Float[Tensor, "*rest"]:
    r"""log π of ``squashed(x, scale)`` for x drawn from the normal distribution.

    The density of x less :math:`\sum_d \log(a_{max} (1 - \tanh^2 x))`, in the form
    :math:`\log a_{max} + 2 (\log 2 - x - softplus(-2x))`, which does not underflow (Haarnoja et al. 2018).
    """
    scale = torch.as_tensor(scale, dtype=x.dtype, device=x.device)
    stretch = scale.log() + 2 * (math.log(2) - x - softplus(-2 * x))
    return gaussian_log_prob(x, mean, log_std) - stretch.sum(-1)
