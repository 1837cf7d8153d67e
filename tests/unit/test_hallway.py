"""The hallway by enumeration and by hand (AC-29)."""

from __future__ import annotations

import itertools

import pytest
import torch

from envs.hallway import Hallway

STAY, LEFT, RIGHT = 0, 1, 2


def hallway(n_envs: int, lengths: list[int], seed: int = 0, **env_args) -> Hallway:
    return Hallway(Hallway.settle(Hallway.Config(lengths=lengths, **env_args)), n_envs, "cpu", seed)


def placed(positions: list[list[int]], lengths: list[int], **env_args) -> Hallway:
    env = hallway(len(positions), lengths, **env_args)
    env.reset()
    env.load_state_dict(env.state_dict() | {"position": torch.tensor(positions)})
    return env


def wins_of_always_left(lengths: list[int]) -> float:
    """The share of all equally likely starts from which going left always wins."""
    starts = list(itertools.product(*(range(1, m + 1) for m in lengths)))
    env = placed([list(s) for s in starts], lengths)
    won = torch.zeros(len(starts))
    for _ in range(max(lengths)):
        won += env.step(torch.full((len(starts), len(lengths)), LEFT)).reward / 10
    return won.mean().item()


def test_always_left_wins_from_equal_starts_only() -> None:
    assert wins_of_always_left([4, 4]) == 0.25
    assert wins_of_always_left([2, 3, 4]) == pytest.approx(2 / 24)


def test_by_hand() -> None:
    env = placed([[1, 1], [1, 2], [4, 3], [2, 1]], [4, 3])
    first = env.step(torch.tensor([[LEFT, LEFT], [LEFT, LEFT], [RIGHT, RIGHT], [LEFT, STAY]]))
    assert first.reward.tolist() == [10, 0, 0, 0]
    assert first.terminated.tolist() == [True, True, False, False]
    assert first.info["battle_won"].tolist() == [1, 0, 0, 0]
    assert first.next.state.tolist() == [[0, 0], [0, 1], [4, 3], [1, 1]]  # clipped at the far ends
    second = env.step(torch.tensor([[RIGHT, RIGHT], [RIGHT, RIGHT], [LEFT, LEFT], [LEFT, LEFT]]))
    assert second.reward.tolist() == [0, 0, 0, 10]  # the patient row wins; rows that have ended rest
    assert second.next.state.tolist() == [[0, 0], [0, 1], [3, 2], [0, 0]]


def test_time_limit_truncates_and_a_win_at_the_limit_is_an_end() -> None:
    env = placed([[1, 1], [1, 1]], [2, 4])
    assert env.spec.episode_limit == 14
    for _ in range(13):
        outcome = env.step(torch.tensor([[STAY, STAY], [STAY, STAY]]))
        assert not (outcome.terminated | outcome.truncated).any()
    outcome = env.step(torch.tensor([[STAY, STAY], [LEFT, LEFT]]))
    assert outcome.truncated.tolist() == [True, False] and outcome.terminated.tolist() == [False, True]


def test_what_is_seen() -> None:
    assert placed([[3, 1]], [4, 2]).step(torch.zeros(1, 2, dtype=torch.int64)).next.obs.tolist() == [
        [[0, 0, 0, 1, 0], [0, 1, 0, 0, 0]]
    ]
    assert hallway(1, [4, 2]).spec.obs_dims == (5, 3)
    scalar = placed([[3, 1]], [4, 2], obs="scalar").step(torch.zeros(1, 2, dtype=torch.int64)).next
    assert scalar.obs.tolist() == [[[3], [1]]] and scalar.state.tolist() == [[3, 1]]


def test_starts_are_uniform_and_independent() -> None:
    start = hallway(40_000, [4, 4]).reset().state.long() - 1
    counts = torch.bincount(start[:, 0] * 4 + start[:, 1], minlength=16)
    # Each cell expects 2500; five standard deviations are 242.
    assert counts.min() > 2258 and counts.max() < 2742 and len(counts) == 16


@pytest.mark.parametrize("lengths", [[], [0, 4]])
def test_mistakes(lengths: list) -> None:
    with pytest.raises(ValueError, match="lengths must name"):
        hallway(1, lengths)
