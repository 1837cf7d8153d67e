"""MADDPG, FACMAC and deterministic DOP: gradients, targets, delays, slow copies, and what they refuse (AC-08)."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

import by_hand
from by_hand import LENGTHS, TERMINATED, A, N
from core.config import COMMAND_LINE, ConfigError, Settings, load, merge, resolve
from core.specs import EpisodeBatch
from rl.masked import usable
from run import Session, build

BOX: dict[str, Any] = {"env_args": {"box": True}}
OWN: dict[str, Any] = {"env_args": {"individual": True}}
OWN_BOX: dict[str, Any] = {"env_args": {"box": True, "individual": True}}
MADDPG = [("maddpg", {}), ("maddpg", OWN), ("maddpg_continuous", BOX), ("maddpg_continuous", OWN_BOX)]
MIXED = [("facmac", {}), ("facmac", {"mixer": "vdn"}), ("facmac_continuous", BOX), ("dop_deterministic", BOX)]
EVERY = MADDPG + MIXED


def session(name: str, **more: Any) -> Session:
    """A session whose policies, the slow ones too, are away from the centres of their boxes, where they begin."""
    made, rng = by_hand.session(name, **more), torch.Generator().manual_seed(4)
    with torch.no_grad():
        for key, p in made.controller.named_parameters():
            if "head" in key:
                p.copy_(torch.randn(p.shape, generator=rng))
    made.learner.target.slow[0].load_state_dict(made.controller.state_dict())
    return made


def episodes(made: Session) -> EpisodeBatch:
    """Random episodes with the session's kind of actions and rewards."""
    found, rng = by_hand.batch(), torch.Generator().manual_seed(3)
    if not made.env.spec.discrete:
        action = 2 * torch.rand(*found.mask.shape, N, A, generator=rng) - 1
        found = replace(found, action=action * found.mask[..., None, None])
    if made.env.spec.reward == "individual":
        reward = torch.randn(*found.mask.shape, N, generator=rng)
        found = replace(found, reward=reward * found.mask[..., None])
    return found


def real(batch: EpisodeBatch) -> list[tuple[int, int]]:
    return [(e, t) for e in range(len(batch)) for t in range(LENGTHS[e])]


def vectors(batch: EpisodeBatch) -> Tensor:
    return batch.action if batch.action.is_floating_point() else one_hot(batch.action, A).float()


def mu(made: Session, batch: EpisodeBatch, rng: torch.Generator | None) -> Tensor:
    """Actions with a gradient: tanh in the toy's box, one-hots with the gradient of softmax(z + g) otherwise."""
    out = made.controller.unroll(batch)[:, :-1]
    if not made.env.spec.discrete:
        return out.tanh()
    z = torch.where(usable(batch.avail[:, :-1]), out, -1e10)
    if rng is not None:
        z = z - torch.log(-torch.log(torch.rand(z.shape, generator=rng)))
    soft = torch.softmax(z, -1)
    return one_hot(soft.argmax(-1), A) + soft - soft.detach()


def central(critic: Any, state: Tensor, joint: list[Tensor], i: int) -> Tensor:
    """Q_i of one state and one action per agent."""
    x = torch.cat([state, *joint])
    if not critic.per_agent:
        return critic.net(x)[0]
    return critic.net.single({name: p[i] for name, p in critic.net.state().items()}, x)[0]


def flat(gradients: Any) -> Tensor:
    return torch.cat([g.flatten() for g in gradients])


def gradient(loss: Tensor, made: Session) -> Tensor:
    return flat(torch.autograd.grad(loss, list(made.controller.parameters())))


# --- policies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "more"), MADDPG)
def test_maddpg_replaces_one_action_at_a_time(name: str, more: dict[str, Any]) -> None:
    """-mean_i Q_i(s, a_1, …, μ_i, …, a_N), the others' actions from the replay, agent by agent."""
    made = session(name, regulariser=0.0, **more)
    batch, learner = episodes(made), made.learner
    before = learner.rng.get_state()
    got = gradient(learner.policy_loss(batch), made)
    learner.rng.set_state(before)
    own, taken = mu(made, batch, learner.rng), vectors(batch)
    total = torch.zeros(())
    for e, t in real(batch):
        for i in range(N):
            joint = [own[e, t, j] if j == i else taken[e, t, j] for j in range(N)]
            total = total + central(learner.critic, batch.state[e, t], joint, i)
    torch.testing.assert_close(got, gradient(-total / (N * len(real(batch))), made), atol=1e-7, rtol=1e-4)
    assert got.abs().max() > 1e-5


