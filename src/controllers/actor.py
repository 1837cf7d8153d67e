"""What ways of acting share in which every agent has a policy of its own, made of its network's outputs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from controllers.base import Acted, Controller, unroll_agent, unroll_agents
from core.config import Settings
from core.specs import EnvSpec, EpisodeBatch, TimeStep
from modules.agents.separate import SeparateAgents
from rl.distributions import Policy


class ActorController(Controller):
    """Agents with policies; the network's outputs are the parameters p of these."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Controller.Config):
        """Keys of acting by a policy."""

        share_parameters: bool = True
        """One network for all agents, which reads their numbers; False: one network each."""

    def __init__(self, spec: EnvSpec, cfg: Any, settings: Settings) -> None:
        super().__init__(spec, cfg, settings)
        make: Callable[[EnvSpec], nn.Module] = self.network
        self.agent = make(spec) if cfg.share_parameters else SeparateAgents(make, spec)

    def network(self, spec: EnvSpec) -> nn.Module:
        """The network of the agents of ``spec``, called like an ``Agent``."""
        return self.settings.build("agent", spec)

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
        """See ``Controller.act``."""
        out, hidden = self.agent(step.obs[:, None], last[:, None], hidden)
        if mode == self.explore_mode:
            return self.explored(out[:, 0], step.avail, hidden, t_env, rng)
        return self.acted(self.execute(out[:, 0], step.avail, rng), hidden)

    def unroll(self, batch: EpisodeBatch) -> Float[Tensor, "b t n p"]:
        """The policies' parameters at every state."""
        return unroll_agent(self.agent, batch, self.spec.n_actions)

    def unroll_beside(self, agents: Sequence[Any], batch: EpisodeBatch) -> list[Tensor]:
        """See ``Controller.unroll_beside``."""
        return unroll_agents([self.agent, *agents], batch, self.spec.n_actions)

    @abstractmethod
    def policy(self, out: Float[Tensor, "*rest p"], avail: Bool[Tensor, "*rest a"]) -> Policy:
        """The agents' policies from the network's outputs and the available actions."""

    @abstractmethod
    def explore(
        self, out: Float[Tensor, "b n p"], avail: Bool[Tensor, "b n a"], t_env: int, rng: torch.Generator
    ) -> Tensor:
        """What agents do while they collect."""

    def explored(
        self,
        out: Float[Tensor, "b n p"],
        avail: Bool[Tensor, "b n a"],
        hidden: Float[Tensor, "b n h"],
        t_env: int,
        rng: torch.Generator,
    ) -> Acted:
        """``explore``, and what is remembered of it."""
        return self.acted(self.explore(out, avail, t_env, rng), hidden)

    def execute(
        self,
        out: Float[Tensor, "b n p"],
        avail: Bool[Tensor, "b n a"],
        rng: torch.Generator,  # noqa: ARG002 - read by those that draw in tests, too
    ) -> Tensor:
        """What agents do in tests: their likeliest actions."""
        return self.policy(out, avail).mode()

    def acted(self, drawn: Tensor, hidden: Tensor) -> Acted:
        """What is executed of what was drawn, and what is remembered of it."""
        return Acted(drawn, hidden)
