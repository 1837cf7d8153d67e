"""DOP's critic: local values of every action, mixed linearly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear

from core.config import ConfigError
from core.registry import CRITICS
from core.specs import EnvSpec, Uniforms
from modules.critics.policy import LocalPolicyCritic
from modules.layers import mlp
from rl.masked import draw, taken
from rl.policy_gradient import counterfactual_advantage


@CRITICS.register
class DecomposedCritic(LocalPolicyCritic):
    r"""Wang et al., ICLR 2021, Eq. 5: :math:`Q_{tot}(s, a) = \sum_i k_i(s) Q_i(s, a_i) + b(s)`.

    Q_i is one network for all agents, of the state, the agent's observation and its number, as in the release (A10);
    its values are A outputs plus one that all actions share.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Keys of the decomposed critic."""

        critic_dim: int = 256
        """Width of the two hidden layers."""
        expectation: Literal["exact", "sampled"] = "exact"
        """Of Q_tot under the policies: the decomposed sum, or the mean over sampled joint actions."""
        joint_samples: int = 200
        """Joint actions of the sampled expectation."""

    def __init__(self, spec: EnvSpec, mixer: Any, cfg: Config) -> None:
        """``mixer`` is linear and tells its weights k(s) and b(s).

        Raises:
            ConfigError: it is not.
        """
        super().__init__()
        if not hasattr(mixer, "weights"):
            raise ConfigError(["the decomposed critic needs a linear mixer, whose weights it reads: choose mixer=dop"])
        i = spec.state_dim + spec.obs_dim + spec.n_agents
        self.cfg, self.mixer = cfg, mixer
        self.widths = [spec.state_dim, spec.obs_dim, spec.n_agents]
        self.body = nn.Sequential(mlp(i, cfg.critic_dim, cfg.critic_dim), nn.ReLU())
        self.head, self.shared = nn.Linear(cfg.critic_dim, spec.n_actions), nn.Linear(cfg.critic_dim, 1)

    def local(self, state: Float[Tensor, "b t s"], obs: Float[Tensor, "b t n o"]) -> Float[Tensor, "b t n a"]:
        """Q_i(s, ·) of every agent. The first layer meets the state once, not once for every agent."""
        layers: list[Any] = [*cast(nn.Sequential, self.body[0]), self.body[1]]
        first, *rest = layers
        of_state, of_obs, of_number = first.weight.split(self.widths, 1)
        added = linear(state, of_state, first.bias).unsqueeze(2) + of_number.t()
        features = torch.addmm(added.flatten(0, 2), obs.flatten(0, 2), of_obs.t())
        for layer in rest:
            features = layer(features)
        q = linear(features, self.head.weight + self.shared.weight, self.head.bias + self.shared.bias)
        return q.unflatten(0, obs.shape[:3])

    def q_tot(
        self, state: Float[Tensor, "b t s"], obs: Float[Tensor, "b t n o"], action: Int[Tensor, "b t n"]
    ) -> Float[Tensor, "b t"]:
        """Σ_i k_i(s) Q_i(s, a_i) + b(s)."""
        return self.mixer(taken(self.local(state, obs), action), state)

    def expected(
        self,
        state: Float[Tensor, "b t s"],
        obs: Float[Tensor, "b t n o"],
        pi: Float[Tensor, "b t n a"],
        rng: Uniforms,
    ) -> Float[Tensor, "b t"]:
        """Σ_i k_i(s) Σ_a π_i(a) Q_i(s, a) + b(s): O(NA) (algorithms.md 1.7), or the mean over sampled joint actions."""
        return self._mean(self.local(state, obs), state, pi, rng)

    def both(
        self,
        state: Float[Tensor, "b t s"],
        obs: Float[Tensor, "b t n o"],
        action: Int[Tensor, "b t n"],
        pi: Float[Tensor, "b t n a"],
        rng: Uniforms,
    ) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t"]]:
        """See ``PolicyCritic.both``; the local values are computed once."""
        q = self.local(state, obs)
        return self.mixer(taken(q, action), state), self._mean(q, state, pi, rng)

    def _mean(self, q: Tensor, state: Tensor, pi: Tensor, rng: Uniforms) -> Float[Tensor, "b t"]:
        if self.cfg.expectation == "exact":
            return self.mixer((pi * q).sum(-1), state)
        action = draw(pi.expand(self.cfg.joint_samples, *pi.shape), rng)
        values = q.expand(self.cfg.joint_samples, *q.shape).gather(-1, action.unsqueeze(-1)).squeeze(-1)
        k, b = self.mixer.weights(state)
        return (k * values).sum(-1).mean(0) + b

    def advantage(
        self,
        state: Float[Tensor, "b t s"],
        obs: Float[Tensor, "b t n o"],
        action: Int[Tensor, "b t n"],
        pi: Float[Tensor, "b t n a"],
        avail: Bool[Tensor, "b t n a"],
        rng: Uniforms,  # noqa: ARG002 - nothing is sampled here
    ) -> Float[Tensor, "b t n"]:
        """k_i(s) [Q_i(s, a_i) - Σ_a π_i(a) Q_i(s, a)] (Eq. 10 and its baseline)."""
        return self.mixer.weights(state)[0].detach() * counterfactual_advantage(
            self.local(state, obs), pi, avail, action
        )
