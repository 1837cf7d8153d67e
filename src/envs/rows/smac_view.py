"""What SMAC shows of its units, computed for all agents at once, and equal to its own loops in single precision.

Imported by worker processes: numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
MOVES = np.array([(0, 1), (0, -1), (1, 0), (-1, 0)])
"""Directions of the actions 2 to 5: north, south, east, west."""
FIRST_MOVE, FIRST_TARGET = 2, 6
AROUND = np.array([(0, 2), (0, -2), (2, 0), (-2, 0), (1, 1), (-1, -1), (1, -1), (-1, 1), (0, 0)])
"""Where an agent feels the ground, in moves; the last, its own place, for heights only."""
_NUMBERS = ("health", "health_max", "shield", "energy", "weapon_cooldown")


@dataclass
class Team:
    """Numbers of one side's units, [n] each."""

    x: Floats
    y: Floats
    health: Floats
    health_max: Floats
    shield: Floats
    energy: Floats
    weapon_cooldown: Floats
    kind: list[int]
    """StarCraft II's numbers of their types."""

    @classmethod
    def read(cls, units: Iterable[Any]) -> Team:
        """The numbers of ``units``, which are protobuf messages."""
        units = list(units)
        places = [(unit.pos.x, unit.pos.y) for unit in units]
        x, y = np.array(places, dtype=np.float64).reshape(-1, 2).T
        numbers = {name: np.array([getattr(unit, name) for unit in units], dtype=np.float64) for name in _NUMBERS}
        return cls(x=x, y=y, kind=[unit.unit_type for unit in units], **numbers)

    @property
    def alive(self) -> Bools:
        """Whose health is not gone."""
        return self.health > 0


