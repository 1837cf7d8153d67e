"""An environment that pays 1 for every one of 5 steps and then ends, or is cut; registered as ``toy_cut`` (AC-18)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from core.registry import ENVS
from core.specs import ActionSpec, EnvSpec, Outcome, TimeStep
from envs.base import BatchedEnv
from envs.rows.native import Clock

STEPS = 5


@ENVS.register
class Cut(BatchedEnv):
    """The time is shown where it matters: where the last step is a true end."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        terminal: bool = False

    def __init__(self, cfg: Config, n_envs: int, device: torch.device | str, seed: int) -> None:
        super().__init__(cfg, n_envs, device, seed)
        self.spec = EnvSpec((ActionSpec(2),) * 2, (STEPS + 1,) * 2, STEPS + 1, STEPS)
        self.clock = Clock(STEPS, n_envs, self.device)

    def reset(self, which: Tensor | None = None) -> TimeStep:
        self.clock.start(which)
        return self._show()

    def step(self, action: Tensor) -> Outcome:
        over = (self.clock.t == STEPS - 1) & torch.tensor(self.cfg.terminal)
        terminated, truncated = self.clock.tick(over)
        return Outcome(self._show(), torch.ones(self.n_envs), terminated, truncated)

    def _show(self) -> TimeStep:
        shown = one_hot(self.clock.t * self.cfg.terminal, STEPS + 1).float()
        return TimeStep(shown[:, None].repeat(1, 2, 1), shown, torch.ones(self.n_envs, 2, 2, dtype=torch.bool))
