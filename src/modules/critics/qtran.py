"""QTRAN's joint action-value and state-value networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core.registry import CRITICS
from core.specs import EnvSpec
from modules.critics.base import JointHistoryCritic
from modules.layers import mlp


@CRITICS.register
class QTRANCritic(JointHistoryCritic):
    r"""Son et al., "QTRAN: Learning to Factorize with Transformation", ICML 2019 (algorithms.md 11.3).

    .. math:: Q_{jt}(s, \tau, u) = MLP\big(s, \sum_i e(h_i, u_i)\big)

    The encoder e is one for all agents and as wide as its input, so the critic grows with none of their number.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Keys of QTRAN's critic."""

        mixing_embed_dim: int = 64
        """Width of the two hidden layers of Q_jt and of V_jt."""

    def __init__(self, spec: EnvSpec, hidden_dim: int, cfg: Config) -> None:
        """``hidden_dim`` is the width of the agents' features."""
        super().__init__()
        e, width = cfg.mixing_embed_dim, hidden_dim + spec.n_actions
        self.encoder = mlp(width, width, width)
        self.q = mlp(spec.state_dim + width, e, e, 1)
        self.v = mlp(spec.state_dim, e, e, 1)

    def forward(
        self, h: Float[Tensor, "b t n h"], state: Float[Tensor, "b t s"], joint: Float[Tensor, "b t n a"]
    ) -> Float[Tensor, "b t"]:
        """Q_jt; see ``JointHistoryCritic.forward``."""
        encoded = self.encoder(torch.cat([h, joint], dim=-1)).sum(-2)
        return self.q(torch.cat([state, encoded], dim=-1)).squeeze(-1)

    def value(self, state: Float[Tensor, "b t s"]) -> Float[Tensor, "b t"]:
        """V_jt(s), which makes up for what a sum of utilities cannot express."""
        return self.v(state).squeeze(-1)
