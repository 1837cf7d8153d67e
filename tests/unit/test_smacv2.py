"""SMACv2's battles: configuration and sizes, what is drawn, and what differs from SMAC in sight, orders and ends."""

from __future__ import annotations

from collections import Counter
from itertools import product
from math import sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from core.registry import ENVS
from envs.skirmish.battle import Skirmish
from envs.skirmish.draws import RACES, generated
from envs.skirmish.options import max_reward
from envs.skirmish.scene import Rules
from envs.skirmish.units import LEGS, UNITS
from envs.smacv2 import SMACv2

TERRAN, PROTOSS, ZERG = RACES
PLACES = {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": 32, "map_y": 32}
PUBLISHED: dict[str, Any] = {"obs_own_pos": True, "use_unit_ranges": True, "min_attack_range": 2.0}
# agents, enemies, then per race: observation, state, actions (specification, from SMACv2 itself)
SIZES = """
5 5 82 120 11 92 130
10 10 162 290 16 182 310
20 20 322 780 26 362 820
10 11 170 306 17 191 327
20 23 346 858 29 389 901
"""


def made(
    map_name: str = TERRAN,
    agents: int = 5,
    enemies: int = 5,
    n_envs: int = 1,
    seed: int = 0,
    places: dict[str, Any] | None = PLACES,
    team: dict[str, Any] | None = None,
    **args: Any,
) -> SMACv2:
    capability: dict[str, Any] = {"n_units": agents, "n_enemies": enemies}
    capability |= {"start_positions": places} if places else {}
    capability |= {"team_gen": team} if team else {}
    config = SMACv2.Config(engine="skirmish", map_name=map_name, capability_config=capability, **PUBLISHED | args)
    return SMACv2(config, n_envs, "cpu", seed)


def only(*types: str) -> dict[str, Any]:
    """Teams of these types, equally likely."""
    return {"unit_types": list(types), "weights": [1 / len(types)] * len(types), "exception_unit_types": []}


def types(env: SMACv2) -> list[list[str]]:
    """Every row's types of units."""
    names = RACES[env.cfg.map_name].types
    return [[names[k % 3] for k in row] for row in env.battle.live["kind"].tolist()]


def put(env: SMACv2, *units: tuple[str, float, float]) -> None:
    """Makes all rows' units (allies first) what and where is said, unhurt, standing and out of action."""
    live, names = env.battle.live, RACES[env.cfg.map_name].types
    for u, (name, x, y) in enumerate(units):
        kind = names.index(name) + (u >= env.spec.n_agents) * len(names)
        values = {"kind": kind, "hp": UNITS[name].hp, "shield": UNITS[name].shield, "energy": UNITS[name].energy}
        for field, value in (values | {"cooldown": 1e6, "target": -1, "order": 0}).items():
            live[field][:, u] = value
        live["pos"][:, u] = torch.tensor([x, y])
    env.battle.refresh()


def stop(env: SMACv2) -> Tensor:
    """Stop for the living, no-op for the dead."""
    env.battle.refresh()
    return (env.battle.live["hp"][:, : env.spec.n_agents] > 0).long()


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize("line", SIZES.strip().splitlines())
def test_sizes_are_smacv2s(line: str) -> None:
    agents, enemies, obs, state, actions, obs_p, state_p = map(int, line.split())
    for name in RACES:
        env = made(name, agents, enemies)
        shown = env.reset()
        expected = (obs_p, state_p) if name == PROTOSS else (obs, state)
        assert (env.spec.obs_dim, env.spec.state_dim) == expected == (shown.obs.shape[-1], shown.state.shape[-1])
        assert env.spec.n_actions == actions == shown.avail.shape[-1]
        assert env.spec.episode_limit == 200
        assert env.spec.unit_dim == 7 + (name == PROTOSS)
        assert env.label() == f"smacv2-skirmish/{name}_{agents}_vs_{enemies}"


@pytest.mark.parametrize(
    ("name", "agents", "enemies", "args", "actions", "obs"),
    [
        (TERRAN, 7, 4, {}, 6 + 7, 4 + 4 * 8 + 6 * 8 + 6),  # Medivacs heal any of 7 agents
        (ZERG, 7, 4, {}, 6 + 4, 4 + 4 * 8 + 6 * 8 + 6),
        (ZERG, 5, 5, {"obs_own_pos": False}, 11, 80),
        (ZERG, 5, 5, {"obs_timestep_number": True}, 11, 83),  # no spare zero, unlike SMAC
    ],
)
def test_further_sizes(name: str, agents: int, enemies: int, args: dict[str, Any], actions: int, obs: int) -> None:
    env = made(name, agents, enemies, **args)
    assert (env.spec.n_actions, env.spec.obs_dim) == (actions, obs)
    assert env.reset().obs.shape[-1] == obs


def published(**changed: Any) -> SMACv2.Config:
    """All env_args of SMACv2's published sc2_gen_terran.yaml, as they stand there."""
    team = {
        "dist_type": "weighted_teams",
        "unit_types": ["marine", "marauder", "medivac"],
        "weights": [0.45, 0.45, 0.1],
        "exception_unit_types": ["medivac"],
        "observe": True,
    }
    capability = {"n_units": 5, "n_enemies": 5, "team_gen": team, "start_positions": dict(PLACES)}
    args: dict[str, Any] = {
        "continuing_episode": False, "difficulty": "7", "game_version": None, "map_name": "10gen_terran",
        "move_amount": 2.0, "obs_all_health": True, "obs_instead_of_state": False, "obs_last_action": False,
        "obs_own_health": True, "obs_pathing_grid": False, "obs_terrain_height": False, "obs_timestep_number": False,
        "reward_death_value": 10.0, "reward_defeat": 0.0, "reward_negative_scale": 0.5, "reward_only_positive": True,
        "reward_scale": True, "reward_scale_rate": 20.0, "reward_sparse": False, "reward_win": 200.0, "replay_dir": "",
        "replay_prefix": "", "conic_fov": False, "obs_own_pos": True, "use_unit_ranges": True, "min_attack_range": 2.0,
        "num_fov_actions": 12, "capability_config": capability, "state_last_action": True,
        "state_timestep_number": False, "step_mul": 8, "heuristic_ai": False, "debug": False, "prob_obs_enemy": 1.0,
        "action_mask": True,
    }  # fmt: skip
    return SMACv2.Config(**args | {"engine": "skirmish"} | changed)


def test_a_published_configuration_is_taken_as_it_stands() -> None:
    env = SMACv2(published(), 1, "cpu", 0)
    assert (env.reset().obs.shape[-1], env.spec.state_dim) == (82, 120)
    assert env.battle.map == generated(TERRAN, {"n_units": 5, "n_enemies": 5, "start_positions": PLACES}), (
        "the published types and weights are the map's own"
    )


def test_defaults_are_upstreams() -> None:
    cfg = SMACv2.Config()
    assert (cfg.obs_own_pos, cfg.use_unit_ranges, cfg.min_attack_range) == (False, False, 2)
    assert (cfg.prob_obs_enemy, cfg.action_mask, cfg.conic_fov, cfg.num_fov_actions) == (1, True, False, 12)
    assert (cfg.fully_observable, cfg.obs_starcraft, cfg.kill_unit_step_mul) == (False, True, 2)


def test_what_cannot_be_honoured_is_refused_with_the_reason_all_at_once() -> None:
    capability = {"n_units": 0, "n_enemies": 5, "attack": {}, "health": {}, "enemy_mask": {}, "n_unit": 3}
    bad = published(
        conic_fov=True, obs_starcraft=False, kill_unit_step_mul=3, prob_obs_enemy=1.5, min_attack_range=-1.0,
        sight_range=9.0, capability_config=capability,
    )  # fmt: skip
    with pytest.raises(ValueError) as error:
        SMACv2.settle(bad)
    for words in (
        "cannot honour conic_fov: agents look all round", "obs_starcraft", "kill_unit_step_mul", "prob_obs_enemy",
        "min_attack_range", "leave out sight_range", "n_units must be a whole number above 0, not 0",
        "cannot honour capability_config.attack", "capability_config.health", "capability_config.enemy_mask",
        "capability_config has no key 'n_unit'. Did you mean 'n_units'?",
    ):  # fmt: skip
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("part", "changed", "words"),
    [
        ("team_gen", {"dist_type": "all_teams"}, "team_gen.dist_type 'all_teams': it knows weighted_teams"),
        ("team_gen", {"unit_types": ["marine", "zealot"]}, "team_gen.unit_types must list some of marine, marauder"),
        ("team_gen", {"weights": [0.45, 0.45]}, "team_gen.weights must be 3 numbers from 0 that sum to 1"),
        ("team_gen", {"weights": [0.5, 0.5, 0.5]}, "team_gen.weights"),
        ("team_gen", {"weights": [-0.5, 0.5, 1.0]}, "team_gen.weights"),
        ("team_gen", {"weights": [0.0, 0.0, 1.0]}, "draws only exception_unit_types"),
        ("team_gen", {"exception_unit_types": "medivac"}, "team_gen.exception_unit_types"),
        ("team_gen", {"observe": 1}, "team_gen.observe must be True or False"),
        ("start_positions", {"dist_type": "surround"}, "start_positions.dist_type 'surround': it knows surrounded_and"),
        ("start_positions", {"p": 2}, "start_positions.p must be a number from 0 to 1, not 2"),
        ("start_positions", {"map_x": 64}, "start_positions.map_x must be a number from 4 to 32"),
        ("start_positions", {"n_enemies": 6}, "start_positions.n_enemies must equal"),
        ("start_positions", {"mapx": 32}, "start_positions has no key 'mapx'. Did you mean 'map_x'?"),
    ],
)
def test_mistakes_in_the_capability_config(part: str, changed: dict[str, Any], words: str) -> None:
    capability = dict(published().capability_config)
    capability[part] = capability[part] | changed
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace("?", r"\?")):
        SMACv2.settle(published(capability_config=capability))


