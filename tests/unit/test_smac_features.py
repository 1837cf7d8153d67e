"""Our battles against SMAC's own code, number by number: what agents see, may do and earn, and when battles end.

SMAC gets the very units that our engine has, from something that answers like StarCraft II's controller; so the game
itself is not needed, but the Python package is (docs/environments/sc2.md says how to run this).
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, no_type_check

import numpy as np
import pytest
import torch
import warp as wp

from envs.rows.smac_view import Eyes
from envs.sc2 import StarCraft2
from envs.skirmish.engine.layout import ATTACK, MOVE, STAND, Battle, Scene
from envs.skirmish.engine.orders import obey, scripted_action
from envs.skirmish.engine.score import score
from envs.skirmish.engine.spawn import clear
from envs.skirmish.maps import MAPS, walkable
from envs.skirmish.options import shields
from envs.skirmish.units import UnitKind

if importlib.util.find_spec("smac"):  # its messages are older than protobuf's faster implementations allow
    os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")
smac = pytest.importorskip("smac.env.starcraft2.starcraft2", reason="SMAC's Python package is not installed")

SMACS = [name for name in MAPS if not name.endswith("_myopic")]
QUICK = ("3m", "2s3z", "MMM", "2m_vs_1z")
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SMACS]
STOCK = {
    "colossus": 4, "baneling": 9, "marine": 48, "marauder": 51, "medivac": 54, "zealot": 73, "stalker": 74,
    "spine_crawler": 98, "zergling": 105, "hydralisk": 107,
}  # fmt: skip
"""StarCraft II's numbers of the unit types."""
RL = 1970
"""The number of a map's first own type; the agents' types follow one another."""
COMPASS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1), (0.6, 0.8), (-0.8, 0.6)])
"""Directions, of length 1."""
OPTIONS: list[dict[str, Any]] = [
    {},
    {"obs_last_action": True, "state_timestep_number": True},
    {"obs_pathing_grid": True, "obs_timestep_number": True},
    {"obs_all_health": False},
    {"obs_all_health": False, "obs_own_health": False, "obs_last_action": True},
    {"state_last_action": False, "state_timestep_number": True, "move_amount": 2.5},
    {"obs_instead_of_state": True, "obs_timestep_number": True, "obs_pathing_grid": True},
]
REWARDS: list[dict[str, Any]] = [
    {"continuing_episode": True},
    {"reward_only_positive": False},
    {"reward_only_positive": False, "reward_negative_scale": 0.25, "reward_death_value": 7.0, "reward_defeat": -30.0},
    {"reward_sparse": True},
    {"reward_sparse": True, "reward_scale": False},
    {"reward_scale": False, "reward_win": 50.0},
    {"reward_scale_rate": 3.0},
]


# ---------------------------------------------------------------- SMAC without StarCraft II


@dataclass
class Unit:
    """What SMAC reads of a unit of StarCraft II."""

    tag: int
    owner: int
    unit_type: int
    health: float
    health_max: float
    shield: float
    shield_max: float
    energy: float
    weapon_cooldown: float
    pos: SimpleNamespace


class Game:
    """Answers SMAC as StarCraft II's controller would, from one row of our battles."""

    def __init__(self, env: StarCraft2, play: bool) -> None:
        """``play``: SMAC's steps are steps of ours, with ``action``; otherwise they change nothing."""
        self.env, self.play, self.row = env, play, 0
        self.action: list[int] = []
        self.killed = False
        self.commands: dict[int, Any] = {}

    def actions(self, request: Any) -> None:
        """Notes SMAC's commands by the agent that they are for."""
        told = [action.action_raw.unit_command for action in request.actions]
        self.commands = {command.unit_tags[0] - 1: command for command in told}

    def debug(self, _: Any) -> None:
        """SMAC kills all units to restart."""
        self.killed = True

    def step(self, _: int) -> None:
        """Time goes on, after a look at the living agents' orders."""
        if self.killed:
            self.env.reset()
        elif self.play:
            alive, before = self.env.battle.live["hp"][0] > 0, orders(self.env)
            self.chosen = choose(self.env, self.action)
            for agent, now in enumerate(orders(self.env)):
                if alive[agent]:
                    check_order(self.env, agent, self.commands.get(agent), before[agent], now)
            self.outcome = self.env.step(torch.tensor([self.action]))
        self.killed = False

    def observe(self) -> Any:
        """All living units; the agents in no order."""
        alive = [unit for unit in units(self.env, self.row) if unit.health > 0]
        mixed = [unit for unit in alive if unit.owner == 1][::-1] + [unit for unit in alive if unit.owner == 2]
        return SimpleNamespace(observation=SimpleNamespace(raw_data=SimpleNamespace(units=mixed)))


