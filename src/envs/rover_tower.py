"""Rover-Tower (Iqbal and Sha 2019, MAAC): towers that see tell rovers that do not where to go, in pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.picture import Entity, Frame, Stage
from core.registry import ENVS
from envs.particles import physics
from envs.particles.base import ACTIONS, ARROWS, rings
from envs.particles.mixed import ACCEL, MAX_SPEED, Kind, MixedEnv, one_hot
from envs.rows.native import refuse_unknown

SIZE, LANDMARK = 0.075, 0.04
"""Radii of agents and of landmarks."""
SYMBOLS = len(ACTIONS)
"""A tower says one of as many things as a rover does."""
NEAR, PRIZE = 1.5 * (SIZE + LANDMARK), 10.0
"""The squared distance below which a pair gets the prize."""
SILENCE = -1


@ENVS.register
class RoverTower(MixedEnv):
    """Rovers move and hear their tower; towers stand, and see their rover and its goal. Pairs are drawn every episode.

    Both of a pair get minus the squared distance between rover and goal, and 10 more where that is below 0.1725. Goals
    are landmarks, which several pairs may share; nobody touches anybody.
    """

    counts = ("n_pairs", "n_landmarks")
    kept = ("tower", "rover", "goal", "said")

    @dataclass(frozen=True, kw_only=True)
    class Config(MixedEnv.Config):
        """Keys beside those of both worlds."""

        n_pairs: int = 4
        """Rovers, and as many towers."""
        n_landmarks: int = 6
        """Places that may be a goal."""

    def __init__(self, cfg: Config, n_envs: int, device: torch.device | str, seed: int) -> None:
        cfg = self.settle(cfg)
        r, n_things = cfg.n_pairs, cfg.n_pairs + cfg.n_landmarks
        size = torch.full((r,), SIZE, device=device)
        bodies = physics.bodies(
            size,
            collide=torch.zeros_like(size, dtype=torch.bool),
            accel=torch.full_like(size, ACCEL),
            max_speed=torch.full_like(size, MAX_SPEED),
        )
        kinds = (Kind(r, r + SYMBOLS + 4), Kind(r, r + 4))
        super().__init__(cfg, n_envs, device, seed, kinds=kinds, bodies=bodies, n_things=n_things)
        self._bound = torch.ones(r + n_things, 1, device=self.device)
        self.tower = torch.zeros(r, n_envs, dtype=torch.int64, device=self.device)
        """Of each rover."""
        self.rover = torch.zeros_like(self.tower)
        """Of each tower."""
        self.goal = torch.zeros_like(self.tower)
        """The landmark to which each tower's rover has to go."""
        self.said = torch.full_like(self.tower, SILENCE)
        """What each tower said last."""

    def label(self) -> str:
        """Name and numbers, for instance ``rover_tower/4_pairs_6_landmarks``."""
        return f"{super().label()}/{self.cfg.n_pairs}_pairs_{self.cfg.n_landmarks}_landmarks"

    def begin(self, which: Bool[Tensor, " b"]) -> None:
        """Everybody somewhere, new pairs and goals, silence."""
        r = self.cfg.n_pairs
        order, goal = self.scatter(which, self._bound, 2 * r).split(r)
        tower = order.argsort(0)
        self._update(which, self.tower, tower)
        self._update(which, self.rover, tower.argsort(0))
        self._update(which, self.goal, (goal * self.cfg.n_landmarks).long())
        self.said.masked_fill_(which, SILENCE)

    def act(self, action: Int[Tensor, "b n"], running: Bool[Tensor, " b"]) -> Float[Tensor, "2 m b"]:
        """Rovers push, towers speak; who speaks is heard after the step."""
        rovers, towers = refuse_unknown(action, SYMBOLS, running).split(self.cfg.n_pairs, 1)
        self._update(running, self.said, towers.t())
        return self._pushed(rovers)

    def earn(self) -> Float[Tensor, "n b"]:
        """By the squared distance of each pair."""
        square = (self.pos - self._aim().gather(1, self.tower.expand(2, -1, -1))).square().sum(0)
        rovers = torch.where(square < NEAR, PRIZE, 0) - square
        return torch.cat([rovers, rovers.gather(0, self.rover)])

    def observe(self) -> None:
        """A rover's tower, what it said, place and velocity; a tower's rover, its place and its goal's."""
        r = self.cfg.n_pairs
        rovers, towers = self.seen
        rovers[:, :r] = one_hot(self.tower, r)
        rovers[:, r : r + SYMBOLS] = one_hot(self.said.gather(0, self.tower), SYMBOLS)
        rovers[:, -4:-2], rovers[:, -2:] = self.pos.transpose(0, 1), self.vel.transpose(0, 1)
        towers[:, :r] = one_hot(self.rover, r)
        towers[:, r : r + 2] = self.pos.gather(1, self.rover.expand(2, -1, -1)).transpose(0, 1)
        towers[:, r + 2 :] = self._aim().transpose(0, 1)

    def stage(self, row: int) -> Stage:
        """A colour for each pair."""
        r, pair = self.cfg.n_pairs, self.rover[:, row].tolist()
        symbols = tuple(f"symbol {s}" for s in range(SYMBOLS))
        rovers = (
            replace(
                Entity.of_agent(i, radius=SIZE, actions=ACTIONS, pushes=ARROWS), name=f"rover {i}", kind="rover", team=i
            )
            for i in range(r)
        )
        towers = (
            replace(Entity.of_agent(r + j, radius=SIZE, actions=symbols), name=f"tower {j}", kind="tower", team=pair[j])
            for j in range(r)
        )
        landmarks = rings("landmark", self.cfg.n_landmarks, LANDMARK)
        return self._stage(tuple(f"pair {i}" for i in range(r)), (*rovers, *towers, *landmarks))

    def frame(self, row: int) -> Frame:
        """Where everybody is; rovers are after their goals, towers after their rovers, with what they said last."""
        r, places = self.cfg.n_pairs, self.places(row)
        goal = self.goal[:, row].gather(0, self.tower[:, row])
        target = np.full(len(places), -1)
        target[: 2 * r] = torch.cat([2 * r + goal, self.rover[:, row]]).cpu().numpy()
        words = [f"says {s}" if s != SILENCE else "" for s in self.said[:, row].tolist()]
        return Frame.of(places, target=target, order=("",) * r + (*words,) + ("",) * self.cfg.n_landmarks)

    def _aim(self) -> Float[Tensor, "2 n b"]:
        """Where each tower's goal is; the towers' own places come before the landmarks'."""
        return self.landmarks[:, self.cfg.n_pairs :].gather(1, self.goal.expand(2, -1, -1))
