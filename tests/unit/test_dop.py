"""DOP and COMA: decomposition, tree backup, data sources and gradients by enumeration, by hand or by definition."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from by_hand import GAMMA, LENGTHS, A, N, batch, fitted, session
from core.config import ConfigError
from core.registry import CRITICS, MIXERS
from core.specs import ActionSpec, EnvSpec, EpisodeBatch
from rl.distributions import Categorical
from rl.masked import draw, taken
from rl.policy_gradient import counterfactual_advantage
from rl.returns import td_lambda, tree_backup

STATE, OBS = 7, 6


def spec() -> EnvSpec:
    return EnvSpec(actions=(ActionSpec(A),) * N, obs_dims=(OBS,) * N, state_dim=STATE, episode_limit=5)


def mixer(**args: object) -> torch.nn.Module:
    torch.manual_seed(1)
    return MIXERS["dop"](spec(), MIXERS["dop"].Config(**args))


def decomposed(**args: object) -> torch.nn.Module:
    torch.manual_seed(2)
    return CRITICS["decomposed"](spec(), mixer(), CRITICS["decomposed"].Config(critic_dim=16, **args))


def scene(b: int = 4, t: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """state, obs, action, pi, avail."""
    rng = torch.Generator().manual_seed(3)
    avail = torch.rand(b, t, N, A, generator=rng) < 0.7
    avail[..., 0] = True
    pi = torch.where(avail, torch.rand(b, t, N, A, generator=rng) + 0.1, 0.0)
    pi = pi / pi.sum(-1, keepdim=True)
    state, obs = torch.randn(b, t, STATE, generator=rng), torch.randn(b, t, N, OBS, generator=rng)
    return state, obs, draw(pi, rng), pi, avail


# ---------------------------------------------------------------- mixer and critic


def test_weights_are_an_average_and_the_derivatives() -> None:
    """AC-05."""
    net, (state, *_) = mixer(), scene()
    k, b = net.weights(state)
    assert (k >= 0).all()
    torch.testing.assert_close(k.sum(-1), torch.ones(4, 3))
    assert b.abs().min() > 0
    q = torch.randn(4, 3, N, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(q, state).sum(), q)
    torch.testing.assert_close(gradient, k)
    assert mixer(mixer_bias=False).weights(state)[1].abs().sum() == 0


def test_expectation_equals_enumeration() -> None:
    """AC-04."""
    net, (state, obs, _, pi, _) = decomposed(), scene()
    total = torch.zeros(4, 3)
    for joint in itertools.product(range(A), repeat=N):
        action = torch.tensor(joint).expand(4, 3, N)
        total += taken(pi, action).prod(-1) * net.q_tot(state, obs, action)
    rng = torch.Generator()
    torch.testing.assert_close(net.expected(state, obs, pi, rng), total)


@pytest.mark.parametrize("name", ["decomposed", "joint"])
def test_sampled_expectations_lie_within_their_error(name: str) -> None:
    state, obs, _, pi, _ = scene()
    torch.manual_seed(2)
    net = decomposed(expectation="sampled", joint_samples=4000)
    if name == "joint":
        net = CRITICS["joint"](spec(), None, CRITICS["joint"].Config(critic_dim=16, joint_samples=4000))
    mean, square = torch.zeros(4, 3), torch.zeros(4, 3)
    for joint in itertools.product(range(A), repeat=N):
        action = torch.tensor(joint).expand(4, 3, N)
        weight, value = taken(pi, action).prod(-1), net.q_tot(state, obs, action)
        mean, square = mean + weight * value, square + weight * value.square()
    error = ((square - mean.square()).clamp(min=0) / 4000).sqrt()
    found = net.expected(state, obs, pi, torch.Generator().manual_seed(0))
    assert ((found - mean).abs() <= 4 * error + 1e-6).all()
    assert (found - mean).abs().max() > 0


def test_advantages_by_enumeration() -> None:
    net, (state, obs, action, pi, avail) = decomposed(), scene()
    k = net.mixer.weights(state)[0]
    q = net.local(state, obs)
    by_hand = k * (taken(q, action) - (pi * q).sum(-1))
    found = net.advantage(state, obs, action, pi, avail, torch.Generator())
    torch.testing.assert_close(found, by_hand)
    assert not found.requires_grad


def test_the_decomposition_takes_the_noise_out_of_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """AC-31: DOP's game with uniform policies by enumeration. COMA's critic is exact, DOP's the best sum there is."""
    n, a = 3, 14
    action = torch.tensor(list(itertools.product(range(a), repeat=n)))[None]
    payoff = torch.full((a, a, a), -10.0)
    payoff[1, 5, 9] = 10
    pi, avail = torch.full((1, a**n, n, a), 1 / a), torch.ones(1, a**n, n, a, dtype=torch.bool)
    first, second, third = action[0].T
    exact = torch.stack([payoff[:, second, third].T, payoff[first, :, third], payoff[first, second]], 1)[None]
    coma = counterfactual_advantage(exact, pi, avail, action)
    big = EnvSpec(actions=(ActionSpec(a),) * n, obs_dims=(1,) * n, state_dim=1, episode_limit=1)
    critic = CRITICS["decomposed"](big, MIXERS["dop"](big, MIXERS["dop"].Config()), CRITICS["decomposed"].Config())
    state, obs = torch.ones(1, a**n, 1), torch.ones(1, a**n, n, 1)
    marginal = torch.stack([payoff.mean((1, 2)), payoff.mean((0, 2)), payoff.mean((0, 1))])
    local = (
        marginal / critic.mixer.weights(state)[0][0, 0, :, None]
    )  # k_i Q_i is the best sum's term, but for a constant
    monkeypatch.setattr(critic, "local", lambda state, obs: local.expand(1, len(state[0]), n, a))
    dop = critic.advantage(state, obs, action, pi, avail, torch.Generator())

    def variance(advantage: Tensor) -> Tensor:
        gradient = advantage[..., None] * (one_hot(action, a) - pi)
        return (gradient - gradient.mean(1)).square().sum()

    torch.testing.assert_close(coma.square().mean() / dop.square().mean(), torch.tensor(196.0), rtol=1e-4, atol=0)
    torch.testing.assert_close(variance(coma) / variance(dop), torch.tensor(212.25), rtol=1e-4, atol=0)


