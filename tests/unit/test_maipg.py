"""MAIPG: its two limits, its interpolation, its targets, and what it measures (AC-12 to AC-15)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

import by_hand
from core.specs import EpisodeBatch
from learners.maipg import MAIPG, Interpolated
from ppo_family import BOX, collected, learnt, moved, session
from rl.distributions import Categorical, Gaussian
from rl.masked import usable
from run import Session

WHOLE = {"chunk_length": 1000}


def flat(gradients: Any) -> Tensor:
    return torch.cat([g.flatten() for g in gradients])


def policy_gradient(made: Session, data: Interpolated) -> Tensor:
    """The gradient of the actor's loss."""
    features = made.learner.q(data.state, data.q_memory, data.length)[0].detach()
    loss, _ = made.learner.policy_loss(data, features)
    return flat(torch.autograd.grad(loss, list(made.controller.parameters())))


def experience(c: int, n: int, **fields: Tensor) -> Interpolated:
    """One-step chunks with every field that is not given empty or zero."""
    ones, none = torch.ones(c, 1), torch.zeros(c, 1, n, 1)
    given = {
        "length": torch.ones(c, dtype=torch.long),
        "mask": ones,
        "active": torch.ones(c, 1, n),
        "obs": none,
        "last": none,
        "state": torch.zeros(c, 1, 1),
        "avail": none.bool(),
        "action": none,
        "log_prob": none[..., 0],
        "advantage": none[..., 0],
        "value": torch.zeros(c, 1, 1),
        "returns": torch.zeros(c, 1, 1),
        "policy_memory": torch.zeros(c, n, 1),
        "value_memory": torch.zeros(c, 1, 1),
        "q_memory": torch.zeros(c, n, 1),
        "q_target": torch.zeros(c, 1),
    }
    return Interpolated(**given | fields)


# --- the limits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "more"), [("maipg", {"num_mini_batch": 2}), ("maipg_vdn", {}), ("maipg", BOX)])
def test_nu_0_is_mappo_to_the_last_bit(name: str, more: dict[str, Any]) -> None:
    """AC-12: policies, values, statistics and the random numbers, after three updates from the same seed."""
    mappo = learnt(session("mappo", epochs=2, **more), 3)
    maipg, other = (learnt(session(name, epochs=2, nu=nu, rvar_samples=2, **more), 3) for nu in (0.0, 0.05))
    mine, theirs = maipg.learner.state_dict(), other.learner.state_dict()
    shared = {k: x for k, x in mappo.learner.state_dict().items() if isinstance(x, Tensor)}
    assert {k.partition(".")[0] for k in shared} == {"controller", "value"}
    assert all(torch.equal(mine[k], x) for k, x in shared.items())
    assert torch.equal(mappo.learner.rng.get_state(), maipg.learner.rng.get_state())
    assert not all(torch.equal(theirs[k], x) for k, x in shared.items() if k.startswith("controller"))


@pytest.mark.parametrize("more", [{}, BOX])
@pytest.mark.parametrize("noise", [True, False])
def test_nu_1_is_the_gradient_of_the_action_value(noise: bool, more: dict[str, Any]) -> None:
    """AC-13: without entropy, FACMAC's actor gradient for the same Q̂, mixer and Gumbel noise, written out."""
    made = moved(session("maipg", nu=1.0, entropy_coef=0.0, mu_noise=noise, **WHOLE | more))
    batch = collected(made)
    data, _ = made.learner.gather(batch)
    before = made.learner.rng.get_state()
    got = policy_gradient(made, data)
    made.learner.rng.set_state(before)
    joint = mu(made, batch, noise)
    q = made.learner.q
    ids = torch.eye(3).expand(*batch.state.shape[:2], 3, 3)
    x = torch.cat([batch.state[:, :, None].expand(-1, -1, 3, -1), ids], -1)
    features, _ = q.critic.encode(x, None, batch.length + 1)
    if more:
        each = q.critic.head(torch.cat([features[:, :-1], joint], -1))[..., 0]
    else:
        each = (q.critic.head(features)[:, :-1] * joint).sum(-1)
    total = q.mixer(each, batch.state[:, :-1])
    loss = -(total * batch.mask).sum() / batch.mask.sum()
    expected = torch.autograd.grad(loss, list(made.controller.parameters()), allow_unused=True)
    used = [
        p.new_zeros(p.shape) if g is None else g for p, g in zip(made.controller.parameters(), expected, strict=True)
    ]
    torch.testing.assert_close(got, flat(used), atol=1e-6, rtol=1e-4)
    assert got.abs().max() > 1e-4


class Lent(nn.Module):
    """MAIPG's Q̂_tot in the place of FACMAC's critic."""

    def __init__(self, made: Session, length: Tensor) -> None:
        super().__init__()
        self.q, self.length = made.learner.q, length

    def forward(self, state: Tensor, obs: Tensor, action: Tensor) -> Tensor:
        features, _ = self.q(state, self.q.initial_hidden(len(state)), self.length)
        return self.q.total(features, action, state)


