"""Our battles against SMACv2's own code, number by number: what agents see, may do and earn, and when battles end.

SMACv2 gets the very units that our engine has, from something that answers like StarCraft II's controller; so the game
itself is not needed, but the Python package is (docs/environments/smacv2.md says how to run this).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, no_type_check

import numpy as np
import pytest
import torch
import warp as wp

from envs.skirmish.draws import RACES
from envs.skirmish.engine.layout import Battle, Scene
from envs.skirmish.engine.spotting import lose, spot
from envs.skirmish.units import UNITS
from envs.smacv2 import SMACv2

if importlib.util.find_spec("smacv2"):  # its messages are older than protobuf's faster implementations allow
    os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")
smacv2 = pytest.importorskip("smacv2.env.starcraft2.starcraft2", reason="SMACv2's Python package is not installed")

ROWS = 12
OWN = ("baneling", "colossus", "hydralisk", "marauder", "marine", "medivac", "stalker", "zealot", "zergling")
"""SMACv2's own units, the last in the game's table of types, in this order."""
TABLE = 1970
"""How many types there are before them."""
STOCK = {
    "colossus": 4, "baneling": 9, "marine": 48, "marauder": 51, "medivac": 54, "zealot": 73, "stalker": 74,
    "zergling": 105, "hydralisk": 107,
}  # fmt: skip
PUBLISHED: dict[str, Any] = {"obs_own_pos": True, "use_unit_ranges": True}
EPO: dict[str, Any] = PUBLISHED | {"prob_obs_enemy": 0.0, "action_mask": False}
OPTIONS: list[dict[str, Any]] = [
    PUBLISHED,
    EPO,
    PUBLISHED | {"prob_obs_enemy": 0.5, "state_timestep_number": True},
    {},
    {"obs_last_action": True, "obs_timestep_number": True, "use_unit_ranges": True, "min_attack_range": 5.5},
    {"obs_pathing_grid": True, "obs_all_health": False, "obs_own_pos": True},
    {"obs_all_health": False, "obs_own_health": False, "fully_observable": True, "state_last_action": False},
]
REWARDS: list[dict[str, Any]] = [
    {"continuing_episode": True},
    {"reward_only_positive": False, "reward_death_value": 7.0, "reward_defeat": -30.0},
    {"reward_sparse": True},
]


@dataclass
class Unit:
    """What SMACv2 reads of a unit of StarCraft II."""

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


def names(env: SMACv2, row: int) -> list[str]:
    """The type of every unit."""
    types = RACES[env.cfg.map_name].types
    return [types[k % len(types)] for k in env.battle.live["kind"][row].tolist()]


def units(env: SMACv2, row: int) -> list[Unit]:
    """Our units of one row in SMACv2's terms, the dead included; a unit's tag is one more than its number."""
    live, made = env.battle.live, []
    values = zip(*(live[name][row].tolist() for name in ("hp", "shield", "energy", "cooldown", "pos")), strict=True)
    for u, (name, (hp, shield, energy, cooldown, (x, y))) in enumerate(zip(names(env, row), values, strict=True)):
        ally, kind = u < env.spec.n_agents, UNITS[name]
        number = TABLE + OWN.index(name) if ally else STOCK[name]
        pos = SimpleNamespace(x=x, y=y)
        made.append(Unit(u + 1, 2 - ally, number, hp, kind.hp, shield, kind.shield, energy, cooldown, pos))
    return made


class Game:
    """Answers SMACv2 as StarCraft II's controller would, from one row of our battles."""

    def __init__(self, env: SMACv2) -> None:
        self.env, self.action, self.empty, self.fresh = env, [0], False, True

    def data(self) -> Any:
        """The table of types."""
        return SimpleNamespace(units=[None] * (TABLE + len(OWN)))

    def debug(self, commands: list[Any]) -> None:
        """SMACv2 kills all units to restart, and creates new ones."""
        self.empty = commands[0].HasField("kill_unit")
        if self.empty:
            self.fresh = False
        elif not self.fresh:
            self.env.reset()
            self.fresh = True

    def actions(self, request: Any) -> None:
        """Notes which agents get a command."""
        self.told = {tag - 1 for action in request.actions for tag in action.action_raw.unit_command.unit_tags}

    def step(self, loops: int) -> None:
        """Time goes on; a short while for creating units, else one step of ours."""
        if loops > 2:
            self.outcome = self.env.step(torch.tensor([self.action]))

    def observe(self) -> Any:
        """All living units; the agents in no order."""
        alive = [] if self.empty else [unit for unit in units(self.env, 0) if unit.health > 0]
        mixed = [unit for unit in alive if unit.owner == 1][::-1] + [unit for unit in alive if unit.owner == 2]
        return SimpleNamespace(observation=SimpleNamespace(raw_data=SimpleNamespace(units=mixed)))