def test_unknown_map() -> None:
    with pytest.raises(ValueError, match=r"unknown map '10gen_teran'. Did you mean '10gen_terran'"):
        SMACv2.settle(published(map_name="10gen_teran"))


def test_results_are_never_labelled_smacv2(capsys: pytest.CaptureFixture[str]) -> None:
    assert ENVS["smacv2"] is SMACv2
    settled = SMACv2.settle(published(engine="auto"))
    box = capsys.readouterr().err
    assert settled.engine == "skirmish"
    assert "NOT STARCRAFT II" in box
    assert "not SMACv2 results" in box
    SMACv2.settle(settled)
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match=r"(StarCraft II is not found|smacv2 .*not installed).*install_sc2"):
        SMACv2.settle(published(engine="starcraft2"))


# ---------------------------------------------------------------- teams


def close(count: int, of: int, p: float) -> bool:
    """Whether a binomial count is within five standard deviations of its mean."""
    return abs(count - of * p) <= 5 * sqrt(of * p * (1 - p)) + 1e-9


@pytest.mark.parametrize("name", RACES)
def test_types_come_as_often_as_their_weights_say(name: str) -> None:
    env = made(name, 5, 6, n_envs=4000, seed=1)
    env.reset()
    race, rows = RACES[name], types(env)
    excepted = sum(race.weights[x] for x in race.exceptions)
    count = Counter(x for row in rows for x in row[:5])
    for x, weight in race.weights.items():
        kept = weight - weight * excepted**4 * (x in race.exceptions)  # P(this unit is x and the team is allowed)
        assert close(count[x], 4000 * 5, kept / (1 - excepted**5)), x
    extra = Counter(row[10] for row in rows)
    for x, weight in race.weights.items():
        assert close(extra[x], 4000, 0.0 if x in race.exceptions else weight / (1 - excepted)), x