def test_local_values_are_one_network_of_state_observation_and_number() -> None:
    """Written out as in the release: one input for every agent, A outputs and one that all actions share."""
    net, (state, obs, *_) = decomposed().double(), scene()
    state, obs = state.double(), obs.double()
    ids = torch.eye(N, dtype=torch.double).expand(*obs.shape[:2], N, N)
    features = net.body(torch.cat([state[:, :, None].expand(-1, -1, N, -1), obs, ids], -1))
    expected = net.head(features) + net.shared(features)
    torch.testing.assert_close(net.local(state, obs), expected, rtol=1e-12, atol=1e-12)
    gradients = [
        torch.autograd.grad(q.square().sum(), list(net.body.parameters())) for q in (net.local(state, obs), expected)
    ]
    for got, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


def test_a_decomposed_critic_refuses_other_mixers() -> None:
    with pytest.raises(ConfigError, match="linear mixer"):
        session("dop", mixer="qmix")


# ---------------------------------------------------------------- targets


def completed(made: EpisodeBatch, pi: Tensor, rng: torch.Generator) -> Tensor:
    drawn = draw(pi, rng)
    for row, length in enumerate(made.length.tolist()):
        drawn[row, :length] = made.action[row, :length]
    return drawn


def test_targets_by_their_definition() -> None:
    made, data = session("dop", tb_steps=2), batch()
    learner = made.learner
    pi = learner.pi(data, 0)
    torch.testing.assert_close(pi.sum(-1), torch.ones(pi.shape[:-1]))
    rng = torch.Generator().manual_seed(0)
    rng.set_state(learner.rng.get_state())
    value = learner.target.slow.q_tot(data.state, data.obs, completed(data, pi, rng))
    expected = td_lambda(data.reward, data.terminated, data.mask, value, GAMMA, 0.8)
    torch.testing.assert_close(learner.on_policy_target(data, 0), expected)
    for row, length in enumerate(LENGTHS):
        one = learner.off_policy_target(data, 0)[row, :length]
        assert one.tolist() == pytest.approx(backup_of(learner, data, pi, row, length), abs=1e-5)


