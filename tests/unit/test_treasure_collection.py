"""Treasure collection by hand, and against a plain reading of its rules, body by body and row by row."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from envs.check import check_env
from envs.treasure_collection import NOTHING, TreasureCollection, sort_by

STAY, RIGHT, LEFT, UP, DOWN = range(5)
WAYS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
Point = list[float]


def made(n_envs: int = 1, seed: int = 0, **env_args: Any) -> TreasureCollection:
    env = fresh(n_envs, seed, **env_args)
    env.reset()
    return env


def fresh(n_envs: int, seed: int, **env_args: Any) -> TreasureCollection:
    return TreasureCollection(TreasureCollection.Config(**env_args), n_envs, "cpu", seed)


def at(agents: list[Point], treasures: list[Point], types: list[int], **more: Any) -> TreasureCollection:
    """One row with everybody at rest."""
    env = made(n_treasures=len(treasures), **more)
    env.pos[..., 0], env.landmarks[..., 0] = torch.tensor(agents).T, torch.tensor(treasures).T
    env.type[:, 0] = torch.tensor(types)
    return env


def stay(env: TreasureCollection) -> Tensor:
    return torch.zeros(env.n_envs, env.spec.n_agents, dtype=torch.int64)


# --- sizes and physics ------------------------------------------------------------------------------------------------


def test_sizes() -> None:
    spec = made().spec
    assert spec.obs_dims == (86,) * 6 + (84,) * 2 and spec.state_dim == 6 * 86 + 2 * 84
    assert [action.n for action in spec.actions] == [5] * 8 and spec.reward == "individual"
    assert spec.episode_limit == 100 and spec.unit_dim is None
    small = made(n_collectors=3, n_banks=1, n_treasures=2)
    assert small.spec.obs_dims == (1 + 4 + 3 * 6 + 2 * 3,) * 3 + (4 + 3 * 6 + 2 * 3,)
    assert small.label() == "treasure_collection/3_collectors_1_banks_2_treasures"


def test_push_from_rest() -> None:
    """1.5 times 1.5 accelerates collectors and banks alike; nobody is faster than 1."""
    env = at([[0.0, 0], [9, 9]], [[-5.0, 5]], [0], n_collectors=1, n_banks=1, episode_limit=1000)
    seen = []
    for _ in range(3):
        env.step(torch.tensor([[RIGHT, LEFT]]))
        seen += [env.pos[0, 0, 0].item(), 9 - env.pos[0, 1, 0].item()]
    assert seen == pytest.approx([0.0225, 0.0225, 0.061875, 0.061875, 0.11390625, 0.11390625], abs=1e-5)
    env.vel[:, 0, 0] = torch.tensor([0.9, 0.9])
    env.step(torch.tensor([[RIGHT, STAY]]))
    speed = env.vel[:, 0, 0]
    v = torch.tensor([0.9 * 0.75 + 0.225, 0.9 * 0.75])
    assert torch.allclose(speed, v / v.norm()) and speed.norm().item() == pytest.approx(1)


def test_the_heavier_one_is_pushed_less() -> None:
    """0.02 deep is a force of 2: times 2.25 on the collector, over 2.25 on the bank, and its mass once more."""
    env = at([[0.0, 0], [0.105, 0]], [[5.0, 5]], [0], n_collectors=1, n_banks=1)
    env.step(stay(env))
    assert env.vel[0, :, 0].tolist() == pytest.approx([-0.1 * 2 * 2.25, 0.1 * 2 / 2.25 / 2.25], abs=1e-4)


def test_collectors_bump() -> None:
    env = at([[0.0, 0], [0.2, 0], [5, 5]], [[0.0, 3]], [0], n_collectors=2, n_banks=1)
    env.vel[0, :, 0] = torch.tensor([0.8, -0.8, 0])  # they end 0.2 - 2 * 0.06 apart, and touch below 0.1
    outcome = env.step(stay(env))
    gap = (env.pos[0, 1, 0] - env.pos[0, 0, 0]).item()
    assert gap == pytest.approx(0.08)
    near = math.hypot(0.06, 3), math.hypot(0.14, 3)
    middle = math.hypot(5 - 0.1, 5)
    assert outcome.reward[0].tolist() == pytest.approx([-5 - 0.1 * near[0], -5 - 0.1 * near[1], -0.1 * middle])


# --- one treasure's way -----------------------------------------------------------------------------------------------


def test_a_treasures_way() -> None:
    """Touched and paid for; then taken, parked and shown there; then elsewhere; then delivered."""
    env = at([[0.0, 0], [1, 0]], [[0.05, 0], [0, 0.5]], [0, 0], n_collectors=1, n_banks=1)
    first = env.step(stay(env))
    assert first.reward[0].tolist() == pytest.approx([5 - 0.1 * 0.05, 5 - 0.1])
    assert env.holding.item() == NOTHING and first.next.obs[0, 0, 4] == 0
    assert first.next.obs[0, 0, -6:].tolist() == pytest.approx([0.05, 0, 1, 0, 0.5, 1])
    second = env.step(stay(env))
    assert second.reward[0].tolist() == pytest.approx([-0.1, -0.1])  # on its way to the bank, which waits for it
    assert second.next.obs[0, 0, 4] == 1 and env.holding.item() == 0
    assert second.next.obs[0, 0, -6:].tolist() == pytest.approx([0, 0.5, 1, -999, -999, 1])
    assert second.next.obs[0, 1, 4:10].tolist() == pytest.approx([-1, 0, 0, 0, 0, 1])
    third = env.step(stay(env))
    assert env.landmarks[:, 0].abs().max() <= 0.95 and env.there.all()
    assert third.reward[0].tolist() == pytest.approx([-0.1, -0.1])
    env.pos[0, 0, 0], env.vel[0, 0, 0], env.landmarks[:, :, 0] = 0.8, 1.2, 3.0
    fourth = env.step(stay(env))
    assert fourth.reward[0].tolist() == pytest.approx([5 - 0.1 * (0.2 - 0.09)] * 2)
    assert fourth.next.obs[0, 0, 4] == 1
    fifth = env.step(stay(env))
    assert fifth.next.obs[0, 0, 4] == 0 and env.holding.item() == NOTHING


def test_one_treasure_each_and_the_first_one_takes_it() -> None:
    """Collector 1 takes treasure 0 and may not take treasure 1 too, which is collector 2's."""
    env = at([[9.0, 9], [-0.06, 0], [0.06, 0], [7, 7]], [[0, 0], [0, 0.01]], [0, 0], n_collectors=3, n_banks=1)
    outcome = env.step(stay(env))
    touched = env.at_treasure[..., 0].tolist()
    assert touched == [[False, False], [True, True], [True, True]]
    assert outcome.reward[0, 3].item() > 4 * 5 - 2, "every touch of empty hands counts"
    env.step(stay(env))
    assert env.holding[:, 0].tolist() == [NOTHING, 0, 0] and not env.there.any()
    assert (env.landmarks == -999).all()


