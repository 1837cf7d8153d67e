"""FOP's mixer: individual advantages with positive weights that depend on the joint action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from core.registry import MIXERS
from core.specs import EnvSpec
from modules.layers import JointWeights, heads, in_groups, mlp
from modules.mixers.base import Mixer

ATTENTION_HIDDEN = 64
"""Width of the hidden layer of the attention's queries (Qatten)."""
REGULARISER = 1e-3
"""Coefficient of the mean squared attention logit (Qatten)."""


@MIXERS.register
class FOPMixer(Mixer):
    r"""Zhang et al., "FOP: Factorizing Optimal Joint Policy of Maximum-Entropy MARL", ICML 2021 (algorithms.md 6.3).

    .. math::
        Q_{jt} = \sum_i w_i Q_i + c(s) + \sum_i sg[w_i (Q_i - V_i)]\,(\lambda_i(s, u) - 1)

    This is the release's, anchored form. In value it is
    :math:`\sum_i \lambda_i w_i (Q_i - V_i) + V_{jt}` with :math:`V_{jt} = c + \sum_i w_i V_i`; the gradient reaches
    Q_i through the first sum only, and λ through the frozen advantage only. Without the anchor the common level of
    the Q_i drifts (T-25). λ needs a hidden layer to weigh combinations of actions (T-26), so it has two layers by
    default, where the release has one on StarCraft.
    """

    reads_joint = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Keys of FOP's mixer."""

        mixing_embed_dim: int = 32
        """Width of the attention's keys and queries and of c's hidden layer."""
        n_head: int = 4
        """Heads of the attention and of λ."""
        adv_hypernet_layers: int = 2
        """Linear layers of λ's networks; 1 for the release's StarCraft setting."""
        adv_hypernet_embed: int = 64
        """Width of their hidden layers."""
        mixer_weights: Literal["attention", "one"] = "attention"
        """The w_i: Qatten's attention (they sum to n_head), or all 1 (matrix and differential games)."""
        mixer_unit: Literal["auto", "obs", "state_slice"] = "auto"
        """What tells the attention about agent i: its observation, or its block of the state; ``auto``: the block
        where the environment declares one (T-13)."""

    def __init__(self, spec: EnvSpec, cfg: Config) -> None:
        """Raises ValueError where ``state_slice`` is asked for and the environment declares no blocks."""
        super().__init__()
        s, n, e, k = spec.state_dim, spec.n_agents, cfg.mixing_embed_dim, cfg.n_head
        if cfg.mixer_unit == "state_slice" and spec.unit_dim is None:
            raise ValueError("mixer_unit 'state_slice': this environment's state has no block per agent; use 'obs'")
        self.n_agents, self.unit_dim, self.cfg = n, None if cfg.mixer_unit == "obs" else spec.unit_dim, cfg
        self.c = mlp(s, e, 1)
        self.lambdas = JointWeights(spec, k, cfg.adv_hypernet_layers, cfg.adv_hypernet_embed)
        if cfg.mixer_weights == "attention":
            self.query = heads(k, s, e, layers=2, hidden_dim=ATTENTION_HIDDEN, bias=False)
            self.key = heads(k, self.unit_dim or spec.obs_dim, e, layers=1, bias=False)

    def joint(
        self,
        q: Float[Tensor, "b t n"],
        v: Float[Tensor, "b t n"],
        state: Float[Tensor, "b t s"],
        joint: Float[Tensor, "b t n a"],
        obs: Float[Tensor, "b t n o"],
    ) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t"]]:
        """Q_jt and the attention's regulariser at every step; see ``Mixer.joint``. V_i gets no gradient."""
        w, regulariser = self.weights(state, obs)
        advantage = (w * (q - v)).detach()
        q_jt = (w * q).sum(-1) + self.c(state).squeeze(-1) + (advantage * (self.lambdas(state, joint) - 1)).sum(-1)
        return q_jt, regulariser

    def weights(
        self, state: Float[Tensor, "b t s"], obs: Float[Tensor, "b t n o"]
    ) -> tuple[Float[Tensor, "b t n"], Float[Tensor, "b t"]]:
        r"""Qatten's :math:`w_i = \sum_h softmax_i(query_h(s) \cdot key_h(unit_i)/\sqrt E)`, and its regulariser.

        The regulariser is :math:`10^{-3} \sum_h mean_i(query \cdot key)^2`. Both are plain where all w_i are 1.
        """
        if self.cfg.mixer_weights == "one":
            return state.new_ones(*state.shape[:2], self.n_agents), state.new_zeros(state.shape[:2])
        units = obs
        if self.unit_dim is not None:
            units = state[..., : self.n_agents * self.unit_dim].unflatten(-1, (self.n_agents, self.unit_dim))
        key: Any = self.key[0]
        asked = in_groups(self.query(state), key.weight.unflatten(0, (self.cfg.n_head, -1)))
        logits = units @ asked.transpose(-1, -2)  # [b, t, n, head]: key times query, without making all agents' keys
        w = (logits / self.cfg.mixing_embed_dim**0.5).softmax(-2).sum(-1)
        return w + 1e-10, REGULARISER * logits.square().mean(-2).sum(-1)
