"""How value-based agents choose actions (algorithms.md 1.2)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.schedule import Scalar
from rl.masked import draw, ones_where, only


def greedy(q: Float[Tensor, "*rest a"], avail: Bool[Tensor, "*rest a"]) -> Int[Tensor, "*rest"]:
    """The available action of the largest value, however low that is (algorithms.md 11.1)."""
    here = ones_where(avail, q.dtype)
    return (only(q, here) + (1 - 1 / here)).argmax(-1)  # 1 - 1/0 is -inf


@torch.no_grad()
def epsilon_greedy(
    q: Float[Tensor, "*rest a"], avail: Bool[Tensor, "*rest a"], epsilon: Scalar, rng: torch.Generator
) -> Int[Tensor, "*rest"]:
    """Every agent by itself: with chance ``epsilon`` uniform over its available actions, otherwise greedy.

    Always draws the same amount of random numbers, whatever ``epsilon`` is.
    """
    explores = torch.rand(q.shape[:-1], generator=rng, device=q.device) < epsilon
    return torch.where(explores, draw(ones_where(avail, q.dtype), rng), greedy(q, avail))