def test_a_new_episode_begins_with_empty_hands() -> None:
    """What was touched in the last step of an episode does not change hands in the next one."""
    env = at([[0.0, 0], [1, 0]], [[0.05, 0]], [0], n_collectors=1, n_banks=1, episode_limit=1)
    assert env.step(stay(env)).truncated.all() and env.at_treasure.all()
    env.reset()
    env.step(stay(env))
    assert env.holding.item() == NOTHING and env.there.all()


def test_parked_treasures_are_not_touched_wherever_they_are() -> None:
    env = at([[0.0, 0], [2, 0]], [[0.05, 0]], [0], n_collectors=1, n_banks=1, parked=0.0)
    env.step(stay(env))
    outcome = env.step(stay(env))
    assert env.landmarks.eq(0).all() and not env.at_treasure.any()
    assert outcome.reward[0, 0].item() == pytest.approx(-0.1 * 2)


def test_the_team_gets_the_sum() -> None:
    each, team = made(50, seed=3), made(50, seed=3, reward="team")
    rng = torch.Generator().manual_seed(0)
    for _ in range(20):
        action = torch.randint(5, (50, 8), generator=rng)
        one, all_ = each.step(action), team.step(action)
        assert one.reward.shape == (50, 8) and torch.allclose(one.reward.sum(1), all_.reward, atol=1e-4)
        assert torch.equal(one.next.obs, all_.next.obs)


