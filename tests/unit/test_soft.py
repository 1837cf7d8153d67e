"""Soft values and losses: worked numbers of algorithms.md, and the identities behind them."""

import pytest
import torch

from rl.masked import masked_log_softmax
from rl.returns import td_lambda
from rl.soft import soft_policy_loss, soft_value

Q = torch.tensor([1.0, 2.0, 3.0])
AVAIL = torch.tensor([True, False, True])


def test_soft_value_golden():
    assert soft_value(Q, AVAIL, 0.5).item() == pytest.approx(3.009075, abs=1e-5)


@pytest.mark.parametrize("unavailable", [1e9, torch.inf, torch.nan])
def test_soft_value_ignores_the_unavailable(unavailable):
    q = torch.tensor([1.0, unavailable, 3.0], requires_grad=True)
    value = soft_value(q, AVAIL, 0.5)
    value.backward()
    assert value.item() == pytest.approx(3.009075, abs=1e-5)
    torch.testing.assert_close(q.grad, torch.tensor([0.0179862, 0.0, 0.9820138]))  # the Boltzmann policy


def test_soft_value_survives_small_temperatures_and_empty_rows():
    assert soft_value(torch.tensor([-500.0, 400.0]), torch.ones(2, dtype=torch.bool), 1e-3).item() == 400.0
    q = torch.zeros(2, requires_grad=True)
    value = soft_value(q, torch.zeros(2, dtype=torch.bool), 0.5)
    value.backward()
    assert value.isfinite() and q.grad.isfinite().all()


def test_a_temperature_for_each_agent():
    q, avail = Q.expand(4, 2, 3), AVAIL.expand(4, 2, 3)
    alpha = torch.tensor([0.5, 2.0])
    got = soft_value(q, avail, alpha)
    for i in range(2):
        torch.testing.assert_close(got[:, i], soft_value(q[:, i], avail[:, i], alpha[i].item()))
    log_pi = masked_log_softmax(torch.zeros(4, 2, 3), avail)
    loss = soft_policy_loss(log_pi, q, avail, alpha)
    torch.testing.assert_close(loss[0], -torch.log(torch.tensor(2.0)) * alpha - 2.0)


def test_policy_loss_is_least_at_the_boltzmann_policy():
    """There it equals -V; elsewhere it is larger by α KL."""
    best = masked_log_softmax(Q / 0.5, AVAIL)
    loss = soft_policy_loss(best, Q, AVAIL, 0.5)
    torch.testing.assert_close(loss, -soft_value(Q, AVAIL, 0.5))
    other = masked_log_softmax(torch.tensor([0.3, 9.0, 0.1]), AVAIL)
    kl = (other.exp() * (other - best))[AVAIL].sum()
    torch.testing.assert_close(soft_policy_loss(other, Q, AVAIL, 0.5), loss + 0.5 * kl)


def test_policy_loss_gradient():
    logits = torch.tensor([0.3, 9.0, 0.1], requires_grad=True)
    q = torch.tensor([1.0, torch.nan, 3.0], requires_grad=True)
    soft_policy_loss(masked_log_softmax(logits, AVAIL), q, AVAIL, 0.5).backward()
    assert q.grad is None  # the critic is constant
    pi = logits.detach()[AVAIL].softmax(0)
    inner = 0.5 * pi.log() - q.detach()[AVAIL]
    torch.testing.assert_close(logits.grad[AVAIL], pi * (inner - (pi * inner).sum()))
    assert logits.grad[1] == 0


def soft_target(terminated):
    """FOP's target with r = 1, γ = .9, Q = 2, log-probabilities (-1, -.5), α = .2 at the next state."""
    x_next = 2.0 - 0.2 * (-1.0 - 0.5)
    value = torch.tensor([[5.0, x_next]])
    return td_lambda(torch.ones(1, 1), torch.tensor([[terminated]]), torch.ones(1, 1), value, 0.9, 0.0).item()


def test_soft_target_golden():
    assert soft_target(terminated=False) == pytest.approx(3.07, abs=1e-5)


def test_soft_target_of_a_terminal_step_is_the_reward():
    assert soft_target(terminated=True) == 1.0  # AC-10: no entropy of a state that does not exist