def backup_of(learner: torch.nn.Module, data: EpisodeBatch, pi: Tensor, row: int, length: int) -> list[float]:
    """Two-step tree backup of one episode, every expectation by enumeration."""
    slow = learner.target.slow

    def q(t: int, joint: tuple[int, ...]) -> float:
        place = (slice(row, row + 1), slice(t, t + 1))
        return float(slow.q_tot(data.state[place], data.obs[place], torch.tensor(joint).expand(1, 1, N)))

    def chance(t: int, joint: tuple[int, ...]) -> float:
        return float(torch.stack([pi[row, t, i, a] for i, a in enumerate(joint)]).prod())

    def v(t: int) -> float:
        return sum(chance(t, joint) * q(t, joint) for joint in itertools.product(range(A), repeat=N))

    def delta(t: int) -> float:
        goes_on = not bool(data.terminated[row, t])
        taken_here = tuple(data.action[row, t].tolist())
        return float(data.reward[row, t]) + GAMMA * goes_on * v(t + 1) - q(t, taken_here)

    out = []
    for t in range(length):
        total = q(t, tuple(data.action[row, t].tolist())) + delta(t)
        if t + 1 < length:
            total += GAMMA * 0.93 * chance(t + 1, tuple(data.action[row, t + 1].tolist())) * delta(t + 1)
        out.append(total)
    return out


def test_tree_backup_limits() -> None:
    """AC-06."""
    data = batch()
    rng = torch.Generator().manual_seed(0)
    q, v = torch.randn(4, 3, generator=rng), torch.randn(4, 4, generator=rng)
    one = tree_backup(data.reward, data.terminated, data.mask, q, v, torch.ones(4, 3), GAMMA, 1.0, 1)
    ahead = torch.where(data.terminated, 0.0, v[:, 1:])
    torch.testing.assert_close(one, (data.reward + GAMMA * ahead) * data.mask)
    same = torch.cat([q, v[:, 3:]], 1)
    follows = tree_backup(data.reward, data.terminated, data.mask, q, same, torch.ones(4, 3), GAMMA, 1.0, 3)
    sums = td_lambda(data.reward, data.terminated, data.mask, same, GAMMA, 1.0)
    torch.testing.assert_close(follows, sums)


# ---------------------------------------------------------------- losses


@pytest.mark.parametrize(("name", "other"), [("dop_on", "off"), ("dop_off", "on")])
def test_kappa_chooses_the_source(name: str, other: str) -> None:
    """AC-07."""
    learner = session(name).learner
    on, off = batch(seed=1), batch(seed=2)
    changed = {"on": on, "off": off} | {other: batch(seed=3)}

    def loss(on: EpisodeBatch, off: EpisodeBatch) -> Tensor:
        y = torch.zeros_like(on.reward)
        return learner.critic_loss(fitted(on, y, off, y), slice(None))

    assert torch.equal(loss(on, off), loss(**changed))
    mine = {"on": on, "off": off} | {"on" if other == "off" else "off": batch(seed=3)}
    assert not torch.equal(loss(on, off), loss(**mine))


def test_without_kappa_every_step_counts_the_same() -> None:
    learner = session("dop", kappa=None).learner
    on, off = batch(seed=1), batch((3, 3, 3, 3), (True,) * 4, seed=2)
    y = torch.zeros(4, 3)
    errors = [learner.critic.q_tot(x.state[:, :-1], x.obs[:, :-1], x.action).square() * x.mask for x in (on, off)]
    by_hand = (errors[0].sum() + errors[1].sum()) / (on.mask.sum() + off.mask.sum())
    torch.testing.assert_close(learner.critic_loss(fitted(on, y, off, y), slice(None)), by_hand)