# --- a plain reading of the rules -------------------------------------------------------------------------------------


@dataclass
class Row:
    """One row in plain Python, by the steps of MAAC's scenario; respawns are told to it."""

    pos: list[Point]
    vel: list[Point]
    place: list[Point]
    type: list[int]
    c: int
    m: int
    holding: list[int | None] = field(default_factory=list)
    alive: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.holding = [None] * self.c
        self.alive = [True] * len(self.place)
        self.size = [0.05] * self.c + [0.075] * self.m
        self.mass = [1.0] * self.c + [2.25] * self.m

    def physics(self, actions: list[int]) -> None:
        n = self.c + self.m
        force = [[self.mass[i] * 1.5 * 1.5 * u for u in WAYS[actions[i]]] for i in range(n)]
        for i in range(n):
            for j in range(i + 1, n):
                away = [a - b for a, b in zip(self.pos[i], self.pos[j], strict=True)]
                d = math.hypot(*away)
                x = (self.size[i] + self.size[j] - d) / 1e-3
                depth = 1e-3 * (x if x > 50 else math.log1p(math.exp(max(x, -700))))
                for k in range(2):
                    push = 100 * away[k] / d * depth
                    force[i][k] += push * self.mass[j] / self.mass[i]
                    force[j][k] -= push * self.mass[i] / self.mass[j]
        for i in range(n):
            v = [0.75 * v + f / self.mass[i] * 0.1 for v, f in zip(self.vel[i], force[i], strict=True)]
            speed = math.hypot(*v)
            self.vel[i] = [x / speed * 1.0 for x in v] if speed > 1.0 else v
            self.pos[i] = [x + 0.1 * v for x, v in zip(self.pos[i], self.vel[i], strict=True)]

    def touches(self, i: int, there: Point, size: float) -> bool:
        return math.dist(self.pos[i], there) < self.size[i] + size

    def encoding(self, i: int) -> list[float]:
        bank, held = [0.0] * self.m, [0.0] * self.m
        if i >= self.c:
            bank[i - self.c] = 1.0
        elif self.holding[i] is not None:
            held[self.holding[i]] = 1.0
        return bank + held

    def observation(self, i: int) -> list[float]:
        out = [*self.pos[i], *self.vel[i]]
        if i < self.c:
            out += self.encoding(i)[self.m :]
        others = sorted((math.dist(self.pos[i], self.pos[j]), j) for j in range(self.c + self.m) if j != i)
        for _, j in others:
            out += [a - b for a, b in zip(self.pos[j], self.pos[i], strict=True)] + self.vel[j] + self.encoding(j)
        for _, t in sorted((math.dist(self.pos[i], p), t) for t, p in enumerate(self.place)):
            out += [a - b for a, b in zip(self.place[t], self.pos[i], strict=True)]
            out += [float(self.type[t] == k) for k in range(self.m)]
        return out

    def rewards(self) -> list[float]:
        c, m = self.c, self.m
        shared = 0.0
        for i in range(c):
            shared += 5 * sum(self.holding[i] is None and self.touches(i, p, 0.025) for p in self.place)
            shared += 5 * sum(self.holding[i] == b and self.touches(i, self.pos[c + b], 0.075) for b in range(m))
        out = []
        for i in range(c):
            bumps = sum(j != i and self.touches(i, self.pos[j], 0.05) for j in range(c))
            wanted = self.place if self.holding[i] is None else [self.pos[c + self.holding[i]]]
            out.append(shared - 5 * bumps - 0.1 * min(math.dist(self.pos[i], p) for p in wanted))
        for b in range(m):
            here = self.pos[c + b]
            carriers = [math.dist(here, self.pos[i]) for i in range(c) if self.holding[i] == b]
            near = sorted(range(c), key=lambda i: math.dist(here, self.pos[i]))[:7]
            middle = [sum(self.pos[i][k] for i in near) / len(near) for k in range(2)]
            out.append(shared - 0.1 * (min(carriers) if carriers else math.dist(here, middle)))
        return out

    def change_hands(self, place: list[Point], types: list[int]) -> tuple[int, int, int]:
        """Pick-ups, respawns (at the places and with the types given) and deposits; how many there were."""
        taken = born = given = 0
        for t in range(len(self.place)):
            if not self.alive[t]:
                self.alive[t], self.place[t], self.type[t] = True, place[t], types[t]
                born += 1
                continue
            takers = [i for i in range(self.c) if self.holding[i] is None and self.touches(i, self.place[t], 0.025)]
            if takers:
                self.alive[t], self.holding[takers[0]], self.place[t] = False, self.type[t], [-999.0, -999.0]
                taken += 1
        for b in range(self.m):
            for i in range(self.c):
                if self.holding[i] == b and self.touches(i, self.pos[self.c + b], 0.075):
                    self.holding[i] = None
                    given += 1
        return taken, born, given


