"""Gradients through discrete choices (Jang et al. 2017; Maddison et al. 2017; algorithms.md 1.3)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import one_hot

from core.specs import Uniforms
from rl.masked import UNAVAILABLE, usable


def gumbel_softmax(
    logits: Float[Tensor, "*rest a"],
    avail: Bool[Tensor, "*rest a"],
    rng: Uniforms | None,
    temperature: float = 1.0,
    hard: bool = True,
) -> Float[Tensor, "*rest a"]:
    r"""A choice among the available actions that has a gradient: :math:`softmax((z + g) / \tau)`, g Gumbel noise.

    Unavailable actions get exactly 0. Ties give one action, the first (T-08).

    Args:
        logits: z, unnormalised log-probabilities.
        avail: which actions may be chosen.
        rng: source of the noise; None for none, which also draws nothing (T-09): the relaxed argmax.
        temperature: τ > 0.
        hard: a one-hot that has the relaxed choice's gradient (straight-through); otherwise that choice itself.
    """
    masked = torch.where(usable(avail), logits, UNAVAILABLE)
    if rng is not None:
        masked = masked + _gumbel(masked, rng)
    soft = torch.softmax(masked / temperature, dim=-1)
    if not hard:
        return soft
    chosen = one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
    return chosen + (soft - soft.detach())


@torch.no_grad()
def _gumbel(like: Tensor, rng: Uniforms) -> Tensor:
    """Standard Gumbel noise; the smallest uniform number is kept away from 0."""
    if isinstance(rng, torch.Generator):
        u = torch.rand(like.shape, generator=rng, device=like.device, dtype=like.dtype)
    else:
        u = rng(like.shape)
    return -(-u.clamp(min=1e-20).log()).clamp(min=1e-20).log()
