"""Distributions over available actions, for any logits and any masks."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.exploration import epsilon_greedy, greedy
from rl.masked import entropy, floored, masked_log_softmax, masked_mean, probabilities, sample
from rl.soft import soft_policy_loss, soft_value


@st.composite
def policies(draw):
    """Logits of any size, and masks that leave at least one action."""
    rows, actions = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits = torch.randn(rows, actions, generator=rng) * 10 ** draw(st.floats(-2, 4))
    avail = torch.rand(rows, actions, generator=rng) < draw(st.floats(0, 1))
    avail[torch.arange(rows), torch.randint(actions, (rows,), generator=rng)] = True
    return logits, avail, rng


@settings(max_examples=80, deadline=None)
@given(policies(), st.floats(0, 1))
def test_probabilities(policy, epsilon):
    logits, avail, _ = policy
    log_pi = masked_log_softmax(logits, avail)
    pi = probabilities(log_pi, avail)
    for p in (pi, floored(pi, avail, epsilon)):
        torch.testing.assert_close(p.sum(-1), torch.ones(len(p)))
        assert (p[~avail] == 0).all() and (p >= 0).all()
    for row in range(len(pi)):  # the policy of the available actions alone
        torch.testing.assert_close(pi[row, avail[row]], logits[row, avail[row]].softmax(-1))
    h = entropy(log_pi, avail)
    assert (h >= -1e-6).all() and (h <= avail.sum(-1).log() + 1e-5).all()


@settings(max_examples=80, deadline=None)
@given(policies(), st.floats(0, 1))
def test_actions_are_available(policy, epsilon):
    logits, avail, rng = policy
    log_pi = masked_log_softmax(logits, avail)
    for action in (sample(log_pi, rng), greedy(logits, avail), epsilon_greedy(logits, avail, epsilon, rng)):
        assert avail.gather(-1, action[:, None]).all()


@settings(max_examples=80, deadline=None)
@given(policies(), st.floats(0.01, 10))
def test_soft_value_bounds_the_policy_loss(policy, alpha):
    """max q <= V <= max q + α log A, and no policy's soft value exceeds V."""
    q, avail, rng = policy
    v = soft_value(q, avail, alpha)
    best = torch.where(avail, q, -torch.inf).amax(-1)
    slack = 1e-4 * (1 + q.abs().amax(-1))
    assert (v >= best - slack).all() and (v <= best + alpha * avail.sum(-1).log() + slack).all()
    log_pi = masked_log_softmax(torch.randn(q.shape, generator=rng), avail)
    assert (-soft_policy_loss(log_pi, q, avail, alpha) <= v + slack).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2), st.integers(0, 2**31))
def test_masked_mean(b, t, rest, seed):
    rng = torch.Generator().manual_seed(seed)
    x, mask = torch.randn(b, t, *[2] * rest, generator=rng), (torch.rand(b, t, generator=rng) < 0.5).float()
    mask[0, 0] = 1
    want = x[mask > 0].mean()
    x[mask == 0] = torch.nan
    torch.testing.assert_close(masked_mean(x, mask), want)
