"""The straight-through choice: availability, frequencies, gradient, no draw without noise."""

from __future__ import annotations

import pytest
import torch

from rl.gumbel import gumbel_softmax


def test_choices_follow_the_policy_and_avoid_the_unavailable() -> None:
    logits = torch.tensor([0.0, 1.0, 5.0, -1.0]).expand(20_000, 4)
    avail = torch.tensor([True, True, False, True]).expand(20_000, 4)
    chosen = gumbel_softmax(logits, avail, torch.Generator().manual_seed(0))
    assert torch.equal(chosen.sum(-1), torch.ones(20_000))
    assert set(chosen.unique().tolist()) == {0.0, 1.0}
    expected = torch.softmax(torch.tensor([0.0, 1.0, -torch.inf, -1.0]), -1)
    assert chosen.mean(0).tolist() == pytest.approx(expected.tolist(), abs=0.012)
    assert chosen[:, 2].sum() == 0


def test_gradient_is_that_of_the_relaxed_choice() -> None:
    logits, weight = torch.tensor([[0.3, -0.2, 0.9]], requires_grad=True), torch.tensor([1.0, 2.0, 4.0])
    avail = torch.ones(1, 3, dtype=torch.bool)
    hard = gumbel_softmax(logits, avail, None, temperature=0.5)
    assert hard.tolist() == [[0, 0, 1]]
    (hard * weight).sum().backward()
    p = torch.softmax(logits.detach() / 0.5, -1)
    by_hand = p * (weight - (p * weight).sum()) / 0.5
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx(by_hand[0].tolist(), abs=1e-6)
    assert gumbel_softmax(logits, avail, None, 0.5, hard=False)[0].tolist() == pytest.approx(p[0].tolist())


def test_ties_give_one_action_and_no_noise_draws_nothing() -> None:
    rng = torch.Generator().manual_seed(3)
    before = rng.get_state()
    assert gumbel_softmax(torch.zeros(2, 4), torch.ones(2, 4, dtype=torch.bool), None).sum() == 2
    assert torch.equal(rng.get_state(), before)
    gumbel_softmax(torch.zeros(2, 4), torch.ones(2, 4, dtype=torch.bool), rng)
    assert not torch.equal(rng.get_state(), before)
