"""What continuous FOP computes, against loops, torch's distributions and formulas written out."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import AffineTransform, Normal, TanhTransform, TransformedDistribution

from by_hand import LENGTHS, TERMINATED, A, N, batch, ends, gradients, returns, session
from core.config import ConfigError
from core.specs import EpisodeBatch
from run import Session

ALPHA = 0.5
BOX: dict[str, Any] = {"env_args": {"box": True}}
MIXERS = {
    "one": ("fop_continuous", {}),
    "attention": ("fop_continuous", {"mixer_weights": "attention"}),
    "linear": ("fop_continuous_linear", {}),
}


def boxed(name: str = "fop_continuous", **more: Any) -> Session:
    """A run whose policies depend on what is seen, as they do after some learning, and whose targets nearly agree."""
    run, rng = session(name, **BOX, **more), torch.Generator().manual_seed(3)
    with torch.no_grad():
        run.controller.agent.agent.head.weight.normal_(generator=rng)
        for p, other in zip(*(slow.parameters() for slow in run.learner.target.slow), strict=True):
            other.copy_(p + 0.02 * torch.randn(p.shape, generator=rng))
    return run


def episodes(seed: int = 0) -> EpisodeBatch:
    """Random episodes with actions from -1 to 1."""
    made, rng = batch(seed=seed), torch.Generator().manual_seed(seed)
    action = (2 * torch.rand(*made.action.shape, A, generator=rng) - 1) * made.mask[..., None, None]
    return dataclasses.replace(made, action=action, avail=torch.ones_like(made.avail))


def drawn(run: Session, data: EpisodeBatch) -> tuple[Tensor, Tensor]:
    """The actions that the learner would draw now, and their densities by torch's distributions."""
    rng = torch.Generator().set_state(run.learner.rng.get_state())
    mean, log_std = run.controller.unroll(data).chunk(2, -1)
    x = mean + log_std.exp() * torch.randn(mean.shape, generator=rng)
    law = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform(cache_size=1)])
    action = torch.tanh(x)
    by_cache = law.transforms[0]
    by_cache._cached_x_y = (x, action)  # so that torch need not invert the tanh
    return action, law.log_prob(action).sum(-1)


def joint_by_hand(critic: torch.nn.Module, data: EpisodeBatch, action: Tensor) -> tuple[Tensor, Tensor]:
    """Q_jt, with Σ_i λ_i w_i (Q_i - V_i) + c + Σ_i w_i V_i where the mixer has advantages; and the regulariser."""
    steps, mixer = action.shape[1], critic.mixer
    state, obs = data.state[:, :steps], data.obs[:, :steps]
    numbers = torch.eye(N).expand(*obs.shape[:2], N, N)
    q = critic.q.net(torch.cat([obs, action, numbers], -1)).squeeze(-1)
    if not mixer.reads_joint:
        k, b = mixer.weights(state)
        return (k * q).sum(-1) + b, torch.zeros(q.shape[:2])
    v = critic.v.net(torch.cat([obs, numbers], -1)).squeeze(-1)
    w, regulariser = mixer.weights(state, obs)
    total = (mixer.lambdas(state, action) * w * (q - v)).sum(-1) + mixer.c(state).squeeze(-1) + (w * v).sum(-1)
    return total, regulariser


@pytest.mark.parametrize(("name", "more"), MIXERS.values(), ids=MIXERS)
def test_joint_values_by_the_formulas(name: str, more: dict) -> None:
    data = episodes()
    for critic in boxed(name, **more).learner.critics:
        for got, want in zip(critic.joint(data, data.action), joint_by_hand(critic, data, data.action), strict=True):
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize("lam", [0.0, 0.8])
@pytest.mark.parametrize(("name", "more"), MIXERS.values(), ids=MIXERS)
def test_target_by_hand(name: str, more: dict, lam: float) -> None:
    """TD(λ) of min_m Q_jt'(s, u') - α Σ_i log π_i(u'_i); a true end has neither value nor entropy (T-27)."""
    run, data = boxed(name, td_lambda=lam, **more), episodes()
    action, log_pi = drawn(run, data)
    y = run.learner.critic_target(data, action.detach(), log_pi.detach(), ALPHA)
    assert torch.equal(ends(y), ends(data.reward))
    tables = [joint_by_hand(slow, data, action)[0] for slow in run.learner.target.slow]
    assert ((tables[0] < tables[1]).any() and (tables[1] < tables[0]).any()).item()  # both critics have a say
    x = torch.minimum(*tables) - ALPHA * log_pi.sum(-1)
    for row, length in enumerate(LENGTHS):
        expected = returns(data.reward[row, :length].tolist(), TERMINATED[row], x[row, : length + 1].tolist(), lam)
        assert y[row, :length].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(("name", "more"), MIXERS.values(), ids=MIXERS)