@pytest.mark.parametrize(("agents", "enemies"), [(5, 5), (5, 8), (5, 3)])
def test_enemies_are_the_agents_twins_and_extra_draws(agents: int, enemies: int) -> None:
    env = made(ZERG, agents, enemies, n_envs=300)
    env.reset()
    rows = types(env)
    for row in rows:
        ours, theirs = Counter(row[:agents]), Counter(row[agents:])
        both = ours & theirs
        assert sum(both.values()) >= min(agents, enemies)
        if agents == enemies:
            assert ours == theirs
    assert len({tuple(row) for row in rows}) > 50


def test_no_team_of_healers_alone_nor_of_others_that_are_excepted() -> None:
    env = made(TERRAN, 2, 4, n_envs=3000, team=only("marine", "medivac") | {"exception_unit_types": ["medivac"]})
    env.reset()
    rows = types(env)
    assert not any(row[:2] == ["medivac"] * 2 for row in rows)
    assert not any(row[4:] == ["medivac"] * 2 for row in rows), "the extra enemies alone, as upstream"
    mixed = sum(row[:2] == ["marine", "medivac"] for row in rows)
    assert close(mixed, 3000, 2 / 3), "of the four equally likely teams one is drawn again"
    env = made(TERRAN, 2, 2, n_envs=3000, team=only("marine", "medivac"))
    env.reset()
    assert close(sum(row[:2] == ["medivac"] * 2 for row in types(env)), 3000, 1 / 4)


@pytest.mark.parametrize("name", RACES)
def test_units_begin_unhurt_as_what_they_are(name: str) -> None:
    env = made(name, n_envs=50)
    env.reset()
    live = env.battle.live
    for field, attribute in (("hp", "hp"), ("shield", "shield"), ("energy", "energy")):
        expected = torch.tensor([[getattr(UNITS[x], attribute) for x in row] for row in types(env)])
        assert torch.equal(live[field], expected)


@pytest.mark.parametrize(("agents", "enemies"), [(2, 2), (3, 2), (2, 4)])
@pytest.mark.parametrize("name", RACES)
def test_rewards_are_scaled_by_the_expected_enemy(name: str, agents: int, enemies: int) -> None:
    race = RACES[name]
    health = {x: UNITS[x].hp + UNITS[x].shield for x in race.types}

    def teams(size: int) -> list[tuple[float, tuple[str, ...]]]:
        """Every allowed team and its probability."""
        every = [team for team in product(race.types, repeat=size) if not set(team) <= set(race.exceptions) or not size]
        weights = [torch.tensor([race.weights[x] for x in team]).prod().item() for team in every]
        return [(w / sum(weights), team) for w, team in zip(weights, every, strict=True)]

    expected = sum(
        p * q * sum(health[x] for x in (*team[:enemies], *more))
        for p, team in teams(agents)
        for q, more in teams(max(0, enemies - agents))
    )
    env = made(name, agents, enemies)
    assert max_reward(env.battle.map, env.battle.options) == pytest.approx(200 + 10 * enemies + expected, rel=1e-5)


# ---------------------------------------------------------------- places


