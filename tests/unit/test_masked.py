"""Masked averages, distributions over available actions (AC-02), sampling and exploration."""

import math

import pytest
import torch

from rl.exploration import epsilon_greedy, greedy
from rl.masked import (
    draw,
    entropy,
    expectation,
    floored,
    masked_log_softmax,
    masked_mean,
    probabilities,
    sample,
    taken,
)

LOGITS = torch.tensor([[0.0, math.log(3.0), 50.0], [1.0, 2.0, 3.0]])
AVAIL = torch.tensor([[True, True, False], [False, False, False]])


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_masked_mean_by_hand():
    x = torch.tensor([[[1.0, 3.0], [5.0, 7.0]], [[100.0, torch.nan], [torch.inf, -9.0]]])
    mask = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert masked_mean(x, mask) == 4.0
    assert masked_mean(x[..., 0], mask) == 3.0
    assert masked_mean(x, torch.zeros(2, 2)) == 0.0


def test_masked_mean_gradient():
    x = torch.tensor([[1.0, torch.nan]], requires_grad=True)
    masked_mean(x, torch.tensor([[1.0, 0.0]])).backward()
    assert x.grad.tolist() == [[1.0, 0.0]]


def test_taken():
    x = torch.arange(12.0).reshape(2, 2, 3)
    assert taken(x, torch.tensor([[0, 2], [1, 0]])).tolist() == [[0.0, 5.0], [7.0, 9.0]]


def test_policy_by_hand():
    log_pi = masked_log_softmax(LOGITS, AVAIL)
    pi = probabilities(log_pi, AVAIL)
    torch.testing.assert_close(pi[0], torch.tensor([0.25, 0.75, 0.0]))
    assert pi[0, 2] == 0 and log_pi.isfinite().all()
    torch.testing.assert_close(pi[1], LOGITS[1].softmax(-1))  # nothing available counts as everything available
    h = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    torch.testing.assert_close(entropy(log_pi, AVAIL)[0], torch.tensor(h))
    f = torch.tensor([[4.0, 8.0, torch.nan], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(expectation(pi, f, AVAIL)[0], torch.tensor(7.0))


@pytest.mark.parametrize("unavailable", [1e30, torch.inf, torch.nan])
def test_no_nan_in_loss_or_gradient(unavailable):
    """T-03: rows without an available action, and whatever stands where an action is unavailable."""
    logits = torch.tensor([[0.0, 1.0, unavailable], [1.0, 2.0, 3.0]], requires_grad=True)
    log_pi = masked_log_softmax(logits, AVAIL)
    pi = probabilities(log_pi, AVAIL)
    loss = entropy(log_pi, AVAIL) + expectation(pi, log_pi, AVAIL) + taken(log_pi, torch.tensor([0, 2]))
    (loss * torch.tensor([1.0, 0.0])).sum().backward()
    assert loss.isfinite().all() and logits.grad.isfinite().all()
    assert logits.grad[0, 2] == 0 and (logits.grad[1] == 0).all() and logits.grad[0, 0] != 0


def test_floor_by_hand():
    pi = torch.tensor([[0.25, 0.75, 0.0]])
    got = floored(pi, AVAIL[:1], 0.2)
    torch.testing.assert_close(got, torch.tensor([[0.3, 0.7, 0.0]]))
    assert got[0, 2] == 0


def test_sample_is_exact():
    """Chi-square over 60 000 draws of five actions, of which two are impossible (3 cells: 13.8 is p = 0.001)."""
    pi = torch.tensor([0.0, 0.5, 0.499, 0.0, 0.001])
    n = 60_000
    action = sample(pi.log().expand(n, 5), rng(7))
    count = torch.bincount(action, minlength=5).double()
    assert count[0] == 0 and count[3] == 0
    want = pi.double()[[1, 2, 4]] * n
    assert ((count[[1, 2, 4]] - want).square() / want).sum() < 13.8


def test_sample_from_masked_logits_never_takes_an_unavailable_action():
    avail = torch.rand(4000, 9, generator=rng(1)) < 0.3
    avail[:, 4] |= ~avail.any(-1)
    action = sample(masked_log_softmax(torch.randn(4000, 9, generator=rng(2)) * 20, avail), rng(3))
    assert avail.gather(-1, action[:, None]).all()
    assert len(action.unique()) == 9


def test_sample_is_decided_by_the_generator():
    log_pi = torch.randn(50, 6, generator=rng()).log_softmax(-1)
    assert torch.equal(sample(log_pi, rng(5)), sample(log_pi, rng(5)))
    assert not torch.equal(sample(log_pi, rng(5)), sample(log_pi, rng(6)))
    state = torch.get_rng_state()
    sample(log_pi, rng(5))
    assert torch.equal(state, torch.get_rng_state())


def test_draw_at_the_edges(monkeypatch):
    weight = torch.tensor([[0.0, 2.0, 0.0, 1.0, 0.0]])
    for u, want in ((0.0, 1), (2 / 3 - 1e-9, 1), (2 / 3 + 1e-9, 3), (1 - 2**-53, 3)):
        monkeypatch.setattr(torch, "rand", lambda *_, u=u, **__: torch.tensor([u], dtype=torch.double))
        assert draw(weight, rng()).tolist() == [want]


def test_draw_never_overshoots(monkeypatch):
    """The largest uniform number, and totals of every rounding."""
    totals = torch.rand(5000, 1, generator=rng()) * 3 + 1e-6
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.full((5000,), 1 - 2**-53, dtype=torch.double))
    assert (draw(totals, rng()) == 0).all()


def test_a_nan_policy_is_not_acted_upon():
    assert sample(torch.tensor([[torch.nan, 0.0]]), rng()).tolist() == [2]  # no such action


def test_greedy_ignores_the_unavailable_however_low_the_rest():
    q = torch.tensor([[-1e12, -2e12, 5.0], [1.0, 3.0, 2.0]])
    avail = torch.tensor([[True, True, False], [True, True, True]])
    assert greedy(q, avail).tolist() == [0, 1]


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_greedy_frequencies(epsilon):
    """Two available of three: the greedy one is taken with 1 - ε/2; 4.4 standard errors of slack."""
    n = 20_000
    q, avail = torch.tensor([1.0, 2.0, 9.0]).expand(n, 3), torch.tensor([True, True, False]).expand(n, 3)
    action = epsilon_greedy(q, avail, epsilon, rng(3))
    assert (action < 2).all()
    p = 1 - epsilon / 2
    assert abs((action == 1).double().mean().item() - p) <= 4.4 * math.sqrt(p * (1 - p) / n)


def test_epsilon_greedy_explores_each_agent_by_itself():
    action = epsilon_greedy(torch.zeros(500, 2, 8), torch.ones(500, 2, 8, dtype=torch.bool), 1.0, rng())
    assert 0.05 < (action[:, 0] == action[:, 1]).double().mean() < 0.2


def test_random_numbers_used_do_not_depend_on_epsilon():
    q, avail = torch.zeros(4, 2, 3), torch.ones(4, 2, 3, dtype=torch.bool)
    after = []
    for epsilon in (0.0, 1.0):
        generator = rng(1)
        epsilon_greedy(q, avail, epsilon, generator)
        after.append(generator.get_state())
    assert torch.equal(*after)
