"""Local values of actions: Q_i(o_i, a_i), or of the state, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from core.registry import CRITICS
from core.specs import EnvSpec
from modules.critics.action import LocalCritic
from modules.layers import mlp, numbered


@CRITICS.register
class LocalActionCritic(LocalCritic):
    """One feed-forward network for all agents (algorithms.md 4, 7, 11.7)."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Keys of local critics."""

        critic_dim: int = 64
        """Width of the hidden layers."""
        critic_layers: int = 2
        """Their number."""
        critic_reads: Literal["obs", "state_obs"] = "obs"
        """Beside its action, an agent's own observation, or the state, too."""
        critic_ids: bool = True
        """Whether the agents' numbers are read, so that equal observations may have different values."""

    def __init__(self, spec: EnvSpec, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        state_dim = spec.state_dim if cfg.critic_reads == "state_obs" else 0
        i = state_dim + spec.obs_dim + spec.n_actions + cfg.critic_ids * spec.n_agents
        self.net = mlp(i, *[cfg.critic_dim] * cfg.critic_layers, 1)

    def forward(
        self, state: Float[Tensor, "b t s"], obs: Float[Tensor, "b t n o"], action: Float[Tensor, "b t n a"]
    ) -> Float[Tensor, "b t n"]:
        """Q_i(·, a_i) of every agent."""
        parts = [obs, action]
        if self.cfg.critic_reads == "state_obs":
            parts.append(state.unsqueeze(2).expand(*obs.shape[:3], -1))
        x = torch.cat(parts, -1)
        return self.net(numbered(x) if self.cfg.critic_ids else x).squeeze(-1)
