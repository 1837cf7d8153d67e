"""Seeds, what is shown, where battles begin, and the ways round corners."""

from __future__ import annotations

import pytest
import torch

from envs.sc2 import StarCraft2
from envs.skirmish.maps import MAPS, SIZE, formation, walkable, ways


def made(name: str, n_envs: int, seed: int = 0) -> StarCraft2:
    return StarCraft2(StarCraft2.Config(engine="skirmish", map_name=name), n_envs, "cpu", seed)


def test_seed_rows_starts_over() -> None:
    env = made("8m", 3, seed=11)
    first = env.reset()
    env.reset()
    env.seed_rows(11)
    assert torch.equal(env.reset().obs, first.obs)
    env.seed_rows(12)
    assert not torch.equal(env.reset().obs, first.obs)


def test_shown_tensors_are_never_written_again() -> None:
    env = made("3m", 2)
    first = env.reset()
    kept = [x.clone() for x in (first.obs, first.state, first.avail, first.extras["visible"])]
    outcome = env.step(torch.ones(2, 3, dtype=torch.long))
    reward, info = outcome.reward.clone(), {k: v.clone() for k, v in outcome.info.items()}
    env.step(torch.full((2, 3), 4))
    env.reset()
    assert all(map(torch.equal, kept, (first.obs, first.state, first.avail, first.extras["visible"])))
    assert torch.equal(reward, outcome.reward)
    assert all(torch.equal(v, outcome.info[k]) for k, v in info.items())


def test_before_the_first_reset_nobody_lives() -> None:
    env = made("3m", 2)
    outcome = env.step(torch.zeros(2, 3, dtype=torch.long))
    assert outcome.next.avail[..., 0].all()
    assert not (outcome.terminated | outcome.truncated).any()


# ---------------------------------------------------------------- terrain


@pytest.mark.parametrize("name", MAPS)
def test_everybody_starts_apart_on_walkable_ground(name: str) -> None:
    m = MAPS[name]
    grid = walkable(m.terrain)
    for team, points in ((m.allies, m.ally_points), (m.enemies, m.enemy_points)):
        kinds = m.kinds(team)
        places = torch.from_numpy(formation(team, points, grid, 30.0, True))
        sizes = torch.tensor([kind.separation for kind in kinds])
        gaps = torch.cdist(places, places) + 1e9 * torch.eye(len(kinds))
        legs = [kind.legs for kind in kinds]
        collide = torch.tensor([[a == b for a in legs] for b in legs])
        assert (~collide | (gaps >= sizes[:, None] + sizes - 1e-6)).all()
        assert all(grid[int(x), int(y)] for x, y in places)
        assert (places[0] - torch.tensor(points[0])).norm() < 1e-5, "the first one gets the point"
    for x, y in (*m.ally_points, *m.enemy_points, *m.orders):
        assert grid[int(x), int(y)]


def test_ways_of_the_corridor_lead_on_and_turn_corners() -> None:
    grid, routes = walkable("corridor"), ways("corridor")
    assert routes is not None
    start, goal = (28 * SIZE + 16), (4 * SIZE + 4)
    cell, length = start, 0.0
    for _ in range(10):
        onward = int(routes.via[routes.number[cell], routes.number[goal]])
        target = goal if onward < 0 else onward
        (x, y), (u, v) = divmod(cell, SIZE), divmod(target, SIZE)
        assert grid[u, v]
        length += ((x - u) ** 2 + (y - v) ** 2) ** 0.5
        cell = target
        if cell == goal:
            break
    assert cell == goal
    straight = (24**2 + 12**2) ** 0.5
    assert straight < length < 1.2 * straight
    assert ways("strip") is None
    assert ways("field") is None
