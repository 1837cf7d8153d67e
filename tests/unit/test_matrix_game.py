"""Payoffs (AC-29), and the way in which a matrix game is described."""

from __future__ import annotations

import itertools

import pytest
import torch

from envs.matrix_game import MatrixGame


def game(n_envs: int = 1, **env_args) -> MatrixGame:
    return MatrixGame(MatrixGame.settle(MatrixGame.Config(**env_args)), n_envs, "cpu", 0)


def table(**env_args) -> list:
    """Every joint action's reward, played, in nested lists."""
    sizes = [a.n for a in game(**env_args).spec.actions]
    joint = torch.tensor(list(itertools.product(*map(range, sizes))))
    env = game(len(joint), **env_args)
    env.reset()
    outcome = env.step(joint)
    assert outcome.terminated.all() and not outcome.truncated.any()  # T-54
    return outcome.reward.view(sizes).tolist()


@pytest.mark.parametrize(
    ("preset", "payoff"),
    [
        ("qtran33", [[8, -12, -12], [-12, 0, 0], [-12, 0, 0]]),
        ("qplex33a", [[10.4, 0, 10], [0, 10, 10], [10, 10, 10]]),
        ("qplex33b", [[8, -12, -12], [-12, 6, 0], [-12, 0, 6]]),
        ("four", [[8, -12, -12, -12], [-12, 0, 0, -12], [-12, 0, 0, -12], [-12, -12, -12, 8]]),
        ("four7", [[8, -12, -12, -12], [-12, 0, 0, -12], [-12, 0, 0, -12], [-12, -12, -12, 7]]),
        ("xor", [[1, 0], [0, 1]]),
        ("climbing", [[11, -30, 0], [-30, 7, 6], [0, 0, 5]]),
        ("penalty", [[10, 0, -100], [0, 2, 0], [-100, 0, 10]]),
    ],
)
def test_payoffs(preset: str, payoff: list) -> None:
    assert torch.equal(torch.tensor(table(preset=preset)), torch.tensor(payoff, dtype=torch.float32))


def test_penalty_is_a_key() -> None:
    assert table(preset="penalty", penalty=-7.5)[0][2] == -7.5


def test_dop14() -> None:
    played = torch.tensor(table(preset="dop14"))
    assert played.shape == (14, 14, 14)
    assert (played == 10).nonzero().tolist() == [[1, 5, 9]]
    assert ((played == -10).sum() + 1).item() == 14**3


def test_uneven_payoff_of_three_agents() -> None:
    payoff = [[[1, 2, 3], [4, 5, 6]]]  # 1, 2 and 3 actions
    env = game(2, payoff=payoff)
    assert [a.n for a in env.spec.actions] == [1, 2, 3]
    assert env.reset().avail[0].tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    assert table(payoff=payoff) == payoff
    with pytest.raises(ValueError, match="row 1, agent 0: action 1 is not available"):
        env.step(torch.tensor([[0, 0, 0], [1, 0, 0]]))


def test_what_is_seen() -> None:
    shown = game(preset="dop14").reset()
    assert shown.obs.tolist() == [[[1], [1], [1]]] and shown.state.tolist() == [[1]]
    assert game(preset="dop14", observe_id=True).reset().obs[0].tolist() == torch.eye(3).tolist()


def test_optimal_metric_and_label() -> None:
    env = game(3, preset="four")
    env.reset()
    assert env.step(torch.tensor([[0, 0], [3, 3], [1, 1]])).info["optimal"].tolist() == [1, 1, 0]
    assert env.label() == "matrix_game/four" and game(payoff=[1, 2]).label() == "matrix_game/custom"


def test_repeated_game() -> None:
    env = game(2, preset="xor", episode_length=3)
    env.reset()
    joint = torch.tensor([[0, 0], [0, 1]])
    ends = [env.step(joint).terminated.tolist() for _ in range(2)]
    env.reset(torch.tensor([True, False]))
    ends += [env.step(joint).terminated.tolist() for _ in range(3)]
    assert ends == [[False, False], [False, False], [False, True], [False, False], [True, False]]


@pytest.mark.parametrize(
    ("env_args", "message"),
    [
        ({}, "neither is given"),
        ({"preset": "xor", "payoff": [[1]]}, "both are given"),
        ({"preset": "qtran"}, "unknown preset 'qtran'. Did you mean 'qtran33'?"),
        ({"payoff": [[1, 2], [3]]}, r"not rectangular: payoff\[1\] has shape \(1,\)"),
        ({"payoff": [[1, 2], 3]}, r"not rectangular: payoff\[1\] has shape \(\), payoff\[0\] has \(2,\)"),
        ({"payoff": [[1, "2"]]}, r"payoff\[0\]\[1\] must be a finite number, not '2'"),
        ({"payoff": [[1, True]]}, r"payoff\[0\]\[1\] must be a finite number, not True"),
        ({"payoff": [[1, float("nan")]]}, r"payoff\[0\]\[1\] must be a finite number, not nan"),
        ({"payoff": [[], []]}, r"payoff\[0\] is an empty list"),
        ({"preset": "xor", "episode_length": 0}, "episode_length must be at least 1"),
    ],
)
def test_mistakes(env_args: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MatrixGame.settle(MatrixGame.Config(**env_args))