@pytest.mark.parametrize(("name", "more"), MIXED)
def test_facmac_and_dop_choose_all_actions_anew(name: str, more: dict[str, Any]) -> None:
    """-mean Q_tot(s, μ_1, …, μ_N); DOP's b(s) has no part in the gradient."""
    made = session(name, regulariser=0.0, **more)
    batch, learner = episodes(made), made.learner
    before = learner.rng.get_state()
    got = gradient(learner.policy_loss(batch), made)
    learner.rng.set_state(before)
    own, total = mu(made, batch, learner.rng), torch.zeros(())
    for e, t in real(batch):
        state, obs = batch.state[e : e + 1, t : t + 1], batch.obs[e : e + 1, t : t + 1]
        q = learner.critic.local(state, obs, own[e : e + 1, t : t + 1])
        total = total + learner.critic.mixer(q, state)[0, 0]
    torch.testing.assert_close(got, gradient(-total / len(real(batch)), made), atol=1e-7, rtol=1e-4)
    assert got.abs().max() > 1e-5


def test_dops_gradient_by_finite_differences() -> None:
    """AC-08: Σ_i k_i(s) ∇μ_i ∇_{a_i} Q_i(s, a_i), with ∂Q_i/∂a_i from differences of Q_i."""
    made = session("dop_deterministic", **BOX)
    batch, learner = episodes(made), made.learner.double()
    batch = batch.map(lambda x: x.double() if x.is_floating_point() else x)
    got = gradient(learner.policy_loss(batch), made)
    own = made.controller.unroll(batch)[:, :-1].tanh()
    state, obs, local = batch.state[:, :-1], batch.obs[:, :-1], learner.critic.local
    k, slope, eps = learner.critic.mixer.weights(state)[0], torch.zeros_like(own), 1e-5
    with torch.no_grad():
        for d in range(A):
            step = eps * one_hot(torch.tensor(d), A).double()
            slope[..., d] = (local(state, obs, own + step) - local(state, obs, own - step)) / (2 * eps)
    weight = -(k * batch.mask[..., None] / batch.mask.sum()).detach().unsqueeze(-1) * slope.detach()
    by_differences = torch.autograd.grad(own, list(made.controller.parameters()), weight)
    torch.testing.assert_close(got, flat(by_differences), atol=1e-9, rtol=1e-4)
    assert got.abs().max() > 1e-5


@pytest.mark.parametrize(("name", "more"), EVERY)
@pytest.mark.parametrize("step", ["policy", "critic"])
def test_a_step_moves_its_own_networks_only(name: str, more: dict[str, Any], step: str) -> None:
    """AC-08: the policies' step changes no parameter of critic or mixer, nor the slow copies, and vice versa."""
    made = session(name, **more)
    batch, learner = episodes(made), made.learner
    before = {key: p.detach().clone() for key, p in learner.named_parameters()}
    loss = learner.policy_loss(batch) if step == "policy" else learner.critic_loss(batch)[0]
    learner.descend(step, loss)
    moved = {key.partition(".")[0] for key, p in learner.named_parameters() if not torch.equal(p, before[key])}
    assert moved == {"controller" if step == "policy" else "critic"}


def test_without_noise_nothing_is_drawn() -> None:
    made = session("facmac", mu_noise=False)
    before = made.learner.rng.get_state()
    made.learner.policy_loss(episodes(made))
    made.learner.targets(episodes(made))
    assert torch.equal(made.learner.rng.get_state(), before)
    noisy = session("facmac")
    noisy.learner.policy_loss(episodes(noisy))
    assert not torch.equal(noisy.learner.rng.get_state(), before)


@pytest.mark.parametrize(("name", "more"), [("maddpg", {}), ("facmac_continuous", BOX)])
def test_the_regulariser(name: str, more: dict[str, Any]) -> None:
    """c mean z², over available logits only, or of the actions."""
    plain, made = (session(name, mu_noise=False, regulariser=c, **more) for c in (0.0, 0.5))
    batch = episodes(made)
    out, total = made.controller.unroll(batch)[:, :-1], 0.0
    for e, t in real(batch):
        for i in range(N):
            seen = batch.avail[e, t, i] if not more else torch.ones(A, dtype=torch.bool)
            z = out[e, t, i] if not more else out[e, t, i].tanh()
            total += z[seen].square().mean().item() / (N * len(real(batch)))
    difference = made.learner.policy_loss(batch) - plain.learner.policy_loss(batch)
    assert difference.item() == pytest.approx(0.5 * total, rel=1e-4) and total > 1e-3


@pytest.mark.parametrize(("name", "more"), EVERY)
def test_padding_does_not_count(name: str, more: dict[str, Any]) -> None:
    made = session(name, mu_noise=False, **more)
    batch = episodes(made)
    state = torch.arange(batch.state.shape[1]) > batch.length[:, None]
    other = replace(
        batch,
        state=batch.state.masked_fill(state[..., None], 1e3),
        obs=batch.obs.masked_fill(state[..., None, None], -1e3),
        reward=batch.reward.masked_fill(state[:, 1:].view(*state[:, 1:].shape, *[1] * (batch.reward.dim() - 2)), 1e3),
    )
    for loss in (made.learner.policy_loss, lambda x: made.learner.critic_loss(x)[0]):
        torch.testing.assert_close(loss(batch), loss(other))


