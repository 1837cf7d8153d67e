"""Weighted QMIX's unrestricted mixer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core.registry import CRITICS
from core.specs import EnvSpec
from modules.layers import mlp
from modules.mixers.base import Mixer


@CRITICS.register
class CentralMixer(Mixer):
    r"""Rashid et al., "Weighted QMIX", NeurIPS 2020: :math:`\hat Q^* = MLP(q, s) + V(s)` (algorithms.md 11.4).

    It need not rise with any q_i, so the agents' own best actions say nothing about its largest value. That is why it
    stands among the critics and cannot be chosen as a learner's ``mixer``.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Keys of the unrestricted mixer."""

        central_mixing_embed_dim: int = 256
        """Width of the three hidden layers of the mixer, and of V's one."""

    def __init__(self, spec: EnvSpec, cfg: Config) -> None:
        super().__init__()
        e = cfg.central_mixing_embed_dim
        self.net = mlp(spec.n_agents + spec.state_dim, e, e, e, 1)
        self.v = mlp(spec.state_dim, e, 1)

    def forward(self, q: Float[Tensor, "b t n"], state: Float[Tensor, "b t s"]) -> Float[Tensor, "b t"]:
        """Q̂*."""
        return (self.net(torch.cat([q, state], dim=-1)) + self.v(state)).squeeze(-1)
