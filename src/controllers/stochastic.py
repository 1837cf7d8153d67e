"""What ways of acting share in which every agent draws from a policy of its own, and whose densities are known."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from controllers.actor import ActorController
from core.specs import EpisodeBatch
from rl.distributions import Distribution


class StochasticController(ActorController):
    """Agents that sample while they collect, and take the likeliest action in tests."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ActorController.Config):
        """Keys of acting by sampling."""

        test_greedy: bool = True
        """Tests take the likeliest action instead of sampling."""

    def explore(
        self,
        out: Float[Tensor, "b n p"],
        avail: Bool[Tensor, "b n a"],
        t_env: int,  # noqa: ARG002 - read by those whose exploration is annealed
        rng: torch.Generator,
    ) -> Tensor:
        """What agents do while they collect: here, actions drawn from their policies."""
        return self.policy(out, avail).sample(rng)

    def execute(self, out: Float[Tensor, "b n p"], avail: Bool[Tensor, "b n a"], rng: torch.Generator) -> Tensor:
        """What agents do in tests."""
        policy = self.policy(out, avail)
        return policy.mode() if self.cfg.test_greedy else policy.sample(rng)

    def drawn(self, batch: EpisodeBatch) -> Tensor:
        """What was drawn when the episodes were collected, [b, t, n, ...]."""
        return batch.action

    @abstractmethod
    def policy(self, out: Float[Tensor, "*rest p"], avail: Bool[Tensor, "*rest a"]) -> Distribution:
        """The agents' policies from the network's outputs and the available actions."""
