"""Rover-Tower by hand, and against a plain reading of its rules."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from envs.check import check_env
from envs.rover_tower import SILENCE, RoverTower

WAYS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))


def fresh(n_envs: int = 1, seed: int = 0, **env_args: Any) -> RoverTower:
    return RoverTower(RoverTower.settle(RoverTower.Config(**env_args)), n_envs, "cpu", seed)


def one_hot(k: int, n: int) -> list[float]:
    return [float(i == k) for i in range(n)]


def test_sizes() -> None:
    env = fresh()
    assert env.spec.obs_dims == (13,) * 4 + (8,) * 4 and env.spec.state_dim == 4 * 13 + 4 * 8
    assert [action.n for action in env.spec.actions] == [5] * 8 and env.spec.reward == "individual"
    assert env.spec.episode_limit == 25 and env.label() == "rover_tower/4_pairs_6_landmarks"
    assert fresh(n_pairs=2).spec.obs_dims == (11, 11, 6, 6)


def test_push_from_rest_through_each_other() -> None:
    env = fresh(n_pairs=2)
    env.reset()
    env.pos.zero_()
    seen = []
    for _ in range(3):
        env.step(torch.tensor([[1, 1, 0, 0]]))
        seen.append(env.pos[0, :, 0].tolist())
    assert seen == [pytest.approx([x, x]) for x in (0.0225, 0.061875, 0.11390625)]
    assert not env.pos[1].any()


def paired(rovers: list[list[float]], goals: list[list[float]]) -> RoverTower:
    """Two pairs, of rover 0 and tower 1, whose goal is landmark 2, and of rover 1 and tower 0, with landmark 0."""
    env = fresh(n_pairs=2, n_landmarks=3)
    env.reset()
    env.tower[:, 0], env.rover[:, 0], env.goal[:, 0] = (torch.tensor(x) for x in ([1, 0], [1, 0], [0, 2]))
    env.pos[..., 0] = torch.tensor(rovers).T
    env.landmarks[:, 2:, 0] = torch.tensor(goals).T
    return env


def test_rewards_of_pairs() -> None:
    """0.1725 is the square of 0.4153: rover 0 is just inside, rover 1 just outside."""
    env = paired([[0.0, 0], [1, 1]], [[1, 1.416], [9, 9], [-0.415, 0]])
    near, far = 0.415**2, 0.416**2
    reward = env.step(torch.zeros(1, 4, dtype=torch.int64)).reward[0]
    assert reward.tolist() == pytest.approx([10 - near, -far, -far, 10 - near], abs=1e-5)


def test_what_is_seen_and_heard() -> None:
    env = paired([[0.5, 0.25], [-1, 1]], [[0.1, 0.2], [9, 9], [0.3, 0.4]])
    before = env.show()
    assert before.obs[0, 0].tolist() == [0, 1, *[0] * 5, 0.5, 0.25, 0, 0]
    assert before.obs[0, 1].tolist() == [1, 0, *[0] * 5, -1, 1, 0, 0]
    assert before.obs[0, 2].tolist() == pytest.approx([0, 1, -1, 1, 0.1, 0.2, *[0] * 5])
    assert before.obs[0, 3].tolist() == pytest.approx([1, 0, 0.5, 0.25, 0.3, 0.4, *[0] * 5])
    after = env.step(torch.tensor([[3, 0, 4, 2]])).next  # tower 0 says 4 to rover 1, tower 1 says 2 to rover 0
    assert after.obs[0, 0].tolist() == pytest.approx([0, 1, *one_hot(2, 5), 0.5, 0.2725, 0, 0.225])
    assert after.obs[0, 1, 2:7].tolist() == one_hot(4, 5)
    assert after.obs[0, 3, 2:4].tolist() == pytest.approx([0.5, 0.2725])
    assert torch.equal(after.state[0], torch.cat([after.obs[0, :2].flatten(), after.obs[0, 2:, :6].flatten()]))
    assert not env.reset().obs[0, :2, 2:7].any(), "silence at first"


def test_against_a_plain_reading() -> None:
    """Random play of 4 rows over 8 episodes, with everything read from the environment only at their starts."""
    env, rng, prizes = fresh(4, seed=5, n_pairs=3), torch.Generator().manual_seed(0), 0
    for _ in range(8):
        env.reset()
        env.entities *= 0.7
        names = ("pos", "vel", "landmarks", "tower", "goal")
        pos, vel, marks, tower, goal = (getattr(env, name).movedim(-1, 0).tolist() for name in names)
        for _ in range(25):
            action = torch.randint(5, (4, 6), generator=rng)
            outcome = env.step(action)
            for r in range(4):
                obs, reward = played(action[r].tolist(), (pos[r], vel[r], marks[r], tower[r], goal[r]))
                for got, expected in zip(outcome.next.obs[r], obs, strict=True):
                    assert got.tolist() == pytest.approx([*expected, *[0] * (12 - len(expected))], abs=1e-5)
                assert outcome.reward[r].tolist() == pytest.approx(reward, abs=1e-4)
                prizes += sum(x > 0 for x in reward)
    assert 50 < prizes < 4000


def played(action: list[int], world: tuple[Any, ...]) -> tuple[list[list[float]], list[float]]:
    """One step of one row; ``world`` has coordinates as [x or y][body], and is changed in place."""
    pos, vel, marks, tower, goal = world
    n = len(tower)
    for i in range(n):
        v = [0.75 * vel[k][i] + 0.1 * 1.5 * 1.5 * WAYS[action[i]][k] for k in range(2)]
        speed = max(1.0, math.hypot(*v))
        for k in range(2):
            vel[k][i] = v[k] / speed
            pos[k][i] += 0.1 * vel[k][i]
    aims = [[marks[k][n + goal[tower[i]]] for k in range(2)] for i in range(n)]  # towers stand before the landmarks
    square = [sum((pos[k][i] - aims[i][k]) ** 2 for k in range(2)) for i in range(n)]
    earned = [-d + 10 * (d < 1.5 * (0.075 + 0.04)) for d in square]
    rovers = [
        one_hot(tower[i], n) + one_hot(action[n + tower[i]], 5) + [pos[0][i], pos[1][i], vel[0][i], vel[1][i]]
        for i in range(n)
    ]
    rover = [tower.index(j) for j in range(n)]
    towers = [[*one_hot(rover[j], n), pos[0][rover[j]], pos[1][rover[j]], *aims[rover[j]]] for j in range(n)]
    return rovers + towers, earned + [earned[rover[j]] for j in range(n)]


def test_pairs_and_goals_are_drawn_uniformly() -> None:
    env = fresh(6000, n_pairs=3)
    env.reset()
    assert torch.equal(env.tower.gather(0, env.rover), torch.arange(3)[:, None].expand(3, 6000))
    orders = (env.tower * torch.tensor([9, 3, 1])[:, None]).sum(0).unique(return_counts=True)[1]
    assert len(orders) == 6 and (orders - 1000).abs().max() < 150
    goals = env.goal.flatten().bincount()
    assert len(goals) == 6 and (goals - 3000).abs().max() < 250
    assert env.entities.std().item() == pytest.approx(1 / math.sqrt(3), rel=0.02)
    before: Tensor = env.tower.clone()
    env.reset(torch.arange(6000) < 3000)
    assert torch.equal(env.tower[:, 3000:], before[:, 3000:]) and not torch.equal(env.tower, before)


def test_variants_keep_the_promises() -> None:
    def factory(n_envs: int, seed: int) -> RoverTower:
        return fresh(n_envs, seed, n_pairs=1, n_landmarks=2, reward="team", episode_limit=6)

    check_env(factory, episodes=3, max_steps=12)


def test_a_loaded_world_shows_what_the_saved_one_did() -> None:
    """Messages too, which the next step would replace."""
    one, two = fresh(3, 1), fresh(3, 2)
    one.reset()
    two.reset()
    shown = one.step(torch.tensor([[1, 2, 3, 4, 0, 1, 2, 3]] * 3)).next
    two.load_state_dict(one.state_dict())
    again = two.reset(torch.zeros(3, dtype=torch.bool))
    assert torch.equal(again.obs, shown.obs) and shown.obs[:, :4, 4:9].any()


@pytest.mark.parametrize("key", ["n_pairs", "n_landmarks", "episode_limit"])
def test_mistakes(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key} must be at least 1, not 0"):
        fresh(**{key: 0})


def test_pictures_show_pairs_and_goals() -> None:
    env = paired([[0.5, 0.25], [-1, 1]], [[0.1, 0.2], [0, 0], [0.3, 0.4]])
    assert env.frame(0).order == ("",) * 7 and env.said.eq(SILENCE).all()
    env.step(torch.tensor([[0, 0, 4, 2]]))
    stage, now = env.stage(0), env.frame(0)
    assert [(e.name, e.team) for e in stage.entities[:4]] == [
        ("rover 0", 0),
        ("rover 1", 1),
        ("tower 0", 1),
        ("tower 1", 0),
    ]
    assert now.target[:4].tolist() == [4 + 2, 4 + 0, 1, 0]
    assert now.order[:4] == ("", "", "says 4", "says 2")
    assert now.position[6].tolist() == pytest.approx([0.3, 0.4])
