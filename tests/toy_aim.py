"""Two agents in a box, each of which is shown a number to hit; registered as ``toy_aim``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.registry import ENVS
from core.specs import ActionSpec, EnvSpec, Outcome, TimeStep
from envs.base import BatchedEnv
from envs.rows.native import Clock, RowRandom


@ENVS.register
class Aim(BatchedEnv):
    """One step; the reward is minus the sum of squared distances. The box is wider than the targets."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    def __init__(self, cfg: Config, n_envs: int, device: torch.device | str, seed: int) -> None:
        super().__init__(cfg, n_envs, device, seed)
        self.spec = EnvSpec((ActionSpec(1, -2.0, 2.0),) * 2, (1, 1), 2, 1)
        self.clock, self.target = Clock(1, n_envs, self.device), torch.zeros(n_envs, 2)
        self.seed_rows(seed)

    def seed_rows(self, seed: int) -> None:
        self.random = RowRandom(seed, self.n_envs, self.device)

    def reset(self, which: Tensor | None = None) -> TimeStep:
        which = self.clock.start(which)
        self.target = torch.where(which[:, None], 2 * self.random.uniform(which, 2) - 1, self.target)
        return self._show()

    def step(self, action: Tensor) -> Outcome:
        if action.abs().max() > 2:
            raise ValueError("an action lies outside of the box")
        reward = -(action[..., 0] - self.target).square().sum(-1)
        terminated, truncated = self.clock.tick(self.clock.running)
        return Outcome(self._show(), reward, terminated, truncated)

    def _show(self) -> TimeStep:
        return TimeStep(
            self.target[..., None].clone(), self.target.clone(), torch.ones(self.n_envs, 2, 1, dtype=torch.bool)
        )

    def state_dict(self) -> dict[str, Any]:
        return {"random": self.random.state_dict(), "clock": self.clock.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.random.load_state_dict(state["random"])
        self.clock.load_state_dict(state["clock"])
