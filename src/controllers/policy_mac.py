"""Agents that sample from their own stochastic policies over numbered actions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from controllers.base import Acted
from controllers.stochastic import StochasticController
from core.config import Settings
from core.registry import CONTROLLERS
from core.schedule import Held, Linear
from core.specs import EnvSpec
from rl.distributions import Categorical
from rl.masked import draw, floored, masked_log_softmax, probabilities

BEHAVIOUR = "behaviour"
"""The extra that holds the probabilities by which agents acted, [b, t, n, a]."""


@CONTROLLERS.register
class PolicyMAC(StochasticController):
    """The network's outputs are the logits of π_i(· | τ_i)."""

    @dataclass(frozen=True, kw_only=True)
    class Config(StochasticController.Config):
        """Keys of acting by sampling."""

        epsilon_start: float = 0.0
        """Share of the uniform policy mixed into π while exploring, at the start."""
        epsilon_finish: float = 0.0
        """The same after the annealing."""
        epsilon_anneal_time: int = 50_000
        """Environment steps over which it falls, linearly."""
        random_steps: int = 0
        """Environment steps at the start in which exploring agents act at random: π̄ is the uniform policy."""
        store_behaviour: bool = False
        """Whether π̄ of all actions is stored with the episodes that are collected, for importance ratios."""

    def __init__(self, spec: EnvSpec, cfg: Config, settings: Settings) -> None:
        super().__init__(spec, cfg, settings)
        falling = Linear(cfg.epsilon_start, cfg.epsilon_finish, cfg.epsilon_anneal_time)
        self.epsilon = Held(1.0, cfg.random_steps, falling)

    @classmethod
    def unmet(cls, spec: EnvSpec) -> str | None:
        """See ``Controller.unmet``."""
        boxes = "for a box there are mac=gaussian_mac and mac=deterministic_mac"
        return None if spec.discrete else f"it needs discrete actions; {boxes}"

    def behaviour(
        self, logits: Float[Tensor, "*rest n a"], avail: Bool[Tensor, "*rest n a"], t_env: int
    ) -> Float[Tensor, "*rest n a"]:
        """What acts while exploring: π̄ = (1-ε) π + ε uniform over the available actions (algorithms.md 1.1)."""
        pi = probabilities(masked_log_softmax(logits, avail), avail)
        return floored(pi, avail, self.epsilon(t_env))

    def explored(
        self,
        out: Float[Tensor, "b n a"],
        avail: Bool[Tensor, "b n a"],
        hidden: Float[Tensor, "b n h"],
        t_env: int,
        rng: torch.Generator,
    ) -> Acted:
        """See ``ActorController.explored``."""
        if not self.cfg.store_behaviour:
            return super().explored(out, avail, hidden, t_env, rng)
        pi = self.behaviour(out, avail, t_env)
        return Acted(draw(pi, rng), hidden, {BEHAVIOUR: pi})

    def policy(self, out: Float[Tensor, "*rest a"], avail: Bool[Tensor, "*rest a"]) -> Categorical:
        """π over the available actions, without exploration."""
        return Categorical(out, avail)

    def explore(
        self, out: Float[Tensor, "b n a"], avail: Bool[Tensor, "b n a"], t_env: int, rng: torch.Generator
    ) -> Int[Tensor, "b n"]:
        """Actions drawn from π̄."""
        return draw(self.behaviour(out, avail, t_env), rng)