def test_mirrored_places() -> None:
    env = made(ZERG, 4, 4, n_envs=400, places={"dist_type": "reflect_position"}, team=only("zergling"))
    env.reset()
    pos = env.battle.live["pos"]
    mirrored = torch.stack([32 - pos[:, :4, 0], pos[:, :4, 1]], -1)
    gap = torch.cdist(mirrored, pos[:, 4:])
    assert gap.min(-1).values.max() < 1e-3, "every agent has a twin"
    assert gap.min(-2).values.max() < 1e-3, "and every enemy"
    env = made(ZERG, 1, 2, n_envs=4000, places={"dist_type": "reflect_position"}, team=only("zergling"))
    env.reset()
    ally, twin, extra = env.battle.live["pos"].unbind(1)
    for x, low, high in ((ally[:, 0], 0, 15), (ally[:, 1], 0, 32), (extra[:, 0], 16, 32), (extra[:, 1], 0, 32)):
        share = (x - low) / (high - low)
        # an extra enemy may appear on the twin and is pushed a little; all others are exactly where they were drawn
        assert share.min() > -0.02
        assert share.max() < 1.02
        for edge in (0.25, 0.5, 0.75):
            assert close(int((share < edge).sum()), 4000, edge)
    still = torch.cdist(twin[:, None], extra[:, None]).flatten() > 1
    assert torch.equal(twin[still], torch.stack([32 - ally[:, 0], ally[:, 1]], -1)[still])


def test_types_are_mirrored_with_the_places() -> None:
    env = made(PROTOSS, 6, 6, n_envs=50, places={"dist_type": "reflect_position"})
    env.reset()
    pos, kind = env.battle.live["pos"], env.battle.live["kind"]
    twin = torch.cdist(torch.stack([32 - pos[:, :6, 0], pos[:, :6, 1]], -1), pos[:, 6:]).argmin(-1)
    assert torch.equal(kind[:, 6:].gather(1, twin) - 3, kind[:, :6])


def test_surrounding_places() -> None:
    env = made(ZERG, 1, 1, n_envs=4000, places={"dist_type": "surrounded"}, team=only("zergling"))
    env.reset()
    ally, enemy = env.battle.live["pos"].unbind(1)
    assert torch.equal(ally, torch.full_like(ally, 16.0))
    off = enemy - 16
    assert (off[:, 0].abs() - off[:, 1].abs()).abs().max() < 0.02, "on a diagonal; at the corners the border is near"
    for east, north in product((-1, 1), (-1, 1)):
        assert close(int(((off[:, 0] * east > 0) & (off[:, 1] * north > 0)).sum()), 4000, 0.25)
    share = (16 - off[:, 0].abs()) / 14
    assert share.min() >= 0
    assert share.max() <= 1
    for edge in (0.25, 0.5, 0.75):
        assert close(int((share < edge).sum()), 4000, edge), "anywhere from the corner to 2 from the centre"


def test_one_to_four_groups_surround() -> None:
    """Five enemies fall into 1 to 4 groups (equally likely), each on a diagonal of its own; some groups stay empty."""
    expected: Counter[int] = Counter()
    for n_groups in range(1, 5):
        for group in product(range(n_groups), repeat=5):
            expected[len(set(group))] += 1 / 4 / n_groups**5
    env = made(ZERG, 5, 5, n_envs=3000, places={"dist_type": "surrounded"}, team=only("zergling"))
    env.reset()
    off = env.battle.live["pos"] - 16
    assert off[:, :5].norm(dim=-1).max() < 1.5, "the agents stand round the centre"
    side = (off[:, 5:, 0] > 0).long() * 2 + (off[:, 5:, 1] > 0)
    found = Counter(len(set(row)) for row in side.tolist())
    for n, share in expected.items():
        assert close(found[n], 3000, share), n
    for d in range(4):  # members of one group stand together
        there = (side == d)[..., None] * off[:, 5:]
        size = (side == d).sum(1)[:, None]
        centre = there.sum(1) / size.clamp(min=1)
        away = ((off[:, 5:] - centre[:, None]).norm(dim=-1) * (side == d)).max()
        assert away < 2


def test_p_is_the_share_of_mirrored_battles() -> None:
    for p in (0.0, 0.3, 1.0):
        env = made(ZERG, 1, 1, n_envs=2000, places=PLACES | {"p": p})
        env.reset()
        assert close(int((env.battle.live["pos"][:, 0] != 16).any(-1).sum()), 2000, p)


def test_a_smaller_area_and_no_drawn_places() -> None:
    env = made(ZERG, 3, 3, n_envs=200, places=PLACES | {"map_x": 16, "map_y": 20, "p": 1.0})
    env.reset()
    assert env.battle.live["pos"][..., 0].max() < 16.5
    assert 18 < env.battle.live["pos"][..., 1].max() < 20.5
    env = made(ZERG, 3, 3, n_envs=2, places=None)
    env.reset()
    pos = env.battle.live["pos"]
    assert (pos[:, :3] - torch.tensor([8.0, 16.0])).norm(dim=-1).max() < 1.2
    assert (pos[:, 3:] - torch.tensor([24.0, 16.0])).norm(dim=-1).max() < 1.2


