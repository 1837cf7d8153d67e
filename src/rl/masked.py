"""Averages over real steps, and distributions over available actions (algorithms.md 1.1)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.schedule import Scalar
from core.specs import Uniforms

UNAVAILABLE = -1e10
"""Logit of an unavailable action: exp of it is exactly 0, and unlike -inf it gives no NaN when multiplied by 0."""


def usable(avail: Bool[Tensor, "*rest a"]) -> Bool[Tensor, "*rest a"]:
    """``avail``, with every action available in rows that have none, as padding may (T-03)."""
    return avail | ~avail.any(-1, keepdim=True)


def masked_mean(x: Float[Tensor, "b t *rest"], mask: Float[Tensor, "b t"]) -> Float[Tensor, ""]:
    r"""Mean over real steps and everything at them, :math:`\sum valid \cdot x / \sum valid` (algorithms.md 0.4).

    What x holds on padding, even NaN, does not matter for the value; its gradient there is 0. 0 without a real step.
    """
    real = (mask > 0).reshape(*mask.shape, *[1] * (x.dim() - 2)).expand_as(x)
    return torch.where(real, x, 0.0).sum() / real.sum().clamp(min=1)


def taken(x: Float[Tensor, "*rest a"], action: Int[Tensor, "*rest"]) -> Float[Tensor, "*rest"]:
    """x of the actions taken."""
    return x.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)


def masked_log_softmax(logits: Float[Tensor, "*rest a"], avail: Bool[Tensor, "*rest a"]) -> Float[Tensor, "*rest a"]:
    """log π over the available actions, finite everywhere; about -1e10 where unavailable.

    The mask comes before the softmax, so unavailable logits take no probability from the others (T-06).
    """
    return torch.log_softmax(torch.where(usable(avail), logits, UNAVAILABLE), dim=-1)


def probabilities(log_pi: Float[Tensor, "*rest a"], avail: Bool[Tensor, "*rest a"]) -> Float[Tensor, "*rest a"]:
    """π, exactly 0 where unavailable."""
    return exp_where(usable(avail), log_pi)


def exp_where(wanted: Bool[Tensor, "*rest"], x: Float[Tensor, "*rest"]) -> Float[Tensor, "*rest"]:
    """exp(x) where wanted, 0 elsewhere; what x is there is not read. On a CPU exp of -1e10 takes 18 times exp of 0."""
    return torch.where(wanted, torch.where(wanted, x, 0.0).exp(), 0.0)


def expectation(
    pi: Float[Tensor, "*rest a"], f: Float[Tensor, "*rest a"], avail: Bool[Tensor, "*rest a"]
) -> Float[Tensor, "*rest"]:
    r""":math:`E_\pi[f] = \sum_{a\,available} \pi(a) f(a)`; f is not read where unavailable."""
    return (pi * torch.where(usable(avail), f, 0.0)).sum(-1)


def entropy(log_pi: Float[Tensor, "*rest a"], avail: Bool[Tensor, "*rest a"]) -> Float[Tensor, "*rest"]:
    r""":math:`H = -\sum_{a\,available} \pi(a) \log \pi(a)`."""
    return -expectation(probabilities(log_pi, avail), log_pi, avail)


def floored(pi: Float[Tensor, "*rest a"], avail: Bool[Tensor, "*rest a"], epsilon: Scalar) -> Float[Tensor, "*rest a"]:
    r"""π mixed with the uniform policy, :math:`(1-\epsilon)\pi + \epsilon\,avail / \sum avail` (DOP, COMA)."""
    uniform = usable(avail).to(pi.dtype)
    return (1 - epsilon) * pi + epsilon * uniform / uniform.sum(-1, keepdim=True)


def draw(weight: Float[Tensor, "*rest a"], rng: Uniforms) -> Int[Tensor, "*rest"]:
    """Actions with probabilities proportional to ``weight``, one uniform number each.

    Inverts the cumulative distribution in double precision. The result is the first action whose cumulative weight
    exceeds u times the total, which an action of weight 0 never is; u <= 1 - 2^-53, so the product rounds to less
    than the total. A row with a NaN gives the number of actions, an
    index that no later use accepts, instead of an arbitrary action.
    """
    cumulative = weight.double().cumsum(-1)
    if isinstance(rng, torch.Generator):
        u = torch.rand(weight.shape[:-1], generator=rng, device=weight.device, dtype=torch.double)
    else:
        u = rng(weight.shape[:-1])
    return (~(cumulative > (u * cumulative[..., -1]).unsqueeze(-1))).sum(-1)


@torch.no_grad()
def sample(log_pi: Float[Tensor, "*rest a"], rng: Uniforms) -> Int[Tensor, "*rest"]:
    """Actions drawn from π, never one of probability 0 (here: below 1e-30); see ``draw``."""
    return draw(exp_where(~(log_pi < -69), log_pi), rng)
