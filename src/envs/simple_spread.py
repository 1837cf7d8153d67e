"""Simple spread of the multi-agent particle environments (Lowe et al. 2017): cover all landmarks, touch nobody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from core.registry import ENVS
from envs.particles.base import Verdict
from envs.particles.physics import distances
from envs.particles.world import ParticleEnv, Scene

SIZE = 0.15


@ENVS.register
class SimpleSpread(ParticleEnv):
    """As many landmarks as agents; the team's reward is the sum of the agents' rewards.

    Each agent's reward is minus the sum over landmarks of the nearest agent's distance, minus the number of agents that
    touch it. As in the original, an agent counts as touching itself, so the team pays N per step whatever it does.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(ParticleEnv.Config):
        """Keys beside those of all particle environments."""

        landmark_range: float = 1.0
        """Landmarks appear in the square of this half-side: 1 in the original, 0.8 in MAPPO's copy of it."""

    def __init__(self, cfg: Config, n_envs: int, device: torch.device | str, seed: int) -> None:
        n = cfg.n_agents
        scene = Scene(n_landmarks=n, size=SIZE, draws=2 * n, see_others=True, silence=2 * (n - 1))
        super().__init__(cfg, n_envs, device, seed, scene)

    @classmethod
    def settle(cls, cfg: Any) -> Any:
        """Checks the constants."""
        if cfg.landmark_range <= 0:
            raise ValueError(f"landmark_range must be positive, not {cfg.landmark_range}")
        return super().settle(cfg)

    def place(self, u: Float[Tensor, "k b"]) -> Float[Tensor, "2 l b"]:
        """Uniform in a square."""
        return self.cfg.landmark_range * (2 * u - 1).view(2, self.cfg.n_agents, -1)

    def judge(self) -> Verdict:
        """Coverage and collisions; there is no success and no end but the time limit."""
        n = self.cfg.n_agents
        distance = distances(self.pos, self.entities)
        touching = (distance[:, :n] < 2 * SIZE).sum((0, 1), dtype=torch.float32)
        uncovered = distance[:, n:].amin(0).sum(0)
        return Verdict(torch.add(touching, uncovered, alpha=n).neg_(), self.never, {})
