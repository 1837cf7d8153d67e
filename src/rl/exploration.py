"""How value-based agents choose actions (algorithms.md 1.2)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.schedule import Scalar
from rl.masked import draw, usable


def greedy(q: Float[Tensor, "*rest a"], avail: Bool[Tensor, "*rest a"]) -> Int[Tensor, "*rest"]:
    """The available action of the largest value, however low that is (algorithms.md 11.1)."""
    return torch.where(usable(avail), q, -torch.inf).argmax(-1)


@torch.no_grad()
def epsilon_greedy(
    q: Float[Tensor, "*rest a"], avail: Bool[Tensor, "*rest a"], epsilon: Scalar, rng: torch.Generator
) -> Int[Tensor, "*rest"]:
    """Every agent by itself: with chance ``epsilon`` uniform over its available actions, otherwise greedy.

    Always draws the same amount of random numbers, whatever ``epsilon`` is.
    """
    explores = torch.rand(q.shape[:-1], generator=rng, device=q.device) < epsilon
    return torch.where(explores, draw(usable(avail).to(q.dtype), rng), greedy(q, avail))
