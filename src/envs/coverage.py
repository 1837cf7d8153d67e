"""Coverage control: simple spread with a landmark for each agent (Agarwal, Kumar, Sycara and Lewis 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core.registry import ENVS
from envs.particles.targets import TargetEnv
from envs.particles.world import Scene

SIZE, NEAR, FAR = 0.05, 0.1, 15.0


@ENVS.register
class Coverage(TargetEnv):
    """As many landmarks as agents; the landmarks are the targets. Agents do not see each other."""

    near = NEAR

    @dataclass(frozen=True, kw_only=True)
    class Config(TargetEnv.Config):
        """No keys of its own."""

    def __init__(self, cfg: Config, n_envs: int, device: torch.device | str, seed: int) -> None:
        scene = Scene(n_landmarks=cfg.n_agents, size=SIZE, draws=2 * cfg.n_agents)
        super().__init__(cfg, n_envs, device, seed, scene)

    def place(self, u: Float[Tensor, "k b"]) -> Float[Tensor, "2 l b"]:
        """Uniform in the square of half-side 1."""
        return (2 * u - 1).view(2, self.cfg.n_agents, -1)

    def targets(self) -> Float[Tensor, "2 n b"]:
        """The landmarks."""
        return self.landmarks

    def penalty(self, distance: Float[Tensor, "n b"]) -> Float[Tensor, " b"]:
        """The mean distance, counted as ``FAR`` at most."""
        return distance.mean(0).clamp(max=FAR)
