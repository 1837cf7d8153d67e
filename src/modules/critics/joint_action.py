"""Central values of joint actions: one for the team, or one with weights of its own for every agent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.registry import CRITICS
from core.specs import EnvSpec
from modules.critics.action import ActionCritic
from modules.layers import mlp
from modules.stacked import Stacked


@CRITICS.register
class JointActionCritic(ActionCritic):
    """Q(s, a_1, …, a_N), or Q_i of the same inputs for every agent (Lowe et al. 2017; algorithms.md 11.6)."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Keys of central critics."""

        critic_dim: int = 64
        """Width of the hidden layers."""
        critic_layers: int = 2
        """Their number."""
        critic_per_agent: bool | None = None
        """A critic for each agent; null: where every agent has a reward of its own."""

    def __init__(self, spec: EnvSpec, cfg: Config) -> None:
        super().__init__()
        each = spec.reward == "individual" if cfg.critic_per_agent is None else cfg.critic_per_agent
        dims = [spec.state_dim + spec.n_agents * spec.n_actions, *[cfg.critic_dim] * cfg.critic_layers, 1]
        self.per_agent = each
        self.net: nn.Module = Stacked(lambda: mlp(*dims), spec.n_agents) if each else mlp(*dims)

    def forward(
        self,
        state: Float[Tensor, "b t s"],
        obs: Float[Tensor, "b t n o"],  # noqa: ARG002 - the state tells all
        action: Float[Tensor, "b t n a"],
    ) -> Float[Tensor, "b t *n"]:
        """Q of a joint action, or every agent's Q_i of it."""
        x = torch.cat([state, action.flatten(-2)], -1)
        if not self.per_agent:
            return self.net(x).squeeze(-1)
        return self.net(x.unsqueeze(2).expand(-1, -1, action.shape[2], -1)).squeeze(-1)

    def replaced(
        self, state: Float[Tensor, "b t s"], action: Float[Tensor, "b t n a"], own: Float[Tensor, "b t n a"]
    ) -> Float[Tensor, "b t n"]:
        """Q, or Q_i, of N joint actions: in the one of agent i, its action is ``own`` and all others are ``action``."""
        n = action.shape[2]
        mine = torch.eye(n, dtype=torch.bool, device=action.device).unsqueeze(-1)
        joint = torch.where(mine, own.unsqueeze(2), action.unsqueeze(2)).flatten(-2)
        return self.net(torch.cat([state.unsqueeze(2).expand(-1, -1, n, -1), joint], -1)).squeeze(-1)
