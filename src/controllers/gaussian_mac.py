"""Agents that draw from normal distributions over the actions of a box."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from controllers.base import Acted
from controllers.box import bounds, unmet_box
from controllers.stochastic import StochasticController
from core.config import Settings
from core.registry import CONTROLLERS
from core.specs import EnvSpec, EpisodeBatch
from modules.agents.base import Agent
from rl.distributions import Gaussian

UNCLIPPED = "unclipped_action"
"""The extra that holds the actions as they were drawn."""


@CONTROLLERS.register
class GaussianMAC(StochasticController):
    """The network's outputs are μ_i(τ_i) and log σ; log σ is a parameter that depends on no input (algorithms.md 1.4).

    What is drawn is clipped into the box where it is executed, as if that were the environment's doing: densities,
    and whatever else learns from the actions, take them as they were drawn.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(StochasticController.Config):
        """Keys of acting in a box."""

        log_std_init: float = 0.0
        """log σ at the start."""

    low: Tensor
    high: Tensor

    def __init__(self, spec: EnvSpec, cfg: Config, settings: Settings) -> None:
        super().__init__(spec, cfg, settings)
        for name, bound in zip(("low", "high"), bounds(spec), strict=True):
            self.register_buffer(name, bound, persistent=False)

    @classmethod
    def unmet(cls, spec: EnvSpec) -> str | None:
        """See ``Controller.unmet``."""
        return unmet_box(spec)

    def network(self, spec: EnvSpec) -> nn.Module:
        """The agents' network, whose outputs are the means, with log σ."""
        return _WithConstant(self.settings.build("agent", spec), spec.n_actions, self.cfg.log_std_init)

    def acted(self, drawn: Float[Tensor, "b n a"], hidden: Tensor) -> Acted:
        """The action inside of the box; what was drawn is stored with the episode."""
        return Acted(self.boxed(drawn), hidden, {UNCLIPPED: drawn})

    def boxed(self, drawn: Float[Tensor, "b n a"]) -> Float[Tensor, "b n a"]:
        """What is executed of what was drawn."""
        return drawn.clamp(self.low, self.high)

    def drawn(self, batch: EpisodeBatch) -> Float[Tensor, "b t n a"]:
        """Before it was brought into the box."""
        return batch.extras[UNCLIPPED]

    def policy(
        self,
        out: Float[Tensor, "*rest p"],
        avail: Bool[Tensor, "*rest a"],  # noqa: ARG002 - a box has no mask
    ) -> Gaussian:
        """N(μ, σ)."""
        return Gaussian(*out.chunk(2, -1))


class WithDeviation(nn.Module):
    """An agent network with log σ behind its outputs."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.agent, self.hidden_dim = agent, agent.hidden_dim
        self.memoryless, self.last_action = agent.memoryless, agent.last_action

    def initial_hidden(self, b: int) -> Float[Tensor, "b n h"]:
        """The agent's."""
        return self.agent.initial_hidden(b)

    @abstractmethod
    def deviation(self, features: Float[Tensor, "b t n h"]) -> Float[Tensor, "*#rest a"]:
        """log σ from the features below the agent's head."""

    def forward(
        self,
        obs: Float[Tensor, "b t n o"],
        last: Float[Tensor, "b t n a"],
        hidden: Float[Tensor, "b n h"] | None = None,
        length: Int[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "b t n p"], Float[Tensor, "b n h"]]:
        """See ``Agent.forward``."""
        features, hidden = self.agent.encode(obs, last, hidden, length)
        mean = self.agent.head(features)
        return torch.cat([mean, self.deviation(features).expand_as(mean)], -1), hidden


class _WithConstant(WithDeviation):
    """log σ is a parameter, the same at every step."""

    def __init__(self, agent: Agent, n: int, log_std: float) -> None:
        super().__init__(agent)
        self.log_std = nn.Parameter(torch.full((n,), float(log_std)))

    def deviation(self, features: Float[Tensor, "b t n h"]) -> Float[Tensor, " a"]:  # noqa: ARG002 - of no input
        """The parameter."""
        return self.log_std
