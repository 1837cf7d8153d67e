"""COMA's critic: the value of every own action, given what the others did."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core.registry import CRITICS
from core.specs import EnvSpec
from modules.critics.policy import CounterfactualCritic
from modules.layers import mlp


@CRITICS.register
class COMACritic(CounterfactualCritic):
    """Foerster et al. 2018: one network whose A outputs are Q(s, (·, a_-i)), for all agents in one pass.

    It reads the state, the agent's observation, the joint action with the agent's own part zeroed, the joint action
    before and the agent's number (algorithms.md 11.5).
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Keys of COMA's critic."""

        critic_dim: int = 128
        """Width of the two hidden layers."""

    def __init__(self, spec: EnvSpec, cfg: Config) -> None:
        super().__init__()
        joint = spec.n_agents * spec.n_actions
        i = spec.state_dim + spec.obs_dim + 2 * joint + spec.n_agents
        self.net = mlp(i, cfg.critic_dim, cfg.critic_dim, spec.n_actions)

    def forward(
        self,
        state: Float[Tensor, "b t s"],
        obs: Float[Tensor, "b t n o"],
        joint: Float[Tensor, "b t n a"],
        last: Float[Tensor, "b t n a"],
    ) -> Float[Tensor, "b t n a"]:
        """Q(s, (·, a_-i)) of every agent, for the actions ``joint`` (one-hots) after the actions ``last``."""
        b, t, n, _ = obs.shape
        ids = torch.eye(n, device=obs.device)
        others = joint.unsqueeze(2) * (1 - ids)[..., None]
        shared = torch.cat([state, last.flatten(2)], -1).unsqueeze(2).expand(-1, -1, n, -1)
        return self.net(torch.cat([shared, obs, others.flatten(3), ids.expand(b, t, n, n)], -1))
