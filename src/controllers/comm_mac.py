"""Agents that tell each other something before they act."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from controllers.base import Acted, unroll_agent
from controllers.policy_mac import PolicyMAC
from core.config import ConfigError, Settings
from core.device import sent
from core.registry import CONTROLLERS, LEARNERS
from core.specs import EnvSpec, EpisodeBatch, TimeStep
from modules.layers import agent_inputs, input_dim, last_actions, last_of, numbered
from modules.messages import Messages, delivered

NOISE = "message_noise"
"""The extra that holds the messages' noise ξ [sender, receiver, M]."""


@dataclass(frozen=True)
class Exchange:
    """One round of messages at each of t states."""

    x: Float[Tensor, "b t n i"]
    """The agents' own inputs."""
    mean: Float[Tensor, "b t n n m"]
    """μ, by sender and receiver."""
    heard: Float[Tensor, "b t n k"]
    """What arrived at each receiver: μ + ξ."""


@CONTROLLERS.register
class CommMAC(PolicyMAC):
    """Policies π_i(· | τ_i, messages to i), where messages follow from the senders' inputs at the same step only.

    The noise is stored with the episode. So a learner hears what was said, through the encoder as it is now, and
    the noise is like a part of the observations: what was done was chosen on these very messages.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(PolicyMAC.Config):
        """Keys of acting on messages."""

        message_dim: int = 3
        """Numbers in a message from one agent to another."""
        message_hidden_dim: int = 64
        """Width of the encoder's two hidden layers."""

    def __init__(self, spec: EnvSpec, cfg: Config, settings: Settings) -> None:
        if not getattr(LEARNERS[settings["learner"]], "learns_messages", False):
            learner = settings["learner"]
            raise ConfigError([f"'mac' is 'comm_mac', but {learner} learns no messages: choose learner=dop_comm"])
        super().__init__(spec, cfg, settings)
        i = input_dim(spec, self.agent.last_action)
        self.messages = Messages(spec.n_agents, i, spec.n_actions, cfg.message_dim, cfg.message_hidden_dim)

    def hearing(self, spec: EnvSpec) -> EnvSpec:
        """``spec`` for agents whose observations end with the messages to them."""
        width = spec.obs_dim + self.spec.n_agents * self.cfg.message_dim
        return replace(spec, obs_dims=(width,) * spec.n_agents)

    def network(self, spec: EnvSpec) -> nn.Module:
        """The agents' network, which reads the messages beside the observation."""
        return super().network(self.hearing(spec))

    def act(
        self,
        step: TimeStep,
        last: Float[Tensor, "b n a"],
        hidden: Float[Tensor, "b n h"],
        *,
        t_env: int,
        mode: str,
        rng: torch.Generator,
    ) -> Acted:
        """See ``Controller.act``; messages are noisy in tests too."""
        noise = self._noise(len(last), rng)
        heard = self._exchange(step.obs[:, None], last[:, None], noise).heard[:, 0]
        step = replace(step, obs=torch.cat([step.obs, heard], -1))
        acted = super().act(step, last, hidden, t_env=t_env, mode=mode, rng=rng)
        return replace(acted, extras=acted.extras | {NOISE: noise[:, 0]})

    def hear(self, batch: EpisodeBatch, rng: torch.Generator) -> EpisodeBatch:
        """The batch with observations that end with the messages heard, without gradient; only so it can be unrolled.

        ``rng`` draws the noise of each episode's last state, where nobody acted.
        """
        steps = torch.arange(batch.obs.shape[1])
        acted = sent(steps < batch.length[:, None], batch.obs.device)[..., None, None, None]
        stored = batch.extras[NOISE]
        noise = torch.where(acted, torch.cat([stored, stored[:, :1]], 1), self._noise(len(batch), rng))
        with torch.no_grad():
            heard = self._exchange(batch.obs, last_actions(batch.action, self.spec.n_actions), noise).heard
        return replace(batch, obs=torch.cat([batch.obs, heard], -1), extras=batch.extras | {NOISE: noise})

    def exchange(self, batch: EpisodeBatch) -> Exchange:
        """The messages of a batch of ``hear``, with gradient."""
        own = batch.obs[..., : self.spec.obs_dim]
        return self._exchange(own, last_of(batch, self.spec.n_actions), batch.extras[NOISE])

    def heard(self, batch: EpisodeBatch) -> Float[Tensor, "b t n o"]:
        """The observations of a batch of ``hear``, with gradient through the messages."""
        return torch.cat([batch.obs[..., : self.spec.obs_dim], self.exchange(batch).heard], -1)

    def unroll(self, batch: EpisodeBatch, through: bool = True) -> Float[Tensor, "b t n a"]:
        """Logits at every state of a batch of ``hear``, with gradient also ``through`` the messages."""
        obs = self.heard(batch) if through else batch.obs
        return unroll_agent(self.agent, replace(batch, obs=obs), self.spec.n_actions)

    def _exchange(
        self, obs: Float[Tensor, "b t n o"], last: Float[Tensor, "b t n a"], noise: Float[Tensor, "b t n n m"]
    ) -> Exchange:
        x = agent_inputs(obs, last) if self.agent.last_action else numbered(obs)
        mean = self.messages.mean(x)
        return Exchange(x, mean, delivered(mean + noise))

    def _noise(self, b: int, rng: torch.Generator) -> Float[Tensor, "b 1 n n m"]:
        n = self.spec.n_agents
        return torch.randn(b, 1, n, n, self.cfg.message_dim, generator=rng, device=rng.device)
