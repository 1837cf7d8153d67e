"""Stacked networks equal the same networks one by one, and learn independently."""

from __future__ import annotations

import copy

import torch
from torch import nn

from modules.layers import mlp
from modules.stacked import Stacked


def built(n: int) -> Stacked:
    torch.manual_seed(0)
    return Stacked(lambda: mlp(3, 8, 2), n)


def test_equal_to_a_loop() -> None:
    stacked = built(4)
    x = torch.randn(5, 7, 4, 3)
    y = stacked(x)
    assert y.shape == (5, 7, 4, 2)
    for k in range(4):
        one = mlp(3, 8, 2)
        one.load_state_dict({name: value[k] for name, value in stacked.state().items()})
        torch.testing.assert_close(y[:, :, k], one(x[:, :, k]))
    first, second = (stacked.state()["0.weight"][k] for k in (0, 1))
    assert not torch.equal(first, second), "initialised one by one"


def test_parameters_are_found_copied_and_saved_and_gradients_stay_apart() -> None:
    stacked = built(3)
    assert sum(p.numel() for p in stacked.parameters()) == 3 * sum(p.numel() for p in mlp(3, 8, 2).parameters())
    stacked(torch.randn(2, 1, 3, 3))[:, :, 1].sum().backward()
    for p in stacked.parameters():
        assert p.grad is not None
        assert p.grad[0].abs().sum() == 0
        assert p.grad[2].abs().sum() == 0
    twin = copy.deepcopy(stacked)
    other = Stacked(lambda: mlp(3, 8, 2), 3)
    x = torch.randn(2, 1, 3, 3)
    assert not torch.equal(other(x), stacked(x))
    other.load_state_dict(stacked.state_dict())
    assert torch.equal(other(x), stacked(x))
    nn.init.zeros_(next(iter(twin.parameters())))
    assert not torch.equal(twin(x), stacked(x)), "a copy is its own"
