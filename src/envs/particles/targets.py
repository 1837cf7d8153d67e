"""Environments whose reward is how far the agents are from targets that any of them may take."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.picture import Frame, Stage
from envs.particles.base import Verdict, rings
from envs.particles.matching import Matching
from envs.particles.physics import distances
from envs.particles.world import ParticleEnv, Scene

FAR = 2.0


class TargetEnv(ParticleEnv):
    """Minus the mean distance to the targets, each agent having one, assigned so that the sum is smallest.

    All agents get the same reward. The episode ends when everybody is nearer to its target than ``near``.
    """

    metrics = ("success",)
    near: float
    """Everybody nearer to its target than this is a success."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ParticleEnv.Config):
        """Keys beside those of all particle environments."""

        summed: bool = False
        """The team's reward is the sum over the agents instead of what each of them gets: N times as much."""

    def __init__(self, cfg: Any, n_envs: int, device: torch.device | str, seed: int, scene: Scene) -> None:
        super().__init__(cfg, n_envs, device, seed, scene)
        self._matching = Matching(cfg.n_agents, n_envs, self.device)

    @abstractmethod
    def targets(self) -> Float[Tensor, "2 n b"]:
        """Where the agents ought to be."""

    def stage(self, row: int) -> Stage:
        """Targets are rings as well: an agent whose centre lies in one is near enough."""
        stage = super().stage(row)
        return replace(stage, entities=(*stage.entities, *rings("target", self.cfg.n_agents, self.near)))

    def frame(self, row: int) -> Frame:
        """Where agents, landmarks and targets are."""
        targets = self.targets()[:, :, row].t().cpu().numpy()
        return Frame.of(np.concatenate([super().frame(row).position, targets]))

    def penalty(self, distance: Float[Tensor, "n b"]) -> Float[Tensor, " b"]:
        """The mean of the distances between agents and targets, each counted as ``FAR`` at most."""
        return distance.clamp(max=FAR).mean(0)

    def judge(self) -> Verdict:
        """The cheapest assignment's distances, as a penalty and as a success."""
        distance = self._matching(distances(self.pos, self.targets()))
        success = (distance < self.near).all(0)
        penalty = self.penalty(distance)
        reward = -penalty * self.cfg.n_agents if self.cfg.summed else -penalty
        return Verdict(reward, success, {"success": success.float()})
