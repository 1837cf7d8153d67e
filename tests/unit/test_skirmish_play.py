"""Properties of whole battles under random play, on every map; seeds, states and the ways round corners."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from envs.sc2 import StarCraft2
from envs.skirmish.maps import MAPS, SIZE, formation, walkable, ways


def made(name: str, n_envs: int, seed: int = 0) -> StarCraft2:
    return StarCraft2(StarCraft2.Config(engine="skirmish", map_name=name), n_envs, "cpu", seed)


def drawn(avail: Tensor, rng: torch.Generator) -> Tensor:
    return torch.multinomial(avail.flatten(0, 1).float(), 1, generator=rng).view(avail.shape[:2])


@pytest.mark.parametrize("name", MAPS)
def test_random_play_stays_sane(name: str) -> None:
    env, rng = made(name, 4), torch.Generator().manual_seed(1)
    grid = torch.from_numpy(walkable(MAPS[name].terrain)).bool()
    shown, ended = env.reset(), torch.zeros(4, dtype=torch.bool)
    n, limit = env.spec.n_agents, env.spec.episode_limit
    for t in range(limit):
        assert shown.avail.any(-1).all()
        alive = env.battle.live["hp"][:, :n] > 0
        assert torch.equal(shown.avail[..., 0], ~alive)
        assert (shown.obs[~alive] == 0).all()
        outcome = env.step(drawn(shown.avail, rng))
        shown, live = outcome.next, env.battle.live
        assert shown.obs.isfinite().all()
        assert shown.state.isfinite().all()
        assert outcome.reward.isfinite().all()
        assert (outcome.reward >= 0).all()
        assert shown.obs.abs().max() <= 1 + 1e-6
        x, y = live["pos"].long().unbind(-1)
        assert grid[x, y].all(), "everybody stands on walkable ground"
        assert not (outcome.terminated & outcome.truncated).any()
        assert not (ended & (outcome.terminated | outcome.truncated)).any(), "a battle ends once"
        ended |= outcome.terminated | outcome.truncated
        assert outcome.truncated.any() <= (t + 1 == limit)
    assert ended.all()


@pytest.mark.parametrize("name", ["3m", "2s3z", "corridor"])
def test_same_seed_same_battle_and_state_round_trip(name: str) -> None:
    a, b, c = made(name, 3, seed=5), made(name, 3, seed=5), made(name, 3, seed=6)
    first, second = a.reset(), b.reset()
    assert not torch.equal(first.obs, c.reset().obs)
    rng = torch.Generator().manual_seed(0)
    for t in range(40):
        assert torch.equal(first.obs, second.obs)
        assert torch.equal(first.state, second.state)
        action = drawn(first.avail, rng)
        one, two = a.step(action), b.step(action)
        assert torch.equal(one.reward, two.reward)
        first, second = one.next, two.next
        if t == 20:  # the copy goes on from a state that was built elsewhere
            b = made(name, 3, seed=99)
            b.load_state_dict(a.state_dict())
            a.reset(torch.tensor([False, True, False]))
            b.reset(torch.tensor([False, True, False]))
            first, second = a._show(), b._show()


def test_a_row_does_not_depend_on_the_number_of_rows_or_on_the_others() -> None:
    few, many = made("3s5z", 2, seed=3), made("3s5z", 5, seed=3)
    shown, wide = few.reset(), many.reset()
    rng = torch.Generator().manual_seed(0)
    for _ in range(30):
        assert torch.equal(shown.obs, wide.obs[:2])
        action = drawn(shown.avail, rng)
        others = drawn(wide.avail, rng)
        others[:2] = action
        shown, wide = few.step(action).next, many.step(others).next


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


def test_cooldowns_follow_the_period_and_its_jitter() -> None:
    """A marine that keeps firing needs 13.8 loops and the mean jitter 0.5 per shot, rounded up to whole loops."""
    env = StarCraft2(StarCraft2.Config(engine="skirmish", map_name="3m", step_mul=1), 200, "cpu", 0)
    env.reset()
    live = env.battle.live
    live["pos"][:] = torch.tensor([[10.0, 16], [2, 10], [2, 22], [14, 16], [30, 10], [30, 22]])
    live["order"].zero_()
    live["cooldown"][:, 1:] = 1e6
    env.battle.refresh()
    action = torch.tensor([[6, 1, 1]]).expand(200, 3)
    shots = torch.zeros(200)
    first, last = torch.full((200,), -1.0), torch.zeros(200)
    for t in range(100):  # the target is healed, so that it lasts
        hp = live["hp"][:, 3].clone()
        live["time"].zero_()
        env.step(action)
        hit = live["hp"][:, 3] < hp
        shots += hit
        first = torch.where(hit & (first < 0), float(t), first)
        last = torch.where(hit, float(t), last)
        live["hp"][:, 3] = 45.0
    interval = (last - first) / (shots - 1)
    assert interval.mean().item() == pytest.approx(13.77 + 0.5 + 0.5, abs=0.15)
    assert interval.std() > 0.1, "shots are jittered"


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
