"""Hallway: agents on separate chains must arrive together without seeing each other (NDQ; DOP, appendix F)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from core.picture import FLOOR, WALL, Entity, Frame, Stage
from core.registry import ENVS
from core.specs import ActionSpec, EnvSpec, Outcome, TimeStep
from envs.base import BatchedEnv
from envs.rows.native import Clock, RowRandom, refuse_unavailable

WIN = 10.0
ACTIONS, MOVES = ("stay", "left", "right"), (0, -1, 1)
SLACK = 10
"""Steps that the time limit leaves beyond the longest chain."""


@ENVS.register
class Hallway(BatchedEnv):
    """Agent i starts somewhere in 1..m_i. The episode ends as soon as anybody is at 0, and is won if everybody is.

    Actions: 0 stay, 1 left (towards 0), 2 right (no further than m_i).
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The chains, and how a position is seen."""

        lengths: list[int]
        """m_i, one per agent."""
        obs: Literal["onehot", "scalar"] = "onehot"
        """An agent's own position, as m_i + 1 indicators or as one number."""

    def __init__(self, cfg: Config, n_envs: int, device: torch.device | str, seed: int) -> None:
        super().__init__(cfg, n_envs, device, seed)
        lengths = self.settle(cfg).lengths
        n = len(lengths)
        self.spec = EnvSpec(
            actions=(ActionSpec(3),) * n,
            obs_dims=tuple(m + 1 for m in lengths) if cfg.obs == "onehot" else (1,) * n,
            state_dim=n,
            episode_limit=max(lengths) + SLACK,
            metrics=("battle_won",),
        )
        self._lengths = torch.tensor(lengths, device=self.device)
        self._moves = torch.tensor(MOVES, device=self.device)
        self._avail = torch.ones(n_envs, n, 3, dtype=torch.bool, device=self.device)
        self._clock = Clock(self.spec.episode_limit, n_envs, self.device)
        self._random = RowRandom(seed, n_envs, self.device)
        self._position = torch.ones(n_envs, n, dtype=torch.int64, device=self.device)

    @classmethod
    def settle(cls, cfg: Any) -> Any:
        """Checks the chains."""
        if not cfg.lengths or any(isinstance(m, bool) or not isinstance(m, int) or m < 1 for m in cfg.lengths):
            raise ValueError(f"lengths must name one whole number of at least 1 per agent, not {cfg.lengths!r}")
        return cfg

    def label(self) -> str:
        """The chains, for instance ``hallway/4x4``."""
        return "hallway/" + "x".join(str(m) for m in self.cfg.lengths)

    def reset(self, which: Bool[Tensor, " b"] | None = None) -> TimeStep:
        """Uniform and independent starts in the rows of ``which`` (None: all)."""
        which = self._clock.start(which)
        start = 1 + (self._random.uniform(which, self.spec.n_agents) * self._lengths).long()
        self._position = torch.where(which[:, None], start, self._position)
        return self._show()

    def step(self, action: Int[Tensor, "b n"]) -> Outcome:
        """All move at once; the joint arrival is worth 10, everything else nothing."""
        running = self._clock.running
        action = refuse_unavailable(action, self._avail, running)
        moved = (self._position + self._moves[action]).clamp(min=0).minimum(self._lengths)
        self._position = torch.where(running[:, None], moved, self._position)
        home = self._position == 0
        won = (running & home.all(-1)).float()
        terminated, truncated = self._clock.tick(home.any(-1))
        return Outcome(self._show(), WIN * won, terminated, truncated, {"battle_won": won})

    def stage(self, row: int) -> Stage:  # noqa: ARG002 - the same in every row
        """The chains below each other, in the agents' order; place x of a chain is at x, and the goals are at 0."""
        lengths = self.cfg.lengths
        n, longest = len(lengths), max(lengths)
        ground = np.full((longest + 3, 2 * n + 1), WALL, dtype=np.uint8)
        for i, length in enumerate(lengths):
            ground[1 : length + 2, 2 * (n - 1 - i) + 1] = FLOOR
        pushes = tuple((0.5 * x, 0.0) for x in MOVES)
        agents = (Entity.of_agent(i, radius=0.28, actions=ACTIONS, pushes=pushes) for i in range(n))
        goals = (Entity(name=f"goal of agent {i}", kind="goal", mark="", radius=0.42) for i in range(n))
        low, high = (-1.5, -1.5), (longest + 1.5, 2 * n - 0.5)
        return Stage(
            title=self.label(), teams=("agents",), entities=(*agents, *goals), low=low, high=high, ground=ground
        )

    def frame(self, row: int) -> Frame:
        """Everybody on its own chain."""
        n = self.spec.n_agents
        x = np.concatenate([self._position[row].cpu().numpy(), np.zeros(n)])
        y = np.tile(2 * np.arange(n)[::-1], 2)
        return Frame.of(np.stack([x, y], -1).astype(np.float32))

    def seed_rows(self, seed: int) -> None:
        """Restarts the draws of starting positions."""
        self.seed, self._random = seed, RowRandom(seed, self.n_envs, self.device)

    def state_dict(self) -> dict[str, Any]:
        """Positions, times and random streams."""
        return {
            "position": self._position.clone(),
            "clock": self._clock.state_dict(),
            "random": self._random.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self._position = state["position"].to(self.device, copy=True)
        self._clock.load_state_dict(state["clock"])
        self._random.load_state_dict(state["random"])

    def _show(self) -> TimeStep:
        return TimeStep(self._observe(), self._position.float(), self._avail.clone())

    def _observe(self) -> Float[Tensor, "b n o"]:
        if self.cfg.obs == "scalar":
            return self._position.float()[..., None]
        return nn.functional.one_hot(self._position, self.spec.obs_dim).float()
