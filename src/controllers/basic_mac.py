"""Agents that act on their own values: ε-greedy while exploring, greedy in tests."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from controllers.base import Acted, Controller, unroll_agent
from core.config import Settings
from core.registry import CONTROLLERS
from core.schedule import Linear
from core.specs import EnvSpec, EpisodeBatch, TimeStep
from rl.exploration import epsilon_greedy, greedy


@CONTROLLERS.register
class BasicMAC(Controller):
    """One network for all agents, whose outputs are Q_i(τ_i, ·)."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Controller.Config):
        """Keys of ε-greedy acting."""

        epsilon_start: float = 1.0
        """Chance of a random action at the start."""
        epsilon_finish: float = 0.05
        """Chance of a random action after the annealing."""
        epsilon_anneal_time: int = 50_000
        """Environment steps over which it falls, linearly."""

    def __init__(self, spec: EnvSpec, cfg: Config, settings: Settings) -> None:
        super().__init__(spec, cfg, settings)
        self.agent = settings.build("agent", spec)
        self.epsilon = Linear(cfg.epsilon_start, cfg.epsilon_finish, cfg.epsilon_anneal_time)

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
        q, hidden = self.agent(step.obs[:, None], last[:, None], hidden)
        if mode == self.explore_mode:
            return Acted(epsilon_greedy(q[:, 0], step.avail, self.epsilon(t_env), rng), hidden)
        return Acted(greedy(q[:, 0], step.avail), hidden)

    def unroll(self, batch: EpisodeBatch) -> Float[Tensor, "b t n a"]:
        """Q_i(τ_i, ·) at every state."""
        return unroll_agent(self.agent, batch, self.spec.n_actions)
