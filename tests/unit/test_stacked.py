"""Stacked networks equal the same networks one by one, and learn independently."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from core import cli
from modules.layers import mlp
from modules.stacked import Stacked
from run import build


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


def test_a_learners_adam_moves_every_entry_along_its_own_gradient() -> None:
    words = ["--config=mappo", "--env-config=hallway", "with", "share_parameters=False", "device=cpu", "adam_eps=0.1"]
    run = build(cli.compose(cli.parse([*words, "grad_norm_clip=1000000.0"])))
    params, b = list(run.controller.parameters()), run.env.n_envs
    step, hidden = run.env.reset(), run.controller.initial_hidden(b)

    def loss() -> Tensor:
        last = torch.zeros(b, 1, run.env.spec.n_agents, run.env.spec.n_actions)
        return run.controller.agent(step.obs[:, None], last, hidden)[0].square().sum() * 1000

    gradients = torch.autograd.grad(loss(), params, allow_unused=True)
    before = [p.detach().clone() for p in params]
    run.learner.descend("policy", loss())
    for p, old, gradient in zip(params, before, gradients, strict=True):
        expected = torch.zeros_like(p) if gradient is None else gradient / (gradient.abs() + 0.1)  # Adam's first step
        torch.testing.assert_close(old - p, run.learner.cfg.lr * expected, rtol=1e-3, atol=1e-6)
