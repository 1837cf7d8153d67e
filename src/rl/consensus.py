"""Agreement of N agents on what they share, over a communication graph (F2A2; algorithms.md 10.2, 10.5).

Each agent i has a copy :math:`\\tilde w_i` of P shared numbers; copies, duals and averages are rows of [n, p] tensors.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def ring(order: Int[Tensor, " n"]) -> Bool[Tensor, "n n"]:
    """Who hears whom, [i, j]: every agent its predecessor in ``order``; nobody where there is only one agent."""
    n = len(order)
    heard = torch.zeros(n, n, dtype=torch.bool)
    if n > 1:
        heard[order, order.roll(1)] = True
    return heard


def topology(order: Int[Tensor, " n"], share: float, undirected: bool, rng: torch.Generator) -> Bool[Tensor, "n n"]:
    """Who hears whom now, [i, j]; nobody hears itself.

    The ring of ``order``, and a ``share`` of the edges of the complete graph that the ring lacks, drawn anew with every
    call: their number is rounded, half to even. Share 0 is no edge at all, not even the ring's (algorithms.md 10.5).

    Args:
        order: the agents around the ring.
        share: p, from 0 to 1.
        undirected: edges go both ways and count once.
        rng: draws the edges; in host memory. Always called alike, so that no share moves what others draw from it.
    """
    n = len(order)
    base = ring(order)
    base = base | base.T if undirected else base
    missing = ~(base | torch.eye(n, dtype=torch.bool))
    missing = missing.triu() if undirected else missing
    candidates = missing.nonzero()
    picks = candidates[torch.randperm(len(candidates), generator=rng)[: round(share * len(candidates))]]
    if share == 0:
        return torch.zeros_like(base)
    heard = base.clone()
    heard[picks[:, 0], picks[:, 1]] = True
    return heard | heard.T if undirected else heard


def averaging(heard: Bool[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """The weights with which each agent takes the mean of itself and those whom it hears; rows sum to 1."""
    weight = (heard | torch.eye(len(heard), dtype=torch.bool, device=heard.device)).float()
    return weight / weight.sum(1, keepdim=True)


def metropolis(heard: Bool[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    r"""Weights whose rows and columns sum to 1: :math:`1 / (1 + \max(d_i, d_j))` for each edge, the rest for oneself.

    Xiao & Boyd 2004. ``heard`` must be symmetric; d are the degrees.
    """
    degree = heard.sum(1)
    weight = heard / (1.0 + torch.maximum(degree[:, None], degree))
    return weight + torch.diag(1 - weight.sum(1))


def attraction(
    copy: Float[Tensor, "n p"], agreed: Float[Tensor, "#n p"], dual: Float[Tensor, "n p"], beta: float
) -> Float[Tensor, "n p"]:
    r"""What the augmented Lagrangian adds to the gradient of each copy: :math:`\lambda_i + \beta(\tilde w_i - w_i)`.

    w_i is the average that agent i has received (F2A2, Eq. 5.4; algorithms.md 10.2, steps 1 and 2).
    """
    return torch.add(dual, copy - agreed, alpha=beta)


def dual_step(
    copy: Float[Tensor, "n p"], agreed: Float[Tensor, "#n p"], dual: Float[Tensor, "n p"], beta: float
) -> Float[Tensor, "n p"]:
    r""":math:`\lambda_i - \beta (w_i - \tilde w_i)` (F2A2, Eq. 5.4; algorithms.md 10.2, step 3)."""
    return torch.add(dual, copy - agreed, alpha=beta)
