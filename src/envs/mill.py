"""Mill, a reconstruction: ten agents push a wheel, which must turn fast in time (Wang et al. 2021, DOP, section 5.3).

The paper prints the number of agents, the thresholds, the rewards and the time limit; how pushes change the speed and
what is observed are ours. Numbers from here are not the paper's.
"""

from __future__ import annotations

import math
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

FAST, WINNING, LIMIT = 30.0, 100.0, 10
BONUS, STAKE = 3.0, 10.0
# Of pictures, whose unit of length is one of speed: the wheel, where agents stand around it, the scale, its marks.
WHEEL, CREW, SCALE, BELOW = 40.0, 50.0, -75.0, -88.0
MARKS = {"at rest": 0.0, "fast": FAST, "winning": WINNING}


@ENVS.register
class Mill(BatchedEnv):
    """A reconstruction: agents push with forces from -1 to 1; the wheel's speed grows by ``gain`` times their sum.

    +3 in every step after which the speed is above 30; +10 and the end when it is above 100; -10 and the end after ten
    steps without that. Both ends are true ones. The wheel starts at rest.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The team and the wheel."""

        n_agents: int = 10
        """N."""
        gain: float = 1.25
        """Speed that one full push adds."""

    def __init__(self, cfg: Config, n_envs: int, device: torch.device | str, seed: int) -> None:
        super().__init__(self.settle(cfg), n_envs, device, seed)
        n = cfg.n_agents
        self.spec = EnvSpec(
            actions=(ActionSpec(1, -1.0, 1.0),) * n,
            obs_dims=(2 + n,) * n,
            state_dim=2,
            episode_limit=LIMIT,
            metrics=("success", "speed"),
        )
        self._box = Box(self.spec.actions, self.device)
        self._identity = torch.eye(n, device=self.device).repeat(n_envs, 1, 1)
        self._clock = Clock(LIMIT, n_envs, self.device)
        self._speed = torch.zeros(n_envs, device=self.device)

    @classmethod
    def settle(cls, cfg: Any) -> Any:
        """Checks the constants."""
        for name in ("n_agents", "gain"):
            if getattr(cfg, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(cfg, name)}")
        return cfg

    def label(self) -> str:
        """Says that this is a reconstruction: ``mill-reconstruction/10``."""
        return f"mill-reconstruction/{self.cfg.n_agents}"

    def reset(self, which: Bool[Tensor, " b"] | None = None) -> TimeStep:
        """The wheel stands still in the rows of ``which`` (None: all)."""
        which = self._clock.start(which)
        self._speed = torch.where(which, 0, self._speed)
        return self._show()

    def step(self, action: Float[Tensor, "b n d"]) -> Outcome:
        """Everybody pushes."""
        running = self._clock.running
        push = self._box.admit(action, running).sum((1, 2))
        self._speed = torch.where(running, self._speed + self.cfg.gain * push, self._speed)
        won = self._speed > WINNING
        over = won | (self._clock.t + 1 >= LIMIT)
        reward = BONUS * (self._speed > FAST) + torch.where(won, STAKE, -STAKE * over)
        terminated, truncated = self._clock.tick(over)
        info = {"success": won.float(), "speed": self._speed.clone()}
        return Outcome(self._show(), torch.where(running, reward, 0), terminated, truncated, info)

    def stage(self, row: int) -> Stage:  # noqa: ARG002 - the same in every row
        """The agents around their wheel, pushing along its rim, and its speed on a scale."""
        push = 0.25 * CREW
        agents = [
            Entity.of_agent(i, radius=6.0, pushes=((push * math.cos(angle), -push * math.sin(angle)),))
            for i, angle in enumerate(self._angles())
        ]
        speed = Entity(name="speed", kind="speed", mark="", team=1, radius=4.0)
        wheel = Entity(name="wheel", kind="wheel", mark="", radius=WHEEL)
        marks = [Entity(name=name, kind="mark", mark=f"{at:.0f}", radius=8.0) for name, at in MARKS.items()]
        return Stage(
            title=self.label(),
            teams=("agents", "wheel"),
            entities=(*agents, speed, wheel, *marks),
            low=(-1.3 * WINNING, BELOW - 15.0),
            high=(1.3 * WINNING, CREW + 15.0),
        )

    def frame(self, row: int) -> Frame:
        """Only the speed moves: it is where it belongs on the scale."""
        crew = [(CREW * math.sin(angle), CREW * math.cos(angle)) for angle in self._angles()]
        marks = [(at, BELOW) for at in MARKS.values()]
        places = [*crew, (float(self._speed[row]), SCALE), (0.0, 0.0), *marks]
        return Frame.of(np.array(places, dtype=np.float32))

    def seed_rows(self, seed: int) -> None:
        """Nothing here is random."""
        self.seed = seed

    def state_dict(self) -> dict[str, Any]:
        """Speeds and times."""
        return {"speed": self._speed.clone(), "clock": self._clock.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self._speed = state["speed"].to(self.device, copy=True)
        self._clock.load_state_dict(state["clock"])

    def _angles(self) -> list[float]:
        """Where the agents stand, clockwise from above."""
        return [2 * math.pi * i / self.cfg.n_agents for i in range(self.cfg.n_agents)]

    def _show(self) -> TimeStep:
        n = self.cfg.n_agents
        state = torch.stack([self._speed / WINNING, self._clock.t / LIMIT], -1)
        obs = torch.cat([state[:, None].expand(-1, n, -1), self._identity], -1)
        avail = torch.ones(self.n_envs, n, 1, dtype=torch.bool, device=self.device)
        return TimeStep(obs, state, avail)
