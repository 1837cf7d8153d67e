"""Agents that sample from their own stochastic policies, and take the likeliest action in tests."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from controllers.base import Acted, Controller, unroll_agent
from core.config import Settings
from core.registry import CONTROLLERS
from core.schedule import Linear
from core.specs import EnvSpec, EpisodeBatch, TimeStep
from rl.exploration import greedy
from rl.masked import draw, floored, masked_log_softmax, probabilities, sample


@CONTROLLERS.register
class PolicyMAC(Controller):
    """One network for all agents, whose outputs are the logits of π_i(· | τ_i)."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Controller.Config):
        """Keys of acting by sampling."""

        epsilon_start: float = 0.0
        """Share of the uniform policy mixed into π while exploring, at the start."""
        epsilon_finish: float = 0.0
        """The same after the annealing."""
        epsilon_anneal_time: int = 50_000
        """Environment steps over which it falls, linearly."""
        test_greedy: bool = True
        """Tests take the likeliest action instead of sampling."""

    def __init__(self, spec: EnvSpec, cfg: Config, settings: Settings) -> None:
        super().__init__(spec, cfg, settings)
        self.agent = settings.build("agent", spec)
        self.epsilon = Linear(cfg.epsilon_start, cfg.epsilon_finish, cfg.epsilon_anneal_time)

    def behaviour(
        self, logits: Float[Tensor, "*rest n a"], avail: Bool[Tensor, "*rest n a"], t_env: int
    ) -> Float[Tensor, "*rest n a"]:
        """What acts while exploring: π̄ = (1-ε) π + ε uniform over the available actions (algorithms.md 1.1)."""
        pi = probabilities(masked_log_softmax(logits, avail), avail)
        return floored(pi, avail, self.epsilon(t_env))

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
        logits, hidden = self.agent(step.obs[:, None], last[:, None], hidden)
        if mode != self.explore_mode and self.cfg.test_greedy:
            return Acted(greedy(logits[:, 0], step.avail), hidden)
        if mode == self.explore_mode:
            return Acted(draw(self.behaviour(logits[:, 0], step.avail, t_env), rng), hidden)
        return Acted(sample(masked_log_softmax(logits[:, 0], step.avail), rng), hidden)

    def unroll(self, batch: EpisodeBatch) -> Float[Tensor, "b t n a"]:
        """Logits of π_i(· | τ_i) at every state."""
        return unroll_agent(self.agent, batch, self.spec.n_actions)
