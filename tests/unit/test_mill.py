"""Mill by hand."""

from __future__ import annotations

import pytest
import torch

from envs.mill import Mill


def made(n_envs: int = 1, **env_args) -> Mill:
    env = Mill(Mill.settle(Mill.Config(**env_args)), n_envs, "cpu", 0)
    env.reset()
    return env


def test_all_out() -> None:
    """The speed is 12.5 t: above 30 from step 3 on, 100 and not yet more after step 8, 112.5 after step 9."""
    env, full = made(), torch.ones(1, 10, 1)
    outcomes = [env.step(full) for _ in range(9)]
    assert [x.reward.item() for x in outcomes] == [0, 0, 3, 3, 3, 3, 3, 3, 13]
    assert [x.terminated.item() for x in outcomes] == [False] * 8 + [True]
    assert outcomes[-1].info["success"].tolist() == [1] and outcomes[-1].info["speed"].tolist() == [112.5]
    assert sum(x.reward.item() for x in outcomes) == 31


def test_too_slow() -> None:
    """Row 0 pushes at 75 %: 28.125 after three steps, 93.75 after ten. Row 1 pushes back and forth."""
    env = made(2)
    for t in range(10):
        action = torch.full((2, 10, 1), 0.75)
        action[1] = -1 if t % 2 else 1
        outcome = env.step(action)
        assert outcome.reward.tolist() == [3 * (t >= 3) - 10 * (t == 9), -10 * (t == 9)]
    assert outcome.terminated.all() and not outcome.truncated.any() and not outcome.info["success"].any()


def test_observations() -> None:
    env = made(n_agents=3, gain=2.0)
    outcome = env.step(torch.tensor([[[0.5], [0.25], [1.0]]]))
    assert outcome.next.state.tolist() == [pytest.approx([0.035, 0.1])]
    assert outcome.next.obs[0, 1].tolist() == pytest.approx([0.035, 0.1, 0, 1, 0])


def test_label_and_mistakes() -> None:
    assert made().label() == "mill-reconstruction/10"
    with pytest.raises(ValueError, match="gain must be positive"):
        made(gain=0.0)
