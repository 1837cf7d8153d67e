"""MACPF's mixer: a sum of the agents' values with positive weights that depend on the state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from core.registry import MIXERS
from core.specs import EnvSpec
from modules.layers import hypernet, mlp
from modules.mixers.base import Mixer, Mixing


@MIXERS.register
class LinearMixer(Mixer):
    r"""Wang, Ye & Lu, ICLR 2023, equation 6, as in the release: QMIX without the nonlinearity (algorithms.md 1.9-4).

    .. math:: Q_{jt} = \sum_i k_i(s)\, q_i + b(s), \qquad k = |W_1(s)|\,|w_2(s)|, \qquad b = b_1(s)\,|w_2(s)| + v(s)

    The weights are not normalised. The paper's form :math:`\sum_i k_i (q_i - V_i) + V_{jt}(s)` (T-35) is the same
    mixer on :math:`q_i - V_i` with ``mixer_bias`` off and a value of the state beside it.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Keys of the linear mixer."""

        mixing_embed_dim: int = 64
        """Width E of the product that the weights come from."""
        hypernet_layers: Literal[1, 2] = 2
        """Linear layers of the networks that make the weights."""
        hypernet_embed: int = 64
        """Width of their hidden layer, where they have two."""
        mixer_weights: Literal["hypernet", "one"] = "hypernet"
        """``one``: all k_i are 1."""
        mixer_bias: bool = True
        """False: b is 0."""

    def __init__(self, spec: EnvSpec, cfg: Config) -> None:
        super().__init__()
        s, n, e = spec.state_dim, spec.n_agents, cfg.mixing_embed_dim
        self.n_agents, self.cfg = n, cfg
        if cfg.mixer_weights == "hypernet":
            self.w1 = hypernet(s, n * e, cfg.hypernet_layers, cfg.hypernet_embed)
            self.w2 = hypernet(s, e, cfg.hypernet_layers, cfg.hypernet_embed)
        if cfg.mixer_bias:
            self.v = mlp(s, e, 1)
            if cfg.mixer_weights == "hypernet":
                self.b1 = nn.Linear(s, e)

    def weights(self, state: Float[Tensor, "b t s"]) -> tuple[Float[Tensor, "b t n"], Float[Tensor, "b t"]]:
        """k(s) > 0 of every agent, and b(s)."""
        b = self.v(state).squeeze(-1) if self.cfg.mixer_bias else state.new_zeros(state.shape[:2])
        if self.cfg.mixer_weights == "one":
            return state.new_ones(*state.shape[:2], self.n_agents), b
        w2 = self.w2(state).abs()
        if self.cfg.mixer_bias:
            b = b + (self.b1(state) * w2).sum(-1)
        w1 = self.w1(state).abs().unflatten(-1, (self.n_agents, -1))
        return (w1 * w2.unsqueeze(-2)).sum(-1), b

    def given(self, state: Float[Tensor, "b t s"]) -> Mixing:
        """See ``Mixer.given``."""
        k, b = self.weights(state)
        return lambda q: (k * q).sum(-1) + b

    def forward(self, q: Float[Tensor, "b t n"], state: Float[Tensor, "b t s"]) -> Float[Tensor, "b t"]:
        """Q_jt."""
        return self.given(state)(q)