def rows_for(name: str) -> int:
    """As many rows as keep a test short."""
    return max(6, 240 // (MAPS[name].n_agents + MAPS[name].n_enemies))


def kinds_of(env: StarCraft2) -> list[UnitKind]:
    """The type of every unit."""
    battle_map = env.battle.map
    return battle_map.kinds(battle_map.allies) + battle_map.kinds(battle_map.enemies)


def units(env: StarCraft2, row: int) -> list[Unit]:
    """Our units of one row in SMAC's terms, the dead included; a unit's tag is one more than its number."""
    battle_map, live = env.battle.map, env.battle.live
    names = ("hp", "shield", "energy", "cooldown", "pos")
    values = zip(*(live[name][row].tolist() for name in names), strict=True)
    types = [name for name, _ in battle_map.allies]
    made = []
    for u, (kind, (hp, shield, energy, cooldown, (x, y))) in enumerate(zip(kinds_of(env), values, strict=True)):
        ally = u < battle_map.n_agents
        number = RL + types.index(kind.name) if ally else STOCK[kind.name]
        pos = SimpleNamespace(x=x, y=y)
        made.append(Unit(u + 1, 2 - ally, number, hp, kind.hp, shield, kind.shield, energy, cooldown, pos))
    return made


def pair(name: str, n_envs: int, play: bool = False, **options: Any) -> tuple[StarCraft2, Any, Game]:
    """Our environment, SMAC's, and what is between them; both are reset."""
    env = StarCraft2(StarCraft2.Config(engine="skirmish", map_name=name, **options), n_envs, "cpu", 7)
    env.reset()
    game = Game(env, play)
    theirs = smac.StarCraft2Env(map_name=name.removesuffix("_myopic"), **options)
    theirs.map_x = theirs.map_y = theirs.max_distance_x = theirs.max_distance_y = 32
    theirs.pathing_grid = walkable(env.battle.map.terrain)
    theirs._controller, theirs._launch = game, lambda: None
    theirs.unit_sight_range = lambda _: env.cfg.sight_range
    theirs.reset()
    return env, theirs, game


def same(ours: torch.Tensor, theirs: Any) -> None:
    """Bit for bit, in single precision."""
    expected = torch.from_numpy(np.asarray(theirs, dtype=np.float32))
    assert ours.shape == expected.shape
    assert ours.float().isfinite().all()
    differ = (ours.float() != expected).nonzero()
    assert not len(differ), f"{len(differ)} differ, the first at {differ[0].tolist()}"


def compare(env: StarCraft2, theirs: Any, row: int) -> None:
    """Observations, state, masks and visibility of one row."""
    shown, n = env._show(), env.spec.n_agents
    same(shown.obs[row], without_mates(env, np.stack(theirs.get_obs())))
    same(shown.avail[row], theirs.get_avail_actions())
    visible = theirs.get_visibility_matrix()
    same(shown.extras["visible"][row], visible[:, :n])
    same(seen_enemies(env, shown.obs[row]), visible[:, n:])
    state = theirs.get_state()
    state = without_mates(env, state.reshape(n, -1)).ravel() if env.cfg.obs_instead_of_state else state
    same(shown.state[row], state)
    eyes = Eyes(theirs, env.cfg.sight_range, env.cfg.obs_allies)  # what we compute of SMAC's units with the game itself
    eyes.look()
    same(torch.from_numpy(eyes.obs()), without_mates(env, np.stack(theirs.get_obs())))
    same(torch.from_numpy(eyes.avail), theirs.get_avail_actions())
    same(torch.from_numpy(eyes.visible), visible[:, :n])
    same(torch.from_numpy(eyes.state()), state)


def seen_enemies(env: StarCraft2, obs: torch.Tensor) -> torch.Tensor:
    """[n, e]: whose part of the observations is not all zeros."""
    m, cfg = env.battle.map, env.cfg
    first, width = 4 + 8 * cfg.obs_pathing_grid, 4 + m.bits + cfg.obs_all_health * (1 + shields(m)[1])
    return obs[:, first : first + m.n_enemies * width].unflatten(-1, (m.n_enemies, width)).any(-1)


def without_mates(env: StarCraft2, obs: np.ndarray) -> np.ndarray:
    """What ``obs_allies`` leaves of SMAC's observations."""
    if env.cfg.obs_allies == "full":
        return obs
    return np.concatenate([obs[:, : 4 + 5 * env.battle.map.n_enemies], obs[:, -1:]], 1)  # of Marines, plain options


# ---------------------------------------------------------------- written states


def nudged(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """Most numbers as they are, some the next smaller or larger one."""
    x = x.astype(np.float32)
    below, above = np.nextafter(x, np.float32(-99)), np.nextafter(x, np.float32(99))
    return rng.choice([1, 1, 1, 1, 0, 2], x.shape).choose([below, x, above])


def places(rng: np.random.Generator, b: int, u: int, sight: float) -> np.ndarray:
    """[b, u, 2]: anywhere, on the cells' edges, around the map's border, in a crowd, and just at range of others."""
    crowd = rng.uniform(4.0, 28.0, (b, 1, 2)) + rng.normal(0.0, 3.0, (b, u, 2))
    anywhere = rng.uniform(-0.9, 32.9, (b, u, 2))
    pos = rng.choice([0, 0, 1, 2], (b, u, 1)).choose([crowd, anywhere, rng.integers(0, 33, (b, u, 2))])
    pos = np.where(rng.random((b, 1, 1)) < 0.5, pos, (8 * pos).round() / 8)  # exact at any range of one another
    partner = np.take_along_axis(pos, rng.integers(0, u, (b, u, 1)), 1)
    reach = rng.choice([6.0, sight], (b, u, 1)) * COMPASS[rng.integers(0, len(COMPASS), (b, u))]
    return nudged(rng, np.where(rng.random((b, u, 1)) < 0.3, partner + reach, pos))


def bodies(rng: np.random.Generator, full: np.ndarray, spared: np.ndarray) -> np.ndarray:
    """Full, any part of it, or next to nothing; zero where not ``spared``."""
    part = rng.choice([1.0, 1.0, 1e-6], full.shape) * rng.uniform(0.0, 1.0, full.shape)
    values = np.where(rng.random(full.shape) < 0.3, 1.0, 1.0 - part) * full
    return np.where(spared, values, 0.0).astype(np.float32)


def scatter(env: StarCraft2, rng: np.random.Generator, alive: np.ndarray | None = None) -> None:
    """Writes units as no battle would have them into all rows; where not ``alive`` they are dead."""
    live, battle_map = env.battle.live, env.battle.map
    b, u = live["hp"].shape
    hp, shield, energy = (
        np.array([[getattr(k, x) for k in kinds_of(env)]] * b) for x in ("hp", "shield", "energy_max")
    )
    spared = rng.random((b, u)) < rng.choice([0.3, 0.8, 1.0], (b, 1))
    spared = spared if alive is None else alive
    written = {
        "pos": places(rng, b, u, env.cfg.sight_range),
        "hp": np.where(spared, np.maximum(bodies(rng, hp, spared), 1e-3), 0.0),
        "shield": bodies(rng, shield, spared),
        "energy": bodies(rng, energy, spared),
        "cooldown": np.maximum(rng.uniform(-20.0, 40.0, (b, u)), 0.0),
        "last": rng.integers(-1, env.spec.n_actions, (b, battle_map.n_agents)),
        "time": rng.integers(0, battle_map.limit, b),
    }
    for name, values in written.items():
        live[name].copy_(torch.from_numpy(values))
    env.battle.refresh()


def write(env: StarCraft2, theirs: Any, row: int) -> None:
    """Gives SMAC the units of a row, its last actions and its time."""
    n, live = env.spec.n_agents, env.battle.live
    made = units(env, row)
    theirs.agents, theirs.enemies = dict(enumerate(made[:n])), dict(enumerate(made[n:]))
    theirs.last_action = np.eye(env.spec.n_actions + 1)[live["last"][row].numpy()][:, :-1]
    theirs._episode_steps = int(live["time"][row])


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
@pytest.mark.parametrize("name", NAMES)
def test_what_agents_see_and_may_do(name: str, options: dict[str, Any]) -> None:
    rows = rows_for(name)
    env, theirs, _ = pair(name, rows, **options)
    rng = np.random.default_rng(SMACS.index(name))
    compare(env, theirs, 0)
    scatter(env, rng)
    for row in range(rows):
        write(env, theirs, row)
        compare(env, theirs, row)
    info = theirs.get_env_info()
    if env.cfg.obs_timestep_number:  # of which SMAC's sizes know only half
        info["obs_shape"] += 1
        info["state_shape"] += env.cfg.obs_instead_of_state * env.spec.n_agents
    assert env.get_env_info() == info


@pytest.mark.parametrize("name", ["8m_vs_9m_myopic", "10m_vs_11m_myopic"])
def test_what_myopic_agents_see(name: str) -> None:
    for options in ({}, {"obs_instead_of_state": True}):
        env, theirs, _ = pair(name, 30, **options)
        scatter(env, np.random.default_rng(0))
        for row in range(30):
            write(env, theirs, row)
            compare(env, theirs, row)


@pytest.mark.parametrize("options", [{}, {"obs_pathing_grid": True, "obs_timestep_number": True}], ids=" ".join)
def test_heights_that_only_the_game_knows(options: dict[str, Any]) -> None:
    env, theirs, _ = pair("3m", 30, **options)
    theirs.obs_terrain_height = True
    theirs.terrain_height = np.random.default_rng(2).random((32, 32))
    scatter(env, np.random.default_rng(1))
    for row in range(30):
        write(env, theirs, row)
        eyes = Eyes(theirs, 9.0, "full")
        eyes.look()
        same(torch.from_numpy(eyes.obs()), theirs.get_obs())


# ---------------------------------------------------------------- rewards and ends


@no_type_check
@wp.kernel(enable_backward=False)
def judge(s: Scene, b: Battle):
    """The engine's scoring alone, of the units as they are, after ``before``."""
    i = wp.tid()
    clear(b, i)
    score(s, b, i)


def survivors(env: StarCraft2, rng: np.random.Generator, alive: np.ndarray) -> np.ndarray:
    """Who of ``alive`` outlives a step: often a whole team or all but its healers die."""
    healer = np.array([kind.healing > 0 for kind in kinds_of(env)])
    team = np.arange(len(healer)) >= env.spec.n_agents
    share = rng.choice([0.0, 0.5, 1.0], (len(alive), 2))[:, team.astype(int)]
    kept = rng.random(alive.shape) < share
    medics = rng.random((len(alive), 2))[:, team.astype(int)] < 0.4
    return alive & (kept | (medics & healer))


@pytest.mark.parametrize("options", REWARDS, ids=" ".join)
@pytest.mark.parametrize("name", NAMES)
def test_what_agents_earn_and_when_battles_end(name: str, options: dict[str, Any]) -> None:
    n_envs = max(24, 2 * rows_for(name))
    env, theirs, game = pair(name, n_envs, **options)
    live, rng = env.battle.live, np.random.default_rng(SMACS.index(name))
    alive = rng.random(live["hp"].shape) < rng.choice([0.5, 1.0], (n_envs, 1))
    scatter(env, rng, alive)
    live["time"][::2] = env.spec.episode_limit - 1
    live["before"].copy_(live["hp"].double() + live["shield"].double())
    was = [units(env, row) for row in range(n_envs)]
    time = live["time"].tolist()
    scatter(env, rng, survivors(env, rng, alive))
    live["time"].copy_(torch.tensor(time) + 1)
    wp.launch(judge, dim=n_envs, inputs=list(env.battle._bound[1][:2]))
    for row, (before, steps) in enumerate(zip(was, time, strict=True)):
        reward, over, info = one_step(theirs, game, row, before, steps)
        same(live["reward"][row], reward)
        assert over == bool(live["terminated"][row] | live["truncated"][row])
        assert info.get("episode_limit", False) == (env.cfg.continuing_episode and bool(live["truncated"][row]))
        shown = {key: live[key][row].item() for key in ("dead_allies", "dead_enemies")}
        assert shown | {"battle_won": live["won"][row].item()} == {key: info[key] for key in (*shown, "battle_won")}
    assert env.get_stats() == theirs.get_stats()
    assert 0 < theirs.battles_won < theirs.battles_game
    assert theirs.timeouts > 0


def one_step(theirs: Any, game: Game, row: int, before: list[Unit], steps: int) -> tuple[float, bool, dict[str, Any]]:
    """SMAC's reward, end and info where the units were as in ``before`` and are now as in the row."""
    n = theirs.n_agents
    theirs.agents, theirs.enemies = dict(enumerate(before[:n])), dict(enumerate(before[n:]))
    theirs.death_tracker_ally = np.array([unit.health == 0 for unit in before[:n]], dtype=float)
    theirs.death_tracker_enemy = np.array([unit.health == 0 for unit in before[n:]], dtype=float)
    theirs.win_counted = theirs.defeat_counted = False
    theirs._episode_steps, game.row = steps, row
    result: tuple[float, bool, dict[str, Any]] = theirs.step([int(unit.health > 0) for unit in before[:n]])
    return result


# ---------------------------------------------------------------- whole battles


@no_type_check
@wp.kernel(enable_backward=False)
def command(s: Scene, b: Battle, action: wp.array2d(dtype=wp.int32), chosen: wp.array2d(dtype=wp.int32)):
    """Orders alone, as at the beginning of a step; giving them again in that step changes nothing."""
    i = wp.tid()
    for n in range(s.n_agents):
        chosen[i, n] = action[i, n]
        if s.scripted > 0:
            chosen[i, n] = scripted_action(s, b, i, n)
        if b.hp[i, n] > 0.0:
            obey(s, b, i, n, chosen[i, n])


def orders(env: StarCraft2) -> list[tuple[Any, ...]]:
    """Every agent's order: what, whom, where to (x, y)."""
    live, n = env.battle.live, env.spec.n_agents
    parts = [live["order"][0], live["target"][0], *live["goal"][0].unbind(-1)]
    return list(zip(*(x[:n].tolist() for x in parts), strict=True))


def choose(env: StarCraft2, action: list[int]) -> list[int]:
    """Gives our agents their orders; returns the actions, which the script may have chosen."""
    given, chosen = torch.tensor([action], dtype=torch.int32), torch.zeros(1, len(action), dtype=torch.int32)
    wp.launch(command, dim=1, inputs=[*env.battle._bound[1][:2], wp.from_torch(given), wp.from_torch(chosen)])
    return [int(a) for a in chosen[0]]


def check_order(env: StarCraft2, agent: int, told: Any, before: tuple[Any, ...], now: tuple[Any, ...]) -> None:
    """One agent's order against SMAC's command to the game."""
    kinds, hp = kinds_of(env), env.battle.live["hp"][0].tolist()
    order, target, x, y = now
    if told is None:
        assert now == before
    elif told.ability_id == smac.actions["stop"]:
        assert (order, target) == (STAND, -1)
    elif told.ability_id == smac.actions["move"]:
        goal = told.target_world_space_pos
        assert (order, target, x, y) == (MOVE, -1, goal.x, goal.y)
    else:
        aim = told.target_unit_tag - 1
        heals = kinds[agent].healing > 0
        assert told.ability_id == smac.actions["heal" if heals else "attack"]
        refused = hp[aim] == kinds[aim].hp if heals else kinds[aim].legs == "flies" and not kinds[agent].hits_air
        assert now == before if refused else (order, target) == (ATTACK, aim)


def drawn(rng: np.random.Generator, avail: np.ndarray) -> list[int]:
    """Available actions, mostly attacks."""
    weight = avail * np.where(np.arange(avail.shape[1]) >= 6, 20.0, 1.0)
    weight[:, 4] *= 4.0  # east, where the enemy is
    return [int(rng.choice(len(w), p=w / w.sum())) for w in weight]


def play(env: StarCraft2, theirs: Any, game: Game, rng: np.random.Generator, steps: int) -> None:
    """One battle in both, step by step."""
    compare(env, theirs, 0)
    for _ in range(steps):
        alive = [unit.health > 0 for unit in units(env, 0)[: env.spec.n_agents]]
        game.action = drawn(rng, np.array(theirs.get_avail_actions()))
        actions = list(game.action)
        reward, over, info = theirs.step(actions)  # writes the script's actions, if any, into its argument
        assert [a for a, fit in zip(actions, alive, strict=True) if fit] == [
            a for a, fit in zip(game.chosen, alive, strict=True) if fit
        ]
        outcome = game.outcome
        same(outcome.reward[0], reward)
        assert over == bool(outcome.terminated[0] | outcome.truncated[0])
        assert {"episode_limit": 0} | info == {key: x.item() for key, x in outcome.info.items()}
        compare(env, theirs, 0)
        if over:
            return


@pytest.mark.parametrize("name", NAMES)
def test_whole_battles(name: str) -> None:
    env, theirs, game = pair(name, 1, play=True, obs_last_action=True, continuing_episode=True)
    for battle in range(2):
        play(env, theirs, game, np.random.default_rng(battle), 60)
        if theirs._episode_count == 0:  # another reset would count the enemy's health twice in SMAC's maximal reward
            return
        theirs.reset()
    assert env.battle.live["tally"].sum(0).tolist() == [theirs.battles_game, theirs.battles_won, theirs.timeouts]


def script(env: StarCraft2, theirs: Any, rng: np.random.Generator) -> None:
    """Gives the scripts of both the same targets of the step before: nobody, or anybody that they are for."""
    n, kinds = env.spec.n_agents, kinds_of(env)
    for agent in range(n):
        heals = kinds[agent].healing > 0
        mates = [mate for mate in range(n) if kinds[mate].healing <= 0]
        target = int(rng.choice(mates) if heals else rng.integers(theirs.n_enemies))
        nobody = rng.random() < 0.7
        theirs.heuristic_targets[agent] = None if nobody else target
        env.battle.live["script"][0, agent] = -1 if nobody else target if heals else n + target


@pytest.mark.parametrize("rest", [False, True], ids=["heuristic", "legal heuristic"])
@pytest.mark.parametrize("name", NAMES)
def test_scripts_anywhere(name: str, rest: bool) -> None:
    env, theirs, _ = pair(name, 1, heuristic_ai=True, heuristic_rest=rest)
    rng, live = np.random.default_rng(5), env.battle.live
    for _ in range(rows_for(name)):
        scatter(env, rng)
        live["pos"].clamp_(0.0, 31.9)  # SMAC looks no further than the map's diagonal
        env.battle.refresh()
        write(env, theirs, 0)
        script(env, theirs, rng)
        before, chosen = orders(env), choose(env, [1] * theirs.n_agents)
        for agent, now in enumerate(orders(env)):
            if live["hp"][0, agent] > 0:
                told, number = theirs.get_agent_action_heuristic(agent, 1)
                assert chosen[agent] == number
                check_order(env, agent, told and told.action_raw.unit_command, before[agent], now)


@pytest.mark.parametrize("rest", [False, True], ids=["heuristic", "legal heuristic"])
@pytest.mark.parametrize("name", NAMES)
def test_scripted_battles(name: str, rest: bool) -> None:
    env, theirs, game = pair(name, 1, play=True, heuristic_ai=True, heuristic_rest=rest, continuing_episode=True)
    play(env, theirs, game, np.random.default_rng(0), 60)