@pytest.mark.parametrize("name", RACES)
def test_units_on_one_point_come_to_stand_side_by_side(name: str) -> None:
    env = made(name, 20, 23, n_envs=100, places=PLACES | {"p": 0.2})
    env.reset()
    pos, rows = env.battle.live["pos"], types(env)
    assert pos.min() >= 0
    assert pos.max() < 32
    size = torch.tensor([[UNITS[x].separation for x in row] for row in rows])
    legs = torch.tensor([[LEGS.index(UNITS[x].legs) for x in row] for row in rows])
    room = size[:, :, None] + size[:, None]
    room[(legs[:, :, None] != legs[:, None]) | torch.eye(43, dtype=torch.bool)] = 0.0
    overlap = (room - torch.cdist(pos, pos)).clamp(min=0) / room.clamp(min=0.1)
    assert overlap.max() < 0.3
    assert close(int((overlap.flatten(1).max(1).values > 0.05).sum()), 100, 0.02)


def test_agents_are_numbered_by_type_then_place() -> None:
    for name in RACES:
        env = made(name, 8, 8, n_envs=30)
        env.reset()
        pos = env.battle.live["pos"].tolist()
        for row, at in zip(types(env), pos, strict=True):
            keys = [(RACES[name].types.index(x), *p) for x, p in zip(row[:8], at[:8], strict=True)]
            assert keys == sorted(keys)
    assert [RACES[name].types for name in RACES] == [
        ("marauder", "marine", "medivac"), ("colossus", "stalker", "zealot"), ("baneling", "hydralisk", "zergling"),
    ]  # fmt: skip


def test_same_seed_same_draws_and_rows_are_independent() -> None:
    a, b, c, wide = (made(ZERG, n_envs=n, seed=s) for n, s in ((4, 3), (4, 3), (4, 4), (9, 3)))
    for env in (a, b, c, wide):
        env.reset()
    names = ("kind", "pos")
    for name in names:
        assert torch.equal(a.battle.live[name], b.battle.live[name])
        assert torch.equal(a.battle.live[name], wide.battle.live[name][:4])
        assert not torch.equal(a.battle.live[name], c.battle.live[name])
    before = {name: a.battle.live[name].clone() for name in names}
    a.reset(torch.tensor([False, True, False, False]))
    for name in names:
        changed = [not torch.equal(x, y) for x, y in zip(a.battle.live[name], before[name], strict=True)]
        assert changed == [False, True, False, False]


# ---------------------------------------------------------------- what agents see and may do


def test_observation_with_unit_ranges_and_own_place() -> None:
    env = made(TERRAN, 3, 2, hides_lower_enemies=False)
    env.reset()
    units = [("marauder", 10, 16), ("marine", 13, 20), ("medivac", 10, 25.5), ("marine", 16, 16), ("medivac", 19.6, 16)]
    put(env, *units)
    env.battle.live["hp"][0, 3] = 9.0
    env.battle.live["hp"][0, 0] = 25.0
    env.battle.refresh()
    shown = env._show()
    marauder = shown.obs[0, 0]
    assert marauder[:4].tolist() == [1, 1, 1, 1]
    first, second = marauder[4:20].view(2, 8)
    assert first.tolist() == pytest.approx([1, 0.6, 0.6, 0, 0.2, 1, 0, 0]), "sight 10, range 6"
    assert second.tolist() == pytest.approx([0, 0.96, 0.96, 0, 1, 0, 0, 1])
    marine, medivac = marauder[20:36].view(2, 8)
    assert marine.tolist() == pytest.approx([1, 0.5, 0.3, 0.4, 1, 1, 0, 0])
    assert medivac.tolist() == pytest.approx([1, 0.95, 0, 0.95, 1, 0, 0, 1])
    assert marauder[36:].tolist() == pytest.approx([0.2, 10 / 32, 0.5, 0, 1, 0]), "health, place, type"
    assert shown.obs[0, 1, 4:12].tolist() == pytest.approx([1, 5 / 9, 3 / 9, -4 / 9, 0.2, 1, 0, 0]), "5 away: in range"
    assert shown.obs[0, 1, 12:20].tolist() == pytest.approx([0, 7.7175 / 9, 6.6 / 9, -4 / 9, 1, 0, 0, 1], abs=1e-4)
    healer = shown.obs[0, 2]
    assert healer[20] == 1, "a Medivac sees 11 far"
    assert shown.avail[0, 2, 6:].tolist() == [False] * 3, "nobody within 4"
    assert shown.avail[0].shape[-1] == 6 + 3, "a Medivac may heal any agent"
    put(env, *[("marauder", 10, 21.5), *units[1:]])
    assert env._show().avail[0, 2, 6:].tolist() == [True, False, False], "exactly 4"
    assert env._show().obs[0, 2, 4] == 0, "the enemy is out of its sight: all zeros"