@pytest.mark.parametrize(("name", "more"), [("facmac", {}), ("facmac_continuous", BOX)])
def test_nu_1_is_the_gradient_that_facmac_takes(name: str, more: dict[str, Any]) -> None:
    """AC-13: both learners with the same policies, Q̂, mixer, episodes and Gumbel noise, without entropy."""
    made = moved(session("maipg", nu=1.0, entropy_coef=0.0, **WHOLE | more))
    batch = collected(made)
    facmac = by_hand.session(name, regulariser=0.0, env_args=made.settings["env_args"]).learner
    facmac.controller, facmac.critic = made.controller, Lent(made, batch.length)
    facmac.rng.set_state(made.learner.rng.get_state())
    loss = facmac.policy_loss(batch)
    wanted = torch.autograd.grad(loss, list(made.controller.parameters()), allow_unused=True, materialize_grads=True)
    data, _ = made.learner.gather(batch)
    torch.testing.assert_close(policy_gradient(made, data), flat(wanted), atol=1e-6, rtol=1e-4)
    assert flat(wanted).abs().max() > 1e-4


def mu(made: Session, batch: EpisodeBatch, noise: bool) -> Tensor:
    """Actions with a gradient: the means, or one-hots with the gradient of softmax(z + g)."""
    out = made.controller.unroll(batch)[:, :-1]
    if made.settings["mac"] == "gaussian_mac":
        return out[..., :2]
    avail = batch.avail[:, :-1] & (batch.mask[..., None, None] > 0)  # chunks have no actions on padding
    z = torch.where(usable(avail), out, -1e10)
    if noise:
        u = torch.rand(z.shape, generator=made.learner.rng)
        z = z - torch.log(-torch.log(u))
    soft = torch.softmax(z, -1)
    return one_hot(soft.argmax(-1), 4) + soft - soft.detach()


def test_between_the_limits_the_gradient_is_their_mixture() -> None:
    made = moved(session("maipg", mu_noise=False, entropy_coef=0.0, nu=0.3))
    data, _ = made.learner.gather(collected(made))
    grads = {}
    for nu in (0.0, 0.3, 1.0):
        made.learner.cfg = type(made.learner.cfg)(**vars(made.learner.cfg) | {"nu": nu})
        grads[nu] = policy_gradient(made, data)
    torch.testing.assert_close(grads[0.3], 0.7 * grads[0.0] + 0.3 * grads[1.0], atol=1e-6, rtol=1e-4)


# --- variance ---------------------------------------------------------------------------------------------------------


def test_a_linear_action_value_leaves_the_mean_and_takes_the_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    """AC-14: with Q linear in a Gaussian action, the mean gradient is w for every ν, its variance goes as (1-ν)²."""
    samples, w, log_std = 200_000, torch.tensor([1.5, -0.5]), torch.tensor([0.2, -0.4])
    rng, mean = torch.Generator().manual_seed(0), torch.tensor([0.3, -0.1])
    action = mean + log_std.exp() * torch.randn(samples, 1, 1, 2, generator=rng)
    advantage = (action - mean) @ w
    law = Gaussian(mean.expand_as(action), log_std.expand_as(action))
    part = experience(samples, 1, action=action, log_prob=law.log_prob(action), advantage=advantage)
    gradients = {}
    for nu in (0.0, 0.3, 0.5, 0.9):
        leaf = mean.expand_as(action).clone().requires_grad_()
        monkeypatch.setattr(
            "learners.maipg.policy", lambda *_, leaf=leaf: (Gaussian(leaf, log_std.expand_as(leaf)), part)
        )
        fake = SimpleNamespace(
            cfg=SimpleNamespace(nu=nu, clip=0.2, entropy_coef=0.0, mu_noise=True),
            rng=rng,
            controller=SimpleNamespace(agent=None),
            q=SimpleNamespace(total=lambda features, mu, state: (mu @ w)[..., 0]),
        )
        loss = MAIPG.policy_loss(fake, part, torch.zeros(samples, 1, 1, 1))[0]
        gradients[nu] = -samples * torch.autograd.grad(loss, leaf)[0].flatten(0, 2)
    for nu, gradient in gradients.items():
        assert gradient.mean(0).tolist() == pytest.approx(w.tolist(), abs=0.02)
        ratio = gradient.var(0) / gradients[0.0].var(0)
        assert ratio.tolist() == pytest.approx([(1 - nu) ** 2] * 2, rel=0.05)


