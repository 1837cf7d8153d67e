"""Formation control: stand evenly on a circle around the landmark (Agarwal, Kumar, Sycara and Lewis 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core.registry import ENVS
from envs.particles.targets import TargetEnv
from envs.particles.world import Scene

SIZE, NEAR = 0.05, 0.05
RADIUS = 0.5
LANDMARK_RANGE = 0.5


@ENVS.register
class Formation(TargetEnv):
    """N targets on the circle of radius 0.5 around the landmark; the first one lies in the direction of the agent whose
    polar angle, from 0 to 2 pi, is smallest, so that the targets turn with that agent."""

    near = NEAR

    @dataclass(frozen=True, kw_only=True)
    class Config(TargetEnv.Config):
        """No keys of its own."""

    def __init__(self, cfg: Config, n_envs: int, device: torch.device | str, seed: int) -> None:
        super().__init__(cfg, n_envs, device, seed, Scene(n_landmarks=1, size=SIZE, draws=2))
        self._turns = 2 * math.pi / cfg.n_agents * torch.arange(cfg.n_agents, device=self.device)[:, None]

    def place(self, u: Float[Tensor, "k b"]) -> Float[Tensor, "2 l b"]:
        """Uniform in the square of half-side 0.5."""
        return LANDMARK_RANGE * (2 * u - 1)[:, None]

    def targets(self) -> Float[Tensor, "2 n b"]:
        """Evenly around the landmark, from the first agent's direction on."""
        x, y = self.pos - self.landmarks
        first = torch.atan2(y, x).remainder(2 * math.pi).amin(0)
        angle = first + self._turns
        return self.landmarks + RADIUS * torch.stack([angle.cos(), angle.sin()])
