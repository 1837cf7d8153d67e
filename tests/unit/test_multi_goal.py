"""Multi-goal by hand."""

from __future__ import annotations

import math

import pytest
import torch

from envs.multi_goal import MultiGoal

STAY, NORTH, SOUTH, EAST, WEST = range(5)


def at(points: list[list[float]], **env_args) -> MultiGoal:
    env = MultiGoal(MultiGoal.settle(MultiGoal.Config(**env_args)), len(points), "cpu", 0)
    env.reset()
    env.load_state_dict(env.state_dict() | {"point": torch.tensor(points)})
    return env


def mixture(x: float, y: float, sigma: float = 1.0) -> float:
    goals = [(0, 5), (0, -5), (5, 0), (-5, 0)]
    return sum(math.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * sigma**2)) for a, b in goals)


def test_moves_only_together() -> None:
    env = at([[0.0, 0.0]] * 6)
    joint = [[NORTH, NORTH], [SOUTH, SOUTH], [EAST, EAST], [WEST, WEST], [STAY, STAY], [NORTH, EAST]]
    shown = env.step(torch.tensor(joint)).next
    expected = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0], [0, 0], [0, 0]]) / 7
    assert torch.allclose(shown.state, expected)
    assert torch.equal(shown.obs[:, 0], shown.state) and torch.equal(shown.obs[:, 1], shown.state)


def test_rewards() -> None:
    env = at([[3.0, 0.5], [3.5, 0.0], [-6.5, 0.0], [2.0, 2.0]])
    outcome = env.step(torch.tensor([[EAST, EAST], [EAST, EAST], [WEST, WEST], [NORTH, EAST]]))
    expected = [mixture(4, 0.5), mixture(4.5, 0) + 10, mixture(-7, 0), mixture(2, 2)]  # the third one hits the wall
    assert outcome.reward.tolist() == pytest.approx(expected, rel=1e-5)
    # sqrt(1 + .25) is not near enough, .5 is.
    assert outcome.terminated.tolist() == [False, True, False, False]
    assert not outcome.truncated.any()


def test_distance_of_exactly_the_radius_does_not_count() -> None:
    assert at([[3.0, 0.0]]).step(torch.tensor([[EAST, EAST]])).terminated.tolist() == [False]


def test_metrics_say_which_goal() -> None:
    env = at([[0.0, 4.0], [0.0, -4.0], [4.0, 0.0], [-4.0, 0.0], [0.0, 0.0]])
    info = env.step(torch.tensor([[i, i] for i in (NORTH, SOUTH, EAST, WEST, STAY)])).info
    assert info["success"].tolist() == [1, 1, 1, 1, 0]
    reached = [info[f"goal_{name}"].tolist() for name in ("north", "south", "east", "west")]
    assert reached == torch.eye(4, 5).tolist()


def test_twenty_steps_then_cut() -> None:
    env = at([[0.0, 0.0]])
    stay = torch.tensor([[STAY, NORTH]])
    for _ in range(19):
        outcome = env.step(stay)
        assert not (outcome.terminated | outcome.truncated).any()
    assert env.step(stay).truncated.all()


def test_starts_near_the_centre() -> None:
    start = 7 * MultiGoal(MultiGoal.Config(), 20_000, "cpu", 0).reset().state
    assert start.mean(0).abs().max() < 0.004 and torch.allclose(start.std(0), torch.tensor(0.1), atol=0.003)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="sigma must be positive"):
        at([[0.0, 0.0]], sigma=0.0)
