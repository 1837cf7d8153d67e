"""What ways of acting share in which every agent draws from a policy of its own, and whose densities are known."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from controllers.base import Acted, Controller, unroll_agent
from core.config import Settings
from core.specs import EnvSpec, EpisodeBatch, TimeStep
from modules.agents.separate import SeparateAgents
from rl.distributions import Distribution


class StochasticController(Controller):
    """Agents that sample while they collect, and take the likeliest action in tests.

    The network's outputs are the parameters p of the distributions.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(Controller.Config):
        """Keys of acting by sampling."""

        test_greedy: bool = True
        """Tests take the likeliest action instead of sampling."""
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
            return self.acted(self.explore(out[:, 0], step.avail, t_env, rng), hidden)
        policy = self.policy(out[:, 0], step.avail)
        return self.acted(policy.mode() if self.cfg.test_greedy else policy.sample(rng), hidden)

    def unroll(self, batch: EpisodeBatch) -> Float[Tensor, "b t n p"]:
        """The distributions' parameters at every state."""
        return unroll_agent(self.agent, batch, self.spec.n_actions)

    def explore(
        self,
        out: Float[Tensor, "b n p"],
        avail: Bool[Tensor, "b n a"],
        t_env: int,  # noqa: ARG002 - read by those whose exploration is annealed
        rng: torch.Generator,
    ) -> Tensor:
        """What agents do while they collect: here, actions drawn from their policies."""
        return self.policy(out, avail).sample(rng)

    def acted(self, drawn: Tensor, hidden: Tensor) -> Acted:
        """What is executed of what was drawn, and what is remembered of it."""
        return Acted(drawn, hidden)

    def drawn(self, batch: EpisodeBatch) -> Tensor:
        """What was drawn when the episodes were collected, [b, t, n, ...]."""
        return batch.action

    @abstractmethod
    def policy(self, out: Float[Tensor, "*rest p"], avail: Bool[Tensor, "*rest a"]) -> Distribution:
        """The agents' policies from the network's outputs and the available actions."""