def row_of(env: TreasureCollection, row: int) -> Row:
    points = [x[..., row].T.tolist() for x in (env.pos, env.vel, env.landmarks)]
    return Row(*points, env.type[:, row].tolist(), env.cfg.n_collectors, env.cfg.n_banks)


def marginal(row: Row) -> bool:
    """Whether something is so nearly touched that rounding decides."""
    bodies = [*zip(row.pos, row.size, strict=True), *((p, 0.025) for p in row.place)]
    pairs = ((a, b) for i, a in enumerate(bodies) for b in bodies[:i])
    return any(abs(math.dist(p, q) - r - s) < 1e-5 for (p, r), (q, s) in pairs)


@pytest.mark.parametrize(("sizes", "greedy"), [((6, 2, 6), 0.8), ((3, 1, 2), 0.8), ((9, 3, 4), 0.5)])
def test_against_a_plain_reading(sizes: tuple[int, int, int], greedy: float) -> None:
    """Every observation and reward of 2 rows over 3 episodes; rounding is not carried over from step to step."""
    c, m, k = sizes
    env = made(2, seed=7, n_collectors=c, n_banks=m, n_treasures=k)
    rng, seen, steps = torch.Generator().manual_seed(1), [0, 0, 0, 0], 0
    for _ in range(3):
        env.reset()
        env.entities *= 0.5  # a crowd, so that much happens
        rows = [row_of(env, row) for row in range(2)]
        for t in range(env.spec.episode_limit):
            action = chosen(rows, greedy, rng)
            outcome = env.step(action)
            for r, row in enumerate(rows):
                now = env.landmarks[..., r].T.tolist(), env.type[:, r].tolist()
                events = row.change_hands(*now) if t else (0, 0, 0)  # nothing is touched before the first step
                row.physics(action[r].tolist())
                compare(env, row, r, outcome)
                bumps = sum(row.touches(i, row.pos[j], 0.05) for i in range(c) for j in range(i))
                seen = [a + b for a, b in zip(seen, (*events, bumps), strict=True)]
            steps += 1
            if any(map(marginal, rows)):
                break
        assert env.landmarks[env.there.expand(2, -1, -1)].abs().max() <= 0.95
    assert min(seen) > 20, f"taken, born, given, bumps: {seen}"
    assert steps > 200


def chosen(rows: list[Row], greedy: float, rng: torch.Generator) -> Tensor:
    """Towards what is wanted, or at random."""
    actions = torch.randint(5, (len(rows), len(rows[0].pos)), generator=rng)
    for r, row in enumerate(rows):
        for i in range(row.c):
            if torch.rand((), generator=rng) < greedy:
                held = row.holding[i]
                goals = row.place if held is None else [row.pos[row.c + held]]
                goal = min(goals, key=lambda p: math.dist(p, row.pos[i]))
                dx, dy = goal[0] - row.pos[i][0], goal[1] - row.pos[i][1]
                actions[r, i] = (RIGHT if dx > 0 else LEFT) if abs(dx) > abs(dy) else (UP if dy > 0 else DOWN)
    return actions


