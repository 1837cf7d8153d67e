"""Normal policies against torch's own distributions, integrals and samples; squashed ones against their integral."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from rl.distributions import Gaussian, Squashed
from rl.gaussian import gaussian_entropy, gaussian_log_prob, gaussian_sample, squashed, squashed_log_prob

MEAN, LOG_STD = torch.tensor([[0.3, -1.2], [2.0, 0.0]]), torch.tensor([-0.5, 0.7])


def test_densities_and_entropy() -> None:
    x, normal = torch.tensor([[0.0, 1.0], [2.5, -0.4]]), Normal(MEAN, LOG_STD.exp())
    torch.testing.assert_close(gaussian_log_prob(x, MEAN, LOG_STD), normal.log_prob(x).sum(-1))
    torch.testing.assert_close(gaussian_entropy(LOG_STD), Normal(0.0, LOG_STD.exp()).entropy().sum())
    one = gaussian_log_prob(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([0.0]))
    assert one == pytest.approx(-0.5 - 0.5 * math.log(2 * math.pi))


def test_samples_and_their_gradient() -> None:
    mean = MEAN[0].expand(40_000, 2).clone().requires_grad_()
    log_std = LOG_STD.clone().requires_grad_()
    x = gaussian_sample(mean, log_std, torch.Generator().manual_seed(0))
    assert x.mean(0).tolist() == pytest.approx(MEAN[0].tolist(), abs=0.03)
    assert x.std(0).log().tolist() == pytest.approx(LOG_STD.tolist(), abs=0.02)
    x.sum().backward()
    assert mean.grad is not None and (mean.grad == 1).all()
    assert log_std.grad is not None
    torch.testing.assert_close(log_std.grad, (x - mean).sum(0).detach(), rtol=1e-4, atol=1e-3)


def test_squashed_densities_against_torch_and_an_integral() -> None:
    x = torch.tensor([[0.2, -0.9], [1.5, 0.1]])
    base = Normal(MEAN, LOG_STD.exp())
    oracle = TransformedDistribution(base, [TanhTransform()]).log_prob(torch.tanh(x)).sum(-1)
    torch.testing.assert_close(squashed_log_prob(x, MEAN, LOG_STD, 1.0), oracle, rtol=1e-4, atol=1e-4)
    grid = torch.linspace(-9, 9, 200_001, dtype=torch.double)[:, None]
    action = squashed(grid, 2.5)
    density = squashed_log_prob(grid, 0.4 + 0 * grid, torch.tensor([-0.3]).double(), 2.5).exp()
    assert float(torch.trapezoid(density, action[:, 0])) == pytest.approx(1.0, abs=1e-4)
    assert action.abs().max() <= 2.5


def test_squashed_densities_are_finite_far_out() -> None:
    """Where 1 - tanh² is 0 in single precision, the density is still that of the exact formula."""
    x = torch.tensor([[-30.0], [30.0]], requires_grad=True)
    log_prob = squashed_log_prob(x, torch.zeros(2, 1), torch.zeros(1), torch.tensor([2.0]))
    exact = [-450 - 0.5 * math.log(2 * math.pi) - math.log(2) - 2 * (math.log(2) - 30)] * 2
    assert log_prob.tolist() == pytest.approx(exact, rel=1e-5)
    log_prob.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_a_gaussian_policy() -> None:
    policy, rng = Gaussian(MEAN, LOG_STD.expand_as(MEAN)), torch.Generator().manual_seed(1)
    assert torch.equal(policy.mode(), MEAN) and torch.equal(policy.deterministic(None), MEAN)
    before = rng.get_state()
    policy.deterministic(rng)
    assert torch.equal(rng.get_state(), before)
    action = policy.sample(rng)
    torch.testing.assert_close(policy.log_prob(action), gaussian_log_prob(action, MEAN, LOG_STD))
    assert policy.entropy().shape == (2,)


def test_one_action_inside_of_a_box() -> None:
    """tanh stretched to each row's own box; its mean square is that of the tanh."""
    out = torch.tensor([[0.0, 100.0], [-100.0, 0.5]], requires_grad=True)
    policy = Squashed(out, torch.tensor([[-1.0], [2.0]]), torch.tensor([[1.0], [10.0]]))
    torch.testing.assert_close(policy.mode(), torch.tensor([[0.0, 1.0], [2.0, 6 + 4 * math.tanh(0.5)]]))
    assert torch.equal(policy.deterministic(torch.Generator()), policy.mode())
    torch.testing.assert_close(policy.size(), torch.tensor([0.5, 0.5 + math.tanh(0.5) ** 2 / 2]))
    policy.mode().sum().backward()
    assert out.grad is not None
    torch.testing.assert_close(out.grad, torch.tensor([[1.0, 0.0], [0.0, 4 * (1 - math.tanh(0.5) ** 2)]]))
