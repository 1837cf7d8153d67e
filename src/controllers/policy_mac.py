"""Agents that sample from their own stochastic policies over numbered actions."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from controllers.stochastic import StochasticController
from core.registry import CONTROLLERS
from core.specs import EnvSpec
from rl.distributions import Categorical


@CONTROLLERS.register
class PolicyMAC(StochasticController):
    """The network's outputs are the logits of π_i(· | τ_i)."""

    @dataclass(frozen=True, kw_only=True)
    class Config(StochasticController.Config):
        """Keys of acting by sampling."""

    @classmethod
    def unmet(cls, spec: EnvSpec) -> str | None:
        """See ``Controller.unmet``."""
        return None if spec.discrete else "it needs discrete actions; for a box there is mac=gaussian_mac"

    def policy(self, out: Float[Tensor, "*rest a"], avail: Bool[Tensor, "*rest a"]) -> Categorical:
        """π over the available actions."""
        return Categorical(out, avail)
