"""DOP's mixer: a sum of the agents' values with weights that depend on the state and sum to 1."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from core.registry import MIXERS
from core.specs import EnvSpec
from modules.layers import mlp
from modules.mixers.base import Mixer


@MIXERS.register
class DOPMixer(Mixer):
    r"""Wang et al., "DOP: Off-Policy Multi-Agent Decomposed Policy Gradients", ICLR 2021, Eq. 5 (algorithms.md 1.9-3).

    .. math:: Q_{tot} = \sum_i k_i(s)\, q_i + b(s), \qquad k = \tilde k / \textstyle\sum_j \tilde k_j, \qquad
        \tilde k = |W_1(s)|\,|w_2(s)|

    The release adds no b(s) (T-12), which confines Q_tot to averages of the local values.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Keys of DOP's mixer."""

        mixing_embed_dim: int = 32
        """Width E of the product that the weights come from, and of the network of b."""
        mixer_bias: bool = True
        """False: b is 0, as in the release."""

    def __init__(self, spec: EnvSpec, cfg: Config) -> None:
        super().__init__()
        s, n, e = spec.state_dim, spec.n_agents, cfg.mixing_embed_dim
        self.n_agents = n
        self.w1, self.w2 = nn.Linear(s, n * e), nn.Linear(s, e)
        self.b = mlp(s, e, 1) if cfg.mixer_bias else None

    def weights(self, state: Float[Tensor, "b t s"]) -> tuple[Float[Tensor, "b t n"], Float[Tensor, "b t"]]:
        """k(s) >= 0 of every agent, which sum to 1, and b(s)."""
        w1 = self.w1(state).abs().unflatten(-1, (self.n_agents, -1))
        k = (w1 * self.w2(state).abs().unsqueeze(-2)).sum(-1)
        b = state.new_zeros(state.shape[:2]) if self.b is None else self.b(state).squeeze(-1)
        return k / (k.sum(-1, keepdim=True) + 1e-10), b

    def forward(self, q: Float[Tensor, "b t n"], state: Float[Tensor, "b t s"]) -> Float[Tensor, "b t"]:
        """Q_tot."""
        k, b = self.weights(state)
        return (k * q).sum(-1) + b
