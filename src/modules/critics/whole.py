"""Central values of the joint action, a copy for every agent (F2A2-DDPG, F2A2-TD3, MA-AC)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from core.registry import CRITICS
from core.specs import EnvSpec
from modules.critics.peers import RelaxedCritic, Worth
from modules.layers import GroupLinear, clipped


@dataclass(frozen=True, kw_only=True)
class WholeConfig:
    """Keys of whole critics."""

    critic_dim: int = 128
    """Width of the two hidden layers."""
    critic_agent_id: bool = True
    """Whether a critic reads whose it is: without, critics that agree fit the mean of the agents' returns."""
    obs_clip: float | None = None
    """Observations are cut to this size; null: they are not."""


class WholeNet(nn.Module):
    """N copies of one network of all observations, all actions and the reader's number; all of it is shared."""

    def __init__(self, spec: EnvSpec, cfg: WholeConfig, outputs: int) -> None:
        super().__init__()
        n, h = spec.n_agents, cfg.critic_dim
        self.spec, self.cfg = spec, cfg
        self.first = GroupLinear(n, sum(spec.obs_dims) + n * spec.n_actions + n * cfg.critic_agent_id, h)
        self.second, self.head = GroupLinear(n, h, h), GroupLinear(n, h, outputs)

    def forward(self, obs: Float[Tensor, "b t n o"], joint: Float[Tensor, "b t i n a"]) -> Float[Tensor, "b t n p"]:
        """The outputs of every copy; what all copies read is not repeated for each."""
        seen = clipped(self.spec.joint_obs(obs), self.cfg.obs_clip)
        action, weight = joint.flatten(3), self.first.weight
        by_obs, by_action, by_reader = weight.tensor_split([seen.shape[-1], seen.shape[-1] + action.shape[-1]], 1)
        x = torch.einsum("bto,noh->btnh", seen, by_obs)
        same = action.shape[2] == 1
        x = x + torch.einsum(
            "bta,nah->btnh" if same else "btna,nah->btnh", action[:, :, 0] if same else action, by_action
        )
        if self.cfg.critic_agent_id:
            x = x + torch.einsum("nnh->nh", by_reader)
        x = leaky_relu(x + self.first.bias)
        return self.head(leaky_relu(self.second(x)))


@CRITICS.register
class WholeCritic(RelaxedCritic):
    """Q(o, a; w_i): two hidden layers with LeakyReLU (algorithms.md 10.1, 10.6)."""

    Config = WholeConfig

    def __init__(self, spec: EnvSpec, cfg: WholeConfig) -> None:
        super().__init__()
        self.net = WholeNet(spec, cfg, 1)

    def forward(self, obs: Float[Tensor, "b t n o"], joint: Float[Tensor, "b t i n a"]) -> Worth:
        """See ``PeerCritic.forward``."""
        return Worth(self.net(obs, joint).squeeze(-1))

    def shared(self) -> list[nn.Parameter]:
        """All of it."""
        return list(self.parameters())
