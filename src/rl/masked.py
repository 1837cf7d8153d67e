"""Averages over real steps, and distributions over available actions (algorithms.md 1.1)."""

from __future__ import annotations

from typing import Any

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


def ones_where(avail: Bool[Tensor, "*rest a"], dtype: torch.dtype) -> Float[Tensor, "*rest a"]:
    """``usable`` as numbers: 1 where an action counts, 0 elsewhere."""
    here = avail.to(dtype)
    return here + (here.sum(-1, keepdim=True) == 0)


def only(x: Float[Tensor, "*rest"], here: Float[Tensor, "*rest"]) -> Float[Tensor, "*rest"]:
    """x where ``here`` is 1, and 0 where it is 0, whatever x holds there, even NaN; no gradient goes there.

    On a CPU ``torch.where`` guesses at every element what comes next: where the mask follows no pattern it takes 20
    times as long as an AND of bits.
    """
    if x.device.type != "cpu":
        return torch.where(here > 0, x, 0.0)
    return _And.apply(x, here.to(_SAME_SIZE[x.element_size()]).neg_())


_SAME_SIZE = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class _And(torch.autograd.Function):
    """x where all bits of a mask are set, 0 where none is."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, bits: Tensor) -> Tensor:
        return (x.view(bits.dtype) & bits).view(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004 - torch's names
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _And.apply(grads[0], ctx.saved_tensors[0]), None


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
    return torch.log_softmax(available_only(logits, avail, UNAVAILABLE), dim=-1)


def available_only(
    x: Float[Tensor, "*rest a"], avail: Bool[Tensor, "*rest a"], other: float
) -> Float[Tensor, "*rest a"]:
    """x of the usable actions and ``other`` of all others, where x is not read and gets no gradient."""
    here = ones_where(avail, x.dtype)
    return only(x, here) + (1 - here) * other


def probabilities(log_pi: Float[Tensor, "*rest a"], avail: Bool[Tensor, "*rest a"]) -> Float[Tensor, "*rest a"]:
    """π, exactly 0 where unavailable."""
    return exp_where(ones_where(avail, log_pi.dtype), log_pi)


def exp_where(here: Float[Tensor, "*rest"], x: Float[Tensor, "*rest"]) -> Float[Tensor, "*rest"]:
    """exp(x) where ``here`` is 1, 0 where it is 0; x is not read there: exp of -1e10 takes 18 times exp of 0."""
    return only(x, here).exp() * here


def expectation(
    pi: Float[Tensor, "*rest a"], f: Float[Tensor, "*rest a"], avail: Bool[Tensor, "*rest a"]
) -> Float[Tensor, "*rest"]:
    r""":math:`E_\pi[f] = \sum_{a\,available} \pi(a) f(a)`; f is not read where unavailable."""
    return (pi * only(f, ones_where(avail, f.dtype))).sum(-1)


def entropy(log_pi: Float[Tensor, "*rest a"], avail: Bool[Tensor, "*rest a"]) -> Float[Tensor, "*rest"]:
    r""":math:`H = -\sum_{a\,available} \pi(a) \log \pi(a)`."""
    here = ones_where(avail, log_pi.dtype)
    kept = only(log_pi, here)
    return -(kept.exp() * here * kept).sum(-1)


def floored(pi: Float[Tensor, "*rest a"], avail: Bool[Tensor, "*rest a"], epsilon: Scalar) -> Float[Tensor, "*rest a"]:
    r"""π mixed with the uniform policy, :math:`(1-\epsilon)\pi + \epsilon\,avail / \sum avail` (DOP, COMA)."""
    uniform = ones_where(avail, pi.dtype)
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
    return draw(exp_where((~(log_pi < -69)).to(log_pi.dtype), log_pi), rng)