def test_rvar_is_the_share_of_noise() -> None:
    """AC-15: rewards that are a sum over agents plus unit noise, and a Q̂ that knows the sum."""
    samples, n, a = 20_000, 3, 4
    rng = torch.Generator().manual_seed(1)
    table, logits = torch.randn(n, a, generator=rng), torch.randn(n, a, generator=rng)
    avail = torch.ones(samples, 1, n, a, dtype=torch.bool)
    pi = Categorical(logits.expand(samples, 1, n, a), avail)
    action = pi.sample(rng)
    value, spread = (logits.softmax(-1) * table).sum(), 0.0
    for i in range(n):
        p = logits[i].softmax(-1)
        spread += float((p * table[i].square()).sum() - (p * table[i]).sum().square())
    reward = table.expand(samples, 1, n, a).gather(-1, action[..., None]).sum((-1, -2))
    noisy = reward + torch.randn(samples, 1, generator=rng)
    part = experience(samples, n, action=action, returns=noisy[..., None], value=value.expand(samples, 1, 1))
    scale = SimpleNamespace(kept=lambda x: x, denormalise=lambda x: x)
    fake = SimpleNamespace(
        cfg=SimpleNamespace(rvar_samples=16),
        rng=rng,
        spec=SimpleNamespace(n_actions=a),
        value=SimpleNamespace(scale=scale),
        q=SimpleNamespace(total=lambda features, joint, state: (features * joint).sum((-1, -2))),
    )
    before = rng.get_state()
    got = float(MAIPG.rvar(fake, part, pi, table.expand(samples, 1, n, a)))
    share = 1 / (1 + spread)
    assert got == pytest.approx(share + (1 - share) / 16, rel=0.02), "the mean of 16 has a variance of its own"
    assert torch.equal(rng.get_state(), before), "training does not notice"


# --- targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, BOX])
@pytest.mark.parametrize("bootstrap", ["greedy", "sampled"])
def test_targets_in_plain_python(bootstrap: str, more: dict[str, Any]) -> None:
    """TD(λ) with the target networks at the likeliest, or the taken, actions; raw returns (T-40)."""
    made = learnt(session("maipg", bootstrap=bootstrap, tau=0.5, **more), 2)
    batch, learner = collected(made), made.learner
    moved(made)  # the target networks, too: they are parameters
    pi = made.controller.policy(made.controller.unroll(batch), batch.avail)
    state = learner.rng.get_state()
    got = learner.q_targets(batch, pi)
    learner.rng.set_state(state)
    drawn = pi.mode() if bootstrap == "greedy" else pi.sample(learner.rng)
    for e in range(len(batch)):
        steps = int(batch.length[e])
        chosen = drawn[e : e + 1, : steps + 1].clone()
        if bootstrap == "sampled":
            chosen[:, :steps] = made.controller.drawn(batch)[e, :steps]
        vector = chosen if more else one_hot(chosen, 4).float()
        states = batch.state[e : e + 1, : steps + 1]
        slow = learner.target.slow
        features, _ = slow(states, slow.initial_hidden(1), torch.tensor([steps + 1]))
        x = slow.total(features, vector, states)[0].tolist()
        y = x[steps]
        for t in reversed(range(steps)):
            end = bool(batch.terminated[e, t])
            ahead = 0.0 if end else (x[steps] if t == steps - 1 else 0.2 * x[t + 1] + 0.8 * y)
            y = float(batch.reward[e, t]) + 0.9 * ahead
            assert float(got[e, t]) == pytest.approx(y, abs=1e-4)
        assert (got[e, steps:] == 0).all()


def test_target_networks_follow_at_every_gradient_step() -> None:
    made = session("maipg", epochs=3, tau=0.25, lr=1e-9, critic_lr=1e-9)
    name, p = next((k, p) for k, p in made.learner.q.named_parameters() if "head.weight" in k)
    slow = dict(made.learner.target.slow.named_parameters())[name]
    with torch.no_grad():
        slow.zero_()
    learnt(made, 1)
    torch.testing.assert_close(slow, (1 - 0.75**3) * p.detach(), atol=1e-4, rtol=1e-3)


def test_the_action_value_learns_from_the_actions_taken() -> None:
    """(Q̂_tot(s, a) - M̂)², unscaled, mean over real steps; its gradient reaches networks and mixer."""
    made = moved(session("maipg", **WHOLE))
    batch = collected(made)
    data, _ = made.learner.gather(batch)
    features, _ = made.learner.q(data.state, data.q_memory, data.length)
    loss = made.learner.q_loss(data, features)
    total = made.learner.q.total(features, one_hot(batch.action, 4).float(), batch.state[:, :-1])
    errors = [(total[e, t] - data.q_target[e, t]).square().item() for e, t in batch.mask.nonzero().tolist()]
    assert loss.item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    gradients = torch.autograd.grad(loss, list(made.learner.q.parameters()))
    assert all(g.abs().max() > 0 for g in gradients)


def test_only_the_policy_follows_its_loss() -> None:
    """Q̂ and V are fixed in the actor's step."""
    made = moved(session("maipg", nu=0.5))
    data, _ = made.learner.gather(collected(made))
    before = {k: p.detach().clone() for k, p in made.learner.named_parameters()}
    features = made.learner.q(data.state, data.q_memory, data.length)[0].detach()
    made.learner.descend("policy", made.learner.policy_loss(data, features)[0])
    changed = {k.partition(".")[0] for k, p in made.learner.named_parameters() if not torch.equal(p, before[k])}
    assert changed == {"controller"}
