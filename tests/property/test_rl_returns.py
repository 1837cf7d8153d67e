"""Every estimator equals its definition, summed up step by step in plain Python, whatever padding holds."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.returns import gae, n_step, td_lambda, tree_backup

unit = st.floats(0, 1)


@st.composite
def batches(draw):
    """Three episodes of different length and end, with NaN behind each."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=3, max_size=3))
    ends = draw(st.lists(st.booleans(), min_size=3, max_size=3))
    steps = max(lengths) + draw(st.integers(0, 3))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    r, q, p = torch.randn(3, 3, steps, generator=rng, dtype=torch.double)
    p, value = p.sigmoid(), torch.randn(3, steps + 1, generator=rng, dtype=torch.double)
    terminated, mask = torch.zeros(3, steps, dtype=torch.bool), torch.zeros(3, steps)
    for b, (length, ended) in enumerate(zip(lengths, ends, strict=True)):
        mask[b, :length] = 1
        terminated[b, length - 1] = ended
        for x in (r, q, p):
            x[b, length:] = torch.nan
        value[b, length + (0 if ended else 1) :] = torch.nan
    return lengths, ends, r, terminated, mask, value, q, p


def check(got, lengths, oracle):
    for b, length in enumerate(lengths):
        want = torch.tensor([oracle(b, t) for t in range(length)], dtype=torch.double)
        torch.testing.assert_close(got[b, :length], want)
        assert (got[b, length:] == 0).all()


def look_ahead(batch, gamma, b, t, n):
    """r_t + … + γ^(n-1) r_(t+n-1) + γ^n X_(t+n), where n steps are left."""
    lengths, ends, r, _, _, value, *_ = batch
    total = sum(gamma**k * r[b, t + k].item() for k in range(n))
    at_end = t + n == lengths[b]
    return total + (0.0 if at_end and ends[b] else gamma**n * value[b, t + n].item())


@settings(max_examples=60, deadline=None)
@given(batches(), unit, unit)
def test_td_lambda(batch, gamma, lam):
    """The λ-weighted mean of all n-step returns up to the episode's end."""
    lengths, _, r, terminated, mask, value, *_ = batch

    def oracle(b, t):
        left = lengths[b] - t
        mixed = sum((1 - lam) * lam ** (n - 1) * look_ahead(batch, gamma, b, t, n) for n in range(1, left))
        return mixed + lam ** (left - 1) * look_ahead(batch, gamma, b, t, left)

    check(td_lambda(r, terminated, mask, value, gamma, lam), lengths, oracle)


@settings(max_examples=60, deadline=None)
@given(batches(), unit, st.integers(1, 8))
def test_n_step(batch, gamma, n):
    lengths, _, r, terminated, mask, value, *_ = batch
    got = n_step(r, terminated, mask, value, gamma, n)
    check(got, lengths, lambda b, t: look_ahead(batch, gamma, b, t, min(n, lengths[b] - t)))


@settings(max_examples=60, deadline=None)
@given(batches(), unit, unit)
def test_gae(batch, gamma, lam):
    """The discounted sum of TD errors."""
    lengths, _, r, terminated, mask, value, *_ = batch

    def oracle(b, t):
        deltas = [look_ahead(batch, gamma, b, k, 1) - value[b, k].item() for k in range(t, lengths[b])]
        return sum((gamma * lam) ** k * d for k, d in enumerate(deltas))

    check(gae(r, terminated, mask, value, gamma, lam), lengths, oracle)


@settings(max_examples=60, deadline=None)
@given(batches(), unit, unit, st.integers(1, 8))
def test_tree_backup(batch, gamma, lam, k):
    """The explicit sum of algorithms.md 1.5(e)."""
    lengths, _, r, terminated, mask, value, q, p = batch

    def oracle(b, t):
        total, weight = q[b, t].item(), 1.0
        for j in range(min(k, lengths[b] - t)):
            weight *= gamma * lam * p[b, t + j].item() if j else 1.0
            total += weight * (look_ahead(batch, gamma, b, t + j, 1) - q[b, t + j].item())
        return total

    check(tree_backup(r, terminated, mask, q, value, p, gamma, lam, k), lengths, oracle)


@settings(max_examples=30, deadline=None)
@given(batches(), unit)
def test_limits_agree(batch, gamma):
    """λ = 0 is one step, λ = 1 is as many as there are; GAE is TD(λ) minus the value."""
    _, _, r, terminated, mask, value, *_ = batch
    inputs, real = (r, terminated, mask, value, gamma), mask > 0
    torch.testing.assert_close(td_lambda(*inputs, 0.0), n_step(*inputs, 1))
    torch.testing.assert_close(td_lambda(*inputs, 1.0), n_step(*inputs, 99))
    torch.testing.assert_close(gae(*inputs, 0.7)[real], (td_lambda(*inputs, 0.7) - value[:, :-1])[real])