# --- critics ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("lam", [0.0, 0.8])
@pytest.mark.parametrize(("name", "more"), EVERY)
def test_targets_by_hand(name: str, more: dict[str, Any], lam: float, sampled: bool) -> None:
    """TD(λ) of the slow critic at the slow policies' actions; 0 beyond a true end, the value beyond a cut."""
    keys = {"sample": "episodes", "td_lambda": lam, "target_action": "sampled" if sampled else "greedy"}
    made = session(name, **keys, **more)
    batch, learner = episodes(made), made.learner
    before = learner.rng.get_state()
    got = learner.targets(batch)
    learner.rng.set_state(before)
    controller, critic = learner.target.slow
    out = controller.unroll(batch)
    if not made.env.spec.discrete:
        action = out.tanh()
    else:
        z = torch.where(usable(batch.avail), out, -1e10)
        noise = -torch.log(-torch.log(torch.rand(z.shape, generator=learner.rng))) if sampled else 0.0
        action = one_hot((z + noise).argmax(-1), A).float()
    for e, steps in enumerate(LENGTHS):
        states = slice(0, steps + 1)
        value = critic(batch.state[e : e + 1, states], batch.obs[e : e + 1, states], action[e : e + 1, states])[0]
        for i in range(N if value.dim() == 2 else 1):
            column = value[:, i] if value.dim() == 2 else value
            reward = batch.reward[e, :steps, i] if batch.reward.dim() == 3 else batch.reward[e, :steps]
            want = by_hand.returns(reward.tolist(), TERMINATED[e], column.tolist(), lam)
            mine = got[e, :steps, i] if got.dim() == 3 else got[e, :steps]
            assert mine.tolist() == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize(("name", "more"), EVERY)
def test_the_critics_loss(name: str, more: dict[str, Any]) -> None:
    """mean (Q(s, a) - y)² over real steps, and agents with critics of their own; the taken actions."""
    made = session(name, **more)
    batch, learner = episodes(made), made.learner
    y, taken, errors = learner.targets(batch), vectors(batch), []
    for e, t in real(batch):
        state, obs = batch.state[e : e + 1, t : t + 1], batch.obs[e : e + 1, t : t + 1]
        if name.startswith("maddpg"):
            joint = list(taken[e, t])
            q = [central(learner.critic, batch.state[e, t], joint, i) for i in range(N if y.dim() == 3 else 1)]
        else:
            q = [learner.critic.mixer(learner.critic.local(state, obs, taken[e : e + 1, t : t + 1]), state)[0, 0]]
        errors += [(x.item() - w) ** 2 for x, w in zip(q, y[e, t].reshape(-1).tolist(), strict=True)]
    loss, metrics = learner.critic_loss(batch)
    assert loss.item() == pytest.approx(sum(errors) / len(errors), rel=1e-4)
    mean = sum(y[e, t].mean().item() for e, t in real(batch)) / len(real(batch))
    assert metrics["target_mean"].item() == pytest.approx(mean, abs=1e-5)


def test_every_agents_critic_learns_from_its_own_reward() -> None:
    """Weights of one's own: another reward for agent 1 changes the gradient of its critic, and of no other."""
    made = session("maddpg", **OWN)
    batch, critic = episodes(made), made.learner.critic
    assert critic.per_agent and all(len(p) == N for p in critic.parameters())
    assert not torch.equal(critic.net.stack[0][0], critic.net.stack[0][1])

    def gradients(reward: Tensor) -> list[Tensor]:
        loss, _ = made.learner.critic_loss(replace(batch, reward=reward))
        return list(torch.autograd.grad(loss, list(critic.parameters())))

    other = batch.reward.clone()
    other[..., 1] += batch.mask
    for one, two in zip(gradients(batch.reward), gradients(other), strict=True):
        assert [torch.allclose(one[i], two[i], atol=1e-8) for i in range(N)] == [True, False, True]


def test_one_reward_may_have_critics_of_ones_own_and_one_critic_does_by_default() -> None:
    assert not session("maddpg").learner.critic.per_agent
    made = session("maddpg", critic_per_agent=True)
    assert made.learner.critic_loss(episodes(made))[0] > 0 and made.learner.critic.per_agent


# --- the order of steps -----------------------------------------------------------------------------------------------


