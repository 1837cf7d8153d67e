"""Agents that sample from their own stochastic policies, and take the likeliest action in tests."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from controllers.base import Acted, Controller, unroll_agent
from core.config import Settings
from core.registry import CONTROLLERS
from core.specs import EnvSpec, EpisodeBatch, TimeStep
from rl.exploration import greedy
from rl.masked import masked_log_softmax, sample


@CONTROLLERS.register
class PolicyMAC(Controller):
    """One network for all agents, whose outputs are the logits of π_i(· | τ_i)."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Controller.Config):
        """Keys of acting by sampling."""

        test_greedy: bool = True
        """Tests take the likeliest action instead of sampling."""

    def __init__(self, spec: EnvSpec, cfg: Config, settings: Settings) -> None:
        super().__init__(spec, cfg, settings)
        self.agent = settings.build("agent", spec)

    def act(
        self,
        step: TimeStep,
        last: Float[Tensor, "b n a"],
        hidden: Float[Tensor, "b n h"],
        *,
        t_env: int,  # noqa: ARG002 - part of the interface; nothing is annealed here
        mode: str,
        rng: torch.Generator,
    ) -> Acted:
        """See ``Controller.act``."""
        logits, hidden = self.agent(step.obs[:, None], last[:, None], hidden)
        if mode != self.explore_mode and self.cfg.test_greedy:
            return Acted(greedy(logits[:, 0], step.avail), hidden)
        return Acted(sample(masked_log_softmax(logits[:, 0], step.avail), rng), hidden)

    def unroll(self, batch: EpisodeBatch) -> Float[Tensor, "b t n a"]:
        """Logits of π_i(· | τ_i) at every state."""
        return unroll_agent(self.agent, batch, self.spec.n_actions)
