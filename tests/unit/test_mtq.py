"""MTQ by hand."""

from __future__ import annotations

import pytest
import torch

from envs.mtq import MTQ, payoff


def test_payoffs() -> None:
    pairs = [[5.0, 5.0], [-5.0, -5.0], [0.0, 0.0], [-2.0, -5.0], [4.0, 3.0], [10.0, -10.0]]
    expected = [10, 0, -0.8 * 2 * 25 / 9, -0.8, 5, -0.8 * (25 + 25 / 9)]
    assert payoff(torch.tensor(pairs)).tolist() == pytest.approx(expected)


def test_from_the_start_the_way_up_leads_to_the_lower_hill() -> None:
    start = torch.zeros(1, 2, requires_grad=True)
    payoff(start).sum().backward()
    assert (start.grad < 0).all()


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_one_step(scale: float) -> None:
    env = MTQ(MTQ.settle(MTQ.Config(reward_scale=scale)), 2, "cpu", 0)
    env.reset()
    outcome = env.step(torch.tensor([[[5.0], [5.0]], [[-2.0], [-5.0]]]))
    assert outcome.reward.tolist() == pytest.approx([10 * scale, -0.8 * scale])
    assert outcome.info["payoff"].tolist() == pytest.approx([10, -0.8])
    assert outcome.terminated.all() and not outcome.truncated.any()


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="reward_scale must be positive"):
        MTQ.settle(MTQ.Config(reward_scale=0.0))
    env = MTQ(MTQ.Config(), 1, "cpu", 0)
    env.reset()
    with pytest.raises(ValueError, match="row 0, agent 0: action"):
        env.step(torch.tensor([[[10.1], [0.0]]]))