def compare(env: TreasureCollection, row: Row, r: int, outcome: Any) -> None:
    """And goes on from the tensors' numbers, so that rounding does not grow."""
    expected = [row.observation(i) for i in range(row.c + row.m)]
    flat = torch.tensor([x for obs in expected for x in obs])
    torch.testing.assert_close(outcome.next.state[r], flat, rtol=1e-5, atol=2e-5)
    for i, obs in enumerate(expected):
        got = outcome.next.obs[r, i]
        assert torch.equal(got[: len(obs)], outcome.next.state[r].split([len(x) for x in expected])[i])
        assert not got[len(obs) :].any()
    if not marginal(row):
        torch.testing.assert_close(outcome.reward[r], torch.tensor(row.rewards()), rtol=1e-5, atol=1e-4)
    row.pos, row.vel = env.pos[..., r].T.tolist(), env.vel[..., r].T.tolist()


def test_equally_far_things_keep_their_order() -> None:
    distance = torch.tensor([[3.0, 1, 3, 2, 1], [0, 0, 0, 0, 0]])[..., None]
    what = torch.arange(5.0)[:, None, None]
    assert sort_by(distance, what)[:, :, 0, 0].tolist() == [[1, 4, 3, 0, 2], [0, 1, 2, 3, 4]]


# --- draws, promises, mistakes ----------------------------------------------------------------------------------------


def test_starts() -> None:
    env = made(3000)
    for points, size in ((env.pos, 1.0), (env.landmarks, 0.95)):
        assert size * 0.99 < points.abs().max() <= size
        assert points.std().item() == pytest.approx(size / math.sqrt(3), rel=0.03)
    assert env.type.float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_respawned_treasures_are_drawn_anew() -> None:
    env = made(3000, n_collectors=1, n_banks=2, n_treasures=1)
    env.landmarks.copy_(env.pos[:, :1])
    env.pos[:, 1:] = 5
    for _ in range(3):
        env.step(stay(env))
    assert env.landmarks.abs().max() <= 0.95
    assert env.landmarks.std().item() == pytest.approx(0.95 / math.sqrt(3), rel=0.03)
    assert env.type.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert env.holding.ne(NOTHING).all()


def test_variants_keep_the_promises() -> None:
    def factory(n_envs: int, seed: int) -> TreasureCollection:
        env = fresh(n_envs, seed, episode_limit=8, n_collectors=8, n_banks=3, reward="team", parked=2.0)
        env._bound *= 0.2  # so that something happens
        return env

    check_env(factory, episodes=3, max_steps=16)


def test_a_loaded_world_shows_what_the_saved_one_did() -> None:
    one, two = made(3, 1), made(3, 2)
    shown = one.step(torch.tensor([[1, 2, 3, 4, 0, 1, 2, 3]] * 3)).next
    two.load_state_dict(one.state_dict())
    assert torch.equal(two.show().obs, shown.obs)


@pytest.mark.parametrize("key", ["n_collectors", "n_banks", "n_treasures", "episode_limit"])
def test_mistakes(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key} must be at least 1, not 0"):
        made(**{key: 0})


def test_pictures_show_types_and_loads() -> None:
    env = at([[0.0, 0], [0.5, 0], [1, 0], [-1, 0]], [[0.5, 0.5], [0, 0.5]], [1, 0], n_collectors=2, n_banks=2)
    env.holding[:, 0] = torch.tensor([NOTHING, 1])
    stage, now = env.stage(0), env.frame(0)
    shown = [(e.name, e.team) for e, alive in zip(stage.entities, now.alive, strict=True) if alive]
    assert shown[:4] == [("collector 0", 0), ("collector 1", 0), ("bank 0", 1), ("bank 1", 2)]
    assert shown[4:] == [
        ("treasure 0, for bank 1", 2),
        ("treasure 1, for bank 0", 1),
        ("what collector 1 carries, for bank 1", 2),
    ]
    assert now.target[:4].tolist() == [-1, 3, -1, -1]
    env.landmarks.fill_(-999)
    env.there.fill_(False)
    assert not env.frame(0).alive[4:8].any() and abs(env.frame(0).position).max() < 2
