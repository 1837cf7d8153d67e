"""QPLEX: a sum of the agents' values and of their advantages, weighed by the joint action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from core.registry import MIXERS
from core.specs import EnvSpec
from modules.layers import JointWeights, hypernet
from modules.mixers.base import Mixer


@MIXERS.register
class QPLEX(Mixer):
    r"""Wang et al., "QPLEX: Duplex Dueling Multi-Agent Q-Learning", ICLR 2021 (algorithms.md 1.9-5).

    .. math::
        Q_{tot} = \sum_i \hat q_i + \sum_i sg[\hat q_i - \hat m_i]\,(\lambda_i(s, u) - 1), \qquad
        \hat q_i = w_i(s)\,q_i + c_i(s), \quad \hat m_i = w_i(s) \max_a q_i(a) + c_i(s)

    In value this is :math:`\sum_i \hat m_i + \sum_i \lambda_i (\hat q_i - \hat m_i)`: advantages are at most 0 and
    their weights positive, so the joint action of everybody's best has the largest Q_tot, whatever λ is. Gradients
    reach q_i, w_i and c_i through the first sum only, and λ through the frozen advantages only.
    """

    reads_joint = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Keys of QPLEX's mixer; the defaults are the release's for StarCraft."""

        hypernet_embed: int = 64
        """Width of the hidden layer of w's and c's networks."""
        n_head: int = 4
        """Summands of λ; 10 in the release's matrix games."""
        adv_hypernet_layers: Literal[1, 2, 3] = 1
        """Linear layers of λ's networks; 3 in the release's matrix games."""
        adv_hypernet_embed: int = 64
        """Width of their hidden layers."""

    def __init__(self, spec: EnvSpec, cfg: Config) -> None:
        super().__init__()
        self.w = hypernet(spec.state_dim, spec.n_agents, 2, cfg.hypernet_embed)
        self.c = hypernet(spec.state_dim, spec.n_agents, 2, cfg.hypernet_embed)
        self.lambdas = JointWeights(spec, cfg.n_head, cfg.adv_hypernet_layers, cfg.adv_hypernet_embed)

    def joint(
        self,
        q: Float[Tensor, "b t n"],
        v: Float[Tensor, "b t n"],
        state: Float[Tensor, "b t s"],
        joint: Float[Tensor, "b t n a"],
        obs: Float[Tensor, "b t n o"],  # noqa: ARG002 - for mixers that attend to the agents
    ) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t"]]:
        """Q_tot and no regulariser; ``v`` is max_a q_i. See ``Mixer.joint``."""
        w = self.w(state).abs() + 1e-10
        advantage = (w * (q - v)).detach()
        q_tot = (w * q + self.c(state)).sum(-1) + (advantage * (self.lambdas(state, joint) - 1)).sum(-1)
        return q_tot, q_tot.new_zeros(q_tot.shape)