def test_weapons_shorter_than_the_least_range() -> None:
    env = made(ZERG, 2, 2, hides_lower_enemies=False)
    env.reset()
    put(env, ("hydralisk", 10, 16), ("zergling", 10, 18), ("zergling", 12, 18), ("hydralisk", 15, 16))
    assert env._show().avail[0, :, 6:].tolist() == [[True, True], [True, False]], "5 and 2, inclusive"
    wide = made(ZERG, 2, 2, hides_lower_enemies=False, min_attack_range=5.5)
    wide.reset()
    put(wide, ("hydralisk", 10, 16), ("zergling", 10, 18), ("zergling", 12, 18), ("hydralisk", 15, 16))
    assert wide._show().avail[0, :, 6:].tolist() == [[True, True], [True, True]], "the Hydralisk is 5.39 from it"
    plain = made(ZERG, 2, 2, hides_lower_enemies=False, use_unit_ranges=False)
    plain.reset()
    put(plain, ("hydralisk", 10, 16), ("zergling", 10, 10), ("zergling", 16, 16), ("hydralisk", 19, 16))
    assert plain._show().avail[0, :, 6:].tolist() == [[True, False], [False, False]], "6 for all"
    assert plain._show().obs[0, 0, 12:20].tolist() == [0] * 8, "and sight 9"


def test_protoss_shields_and_codes() -> None:
    env = made(PROTOSS, 3, 3, hides_lower_enemies=False)
    env.reset()
    put(env, *((x, 10.0 + u, 16.0 + 2 * s) for s in (0, 1) for u, x in enumerate(("colossus", "stalker", "zealot"))))
    env.battle.live["shield"][0, 0] = 30.0
    env.battle.live["shield"][0, 4] = 20.0
    env.battle.refresh()
    shown = env._show()
    own = shown.obs[0, 0, -7:]
    assert own.tolist() == pytest.approx([1, 0.2, 10 / 32, 0.5, 0, 0, 1])
    bodies = torch.tensor([[1, 0, 0, 1], [0.25, 1, 0, 0], [1, 0, 1, 0]])  # shield; Stalker, Zealot, Colossus
    torch.testing.assert_close(shown.obs[0, 0, 4:31].view(3, 9)[:, 5:], bodies)
    torch.testing.assert_close(shown.state[0, 24:45].view(3, 7)[:, 3:], bodies)
    bodies[:, 0] = torch.tensor([0.2, 1, 1])
    torch.testing.assert_close(shown.state[0, :24].view(3, 8)[:, 4:], bodies)


def test_types_of_mates_can_be_unobserved() -> None:
    env = made(ZERG, 3, 1, team=only("zergling") | {"observe": False}, hides_lower_enemies=False)
    env.reset()
    put(env, *(("zergling", 10.0 + u, 16.0) for u in range(4)))
    obs = env._show().obs[0, 0]
    assert obs[4:12].tolist()[4:] == [1, 1, 0, 0], "the enemy's type is seen"
    assert obs[12:28].view(2, 8)[:, 5:].abs().sum() == 0
    assert obs[-3:].tolist() == [1, 0, 0], "and the own"


def test_full_observability_and_time() -> None:
    env = made(ZERG, 2, 1, fully_observable=True, obs_timestep_number=True, hides_lower_enemies=False)
    env.reset()
    put(env, ("zergling", 1, 16), ("zergling", 31, 16), ("zergling", 17, 28))
    obs = env._show().obs[0, 0]
    assert obs[4:8].tolist() == pytest.approx([0, 20 / 8, 16 / 8, 12 / 8])
    assert obs[12:16].tolist() == pytest.approx([1, 30 / 8, 30 / 8, 0])
    env.battle.live["hp"][0, 0] = 0
    env.battle.live["time"][0] = 50
    env.battle.refresh()
    assert env._show().obs[0, 0].tolist() == [0] * (env.spec.obs_dim - 1) + [0.25]


# ---------------------------------------------------------------- extended partial observability


def row_of_zerglings(n_envs: int = 1, seed: int = 0, **args: Any) -> SMACv2:
    """Three agents and, in everybody's sight, two enemies, who can do nothing."""
    env = made(ZERG, 3, 2, n_envs=n_envs, seed=seed, **args)
    env.reset()
    live = env.battle.live
    live["spotter"].fill_(-1)
    live["spotted"].zero_()
    put(env, *(("zergling", 10.0 + 2 * u, 12.0) for u in range(3)), ("zergling", 10, 16), ("zergling", 14, 16))
    return env


def seen(env: SMACv2) -> Tensor:
    """[b, n, e]: whether an agent's observation has anything of an enemy."""
    return (env._show().obs[..., 4:20].unflatten(-1, (2, 8)) != 0).any(-1)


def still(env: SMACv2, *hurt: int) -> None:
    """A step in which nobody moves or fights, and those named die."""
    env.battle.live["cooldown"].fill_(1e6)
    for u in hurt:
        env.battle.live["hp"][:, u] = 0.0
    env.step(stop(env))