def test_steps_in_sequence_cover_every_step_once() -> None:
    learner = session("dop").learner
    on, off = batch((2, 1, 1, 1), (True,) * 4), batch()
    y_on, y_off = torch.randn(4, 2), torch.randn(4, 3)
    fit = fitted(on, y_on, off, y_off)
    steps = list(fit.steps("sequence"))
    real = [int(on.mask[:, t].sum() + off.mask[:, t].sum()) for t in range(2)] + [int(off.mask[:, 2].sum())]
    assert fit.counts == real and [at.stop - at.start for at in steps] == real and steps[0].start == 0
    assert torch.isfinite(learner.critic_loss(fit, steps[2])), "no on-policy step is left"
    q = learner.critic.q_tot(off.state[:, 1:2], off.obs[:, 1:2], off.action[:, 1:2])[:, 0]
    alive = off.mask[:, 1]
    by_hand = 0.5 * ((q - y_off[:, 1]).square() * alive).sum() / alive.sum()
    q = learner.critic.q_tot(on.state[:, 1:2], on.obs[:, 1:2], on.action[:, 1:2])[:, 0]
    alive = on.mask[:, 1]
    by_hand += 0.5 * ((q - y_on[:, 1]).square() * alive).sum() / alive.sum()
    torch.testing.assert_close(learner.critic_loss(fit, steps[1]), by_hand)


def policy_gradient_of(name: str, others: Tensor, agent: int) -> list[Tensor]:
    """The gradient of one agent's part of the policy loss, with the other agents' actions replaced by ``others``."""
    made, data = session(name), batch((3, 3, 3, 3), (True,) * 4)
    data.avail[:] = True
    action = torch.where(torch.arange(N) == agent, data.action, others)
    data = dataclasses.replace(data, action=action, obs=data.obs.clone())
    learner = made.learner
    if name == "coma":
        inputs = learner.critic_inputs(data, torch.cat([action, action[:, -1:]], 1))
        q = learner.critic(*inputs)[:, :-1].detach()
        inputs_without_memory = dataclasses.replace(data, action=batch((3, 3, 3, 3), (True,) * 4).action)
    else:
        inputs_without_memory = dataclasses.replace(data, action=batch((3, 3, 3, 3), (True,) * 4).action)
        q = learner.critic.local(data.state[:, :-1], data.obs[:, :-1]).detach()
    pi = learner.controller.behaviour(learner.controller.unroll(inputs_without_memory)[:, :-1], data.avail[:, :-1], 0)
    advantage = taken(q, action) - (pi.detach() * q).sum(-1)
    own = (-advantage * taken(pi, action).log())[..., agent].mean()
    return list(torch.autograd.grad(own, list(learner.controller.parameters())))


