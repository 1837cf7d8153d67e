"""Line control: stand evenly between two landmarks (Agarwal, Kumar, Sycara and Lewis 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from core.registry import ENVS
from envs.particles.targets import TargetEnv
from envs.particles.world import Scene

SIZE, NEAR = 0.03, 0.05
LANDMARK_RANGE = 0.25
LENGTH = 1.25
STEP = math.radians(5)


@ENVS.register
class Line(TargetEnv):
    """N targets, evenly from the first landmark to the second one."""

    near = NEAR

    @dataclass(frozen=True, kw_only=True)
    class Config(TargetEnv.Config):
        """No keys of its own."""

    def __init__(self, cfg: Config, n_envs: int, device: torch.device | str, seed: int) -> None:
        super().__init__(cfg, n_envs, device, seed, Scene(n_landmarks=2, size=SIZE, draws=3))
        self._parts = torch.linspace(0, 1, cfg.n_agents, device=self.device)[:, None]

    @classmethod
    def settle(cls, cfg: Any) -> Any:
        """Checks that there is a line."""
        if cfg.n_agents < 2:
            raise ValueError(f"n_agents must be at least 2, the ends of the line, not {cfg.n_agents}")
        return super().settle(cfg)

    def place(self, u: Float[Tensor, "k b"]) -> Float[Tensor, "2 l b"]:
        """The first one near the centre, the other one ``LENGTH`` away in a random direction.

        That direction is turned by 5 degrees until the second one lies inside the square of half-side 1.
        """
        first = LANDMARK_RANGE * (2 * u[:2] - 1)
        angle = 2 * math.pi * u[2] + STEP * torch.arange(round(2 * math.pi / STEP), device=u.device)[:, None]
        ends = first[:, None] + LENGTH * torch.stack([angle.cos(), angle.sin()])
        inside = (ends.abs() < 1).all(0)
        chosen = inside.int().argmax(0)
        return torch.stack([first, ends.gather(1, chosen.expand(2, 1, -1))[:, 0]], 1)

    def targets(self) -> Float[Tensor, "2 n b"]:
        """Evenly between the landmarks, which are the first and the last one."""
        first, last = self.landmarks[:, :1], self.landmarks[:, 1:]
        return first + self._parts * (last - first)