def test_critic_loss_by_hand(name: str, more: dict) -> None:
    run, data = boxed(name, **more), episodes()
    y = torch.randn(data.reward.shape, generator=torch.Generator().manual_seed(2))
    expected = 0.0
    for critic in run.learner.critics:
        total, regulariser = joint_by_hand(critic, data, data.action)
        steps = [(row, t) for row, length in enumerate(LENGTHS) for t in range(length)]
        expected += sum((total[at] - y[at]).item() ** 2 + regulariser[at].item() for at in steps) / len(steps)
    assert run.learner.critic_loss(data, y).item() == pytest.approx(expected, rel=1e-5)


def test_value_loss_by_hand() -> None:
    """Equation 10 for each critic: the mean over steps and agents of (V_i - (Q_i - α log π_i))²."""
    run, data = boxed(), episodes()
    action, log_pi = drawn(run, data)
    q = [critic.local(data, action[:, :-1]) for critic in run.learner.critics]
    got = run.learner.value_loss(data, q, log_pi[:, :-1], ALPHA)
    expected = 0.0
    for m, critic in enumerate(run.learner.critics):
        v = critic.value(data, data.mask.shape[1])
        parts = [
            (v[row, t, i] - q[m][row, t, i] + ALPHA * log_pi[row, t, i]).item() ** 2
            for row, length in enumerate(LENGTHS)
            for t, i in itertools.product(range(length), range(N))
        ]
        expected += sum(parts) / len(parts)
    assert got.item() == pytest.approx(expected, rel=1e-4)


def test_more_draws_average_the_expectations() -> None:
    """The gradient of V_i is that of (V_i - mean of the draws)²; episodes are repeated for it, whole."""
    run, data, draws = boxed(), episodes(), 3
    many = data.repeated(draws)
    assert data.repeated(1) is data and torch.equal(many.length, data.length.repeat(draws))
    assert torch.equal(many.obs[len(data) :], data.obs.repeat(draws - 1, 1, 1, 1))
    action, log_pi = drawn(run, many)
    q = [critic.local(many, action[:, :-1]) for critic in run.learner.critics]
    loss = run.learner.value_loss(many, q, log_pi[:, :-1], ALPHA)
    mean = [(q_m - ALPHA * log_pi[:, :-1]).unflatten(0, (draws, -1)).mean(0).detach() for q_m in q]
    real = data.mask > 0
    written = sum(
        (critic.value(data, 3) - x)[real].square().mean() for critic, x in zip(run.learner.critics, mean, strict=True)
    )
    parameters = [p for critic in run.learner.critics for p in critic.v.parameters()]
    for got, want in zip(*(torch.autograd.grad(x, parameters) for x in (loss, written)), strict=True):
        torch.testing.assert_close(got, want)


