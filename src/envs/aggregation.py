"""Aggregation, a reconstruction: all agents must come to one landmark in time (Wang et al. 2021, DOP, section 5.3).

The paper prints the number of agents, the rewards and the time limit; the dynamics, the observations, the starts and
what counts as being at the landmark are ours. Numbers from here are not the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from core.registry import ENVS
from envs.particles.base import Verdict
from envs.particles.physics import distances
from envs.particles.world import ParticleEnv, Scene

SIZE, STAKE = 0.05, 10.0


@ENVS.register
class Aggregation(ParticleEnv):
    """A reconstruction: +10 when everybody is at the landmark, -10 after ``episode_limit`` steps without that.

    Both are ends, and true ones; all other rewards are 0. Agents pass through each other.
    """

    metrics = ("success",)

    @dataclass(frozen=True, kw_only=True)
    class Config(ParticleEnv.Config):
        """Keys beside those of all particle environments; the paper has five agents and continuous actions."""

        n_agents: int = 5
        """N."""
        action: Literal["discrete", "continuous"] = "continuous"
        """Any push in the box from -1 to 1, or stay and a full push in one of four directions."""
        reach: float = 0.15
        """An agent nearer to the landmark than this is there."""
        arena: float = 1.0
        """Agents and landmark start in the square of this half-side."""

    def __init__(self, cfg: Config, n_envs: int, device: torch.device | str, seed: int) -> None:
        scene = Scene(
            n_landmarks=1,
            size=SIZE,
            draws=2,
            collide=False,
            see_others=True,
            start=cfg.arena,
            landmark=cfg.reach,
        )
        super().__init__(cfg, n_envs, device, seed, scene)

    @classmethod
    def settle(cls, cfg: Any) -> Any:
        """Checks the constants."""
        for name in ("reach", "arena"):
            if getattr(cfg, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(cfg, name)}")
        return super().settle(cfg)

    def label(self) -> str:
        """Says that this is a reconstruction: ``aggregation-reconstruction/5_continuous``."""
        return super().label().replace("/", "-reconstruction/", 1)

    def place(self, u: Float[Tensor, "k b"]) -> Float[Tensor, "2 l b"]:
        """Uniform in the square."""
        return self.cfg.arena * (2 * u - 1)[:, None]

    def judge(self) -> Verdict:
        """The last step is lost unless it wins; being late is part of the task, so nothing is bootstrapped there."""
        won = (distances(self.pos, self.landmarks) < self.cfg.reach).all(0)[0]
        over = won | self.last_step
        return Verdict(torch.where(won, STAKE, -STAKE * over), over, {"success": won.float()})