class Eyes:
    """Observations, state, masks and visibility of one SMAC environment (first version) as it is now."""

    def __init__(self, env: Any, sight_range: float, obs_allies: str) -> None:
        """``env`` is upstream's; the other two are options of ours, see ``envs.skirmish.options``."""
        self._env, self._sight, self._obs_allies = env, sight_range, obs_allies
        self._known: dict[tuple[str, int], Any] = {}

    def look(self) -> None:
        """Reads the units; what the other methods give is of this moment."""
        env = self._env
        self._own, self._foe = Team.read(env.agents.values()), Team.read(env.enemies.values())
        own, foe = self._own, self._foe
        dx = np.concatenate([own.x, foe.x]) - own.x[:, None]
        dy = np.concatenate([own.y, foe.y]) - own.y[:, None]
        # numpy's hypot rounds differently from Python's, which upstream uses, and thresholds depend on it.
        distance = np.fromiter(map(math.hypot, dx.ravel().tolist(), dy.ravel().tolist()), np.float64, dx.size)
        self._dx, self._dy, self._distance = dx, dy, distance.reshape(dx.shape)
        alive = np.concatenate([own.alive, foe.alive])
        self._seen = (self._distance < self._sight) & alive & own.alive[:, None]
        self.avail = self._offers()

    @property
    def visible(self) -> Bools:
        """[n, n] which living agents an agent sees; not itself."""
        n = len(self._own.kind)
        return self._seen[:, :n] & ~np.eye(n, dtype=bool)

    def _of(self, what: str, team: Team, ask: Callable[[Any], Any]) -> npt.NDArray[Any]:
        """Upstream's answer for every unit's type; it is asked once per type."""
        units = self._env.agents if team is self._own else self._env.enemies
        answers = []
        for unit, kind in zip(units.values(), team.kind, strict=True):
            key = (f"{what}{'' if team is self._own else ' of enemies'}", kind)
            if key not in self._known:
                self._known[key] = ask(unit)
            answers.append(self._known[key])
        return np.array(answers)

    def _codes(self, team: Team) -> Floats:
        """[n, bits] one-hot types."""
        bits = self._env.unit_type_bits
        if not bits:
            return np.zeros((len(team.kind), 0))
        ours = team is self._own
        return np.eye(bits)[self._of("code", team, lambda unit: self._env.get_unit_type_id(unit, ours))]

    def _vitals(self, team: Team, shields: int) -> Floats:
        """[n, 1 or 2] shares of health, and of shield where the race has such."""
        health = team.health / team.health_max
        if not shields:
            return health[:, None]
        return np.stack([health, team.shield / self._of("shield", team, self._env.unit_max_shield)], -1)

    def _grid(self, grid: npt.NDArray[Any], offsets: Floats, outside: Any) -> npt.NDArray[Any]:
        """[n, k] values of a map's grid at whole places; ``outside`` beyond its edge."""
        env = self._env
        x, y = offsets[..., 0].astype(np.int64), offsets[..., 1].astype(np.int64)
        inside = (x >= 0) & (x < env.map_x) & (y >= 0) & (y < env.map_y)
        return np.where(inside, grid[np.where(inside, x, 0), np.where(inside, y, 0)], outside)

    def _offers(self) -> Bools:
        """[n, a] available actions."""
        env, own, foe = self._env, self._own, self._foe
        n, m = len(own.kind), len(foe.kind)
        avail = np.zeros((n, env.n_actions), dtype=bool)
        places = np.stack([own.x, own.y], -1)[:, None] + MOVES * (env._move_amount / 2)
        avail[:, 1] = True
        avail[:, FIRST_MOVE:FIRST_TARGET] = self._grid(env.pathing_grid, places, False)
        near = self._distance <= env.unit_shoot_range(0)
        avail[:, FIRST_TARGET : FIRST_TARGET + m] = near[:, n:] & foe.alive
        healers = np.array([env.map_type == "MMM" and kind == env.medivac_id for kind in own.kind])
        if healers.any():
            avail[healers, FIRST_TARGET:] = False
            avail[healers, FIRST_TARGET : FIRST_TARGET + n] = (near[:, :n] & own.alive & ~healers)[healers]
        avail[~own.alive] = np.arange(env.n_actions) == 0
        return avail

    def _others(self, seen: Bools, first: npt.NDArray[Any], columns: slice, feature: Floats) -> Floats:
        """[n, others, k] what agents are told of others: ``first``, where, ``feature``; zeros of the unseen."""
        where = np.stack([self._distance, self._dx, self._dy], -1)[:, columns] / self._sight
        each = np.broadcast_to(feature, (len(seen), *feature.shape))
        return np.concatenate([first[..., None], where, each], -1) * seen[..., None]

    def obs(self) -> npt.NDArray[np.float32]:
        """[n, o] observations."""
        env, own, foe = self._env, self._own, self._foe
        n, m = len(own.kind), len(foe.kind)
        health = env.obs_all_health
        foe_feature = np.concatenate([self._vitals(foe, env.shield_bits_enemy)[:, : 2 * health], self._codes(foe)], -1)
        enemies = self._others(
            self._seen[:, n:], self.avail[:, FIRST_TARGET : FIRST_TARGET + m], slice(n, None), foe_feature
        )
        vitals, codes = self._vitals(own, env.shield_bits_ally), self._codes(own)
        parts = [self._ground(), enemies.reshape(n, -1)]
        if self._obs_allies != "drop":
            last = env.last_action if env.obs_last_action else np.zeros((n, 0))
            feature = np.concatenate([vitals[:, : 2 * health], codes, last], -1)
            allies = self._others(self.visible, np.ones((n, n)), slice(n), feature)
            mates = allies[~np.eye(n, dtype=bool)].reshape(n, -1)
            parts.append(mates if self._obs_allies == "full" else np.zeros_like(mates))
        parts += [vitals[:, : 2 * env.obs_own_health], codes]
        obs = np.concatenate(parts, -1) * own.alive[:, None]
        if env.obs_timestep_number:  # upstream reserves a place for it among the agent's own numbers, and appends it
            time = np.full((n, 1), env._episode_steps / env.episode_limit)
            obs = np.concatenate([obs, np.zeros((n, 1)), time], -1)
        return obs.astype(np.float32)

    def _ground(self) -> Floats:
        """[n, 4 or more] where agents can go, and what the ground around them is like."""
        env, own = self._env, self._own
        parts: list[npt.NDArray[Any]] = [self.avail[:, FIRST_MOVE:FIRST_TARGET]]
        around = np.trunc(np.stack([own.x, own.y], -1))[:, None] + AROUND * env._move_amount
        if env.obs_pathing_grid:
            parts.append(self._grid(env.pathing_grid, around[:, :-1], 1))
        if env.obs_terrain_height:
            parts.append(self._grid(env.terrain_height, around, 1))
        return np.concatenate(parts, -1).astype(np.float64)

    def state(self) -> npt.NDArray[np.float32]:
        """[s] the state."""
        env, own, foe = self._env, self._own, self._foe
        if env.obs_instead_of_state:
            return self.obs().ravel()
        ready = own.weapon_cooldown
        if env.map_type == "MMM":
            ready = np.where(np.array(own.kind) == env.medivac_id, own.energy, ready)
        first = ready / self._of("cooldown", own, env.unit_max_cooldown)
        parts = [
            self._block(own, env.shield_bits_ally, [first]).ravel(),
            self._block(foe, env.shield_bits_enemy, []).ravel(),
        ]
        if env.state_last_action:
            parts.append(env.last_action.ravel())
        if env.state_timestep_number:
            parts.append(np.array([env._episode_steps / env.episode_limit]))
        return np.concatenate(parts).astype(np.float32)

    def _block(self, team: Team, shields: int, after_health: list[Floats]) -> Floats:
        """[n, k] the state's numbers of one side; zeros of the dead."""
        env, vitals = self._env, self._vitals(team, shields)
        x = (team.x - env.map_x / 2) / env.max_distance_x
        y = (team.y - env.map_y / 2) / env.max_distance_y
        numbers = np.stack([vitals[:, 0], *after_health, x, y, *vitals[:, 1:].T], -1)
        return np.concatenate([numbers, self._codes(team)], -1) * team.alive[:, None]