def capability(map_name: str, agents: int, enemies: int) -> dict[str, Any]:
    race = RACES[map_name]
    team = {"dist_type": "weighted_teams", "unit_types": list(race.codes), "observe": True}
    team |= {"weights": [race.weights[name] for name in race.codes], "exception_unit_types": list(race.exceptions)}
    places = {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": 32, "map_y": 32}
    return {"n_units": agents, "n_enemies": enemies, "team_gen": team, "start_positions": places}


def pair(
    map_name: str, size: tuple[int, int], n_envs: int, seed: int = 7, observe: bool = True, **options: Any
) -> tuple[SMACv2, Any, Game]:
    """Our environment, SMACv2's, and what is between them; both are reset."""
    given = capability(map_name, *size)
    given["team_gen"]["observe"] = observe
    env = SMACv2(
        SMACv2.Config(engine="skirmish", map_name=map_name, capability_config=given, **options), n_envs, "cpu", seed
    )
    env.reset()
    game = Game(env)
    full = given | {part: given[part] | {"n_units": size[0], "n_enemies": size[1]} for part in ("team_gen",)}
    theirs = smacv2.StarCraft2Env(map_name=map_name, capability_config=full, **options)
    theirs.map_x = theirs.map_y = theirs.max_distance_x = theirs.max_distance_y = 32
    theirs.pathing_grid = np.ones((32, 32), dtype=bool)
    theirs._controller, theirs._launch = game, lambda: None
    return env, theirs, game


@pytest.fixture(autouse=True)
def chance(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """SMACv2's draws become ours: in which order agents look for enemies, and who may see which."""
    drawn = SimpleNamespace(env=None, row=0)

    def shuffle(agents: list[int]) -> None:
        agents[:] = drawn.env.battle.live["watch"][drawn.row].tolist()

    def rand() -> float:
        place = sys._getframe(1).f_locals
        return 1.0 - float(drawn.env.battle.live["spotted"][drawn.row, place["e_id"], place["a_id"]])

    monkeypatch.setattr(smacv2.random, "shuffle", shuffle)
    monkeypatch.setattr(smacv2.np.random, "rand", rand)
    return drawn


def restart(env: SMACv2, theirs: Any) -> None:
    """A new battle in both; SMACv2 gets a team and places only to create units, which the game makes ours."""
    team = ["marine"] * env.spec.n_agents, ["marine"] * env.battle.map.n_enemies
    theirs.reset(
        {
            "team_gen": {"ally_team": team[0], "enemy_team": team[1]},
            "ally_start_positions": {"item": np.ones((len(team[0]), 2))},
            "enemy_start_positions": {"item": np.ones((len(team[1]), 2))},
        }
    )
    theirs.max_reward = env.battle.setting.numbers()["divisor"] * (
        theirs.reward_scale_rate if theirs.reward_scale else 1
    )


def same(ours: torch.Tensor, theirs: Any) -> None:
    """Bit for bit, in single precision."""
    expected = torch.from_numpy(np.asarray(theirs, dtype=np.float32))
    assert ours.shape == expected.shape
    differ = (ours.float() != expected).nonzero()
    assert not len(differ), f"{len(differ)} differ, the first at {differ[0].tolist()}"


def compare(env: SMACv2, theirs: Any, row: int) -> None:
    """Observations, state and masks of one row. SMACv2 may be asked for observations only once per step."""
    shown = env._show()
    same(shown.obs[row], np.stack(theirs.get_obs()))
    same(shown.avail[row], theirs.get_avail_actions())
    same(shown.state[row], theirs.get_state())


# ---------------------------------------------------------------- written states


@no_type_check
@wp.kernel(enable_backward=False)
def look(s: Scene, b: Battle, seed: int):
    """All agents look for enemies anew, once."""
    i = wp.tid()
    for e in range(s.n_units - s.n_agents):
        lose(s, b, i, e)
    spot(s, b, i, seed + i)


def scatter(env: SMACv2, rng: np.random.Generator) -> None:
    """Writes units as no battle would have them into all rows: crowds, cells' edges, just at range of another."""
    live = env.battle.live
    b, u = live["hp"].shape
    kinds = [[UNITS[name] for name in names(env, row)] for row in range(b)]
    crowd = rng.uniform(2.0, 30.0, (b, 1, 2)) + rng.normal(0.0, 4.0, (b, u, 2))
    pos = np.where(rng.random((b, u, 1)) < 0.3, rng.integers(0, 33, (b, u, 2)), crowd).round(1)
    partner = np.take_along_axis(pos, rng.integers(0, u, (b, u, 1)), 1)
    reach = rng.choice([2.0, 4.0, 5.0, 5.5, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0], (b, u, 1))
    turn = np.stack([rng.choice([0.6, 1.0, 0.0], (b, u)), np.zeros((b, u))], -1)
    turn[..., 1] = np.sqrt(1.0 - turn[..., 0] ** 2)
    pos = np.where(rng.random((b, u, 1)) < 0.4, partner + reach * turn, pos)
    alive = rng.random((b, u)) < rng.choice([0.5, 0.9, 1.0], (b, 1))
    full = {name: np.array([[getattr(kind, name) for kind in row] for row in kinds]) for name in ("hp", "shield")}
    written = {
        "pos": np.clip(pos, 0.0, 31.99),
        "hp": np.where(alive, full["hp"] * rng.uniform(0.01, 1.0, (b, u)), 0.0),
        "shield": np.where(alive, full["shield"] * rng.uniform(0.0, 1.0, (b, u)), 0.0),
        "energy": rng.uniform(0.0, 200.0, (b, u)),
        "cooldown": rng.uniform(0.0, 40.0, (b, u)),
        "last": rng.integers(-1, env.spec.n_actions, (b, env.spec.n_agents)),
        "time": rng.integers(0, 200, b),
    }
    for name, values in written.items():
        live[name].copy_(torch.from_numpy(values))
    if env.battle.options.tracked:
        wp.launch(look, dim=b, inputs=[*env.battle._bound[1][:2], int(rng.integers(2**30))])
    env.battle.refresh()


@pytest.mark.parametrize("observe", [True, False], ids=["", "unseen types"])
@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
@pytest.mark.parametrize("map_name", RACES)
def test_what_agents_see_and_may_do(
    map_name: str, options: dict[str, Any], observe: bool, chance: SimpleNamespace
) -> None:
    size = {"10gen_terran": (6, 4), "10gen_protoss": (5, 6), "10gen_zerg": (5, 5)}[map_name]
    env, theirs, _ = pair(map_name, size, ROWS, observe=observe, **options)
    n, rng, chance.env = env.spec.n_agents, np.random.default_rng(0), env
    restart(env, theirs)
    scatter(env, rng)
    for row in range(ROWS):
        made, chance.row = units(env, row), row
        theirs.agents, theirs.enemies = dict(enumerate(made[:n])), dict(enumerate(made[n:]))
        theirs.last_action = np.eye(env.spec.n_actions + 1)[env.battle.live["last"][row].numpy()][:, :-1]
        theirs._episode_steps = int(env.battle.live["time"][row])
        theirs.enemy_tags, theirs.obs_enemies = [None] * size[1], np.zeros((size[1], n))
        compare(env, theirs, row)
    assert (theirs.get_obs_size(), theirs.get_state_size()) == (env.spec.obs_dim, env.spec.state_dim)
    info = theirs.get_env_info() | {"state_shape": env.spec.state_dim}
    assert env.get_env_info() == info


# ---------------------------------------------------------------- whole battles


def choose(rng: np.random.Generator, avail: np.ndarray) -> list[int]:
    """Available actions, mostly attacks."""
    weight = avail * np.where(np.arange(avail.shape[1]) >= 6, 30.0, 1.0)
    return [int(rng.choice(len(w), p=w / w.sum())) for w in weight]


def play(env: SMACv2, theirs: Any, game: Game, rng: np.random.Generator) -> None:
    """One battle in both, step by step."""
    compare(env, theirs, 0)
    for _ in range(200):
        game.action = choose(rng, np.array(theirs.get_avail_actions()))
        reward, over, info = theirs.step(list(game.action))
        outcome = game.outcome
        same(outcome.reward[0], reward)
        assert over == bool(outcome.terminated[0] | outcome.truncated[0])
        assert {"episode_limit": 0} | info == {"episode_limit": 0} | {k: x.item() for k, x in outcome.info.items()}
        compare(env, theirs, 0)
        if over:
            return
    pytest.fail("the battle did not end")


@pytest.mark.parametrize("options", [*OPTIONS[:4], *REWARDS], ids=" ".join)
@pytest.mark.parametrize("map_name", RACES)
def test_whole_battles(map_name: str, options: dict[str, Any], chance: SimpleNamespace) -> None:
    size = {"10gen_terran": (5, 5), "10gen_protoss": (4, 6), "10gen_zerg": (6, 5)}[map_name]
    env, theirs, game = pair(map_name, size, 1, **options)
    rng, chance.env = np.random.default_rng(0), env
    for _ in range(3):
        restart(env, theirs)
        play(env, theirs, game, rng)
    assert env.battle.live["tally"].sum(0).tolist() == [theirs.battles_game, theirs.battles_won, theirs.timeouts]
