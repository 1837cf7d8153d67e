"""One network that values joint actions as a whole: the regular critic that DOP is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from core.registry import CRITICS
from core.specs import EnvSpec, Uniforms
from modules.critics.policy import PolicyCritic
from modules.layers import mlp
from rl.masked import draw


@CRITICS.register
class JointCritic(PolicyCritic):
    """Q(s, a) of the state and all agents' actions (DOP's appendix G: no decomposition, sampled baseline)."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Keys of the joint critic."""

        critic_dim: int = 256
        """Width of the two hidden layers."""
        joint_samples: int = 200
        """Joint actions sampled for an expectation."""

    def __init__(self, spec: EnvSpec, mixer: Any, cfg: Config) -> None:  # noqa: ARG002 - every critic is built alike
        super().__init__()
        self.cfg, self.n_actions = cfg, spec.n_actions
        self.net = mlp(spec.state_dim + spec.n_agents * spec.n_actions, cfg.critic_dim, cfg.critic_dim, 1)

    def q_tot(
        self,
        state: Float[Tensor, "*k b t s"],
        obs: Float[Tensor, "b t n o"],  # noqa: ARG002 - the state tells all
        action: Int[Tensor, "*k b t n"],
    ) -> Float[Tensor, "*k b t"]:
        """Q(s, a)."""
        joint = one_hot(action, self.n_actions).float().flatten(-2)
        return self.net(torch.cat([state, joint], -1)).squeeze(-1)

    def expected(
        self,
        state: Float[Tensor, "b t s"],
        obs: Float[Tensor, "b t n o"],
        pi: Float[Tensor, "b t n a"],
        rng: Uniforms,
    ) -> Float[Tensor, "b t"]:
        """The mean over joint actions drawn from the policies."""
        action = draw(pi.expand(self.cfg.joint_samples, *pi.shape), rng)
        return self.q_tot(state.expand(self.cfg.joint_samples, *state.shape), obs, action).mean(0)

    def advantage(
        self,
        state: Float[Tensor, "b t s"],
        obs: Float[Tensor, "b t n o"],
        action: Int[Tensor, "b t n"],
        pi: Float[Tensor, "b t n a"],
        avail: Bool[Tensor, "b t n a"],  # noqa: ARG002 - pi is 0 where unavailable
        rng: Uniforms,
    ) -> Float[Tensor, "b t n"]:
        """Q(s, a) - E_π[Q(s, ·)], the same for every agent."""
        gain = self.q_tot(state, obs, action) - self.expected(state, obs, pi, rng)
        return gain.detach().unsqueeze(-1).expand_as(action)
