"""The particle environments by hand: small scenes, step by step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from core.registry import ENVS
from envs.particles.world import ParticleEnv

STAY, RIGHT, LEFT, UP, DOWN = range(5)
Points = list[list[float]]


def made(name: str, n_envs: int = 1, seed: int = 0, **env_args: Any) -> ParticleEnv:
    cls = ENVS[name]
    env = cls(cls.settle(cls.Config(**env_args)), n_envs, "cpu", seed)
    env.reset()
    return env


def at(
    name: str, agents: list[Points], landmarks: list[Points], vel: list[Points] | None = None, **more: Any
) -> ParticleEnv:
    """One row per scene; ``agents``, ``landmarks`` and ``vel`` are [b, n, 2]."""
    env = made(name, len(agents), n_agents=len(agents[0]), **more)
    env.pos.copy_(torch.tensor(agents).permute(2, 1, 0))
    env.landmarks.copy_(torch.tensor(landmarks).permute(2, 1, 0))
    if vel is not None:
        env.vel.copy_(torch.tensor(vel).permute(2, 1, 0))
    return env


def stay(env: ParticleEnv) -> Tensor:
    if env.spec.discrete:
        return torch.zeros(env.n_envs, env.spec.n_agents, dtype=torch.int64)
    return torch.zeros(env.n_envs, env.spec.n_agents, 2)


# --- actions ----------------------------------------------------------------------------------------------------------


def test_directions() -> None:
    env = at("simple_spread", [[[0.0, 0], [10, 0], [20, 0], [30, 0], [40, 0]]], [[[0.0, 0]] * 5])
    env.step(torch.tensor([[STAY, RIGHT, LEFT, UP, DOWN]]))
    assert env.vel[..., 0].T.tolist() == [[0, 0], [0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]]


def test_continuous_pushes() -> None:
    env = at("line", [[[0.0, 0], [5, 5]]], [[[0.0, 0], [1, 0]]], action="continuous")
    env.step(torch.tensor([[[1.0, 0.0], [-0.5, 0.25]]]))
    assert env.vel[..., 0].T.tolist() == [[0.5, 0], [-0.25, 0.125]]
    with pytest.raises(ValueError, match=r"row 0, agent 1: action \[0.0, 1.5\] is not in its box, from \[-1.0, -1.0\]"):
        env.step(torch.tensor([[[1.0, 0.0], [0.0, 1.5]]]))


def test_rounding_beyond_the_box_is_forgiven() -> None:
    env = at("line", [[[0.0, 0], [5, 5]]], [[[0.0, 0], [1, 0]]], action="continuous")
    env.step(torch.tensor([[[1.000001, 0.0], [0.0, 0.0]]]))
    assert env.vel[0, 0, 0] == 0.5


# --- simple spread ----------------------------------------------------------------------------------------------------


def test_spread() -> None:
    """Row 0: the two start 0.2 apart, are pushed with 10 each, and end 0.4 apart. Row 1: they fly at each other."""
    env = at(
        "simple_spread",
        agents=[[[0.0, 0], [0.2, 0]], [[0.0, 0], [0.25, 0]]],
        vel=[[[0.0, 0], [0, 0]], [[1.0, 0], [-1, 0]]],
        landmarks=[[[-0.1, 0.3], [-0.1, -0.4]], [[0.025, 0], [0.225, 0]]],
    )
    outcome = env.step(stay(env))
    first, second = outcome.next.obs[0].tolist()
    assert first == pytest.approx([-1, 0, -0.1, 0, 0, 0.3, 0, -0.4, 0.4, 0, 0, 0], abs=1e-5)
    assert second == pytest.approx([1, 0, 0.3, 0, -0.4, 0.3, -0.4, -0.4, -0.4, 0, 0, 0], abs=1e-5)
    assert torch.equal(outcome.next.state, outcome.next.obs.flatten(1))
    # Row 0: 2 agents * (0.3 + 0.4), both from the first one, and each touches itself. Row 1: 1 is damped to 0.75, the
    # contact of 5 takes 0.5 of it, so they end 0.2 apart, on the landmarks; 2 * 2 touches.
    assert outcome.reward.tolist() == pytest.approx([-2 * 0.7 - 2, -4], abs=1e-4)


def test_spread_of_the_original_size() -> None:
    env = made("simple_spread", n_envs=500)
    assert env.spec.obs_dims == (18,) * 3 and env.spec.state_dim == 54 and env.spec.episode_limit == 25
    for _ in range(24):
        assert not env.step(stay(env)).truncated.any()
    last = env.step(stay(env))
    assert last.truncated.all() and not last.terminated.any()
    assert (last.reward <= -3).all()


def test_new_episodes_start_at_rest() -> None:
    env = made("simple_spread", n_envs=2)
    before = env.step(torch.full((2, 3), RIGHT)).next.obs
    after = env.reset(torch.tensor([False, True])).obs
    assert torch.equal(after[0], before[0]) and not torch.equal(after[1, :, 2:4], before[1, :, 2:4])
    assert not after[1, :, :2].any()


@pytest.mark.parametrize("landmark_range", [1.0, 0.8])
def test_spread_starts(landmark_range: float) -> None:
    env = made("simple_spread", n_envs=4000, landmark_range=landmark_range)
    assert not env.vel.any()
    for points, size in ((env.pos, 1.0), (env.landmarks, landmark_range)):
        assert size * 0.99 < points.abs().max() <= size
        assert points.mean((1, 2)).abs().max() < 0.03
        assert points.std().item() == pytest.approx(size / math.sqrt(3), rel=0.03)


# --- targets ----------------------------------------------------------------------------------------------------------


def test_coverage() -> None:
    """Whoever takes the nearest landmark leaves the other one to the other agent: 0.9 + 0.6 is less than 0.4 + 1.9."""
    agents = [[[0.0, 0], [1, 0]], [[0.0, 0], [40, 0]], [[0.0, 0.09], [1, 0]], [[0.0, 0.11], [1, 0]]]
    landmarks = [[[0.4, 0], [-0.9, 0]], [[0.0, 0], [0, 0]], [[1.0, 0.05], [0, 0]], [[1.0, 0.05], [0, 0]]]
    env = at("coverage", agents, landmarks)
    outcome = env.step(stay(env))
    assert outcome.reward.tolist() == pytest.approx([-0.75, -15, -0.07, -0.08], abs=1e-6)
    assert outcome.terminated.tolist() == [False, False, True, False]
    assert outcome.info["success"].tolist() == [0, 0, 1, 0]
    assert outcome.next.obs[0, 1].tolist() == pytest.approx([0, 0, 1, 0, -0.6, 0, -1.9, 0])


def test_formation() -> None:
    """Row 0: polar angles 45 and 180 degrees. Row 1: 20 and 350, of which 20 is the smaller one."""
    turned = [[r * math.cos(math.radians(x)), r * math.sin(math.radians(x))] for r, x in ((1.0, 20), (0.8, 350))]
    agents = [[[0.7, 0.6], [-0.3, 0.1]], [[0.2 + x, 0.1 + y] for x, y in turned], [[0.7, 0.1], [-0.32, 0.1]]]
    env = at("formation", agents, [[[0.2, 0.1]]] * 3)
    outcome = env.step(stay(env))
    half = 0.5 * math.sqrt(0.5)
    target = 0.5 * math.cos(math.radians(200)), 0.5 * math.sin(math.radians(200))
    expected = [
        (math.sqrt(0.5) - 0.5 + math.hypot(-0.5 + half, half)) / 2,
        (0.5 + math.dist(target, turned[1])) / 2,
        0.01,
    ]
    assert outcome.reward.tolist() == pytest.approx([-x for x in expected], abs=1e-5)
    assert outcome.terminated.tolist() == [False, False, True]
    assert outcome.next.obs[0, 0].tolist() == pytest.approx([0, 0, 0.7, 0.6, -0.5, -0.5])


def test_far_agents_count_two() -> None:
    env = at("formation", [[[0.5, 0], [-9.0, 0]]], [[[0.0, 0]]])
    assert env.step(stay(env)).reward.item() == pytest.approx(-(0 + 2) / 2, abs=1e-6)


@pytest.mark.parametrize(("summed", "reward"), [(False, -0.1), (True, -0.3)])
def test_line(summed: bool, reward: float) -> None:
    agents = [[[1.25, 0], [0.0, 0.1], [0.625, -0.2]]]
    env = at("line", agents, [[[0.0, 0], [1.25, 0]]], summed=summed)
    outcome = env.step(stay(env))
    assert outcome.reward.tolist() == pytest.approx([reward], abs=1e-6)
    assert outcome.next.obs[0, 1].tolist() == pytest.approx([0, 0, 0, 0.1, 0, -0.1, 1.25, -0.1])


def test_success_at_the_limit_is_an_end() -> None:
    env = at("line", [[[0.0, 0], [1.25, 0]]], [[[0.0, 0], [1.25, 0]]], episode_limit=1)
    outcome = env.step(stay(env))
    assert outcome.terminated.all() and not outcome.truncated.any()


def test_landmarks_of_the_line() -> None:
    """The second landmark by the literal rule: turn by 5 degrees until it is inside."""
    env = made("line", n_envs=1)
    u = torch.rand(3, 300, generator=torch.Generator().manual_seed(0))
    placed, turns = env.place(u), 0
    for k in range(300):
        x, y = (0.25 * (2 * u[i, k].item() - 1) for i in range(2))
        angle = 2 * math.pi * u[2, k].item()
        while not (abs(x + 1.25 * math.cos(angle)) < 1 and abs(y + 1.25 * math.sin(angle)) < 1):
            angle, turns = angle + math.radians(5), turns + 1
        expected = [[x, y], [x + 1.25 * math.cos(angle), y + 1.25 * math.sin(angle)]]
        assert pytest.approx(torch.tensor(expected), abs=1e-5) == placed[..., k].T
    assert turns > 100


@pytest.mark.parametrize(("name", "size"), [("coverage", 1.0), ("formation", 0.5), ("aggregation", 1.0)])
def test_landmarks_fill_their_square(name: str, size: float) -> None:
    landmarks = made(name, n_envs=4000).landmarks
    assert size * 0.99 < landmarks.abs().max() <= size
    assert landmarks.std().item() == pytest.approx(size / math.sqrt(3), rel=0.03)


# --- aggregation ------------------------------------------------------------------------------------------------------


def test_aggregation() -> None:
    """Row 0 wins at once; row 1 has one agent too far away, and loses at the limit, which is a true end."""
    near = [[0.1, 0.1], [0, 0.149], [0, 0], [0, 0], [0, 0]]
    env = at("aggregation", [near, [*near[:4], [0, 0.151]]], [[[0.0, 0]]] * 2)
    first = env.step(stay(env))
    assert first.reward.tolist() == [10, 0] and first.terminated.tolist() == [True, False]
    assert first.next.obs.shape == (2, 5, 14) and not first.next.obs[1, 2, :4].any()  # nobody pushes anybody
    assert first.next.obs[1, 2, 4:].tolist() == pytest.approx([0, 0, 0.1, 0.1, 0, 0.149, 0, 0, 0, 0.151])
    for _ in range(23):
        outcome = env.step(stay(env))
        assert not outcome.reward.any() and not (outcome.terminated | outcome.truncated).any()
    last = env.step(stay(env))
    assert last.reward.tolist() == [0, -10]
    assert last.terminated.tolist() == [False, True] and not last.truncated.any()
    assert last.info["success"][1] == 0


def test_aggregation_may_begin_in_a_smaller_square() -> None:
    env = made("aggregation", n_envs=4000, arena=0.5)
    env.reset()
    for places in (env.pos, env.landmarks):
        assert 0.49 < places.abs().max() <= 0.5
        assert places.std().item() == pytest.approx(0.5 / math.sqrt(3), rel=0.03)


def test_aggregation_in_the_last_step_is_won() -> None:
    env = at("aggregation", [[[0.0, 0]] * 5], [[[0.0, 0]]], episode_limit=1)
    assert env.step(stay(env)).reward.tolist() == [10]


# --- names and mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("simple_spread", "simple_spread/3_discrete"),
        ("formation", "formation/3_discrete"),
        ("aggregation", "aggregation-reconstruction/5_continuous"),
    ],
)
def test_labels(name: str, label: str) -> None:
    assert made(name).label() == label


@pytest.mark.parametrize(
    ("name", "env_args", "message"),
    [
        ("simple_spread", {"n_agents": 0}, "n_agents must be at least 1, not 0"),
        ("simple_spread", {"landmark_range": 0.0}, "landmark_range must be positive"),
        ("line", {"n_agents": 1}, "n_agents must be at least 2"),
        ("formation", {"episode_limit": 0}, "episode_limit must be at least 1"),
        ("aggregation", {"reach": -1.0}, "reach must be positive"),
        ("aggregation", {"arena": 0.0}, "arena must be positive"),
    ],
)
def test_mistakes(name: str, env_args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(name, **env_args)


def test_unknown_action() -> None:
    env = made("simple_spread", n_envs=2)
    with pytest.raises(ValueError, match="row 1, agent 2: action 5 is not available"):
        env.step(torch.tensor([[0, 1, 2], [3, 4, 5]]))
    with pytest.raises(ValueError, match="row 0, agent 0: action -1 is not available"):
        env.step(torch.tensor([[-1, 1, 2], [3, 4, 0]]))