def test_without_sharing_only_the_first_to_spot_an_enemy_sees_it() -> None:
    env = row_of_zerglings(n_envs=600, prob_obs_enemy=0.0, hides_lower_enemies=False)
    still(env)
    first = seen(env)
    assert (first.sum(1) == 1).all()
    for n in range(3):
        assert close(int(first[:, n, 0].sum()), 600, 1 / 3), "the agents look in an order that is drawn"
    still(env)
    assert torch.equal(seen(env), first), "as long as it lives"


def test_a_dead_spotters_enemies_are_spotted_anew() -> None:
    env = row_of_zerglings(n_envs=300, prob_obs_enemy=0.0, hides_lower_enemies=False)
    still(env)
    first = seen(env)
    still(env, 0)
    now = seen(env)
    assert not now[:, 0].any()
    assert (now.sum(1) == 1).all(), "another agent sees what agent 0 saw"
    kept = ~first[:, 0]
    assert torch.equal(now.transpose(1, 2)[kept], first.transpose(1, 2)[kept])


def test_the_others_draw_once_whether_they_may_see_an_enemy() -> None:
    env = row_of_zerglings(n_envs=2000, prob_obs_enemy=0.25, hides_lower_enemies=False)
    still(env)
    first = seen(env)
    assert (first.sum(1) >= 1).all()
    assert close(int(first[..., 0].sum()) - 2000, 2 * 2000, 0.25)
    assert close(int((first[..., 0] == first[..., 1]).all(1).sum()), 2000, (0.25**2 + 0.75**2) ** 2), "enemy by enemy"
    still(env)
    assert torch.equal(seen(env), first)


def test_a_hidden_enemy_hides_those_before_it_as_upstream() -> None:
    for last_hidden in (True, False):
        env = row_of_zerglings(prob_obs_enemy=1.0)
        if last_hidden:
            env.battle.live["pos"][0, 4] = torch.tensor([31.0, 31.0])
        else:
            env.battle.live["pos"][0, 3] = torch.tensor([31.0, 31.0])
        still(env)
        expected = [[False, False]] * 3 if last_hidden else [[False, True]] * 3
        assert seen(env)[0].tolist() == expected
    withheld = row_of_zerglings(prob_obs_enemy=0.0)
    still(withheld)
    assert seen(withheld)[0].sum(0).tolist() == [1, 1], "what is withheld is hidden itself too"
    fixed = row_of_zerglings(prob_obs_enemy=1.0, hides_lower_enemies=False)
    fixed.battle.live["pos"][0, 4] = torch.tensor([31.0, 31.0])
    still(fixed)
    assert seen(fixed)[0].tolist() == [[True, False]] * 3


def test_state_has_who_spotted_whom() -> None:
    a, b = (row_of_zerglings(n_envs=20, seed=s, prob_obs_enemy=0.5) for s in (0, 1))
    still(a)
    b.load_state_dict(a.state_dict())
    assert torch.equal(a._show().obs, b._show().obs)
    still(a)
    still(b)
    assert torch.equal(a._show().obs, b._show().obs)


# ---------------------------------------------------------------- orders, ends, rewards


def test_without_the_mask_attacks_out_of_range_leave_the_last_order() -> None:
    env = made(ZERG, 1, 2, action_mask=False, hides_lower_enemies=False, prob_obs_enemy=0.0)
    env.reset()
    put(env, ("hydralisk", 10, 16), ("hydralisk", 14, 16), ("hydralisk", 28, 16))
    shown = env._show()
    assert shown.avail[0, 0, 6:].tolist() == [True, True]
    live = env.battle.live
    env.step(torch.tensor([[2]]))  # north, 2 cells, 1.125 of them in this step
    env.step(torch.tensor([[7]]))
    assert live["target"][0, 0] == -1
    assert live["pos"][0, 0].tolist() == pytest.approx([10, 18], abs=1e-4), "it went on to its point"
    env.step(torch.tensor([[6]]))
    assert live["target"][0, 0] == 1
    env.step(torch.tensor([[7]]))
    assert live["target"][0, 0] == 1
    live["hp"][0, 2] = 0.0
    env.battle.refresh()
    assert env._show().avail[0, 0, 6:].tolist() == [True, False], "nobody attacks the dead"


def hunters(*units: tuple[str, float, float], agents: int, name: str = TERRAN, steps: int = 1) -> SMACv2:
    """A battle of these units after some steps in which the agents stand."""
    env = made(name, agents, len(units) - agents)
    env.reset()
    put(env, *units)
    for _ in range(steps):
        env.step(stop(env))
    return env


def test_idle_enemies_are_ordered_to_attack_the_closest_agent_however_far() -> None:
    env = hunters(("marine", 2, 2), ("marine", 2, 10), ("marine", 30, 30), agents=2, steps=4)
    assert env.battle.live["target"][0, 2] == 1
    assert env.battle.live["pos"][0, 2].tolist() != [30, 30]
    env.battle.live["hp"][0, 1] = 0.0
    env.step(stop(env))
    env.step(stop(env))
    assert env.battle.live["target"][0, 2] == 0, "the next when that is dead"


