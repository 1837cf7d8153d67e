"""Parts of policy-gradient losses against numbers by hand and loops."""

from __future__ import annotations

import pytest
import torch

from rl.policy_gradient import clipped_surrogate, counterfactual_advantage, huber, mean_over, standardised


def test_clipping_by_hand() -> None:
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1])
    advantage = torch.tensor([2.0, -2.0, 2.0, -2.0, 3.0])
    assert clipped_surrogate(ratio, advantage, 0.2).tolist() == pytest.approx([2.4, -3.0, 1.0, -1.6, 3.3])


def test_counterfactual_advantage_by_hand() -> None:
    q = torch.tensor([[1.0, 3.0, 100.0]], requires_grad=True)
    pi, avail = torch.tensor([[0.25, 0.75, 0.0]]), torch.tensor([[True, True, False]])
    advantage = counterfactual_advantage(q, pi, avail, torch.tensor([1]))
    assert advantage.tolist() == pytest.approx([3.0 - 2.5])
    assert not advantage.requires_grad


def test_standardising_ignores_what_is_masked() -> None:
    x = torch.tensor([[1.0, 3.0, float("nan")], [5.0, 7.0, 99.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    y = standardised(x, mask)
    assert y[:, 2].tolist() == [0, 0]
    assert y[:, :2].flatten().tolist() == pytest.approx([-3 / 5**0.5, -1 / 5**0.5, 1 / 5**0.5, 3 / 5**0.5], abs=1e-4)


def test_huber_and_means() -> None:
    assert huber(torch.tensor([0.5, -3.0]), 1.0).tolist() == pytest.approx([0.125, 2.5])
    x = torch.tensor([[[1.0, 2.0], [3.0, float("nan")]]])
    assert mean_over(x, torch.tensor([[[1.0, 1.0], [1.0, 0.0]]])) == pytest.approx(2.0)
    assert mean_over(x, torch.tensor([[1.0, 0.0]])) == pytest.approx(1.5)
