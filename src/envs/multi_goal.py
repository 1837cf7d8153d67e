"""Multi-goal: a point that moves only where both agents push (MACPF section 2.3, after Haarnoja et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from core.picture import Entity, Frame, Stage
from core.registry import ENVS
from core.specs import ActionSpec, EnvSpec, Outcome, TimeStep
from envs.base import BatchedEnv
from envs.rows.native import Clock, RowRandom, refuse_unavailable

# Actions: stay, north, south, east, west. The goals lie in the four directions, in the same order.
DIRECTIONS = [[0.0, 0.0], [0.0, 1.0], [0.0, -1.0], [1.0, 0.0], [-1.0, 0.0]]
ACTIONS = ("stay", "north", "south", "east", "west")
GOALS = ("goal_north", "goal_south", "goal_east", "goal_west")


@ENVS.register
class MultiGoal(BatchedEnv):
    """Four equally good goals: the agents must agree on one of them at every step.

    After each step the reward is r(p) = sum_g exp(-||p - g||^2 / (2 sigma^2)), plus ``goal_reward`` where a goal is
    nearer than ``goal_radius``, which ends the episode. Both agents and the state show p / arena.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The constants, which the paper does not print."""

        episode_limit: int = 20
        """Steps after which an episode is cut."""
        step: float = 1.0
        """How far the point moves where the agents agree."""
        sigma: float = 1.0
        """Width of the Gaussian around each goal."""
        goal_distance: float = 5.0
        """Distance of the four goals from the centre."""
        goal_radius: float = 1.0
        """A goal is reached when nearer than this."""
        goal_reward: float = 10.0
        """For reaching it."""
        start_std: float = 0.1
        """Spread of the starting point around the centre."""
        arena: float = 7.0
        """Half the side of the square that the point cannot leave."""

    def __init__(self, cfg: Config, n_envs: int, device: torch.device | str, seed: int) -> None:
        super().__init__(self.settle(cfg), n_envs, device, seed)
        self.spec = EnvSpec(
            actions=(ActionSpec(len(DIRECTIONS)),) * 2,
            obs_dims=(2, 2),
            state_dim=2,
            episode_limit=cfg.episode_limit,
            metrics=("success", *GOALS),
        )
        self._moves = cfg.step * torch.tensor(DIRECTIONS, device=self.device)
        self._goals = cfg.goal_distance * torch.tensor(DIRECTIONS[1:], device=self.device)
        self._avail = torch.ones(n_envs, 2, len(DIRECTIONS), dtype=torch.bool, device=self.device)
        self._clock = Clock(cfg.episode_limit, n_envs, self.device)
        self._random = RowRandom(seed, n_envs, self.device)
        self._point = torch.zeros(n_envs, 2, device=self.device)

    @classmethod
    def settle(cls, cfg: Any) -> Any:
        """Checks the constants."""
        for name in ("episode_limit", "step", "sigma", "goal_distance", "goal_radius", "arena"):
            if getattr(cfg, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(cfg, name)}")
        return cfg

    def reset(self, which: Bool[Tensor, " b"] | None = None) -> TimeStep:
        """A start near the centre in the rows of ``which`` (None: all)."""
        which = self._clock.start(which)
        start = self.cfg.start_std * self._random.normal(which, 2)
        self._point = torch.where(which[:, None], self._inside(start), self._point)
        return self._show()

    def step(self, action: Int[Tensor, "b n"]) -> Outcome:
        """The point moves where both agents chose the same direction."""
        running = self._clock.running
        action = refuse_unavailable(action, self._avail, running)
        agreed = running & (action[:, 0] == action[:, 1])
        move = torch.where(agreed[:, None], self._moves[action[:, 0]], 0)
        self._point = self._inside(self._point + move)
        distance = torch.linalg.vector_norm(self._point[:, None] - self._goals, dim=-1)
        reached = (distance < self.cfg.goal_radius) & running[:, None]
        success = reached.any(-1)
        mixture = torch.exp(-(distance**2) / (2 * self.cfg.sigma**2)).sum(-1)
        reward = torch.where(running, mixture + self.cfg.goal_reward * success, 0)
        terminated, truncated = self._clock.tick(success)
        info = {"success": success.float()} | dict(zip(GOALS, reached.float().T, strict=True))
        return Outcome(self._show(), reward, terminated, truncated, info)

    def stage(self, row: int) -> Stage:  # noqa: ARG002 - the same in every row
        """The goals, and the point as one disc per agent."""
        c = self.cfg
        pushes = tuple((c.step * x, c.step * y) for x, y in DIRECTIONS)
        agents = [
            Entity.of_agent(n, radius=c.arena / 20, actions=ACTIONS, pushes=pushes) for n in range(self.spec.n_agents)
        ]
        goals = [
            Entity(name=name.replace("_", " "), kind="goal", mark=name[5].upper(), radius=c.goal_radius)
            for name in GOALS
        ]
        low, high = (-c.arena, -c.arena), (c.arena, c.arena)
        return Stage(title="multi_goal", teams=("agents",), entities=(*agents, *goals), low=low, high=high)

    def frame(self, row: int) -> Frame:
        """The agents stand side by side where their point is."""
        aside = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], device=self.device) * self.cfg.arena / 20
        return Frame.of(torch.cat([self._point[row] + aside, self._goals]).cpu().numpy().astype(np.float32))

    def seed_rows(self, seed: int) -> None:
        """Restarts the draws of starting points."""
        self.seed, self._random = seed, RowRandom(seed, self.n_envs, self.device)

    def state_dict(self) -> dict[str, Any]:
        """Points, times and random streams."""
        return {"point": self._point.clone(), "clock": self._clock.state_dict(), "random": self._random.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self._point = state["point"].to(self.device, copy=True)
        self._clock.load_state_dict(state["clock"])
        self._random.load_state_dict(state["random"])

    def _inside(self, point: Tensor) -> Tensor:
        return point.clamp(-self.cfg.arena, self.cfg.arena)

    def _show(self) -> TimeStep:
        seen = self._point / self.cfg.arena
        return TimeStep(seen[:, None].repeat(1, 2, 1), seen, self._avail.clone())
