"""Soft values, counterfactual baselines, decomposed expectations and Gumbel-softmax against brute force."""

import itertools
import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.specs import ActionSpec, EnvSpec
from modules.mixers.dop import DOPMixer
from rl.gumbel import gumbel_softmax
from rl.masked import taken
from rl.policy_gradient import counterfactual_advantage
from rl.soft import soft_value

FEW = settings(max_examples=40, deadline=None)
sizes = st.tuples(st.integers(1, 3), st.integers(2, 4), st.integers(0, 2**31))


def policies(n: int, a: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Random masks with something available, and probabilities that are 0 elsewhere."""
    avail = torch.rand(n, a, generator=rng) < 0.7
    avail[torch.arange(n), torch.randint(a, (n,), generator=rng)] = True
    pi = torch.rand(n, a, generator=rng, dtype=torch.float64) * avail + 1e-9 * avail
    return pi / pi.sum(-1, keepdim=True), avail


@FEW
@given(sizes, st.floats(0.05, 5))
def test_soft_value_is_the_sum_over_available_actions(size, alpha):
    n, a, seed = size
    rng = torch.Generator().manual_seed(seed)
    _, avail = policies(n, a, rng)
    q = 3 * torch.randn(n, a, generator=rng, dtype=torch.float64)
    for i, value in enumerate(soft_value(q, avail, alpha).tolist()):
        total = math.fsum(
            math.exp(x / alpha) for x, legal in zip(q[i].tolist(), avail[i].tolist(), strict=True) if legal
        )
        assert math.isclose(value, alpha * math.log(total), rel_tol=1e-9, abs_tol=1e-9)


@FEW
@given(sizes)
def test_counterfactual_advantages_by_enumeration(size):
    """A_i(a) = Q(a) - Σ_b π_i(b) Q(b, a_-i), and its mean over an agent's own actions is 0."""
    n, a, seed = size
    rng = torch.Generator().manual_seed(seed)
    pi, avail = policies(n, a, rng)
    joint = torch.randn(*[a] * n, generator=rng, dtype=torch.float64)
    for actions in itertools.product(range(a), repeat=n):
        own = torch.stack([joint[(*actions[:i], slice(None), *actions[i + 1 :])] for i in range(n)])
        found = counterfactual_advantage(own, pi, avail, torch.tensor(actions))
        for i in range(n):
            others = [joint[(*actions[:i], b, *actions[i + 1 :])].item() for b in range(a)]
            baseline = math.fsum(p * x for p, x in zip(pi[i].tolist(), others, strict=True))
            assert math.isclose(found[i].item(), joint[actions].item() - baseline, abs_tol=1e-9)
            mean = math.fsum(p * (x - baseline) for p, x in zip(pi[i].tolist(), others, strict=True))
            assert abs(mean) < 1e-9


@FEW
@given(sizes)
def test_a_decomposed_expectation_by_enumeration(size):
    """Σ_a π(a) Q_tot(s, a) over all joint actions is Q_tot of every agent's expected value (algorithms.md 1.7)."""
    n, a, seed = size
    rng = torch.Generator().manual_seed(seed)
    spec = EnvSpec(actions=(ActionSpec(a),) * n, obs_dims=(1,) * n, state_dim=3, episode_limit=1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        mixer = DOPMixer(spec, DOPMixer.Config(mixing_embed_dim=4)).double()
    pi, _ = policies(n, a, rng)
    state, q = (torch.randn(1, 1, *shape, generator=rng, dtype=torch.float64) for shape in ((3,), (n, a)))
    total = 0.0
    for actions in itertools.product(range(a), repeat=n):
        chance = math.prod(pi[i, b].item() for i, b in enumerate(actions))
        total += chance * mixer(taken(q, torch.tensor(actions)[None, None]), state).item()
    assert math.isclose(mixer((pi * q).sum(-1), state).item(), total, rel_tol=1e-8, abs_tol=1e-8)


@FEW
@given(sizes, st.floats(0.5, 3), st.booleans())
def test_the_gradient_through_a_choice_is_that_of_its_relaxation(size, temperature, hard):
    """d/dz of Σ w y, with the same noise: by finite differences of softmax((z + g) / τ), 0 where unavailable."""
    n, a, seed = size
    rng = torch.Generator().manual_seed(seed)
    _, avail = policies(n, a, rng)
    z, w = torch.randn(2, n, a, generator=rng, dtype=torch.float64)

    def relaxed(at: torch.Tensor) -> float:
        noise = torch.Generator().manual_seed(seed + 1)
        return (w * gumbel_softmax(at, avail, noise, temperature, hard=False)).sum().item()

    leaf = z.clone().requires_grad_()
    choice = gumbel_softmax(leaf, avail, torch.Generator().manual_seed(seed + 1), temperature, hard)
    assert torch.allclose(choice.sum(-1), torch.ones(n, dtype=torch.float64)) and not choice[~avail].any()
    (found,) = torch.autograd.grad((w * choice).sum(), leaf)
    for i, b in itertools.product(range(n), range(a)):
        step = torch.zeros_like(z)
        step[i, b] = 1e-6
        slope = (relaxed(z + step) - relaxed(z - step)) / 2e-6
        assert math.isclose(found[i, b].item(), slope, rel_tol=1e-4, abs_tol=1e-6)
