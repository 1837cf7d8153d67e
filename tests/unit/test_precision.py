"""Networks in fewer bits: which layers are rounded, and which numbers never are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.precision import full_precision, in_precision
from learners.base import gradients_of
from modules.layers import GroupLinear, RecurrentEncoder, heads, mlp
from modules.precision import ExactGroupLinear, ExactLinear, keep_outputs_exact
from modules.stacked import Stacked


class Doubler(nn.Module):
    """A network that is evaluated twice: without a gradient, and with one."""

    def __init__(self, precision: str) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {"precision": precision}
        self.net = nn.Linear(3, 2)

    @in_precision
    def twice(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            before = self.net(x)
            self.net.weight.mul_(2)
            self.net.bias.mul_(2)
        return before, self.net(x)


def test_weights_that_change_are_rounded_anew_and_keep_their_gradient() -> None:
    net, x = Doubler("bfloat16"), torch.randn(5, 3)
    before, after = net.twice(x)
    assert after.dtype == torch.bfloat16
    assert torch.equal(after, 2 * before)
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(after.float().sum(), list(net.parameters())))


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_otherwise_nothing_is_rounded_on_a_cpu(precision: str) -> None:
    net, x = Doubler(precision), torch.randn(5, 3)
    weight, bias = net.net.weight.detach().double(), net.net.bias.detach().double()
    before = net.twice(x)[0]
    assert torch.allclose(before.double(), x.double() @ weight.T + bias, rtol=1e-6, atol=1e-6)


def exact(network: nn.Module) -> list[str]:
    keep_outputs_exact(network)
    return [name for name, part in network.named_modules() if isinstance(part, ExactLinear | ExactGroupLinear)]


def test_the_layers_that_nothing_follows_are_exact() -> None:
    assert exact(mlp(3, 4, 5, 2)) == ["4"]
    assert exact(nn.Sequential(mlp(3, 4, 5), nn.ReLU())) == []
    assert exact(heads(2, 3, 4, layers=2)) == ["3"]
    assert exact(heads(2, 3, 4, layers=1)) == ["0"]
    assert exact(nn.ModuleDict({"encoder": RecurrentEncoder(3, 4), "head": nn.Linear(4, 2)})) == ["head"]


def test_a_stack_of_networks_is_evaluated_like_one() -> None:
    stack = Stacked(lambda: mlp(3, 4, 2), 2)
    keep_outputs_exact(stack)
    assert [type(layer) for layer in stack.example] == [nn.Linear, nn.ReLU, ExactLinear]


@pytest.mark.parametrize("layer", [nn.Linear(3, 4), GroupLinear(2, 3, 4)])
def test_an_exact_layer_is_the_same_within_and_without(layer: nn.Module) -> None:
    holder = nn.ModuleList([layer])
    x = torch.randn(5, 2, 3)
    rounded, plain = torch.autocast("cpu", torch.bfloat16), layer(x)
    with rounded:
        assert not torch.equal(layer(x).float(), plain)
    keep_outputs_exact(holder)
    with rounded:
        assert torch.equal(layer(x), plain)
        assert layer(x.bfloat16()).dtype == torch.float32


def test_gradients_are_not_rounded_on_their_way_back() -> None:
    x, weight = torch.randn(64, 32), torch.randn(16, 32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        with full_precision():
            loss = (x @ weight.T).square().sum()
        (inside,) = gradients_of(loss, [weight])
    (plain,) = torch.autograd.grad((x @ weight.T).square().sum(), [weight])
    assert torch.equal(inside, plain)