def test_an_agents_gradient_does_not_depend_on_what_the_others_did() -> None:
    """AC-03."""
    first, second = (torch.randint(A, (4, 3, N), generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    same = [policy_gradient_of("dop", others, 1) for others in (first, second)]
    assert all(torch.equal(a, b) for a, b in zip(*same, strict=True))
    different = [policy_gradient_of("coma", others, 1) for others in (first, second)]
    assert any(not torch.equal(a, b) for a, b in zip(*different, strict=True)), "COMA's does, which is DOP's point"


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_policy_loss_by_hand(weight: float) -> None:
    made, data = session("dop", entropy_coef=weight), batch()
    learner = made.learner
    pi = learner.pi(data, 0)[:, :-1]
    entropy = Categorical(made.controller.unroll(data)[:, :-1], data.avail[:, :-1]).entropy()
    advantage = learner.critic.advantage(
        data.state[:, :-1], data.obs[:, :-1], data.action, pi, data.avail[:, :-1], learner.rng
    )
    total = torch.zeros(())
    for row, length in enumerate(LENGTHS):
        for t in range(length):
            for i in range(N):
                total -= advantage[row, t, i] * pi[row, t, i, data.action[row, t, i]].log()
                total -= weight * entropy[row, t, i]
    torch.testing.assert_close(learner.policy_loss(data, 0), total / (sum(LENGTHS) * N))


def test_exploration_mixes_the_uniform_policy_in() -> None:
    made = session("dop", epsilon_start=0.5, epsilon_finish=0.1, epsilon_anneal_time=100)
    logits, avail = torch.tensor([[0.0, 0.0, 5.0, 1.0]]), torch.tensor([[True, True, False, True]])
    pi = torch.softmax(torch.tensor([0.0, 0.0, -torch.inf, 1.0]), -1)
    for t_env, epsilon in ((0, 0.5), (50, 0.3), (1000, 0.1)):
        by_hand = (1 - epsilon) * pi + epsilon * torch.tensor([1 / 3, 1 / 3, 0, 1 / 3])
        torch.testing.assert_close(made.controller.behaviour(logits, avail, t_env)[0], by_hand)


# ---------------------------------------------------------------- replay, COMA


def test_uniform_among_the_newest() -> None:
    """AC-07."""
    made = session("dop", buffer_size=12)
    for number in range(20):  # the ring goes round
        one = batch((1,), (True,), seed=number)
        made.replay.add(dataclasses.replace(one, reward=torch.full((1, 1), float(number))))
    assert made.replay.latest(5).reward[:, 0].tolist() == [15, 16, 17, 18, 19]
    drawn = torch.cat([made.replay.uniform(3, newest=5).reward[:, 0] for _ in range(60)])
    assert set(drawn.tolist()) == {15, 16, 17, 18, 19}
    assert set(torch.cat([made.replay.uniform(6).reward[:, 0] for _ in range(60)]).tolist()) == set(range(8, 20))


def test_comas_critic_does_not_see_the_own_action() -> None:
    learner, data = session("coma").learner, batch((3,), (True,))
    action = torch.cat([data.action, data.action[:, -1:]], 1)
    before = learner.critic(*learner.critic_inputs(data, action))
    changed = action.clone()
    changed[:, :, 1] = (changed[:, :, 1] + 1) % A
    after = learner.critic(*learner.critic_inputs(data, changed))
    assert torch.equal(before[:, :, 1], after[:, :, 1])
    assert not torch.equal(before[:, :, 0], after[:, :, 0])


def test_coma_learns_backwards_and_improves_on_values_from_before() -> None:
    made, data = session("coma"), batch()
    learner = made.learner
    states = data.packed()
    assert states.alive == [4, 4, 3, 1], "of whom the last ones of each time did not act"
    inputs = learner.critic_inputs(states, states.action)
    initial = learner.critic(*inputs).detach()
    before = torch.full_like(initial, torch.nan)
    losses = learner.critic_losses(states, inputs, torch.zeros(12, 1, N), before)
    learner.descend_each("critic", losses, learner.target)
    torch.testing.assert_close(before[8:9], initial[8:9])
    assert not torch.isclose(before[4:7], initial[4:7]).all(), "the step of t=2 has been made"
    seen = ~before.isnan().all(-1).all(-1)[:, 0]
    assert seen.nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 8] and torch.equal(seen, states.mask[:, 0] > 0)
    assert learner.target.count == 3


def test_coma_refuses_other_ways_of_acting() -> None:
    with pytest.raises(ConfigError, match="'mac' is 'basic_mac', but coma needs mac=policy_mac"):
        session("coma", mac="basic_mac")


def test_coma_waits_for_fresh_episodes() -> None:
    made = session("coma", batch_size=2, buffer_size=2)
    made.replay.add(batch((1, 1), (True, True)))
    assert made.learner.ready(made.replay)
    made.learner.update(made.replay, 0)
    assert not made.learner.ready(made.replay)
    made.replay.add(batch((1,), (True,)))
    assert not made.learner.ready(made.replay)
    made.replay.add(batch((1,), (True,)))
    assert made.learner.ready(made.replay)