def test_an_ordered_attack_is_kept_whoever_comes_into_range() -> None:
    env = hunters(("marine", 8, 16), ("marine", 2, 30), ("marine", 24, 16), agents=2)
    assert env.battle.live["target"][0, 2] == 0
    env.battle.live["pos"][0, 1] = torch.tensor([22.0, 16.0])
    env.step(stop(env))
    assert env.battle.live["target"][0, 2] == 0


def test_who_cannot_hit_the_closest_agent_waits_for_another() -> None:
    env = hunters(("marauder", 2, 2), ("medivac", 20, 16), ("marauder", 28, 16), agents=2)
    assert env.battle.live["target"][0, 2] == -1
    env.battle.live["pos"][0, 0] = torch.tensor([21.0, 14.0])
    env.step(stop(env))
    assert env.battle.live["target"][0, 2] == 0


def test_enemy_healers_get_no_order() -> None:
    env = hunters(("marine", 2, 2), ("medivac", 30, 30), ("marine", 28, 4), agents=1, steps=0)
    env.battle.live["hp"][0, 0] = 20.0  # flesh and blood, and hurt, but not of their team
    for _ in range(3):
        env.step(stop(env))
    assert env.battle.live["target"][0].tolist() == [-1, -1, 0]
    assert env.battle.live["pos"][0, 1].tolist() == [30, 30]
    assert env.battle.live["pos"][0, 2].tolist() != [28, 4]


def test_a_team_of_healers_alone_has_lost() -> None:
    for dead, won in (((1, 3), 0), ((3,), 1), ((1,), 0), ((2, 3), 1)):
        env = made(TERRAN, 2, 2)
        env.reset()
        put(env, ("medivac", 2, 2), ("marine", 4, 2), ("medivac", 30, 30), ("marine", 28, 28))
        for u in dead:
            env.battle.live["hp"][0, u] = 0.0
        outcome = env.step(stop(env))
        assert outcome.terminated.item()
        assert outcome.info["battle_won"].item() == won, "the agents' defeat comes first"


def test_enemy_regeneration_does_not_pay() -> None:
    env = made(PROTOSS, 1, 1)
    env.reset()
    put(env, ("stalker", 2, 2), ("stalker", 30, 30))
    env.battle.live["shield"][0, 1] = 10.0
    env.battle.live["quiet"][0, 1] = 1e6
    assert env.step(stop(env)).reward.item() == 0, "SMAC's absolute value would pay"
    assert env.battle.live["shield"][0, 1] > 10.5


# ---------------------------------------------------------------- whole battles


@pytest.mark.parametrize("name", RACES)
@pytest.mark.parametrize(("agents", "enemies"), [(5, 5), (10, 11)])
def test_random_play_stays_sane(name: str, agents: int, enemies: int) -> None:
    env, rng = made(name, agents, enemies, n_envs=6, prob_obs_enemy=0.5), torch.Generator().manual_seed(1)
    shown, ended = env.reset(), torch.zeros(6, dtype=torch.bool)
    for t in range(200):
        alive = env.battle.live["hp"][:, :agents] > 0
        assert torch.equal(shown.avail[..., 0], ~alive)
        assert shown.avail.any(-1).all()
        assert (shown.obs[~alive] == 0).all()
        action = torch.multinomial(shown.avail.flatten(0, 1).float(), 1, generator=rng).view(6, agents)
        outcome = env.step(action)
        shown = outcome.next
        for x in (shown.obs, shown.state, outcome.reward, env.battle.live["pos"]):
            assert x.isfinite().all()
        assert shown.obs.abs().max() <= 1 + 1e-6
        assert (outcome.reward >= 0).all()
        pos = env.battle.live["pos"]
        assert pos.min() >= 0
        assert pos.max() < 32
        assert not (ended & (outcome.terminated | outcome.truncated)).any()
        ended |= outcome.terminated | outcome.truncated
        assert outcome.truncated.any() <= (t == 199)
    assert ended.all()


@pytest.mark.parametrize("name", RACES)
def test_the_maps_orders_favour_no_team(name: str) -> None:
    """Both teams led like enemies from mirrored places: a coin's toss. The whole battle is one step."""
    options = made(name, step_mul=1600).cfg
    battle_map = generated(name, {"n_units": 5, "n_enemies": 5, "start_positions": {"dist_type": "reflect_position"}})
    battle = Skirmish(battle_map, options, 400, torch.device("cpu"), 0, Rules(duel=1))
    battle.reset()
    battle.step(torch.ones(400, 5, dtype=torch.long))
    live = battle.live
    over = (live["terminated"] > 0) & ((live["dead_allies"] < 5) | (live["dead_enemies"] < 5))
    assert over.sum() > 250, "some end with everybody dead, some with Marauders that cannot hit Medivacs"
    assert close(int(live["won"].sum()), int(over.sum()), 0.5)