def filled(name: str, **more: Any) -> Session:
    made = session(name, **{"batch_size": 4, "batch_size_run": 4} | more)
    while not made.learner.ready(made.replay):
        made.replay.add(made.runner.collect(t_env=0, mode="explore").episodes)
    return made


def state(module: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_policies_and_slow_copies_wait_for_every_second_step() -> None:
    made = filled("dop_deterministic", tau=0.1, **BOX)
    learner = made.learner
    watched = [made.controller, learner.target.slow, learner.critic]
    for update in range(1, 5):
        before = [state(module) for module in watched]
        metrics = learner.update(made.replay, 0)
        moved = [not torch.equal(x, state(module)) for x, module in zip(before, watched, strict=True)]
        due = update % 2 == 0
        assert moved == [due, due, True] and ("policy_loss" in metrics) == due
        if due:  # both were learnt before the slow copies follow
            online = torch.cat([state(made.controller), state(learner.critic)])
            torch.testing.assert_close(state(learner.target.slow), 0.9 * before[1] + 0.1 * online)
    twin = filled("dop_deterministic", tau=0.1, **BOX)
    learner.update(made.replay, 0)
    twin.learner.load_state_dict(copy.deepcopy(learner.state_dict()))
    assert "policy_loss" in twin.learner.update(made.replay, 0), "the delay is part of the state"


def test_slow_copies_that_are_copied_whole_count_the_critics_steps() -> None:
    made = filled("facmac", target_update_interval=4, policy_delay=2)
    for update in range(1, 9):
        before = state(made.learner.target.slow)
        made.learner.update(made.replay, 0)
        online = torch.cat([state(made.controller), state(made.learner.critic)])
        slow = state(made.learner.target.slow)
        assert torch.equal(slow, online if update % 4 == 0 else before)


@pytest.mark.parametrize("separate", [False, True])
def test_agents_may_have_networks_of_their_own(separate: bool) -> None:
    made = filled("maddpg_continuous", share_parameters=not separate, **OWN_BOX)
    metrics = made.learner.update(made.replay, 0)
    assert all(torch.isfinite(x) for x in metrics.values())
    assert all(len(p) == N for p in made.controller.parameters()) == separate


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("facmac_continuous", BOX | {"mac": "gaussian_mac"}, "choose policy_mac for numbered"),
        ("facmac", {"mac": "basic_mac"}, "choose policy_mac for numbered"),
        ("facmac", {"mac": "conditional_mac"}, "choose policy_mac for numbered"),
        ("facmac", {"sample": "transitions", "td_lambda": 0.0}, "choose agent=mlp last_action=False"),
        ("maddpg", {"last_action": True}, "choose agent=mlp last_action=False"),
        ("maddpg", {"td_lambda": 0.5}, "needs sample=episodes"),
        ("facmac", {"mixer": "qplex"}, "choose qmix, vdn, dop or linear"),
        ("facmac", {"mixer": "fop"}, "choose qmix, vdn, dop or linear"),
        ("dop_deterministic", BOX | {"mixer": "qmix"}, "choose dop or linear"),
        ("dop_deterministic", BOX | {"critic": "joint_action"}, "Choose one of: local"),
        ("maddpg", {"critic": "local"}, "Choose one of: joint_action"),
        ("maddpg", OWN | {"critic_per_agent": False}, "needs one team reward"),
        ("facmac", OWN, "needs one team reward"),
        ("dop_deterministic", OWN_BOX, "needs one team reward"),
        ("maddpg", {"buffer_size": 3, "buffer_steps": None, "batch_size": 16}, "raise buffer_size"),
        ("maddpg", {"buffer_steps": 15, "batch_size": 16}, "at most buffer_steps=15"),
        ("dop_deterministic", BOX | {"policy_delay": 0}, "policy_delay must be at least 1"),
        ("maddpg", BOX, "mac=gaussian_mac and mac=deterministic_mac"),
        ("facmac_continuous", {}, "for discrete ones there is mac=policy_mac"),
    ],
)
def test_misfits_are_refused_with_a_remedy(name: str, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(chosen(name, more))


def chosen(name: str, more: dict[str, Any]) -> Settings:
    """The settings, where ``more`` replaces components as the command line does, without the replaced ones' keys."""
    config = load(by_hand.ALGS / f"{name}.yaml") | {"env": "toy"}
    return resolve(merge(config, more), dict.fromkeys(config, "the file") | dict.fromkeys(more, COMMAND_LINE))


@pytest.mark.parametrize("share", [True, False])
def test_policies_begin_at_the_centres_of_their_boxes(share: bool) -> None:
    made = by_hand.session("dop_deterministic", share_parameters=share, **BOX)
    batch = episodes(made)
    action = made.controller.policy(made.controller.unroll(batch), batch.avail).mode()
    assert torch.equal(action, torch.zeros_like(action))