def test_policies_follow_the_gradient_of_the_written_objective() -> None:
    """E[α log π_i(u_i) - min_m Q_i^m(u_i)], u_i = tanh(μ + σ ξ), with critics that are constants."""
    run, data = boxed(), episodes()
    learner, real = run.learner, data.mask > 0
    frozen = copy.deepcopy(learner.critics).requires_grad_(False)
    action, log_pi = (x[:, :-1] for x in drawn(run, data))
    numbers = torch.eye(N).expand(*action.shape[:2], N, N)
    inputs = torch.cat([data.obs[:, :-1], action, numbers], -1)
    low = torch.minimum(*[critic.q.net(inputs).squeeze(-1) for critic in frozen])
    written = (ALPHA * log_pi - low)[real].mean()

    action, log_pi = learner.controller.squashed(run.controller.unroll(data)).rsample(learner.rng)
    q = [critic.local(data, action[:, :-1]) for critic in learner.critics]
    loss = learner.policy_loss(data, q, log_pi[:, :-1], ALPHA)
    parameters = list(run.controller.parameters())
    for got, want in zip(
        *(torch.autograd.grad(x, parameters, retain_graph=True) for x in (loss, written)), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
        assert want.abs().max() > 0

    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    learner.descend("policy", loss)
    moved = {name for name, p in learner.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if name.startswith("controller.")}


def test_an_update_steps_critics_then_values_then_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each loss is measured before its own step, and sees what the steps before it have changed."""
    run, data = boxed(alpha_start=ALPHA, alpha_finish=ALPHA), episodes()
    learner = run.learner
    monkeypatch.setattr(learner, "draw", lambda _: data)
    action, log_pi = (x.detach() for x in drawn(run, data))
    y = learner.critic_target(data, action, log_pi, ALPHA)
    critic_loss, values = learner.critic_loss(data, y).item(), copy.deepcopy([critic.v for critic in learner.critics])
    metrics = learner.update(run.replay, 0)
    assert metrics["critic_loss"].item() == pytest.approx(critic_loss, rel=1e-5)
    q = [critic.local(data, action[:, :-1]) for critic in learner.critics]
    policy_loss = learner.policy_loss(data, q, log_pi[:, :-1], ALPHA).item()
    assert metrics["policy_loss"].item() == pytest.approx(policy_loss, rel=1e-5)
    for critic, before in zip(learner.critics, values, strict=True):
        critic.v = before
    value_loss = learner.value_loss(data, q, log_pi[:, :-1], ALPHA).item()
    assert metrics["value_loss"].item() == pytest.approx(value_loss, rel=1e-5)
    assert metrics["policy_entropy"].item() == pytest.approx(-log_pi[:, :-1][data.mask > 0].mean().item(), rel=1e-5)
    assert metrics["alpha"].item() == ALPHA


def test_losses_teach_their_own_networks_only() -> None:
    run, data = boxed(), episodes()
    learner = run.learner
    action, log_pi = (x[:, :-1] for x in drawn(run, data))
    q = [critic.local(data, action) for critic in learner.critics]
    names = {name for name, _ in learner.named_parameters() if name.startswith("critics.")}
    values = {name for name in names if ".v." in name}
    assert gradients(learner.critic_loss(data, torch.zeros(data.reward.shape)), learner) == names - values
    assert gradients(learner.value_loss(data, q, log_pi, ALPHA), learner) == values
    assert values and not any(p.requires_grad for p in learner.target.parameters())


def test_the_linear_ablation_has_no_local_state_values() -> None:
    run = boxed("fop_continuous_linear")
    assert not any(".v." in name for name, _ in run.learner.named_parameters())
    run.replay.add(episodes())
    assert not any(name.startswith("value") for name in run.learner.update(run.replay, 0))


def test_the_greedy_ablation_has_no_entropy() -> None:
    run, data = boxed("fop_continuous_greedy"), episodes()
    alpha = run.learner.cfg.alpha(0, 0)
    assert alpha == run.learner.cfg.alpha(10**6, 10**6) == 0
    action, log_pi = (x.detach() for x in drawn(run, data))
    q_jt = torch.minimum(*[slow.joint(data, action)[0] for slow in run.learner.target.slow])
    y = run.learner.critic_target(data, action, log_pi, alpha)
    want = data.reward + run.learner.cfg.gamma * ~data.terminated * q_jt[:, 1:]
    real = data.mask > 0
    one_step = boxed("fop_continuous_greedy", td_lambda=0.0).learner.critic_target(data, action, log_pi, alpha)
    torch.testing.assert_close(one_step[real], want[real])
    assert not torch.allclose(y[real], want[real])


def test_densities_are_of_the_action_in_its_box() -> None:
    """Boxes that are not symmetric, and differ from agent to agent."""
    run, data = boxed(), episodes()
    controller, low, high = run.controller, torch.tensor([-2.0, 0.5, -9.0]), torch.tensor([5.0, 0.75, -1.0])
    controller.low, controller.high = low[:, None], high[:, None]
    out = controller.unroll(data)
    action, log_pi = controller.squashed(out).rsample(torch.Generator().manual_seed(4))
    mean, log_std = (x.double() for x in out.chunk(2, -1))
    centre, half = ((low + high) / 2)[:, None].double(), ((high - low) / 2)[:, None].double()
    law = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform(), AffineTransform(centre, half)])
    assert (low[:, None] <= action).all() and (action <= high[:, None]).all()
    inner = ((action - centre) / half).abs().amax(-1) < 0.99  # elsewhere single precision cannot be inverted
    torch.testing.assert_close(
        log_pi[inner].double(), law.log_prob(action.double()).sum(-1)[inner], rtol=1e-3, atol=1e-3
    )
    assert inner.double().mean() > 0.5


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"mac": "gaussian_mac"}, "mac 'gaussian_mac' has no density in the box: choose squashed_mac"),
        ({"last_action": True}, "choose agent=mlp last_action=False, or sample=episodes"),
        ({"action_samples": 0}, "action_samples must be at least 1, not 0"),
        ({"critic": "ppo"}, "critic 'ppo' does not fit learner 'fop_continuous'"),
        ({"env_args": {"box": False}}, "learner=fop"),
    ],
)
def test_what_cannot_work_is_refused(more: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        session("fop_continuous", **(BOX | more))
