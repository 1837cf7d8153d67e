"""MTQ, the max of two quadratics: a wide hill that leads away from the best one (FOP; Wei et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.picture import Entity, Frame, Stage
from core.registry import ENVS
from core.specs import ActionSpec, EnvSpec, Outcome, TimeStep
from envs.base import BatchedEnv
from envs.rows.native import Box, Clock

BOUND = 10.0
AXIS = BOUND + 2.0
"""How far from the centre pictures show the agents' numbers."""
# Of pictures: lines on which one hill has one payoff, as (hill, centre, payoff, radius). Only f2's are above 0.
LEVELS = (
    ("wide hill", -5.0, -3.2, 6.0),
    ("wide hill", -5.0, -0.8, 3.0),
    ("wide hill", -5.0, 0.0, 0.4),
    ("narrow hill", 5.0, 0.0, 10**0.5),
    ("narrow hill", 5.0, 7.5, 2.5**0.5),
    ("narrow hill", 5.0, 10.0, 0.4),
)


def payoff(action: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """max(f1, f2), where f1 = -0.8 sum_i ((a_i + 5) / 3)^2 and f2 = 10 - sum_i (a_i - 5)^2.

    f1 has its top, 0, at (-5, -5), f2 its top, 10, at (5, 5); from (0, 0) the way up leads to the lower one.
    FOP (Zhang et al. 2021), section 5.1; the widths 3 and 1 are those of Wei et al. (2018).
    """
    wide = -0.8 * ((action + 5) / 3).square().sum(-1)
    narrow = 10 - (action - 5).square().sum(-1)
    return torch.maximum(wide, narrow)


@ENVS.register
class MTQ(BatchedEnv):
    """Two agents choose one number each, once. There is nothing to observe; the end is a true one."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """How the payoff is shown to learners."""

        reward_scale: float = 1.0
        """The reward is this times the payoff; FOP's setting is 0.1. The metric ``payoff`` is never scaled."""

    def __init__(self, cfg: Config, n_envs: int, device: torch.device | str, seed: int) -> None:
        super().__init__(self.settle(cfg), n_envs, device, seed)
        self.spec = EnvSpec(
            actions=(ActionSpec(1, -BOUND, BOUND),) * 2,
            obs_dims=(1, 1),
            state_dim=1,
            episode_limit=1,
            metrics=("payoff",),
        )
        self._box = Box(self.spec.actions, self.device)
        self._clock = Clock(1, n_envs, self.device)
        self._chosen = torch.full((n_envs, 2), torch.nan, device=self.device)  # for pictures only

    @classmethod
    def settle(cls, cfg: Any) -> Any:
        """Checks the scale."""
        if cfg.reward_scale <= 0:
            raise ValueError(f"reward_scale must be positive, not {cfg.reward_scale}")
        return cfg

    def reset(self, which: Bool[Tensor, " b"] | None = None) -> TimeStep:
        """Starts the rows of ``which`` (None: all)."""
        which = self._clock.start(which)
        self._chosen = self._chosen.masked_fill(which[:, None], torch.nan)
        return self._show()

    def step(self, action: Float[Tensor, "b n d"]) -> Outcome:
        """The payoff of the joint action, and the end."""
        running = self._clock.running
        joint = self._box.admit(action, running)[..., 0]
        value = payoff(joint)
        self._chosen = torch.where(running[:, None], joint, self._chosen)
        terminated, truncated = self._clock.tick(running)
        reward = torch.where(running, self.cfg.reward_scale * value, 0)
        return Outcome(self._show(), reward, terminated, truncated, {"payoff": value})

    def stage(self, row: int) -> Stage:  # noqa: ARG002 - the same in every row
        """The plane of joint actions with lines of equal payoff, and the agents on its axes."""
        agents = [Entity.of_agent(i, radius=0.6) for i in range(2)]
        joint = Entity(name="joint action", kind="joint action", mark="", team=1, radius=0.4)
        lines = [
            Entity(name=f"{hill}, payoff {worth:g}", kind=hill, mark="", radius=radius)
            for hill, _, worth, radius in LEVELS
        ]
        return Stage(
            title=self.label(),
            teams=("agents", "joint action"),
            entities=(*agents, joint, *lines),
            low=(-AXIS - 1.0, -AXIS - 1.0),
            high=(BOUND + 1.0, BOUND + 1.0),
        )

    def frame(self, row: int) -> Frame:
        """Agent 0 at its number from left to right, agent 1 from below; before they choose, both are at 0."""
        chosen = self._chosen[row].cpu().numpy()
        x, y = np.nan_to_num(chosen)
        places = [(x, -AXIS), (-AXIS, y), (x, y), *((centre, centre) for _, centre, _, _ in LEVELS)]
        alive = np.ones(len(places), dtype=bool)
        alive[2] = not np.isnan(chosen).any()
        return Frame.of(np.array(places, dtype=np.float32), alive=alive)

    def seed_rows(self, seed: int) -> None:
        """Nothing here is random."""
        self.seed = seed

    def state_dict(self) -> dict[str, Any]:
        """Which rows are running."""
        return self._clock.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``. What was chosen last is not shown any more."""
        self._chosen = torch.full_like(self._chosen, torch.nan)
        self._clock.load_state_dict(state)

    def _show(self) -> TimeStep:
        b = self.n_envs
        avail = torch.ones(b, 2, 1, dtype=torch.bool, device=self.device)
        return TimeStep(torch.ones(b, 2, 1, device=self.device), torch.ones(b, 1, device=self.device), avail)
