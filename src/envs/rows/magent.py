"""MAgent2's battle: one engine with our team, red, and a scripted one, blue.

The engine's arrays of a whole team are used directly, without PettingZoo's dictionaries of agents. Imported by worker
processes: numpy only, and magent2 where a battle is made.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from envs.rows.board import About, Source
from envs.rows.opponents import N_ACTIONS, OPPONENTS, SIGHT, Ints, Scene
from envs.rows.simulators import Result, Simulator, View, find, load

Floats = npt.NDArray[np.float32]
METRICS = ("battle_won", "allies_alive", "enemies_alive", "kills")
GAP, SMALLEST_MAP = 3, 12
"""Of battle_v4: fields between each team and the middle, and the smallest map."""
RASTER = 10
"""Lines and columns of the state's minimap."""
FIELD = (2 * SIGHT + 1, 2 * SIGHT + 1)
"""Of what an agent sees: lines and columns around it."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The battle and its rewards; the defaults of the latter are battle_v4's."""

    team_size: int = 12
    """Agents per side."""
    map_size: int | None = None
    """Fields per side of the square map; null: the smallest with room, and at least battle_v4's room per agent."""
    max_cycles: int = 1000
    """Steps after which a battle is cut."""
    opponent: str = "random"
    """How the blue team plays: random, or nearest (attack whom you can, go to whom you see)."""
    minimap_mode: bool = False
    """Whether agents see a minimap of both teams beside their surroundings, and where they are."""
    state: Literal["minimap", "map", "none"] = "minimap"
    """The global state: hit points of both teams on a raster of 10 by 10, on every field, or nothing but a zero."""
    reward: Literal["individual", "team"] = "individual"
    """One reward for each agent, or their sum."""
    step_reward: float = -0.005
    """Of every living agent, every step."""
    attack_penalty: float = -0.1
    """For every attack, also one on an empty field."""
    attack_opponent_reward: float = 0.2
    """For an attack that hits an enemy."""
    kill_reward: float = 5.0
    """For the attack that kills one, instead of ``attack_opponent_reward``."""
    dead_penalty: float = -0.1
    """For dying, instead of the step's other rewards so far."""


