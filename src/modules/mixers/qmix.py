"""QMIX: a monotone network whose weights depend on the state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import elu

from core.registry import MIXERS
from core.specs import EnvSpec
from modules.layers import hypernet, mlp
from modules.mixers.base import Mixer, Mixing


@MIXERS.register
class QMIX(Mixer):
    r"""Rashid et al., "QMIX: Monotonic Value Function Factorisation", ICML 2018 (algorithms.md 1.9-2).

    .. math:: Q_{tot} = elu(q\,|W_1(s)| + b_1(s)) \cdot |w_2(s)| + v(s)

    The absolute weights make Q_tot rise with every q_i.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Keys of QMIX's mixer."""

        mixing_embed_dim: int = 32
        """Width E of the hidden layer that the values pass through."""
        hypernet_layers: Literal[1, 2] = 2
        """Linear layers of the networks that make the weights."""
        hypernet_embed: int = 64
        """Width of their hidden layer, where they have two."""

    def __init__(self, spec: EnvSpec, cfg: Config) -> None:
        super().__init__()
        s, n, e = spec.state_dim, spec.n_agents, cfg.mixing_embed_dim
        self.n_agents = n
        self.w1 = hypernet(s, n * e, cfg.hypernet_layers, cfg.hypernet_embed)
        self.w2 = hypernet(s, e, cfg.hypernet_layers, cfg.hypernet_embed)
        self.b1 = nn.Linear(s, e)
        self.v = mlp(s, e, 1)

    def given(self, state: Float[Tensor, "b t s"]) -> Mixing:
        """See ``Mixer.given``."""
        w1 = self.w1(state).abs().unflatten(-1, (self.n_agents, -1))
        b1, w2, v = self.b1(state), self.w2(state).abs(), self.v(state).squeeze(-1)
        return lambda q: (elu((q.unsqueeze(-1) * w1).sum(-2) + b1) * w2).sum(-1) + v

    def forward(self, q: Float[Tensor, "b t n"], state: Float[Tensor, "b t s"]) -> Float[Tensor, "b t"]:
        """Q_tot."""
        return self.given(state)(q)
