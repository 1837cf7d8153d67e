"""What all worlds of particles share: bodies on a plane that are pushed, timed, saved and drawn, all rows at once."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.picture import Entity, Frame, Stage
from core.specs import EnvSpec, Extras, Outcome, TimeStep
from envs.base import BatchedEnv
from envs.particles import physics
from envs.rows.native import Clock, RowRandom

# x and y of the actions stay, +x, -x, +y, -y: the original's order for one-hot actions.
PUSHES = [[0.0, 1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, -1.0]]
ACTIONS = ("stay", "right", "left", "up", "down")
VIEW = 1.5
"""Half the side of the square that pictures show; whoever leaves it is out of the picture."""
ARROW = 0.25
"""Length of a full push in pictures."""
ARROWS = tuple((ARROW * x, ARROW * y) for x, y in zip(*PUSHES, strict=True))


def rings(kind: str, n: int, radius: float, mark: str = "") -> tuple[Entity, ...]:
    """``n`` numbered places that are nobody's, for pictures."""
    return tuple(Entity(name=f"{kind} {i}", kind=kind, mark=mark, radius=radius) for i in range(n))


class Verdict(NamedTuple):
    """What the positions after a step are worth."""

    reward: Float[Tensor, "*n b"]
    """The team's, or each agent's."""
    over: Bool[Tensor, " b"]
    """The episode has come to a true end."""
    info: Extras


def need(cfg: Any, least: int, *names: str) -> None:
    """Raises ValueError where one of the numbers ``names`` of ``cfg`` is below ``least``."""
    for name in names:
        if getattr(cfg, name) < least:
            raise ValueError(f"{name} must be at least {least}, not {getattr(cfg, name)}")


class World(BatchedEnv):
    """Moving bodies, and things that stay. A subclass says how actions push, what is seen, and what places are worth.

    The first moving bodies and the things after them are the ``entities``; vectors are [2, ., b], rows last.
    """

    def __init__(
        self,
        cfg: Any,
        n_envs: int,
        device: torch.device | str,
        seed: int,
        *,
        spec: EnvSpec,
        bodies: physics.Bodies,
        n_things: int,
    ) -> None:
        """``bodies`` move, ``n_things`` do not."""
        super().__init__(cfg, n_envs, device, seed)
        self.spec, self._bodies, n = spec, bodies, len(bodies.push_gain)
        self._pushes = torch.tensor(PUSHES, device=self.device)[..., None].expand(-1, -1, n_envs)
        self._avail = torch.ones(n_envs, spec.n_agents, spec.n_actions, dtype=torch.bool, device=self.device)
        self._clock = Clock(spec.episode_limit, n_envs, self.device)
        self._random = RowRandom(seed, n_envs, self.device)
        # Velocities, places of bodies and things (x of all, y of all), and a 0.
        n_entities = n + n_things
        self._things = torch.zeros(2 * n + 2 * n_entities + 1, n_envs, device=self.device)
        self.vel = self._things[: 2 * n].view(2, n, n_envs)
        self.entities = self._things[2 * n : -1].view(2, n_entities, n_envs)
        self.pos, self.landmarks = self.entities[:, :n], self.entities[:, n:]
        self.never = torch.zeros(n_envs, dtype=torch.bool, device=self.device)

    @abstractmethod
    def begin(self, which: Bool[Tensor, " b"]) -> None:
        """New episodes in the rows of ``which``."""

    @abstractmethod
    def act(
        self, action: Int[Tensor, "b n"] | Float[Tensor, "b n d"], running: Bool[Tensor, " b"]
    ) -> Float[Tensor, "2 m b"]:
        """What happens before bodies move, in the running rows; and how the bodies are pushed.

        Raises:
            ValueError: an action of a running row that there is not.
        """

    @abstractmethod
    def judge(self) -> Verdict:
        """What ``self.pos`` is worth, after a step."""

    @abstractmethod
    def show(self) -> TimeStep:
        """What agents see of how things are."""

    def reset(self, which: Bool[Tensor, " b"] | None = None) -> TimeStep:
        """New episodes in the rows of ``which`` (None: all)."""
        self.begin(self._clock.start(which))
        return self.show()

    def step(self, action: Int[Tensor, "b n"] | Float[Tensor, "b n d"]) -> Outcome:
        """Everybody is pushed, and the new places are judged."""
        running = self._clock.running
        vel, pos = physics.advance(self.vel, self.pos, self.act(action, running), self._bodies)
        self._update(running, self.vel, vel)
        self._update(running, self.pos, pos)
        verdict = self.judge()
        terminated, truncated = self._clock.tick(verdict.over)
        reward = torch.where(running, verdict.reward, 0).movedim(-1, 0)
        return Outcome(self.show(), reward, terminated, truncated, verdict.info)

    def frame(self, row: int) -> Frame:
        """Where bodies and things are."""
        return Frame.of(self.places(row))

    def places(self, row: int) -> Float[np.ndarray, "e 2"]:
        """Where one row's entities are."""
        return self.entities[:, :, row].t().cpu().numpy().copy()

    def seed_rows(self, seed: int) -> None:
        """Restarts the draws of places."""
        self.seed, self._random = seed, RowRandom(seed, self.n_envs, self.device)

    def state_dict(self) -> dict[str, Any]:
        """Places, velocities, times and random streams."""
        return {
            "things": self._things.clone(),
            "clock": self._clock.state_dict(),
            "random": self._random.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self._things.copy_(state["things"])
        self._clock.load_state_dict(state["clock"])
        self._random.load_state_dict(state["random"])

    def _pushed(self, action: Int[Tensor, "b n"]) -> Float[Tensor, "2 n b"]:
        """The pushes of numbered actions."""
        return self._pushes.gather(1, action.t().expand(2, -1, -1))

    def _stage(self, teams: tuple[str, ...], entities: tuple[Entity, ...]) -> Stage:
        """The square around the origin."""
        return Stage(title=self.label(), teams=teams, entities=entities, low=(-VIEW, -VIEW), high=(VIEW, VIEW))

    @staticmethod
    def _update(which: Tensor, old: Tensor, new: Tensor) -> None:
        torch.where(which, new, old, out=old)