def room(team_size: int, map_size: int) -> tuple[int, int] | None:
    """Columns and rows of each team's block, or None where it does not fit between the wall and the middle."""
    columns = min(math.isqrt(team_size), (map_size // 2 - GAP - 1) // 2)
    if columns < 1 or map_size < SMALLEST_MAP:
        return None
    rows = -(-team_size // columns)
    return (columns, rows) if 2 * rows + 2 <= map_size else None


def settled_map(team_size: int, map_size: int | None) -> int:
    """The size of the map.

    Raises:
        ValueError: the teams do not fit on it.
    """
    smallest = next(size for size in itertools.count(SMALLEST_MAP) if room(team_size, size))
    if map_size is not None and room(team_size, map_size) is None:
        raise ValueError(f"{team_size} agents per side need a map_size of at least {smallest}, not {map_size}")
    if map_size is not None:
        return map_size
    # battle_v4 gives each team 4 % of the fields, so 25 fields per agent, and its block is a square where it fits.
    columns = math.isqrt(team_size)
    return max(smallest, math.ceil(5 * math.sqrt(team_size)), 2 * (2 * columns + GAP + 1))


def blocks(team_size: int, map_size: int) -> tuple[Ints, Ints]:
    """Where red, on the left, and blue start, as (x, y): battle_v4's blocks with every second field taken.

    Equal to battle_v4's wherever that has so many agents on such a map. What is missing to a full block is missing
    at its back, so that the teams are as near to each other as they can be.
    """
    size = room(team_size, map_size)
    assert size is not None, "settled_map has seen to it"
    columns, rows = size
    x, y = np.divmod(np.arange(columns * rows), rows)
    y = (map_size - 2 * rows) // 2 + 2 * y
    red = np.stack([map_size // 2 - GAP - 2 * columns + 2 * x, y], -1)
    blue = np.stack([map_size // 2 + GAP + 2 * x, y], -1)
    return red[len(red) - team_size :], blue[:team_size]


class Battle(Simulator):
    """``source.kwargs['rules']`` are the ``Rules``, with a settled map.

    The engine draws random numbers for the order of attacks only. Its draws and the opponent's come from the seed;
    they are exact because a worker has one thread (with more, attacks are made in any order).
    """

    def __init__(self, source: Source, seed: int) -> None:
        self._rules: Rules = source.kwargs["rules"]
        n, self._size = self._rules.team_size, settled_map(self._rules.team_size, self._rules.map_size)
        self._grid = self._engine(source.factory)
        self._red, self._blue = self._grid.get_handles()
        self._starts = blocks(n, self._size)
        self._channels = 5 + 2 * self._rules.minimap_mode
        self._obs_dim = math.prod(FIELD) * self._channels + 2 * self._rules.minimap_mode
        self._opponent = OPPONENTS[self._rules.opponent]
        self.seed(seed)
        state_dim = len(self.reset().state)
        self.seed(seed)
        self.about = About(
            n_actions=(N_ACTIONS,) * n,
            bounds=None,
            obs_dims=(self._obs_dim,) * n,
            state_dim=state_dim,
            episode_limit=self._rules.max_cycles,
            reward=self._rules.reward,
            metrics=METRICS,
        )

    def _engine(self, factory: str) -> Any:
        battle, rules = load("magent2.environments.battle.battle", "env: magent_battle"), self._rules
        names = ("step_reward", "dead_penalty", "attack_penalty", "attack_opponent_reward")
        config = battle.get_config(
            self._size, rules.minimap_mode, None, **{name: getattr(rules, name) for name in names}
        )
        for kind in config.agent_type_dict.values():
            kind["kill_reward"] = rules.kill_reward
        return find(factory)(config)

    def seed(self, seed: int) -> None:
        """Seeds the engine and the opponent."""
        for_engine, for_opponent = np.random.SeedSequence(seed).spawn(2)
        self._grid.set_seed(int(for_engine.generate_state(1)[0] >> 1))
        self._rng = np.random.default_rng(for_opponent)

    def reset(self) -> View:
        """Both teams in their blocks."""
        self._grid.reset()
        for team, start in zip((self._red, self._blue), self._starts, strict=True):
            self._grid.add_agents(team, "custom", pos=start)
        self._t = 0
        return self._view()

    def step(self, action: npt.NDArray[Any]) -> Result:
        """One step of both teams; red's attacks and moves are queued before blue's, as in battle_v4."""
        grid, n = self._grid, self._rules.team_size
        acting = grid.get_agent_id(self._red)
        grid.set_action(self._red, action[acting].astype(np.int32))
        grid.set_action(self._blue, self._opponent(self._scene(), self._rng).astype(np.int32))
        grid.step()
        reward = np.zeros(n, np.float32)
        reward[acting] = grid.get_reward(self._red)
        grid.clear_dead()
        self._t += 1
        allies, enemies = grid.get_num(self._red), grid.get_num(self._blue)
        terminated = not allies or not enemies
        truncated = not terminated and self._t >= self._rules.max_cycles
        info = dict(zip(METRICS, (allies > enemies, allies, enemies, n - enemies), strict=True))
        each = reward if self._rules.reward == "individual" else float(reward.sum())
        return Result(self._view(), each, terminated, truncated, info)

    def _scene(self) -> Scene:
        red, blue = self._grid.get_pos(self._red), self._grid.get_pos(self._blue)
        free = np.zeros((self._size, self._size), dtype=bool)
        free[1:-1, 1:-1] = True
        for team in (red, blue):
            free[team[:, 0], team[:, 1]] = False
        return Scene(blue, red, free)

    def _view(self) -> View:
        n = self._rules.team_size
        looks = [self._look(team) for team in (self._red, self._blue)[: 1 + (self._rules.state != "none")]]
        obs, avail = np.zeros((n, self._obs_dim), np.float32), np.zeros((n, N_ACTIONS), dtype=bool)
        alive = self._grid.get_agent_id(self._red)
        around, place = looks[0]
        n_around = math.prod(around.shape[1:])
        obs[alive, :n_around], obs[alive, n_around:] = around.reshape(len(alive), n_around), place
        avail[alive], avail[:, 0] = True, True
        return View(obs, self._state(looks), avail)

    def _look(self, team: Any) -> tuple[Floats, Floats]:
        """What the living see, [k, 13, 13, 5 or 7], and in minimap mode where they are, [k, 2], else [k, 0].

        The engine's own memory, which the next look overwrites.
        """
        with_map = self._rules.minimap_mode
        if not self._grid.get_num(team):  # which the engine would not survive with a minimap
            return np.zeros((0, *FIELD, self._channels), np.float32), np.zeros((0, 2 * with_map), np.float32)
        view, features = self._grid.get_observation(team)
        if not with_map:
            return view, features[:, :0]
        # The engine divides each team's minimap by the number of its agents, also by 0.
        return np.nan_to_num(view, copy=False), features[:, -2:]

    def _state(self, looks: list[tuple[Floats, Floats]]) -> Floats:
        if self._rules.state == "none":
            return np.zeros(1, np.float32)
        teams = zip((self._red, self._blue), looks, strict=True)
        return np.concatenate([self._hp_map(team, view) for team, (view, _) in teams])

    def _hp_map(self, team: Any, view: Floats) -> Floats:
        """Hit points of a team as a share of what a cell has room for; on the minimap, then the share of the living."""
        lines = self._size if self._rules.state == "map" else RASTER
        x, y = (self._grid.get_pos(team) * lines // self._size).T
        hp = view[:, SIGHT, SIGHT, 2]  # an agent sees its own, out of full ones, in the middle
        cells = np.bincount(x * lines + y, hp, lines * lines) * (lines / self._size) ** 2
        share = [len(hp) / self._rules.team_size] if self._rules.state == "minimap" else []
        return np.append(cells, share).astype(np.float32)

    def close(self) -> None:
        """The engine frees itself."""
