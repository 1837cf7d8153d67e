"""MAAC and MA-AC, and the critics of agents that learn side by side: against loops, and agreement on a mean (AC-26)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import leaky_relu, linear, one_hot

import by_hand
from by_hand import LENGTHS, A, N
from core.config import ConfigError
from core.specs import ActionSpec, EnvSpec, EpisodeBatch, valid_mask
from modules.critics.attention import AttentionCritic
from modules.critics.own_obs import OwnObsCritic
from modules.critics.whole import WholeConfig, WholeCritic
from modules.critics.whole_own import WholeOwnCritic
from modules.normaliser import RewardNorm
from modules.stacked import StackedAdam
from rl.distributions import Categorical
from run import Session

SPEC = EnvSpec(actions=(ActionSpec(A),) * N, obs_dims=(6, 5, 6), state_dim=7, episode_limit=5, reward="individual")


def session(name: str, **more: Any) -> Session:
    made = by_hand.session(
        name, critic_dim=8, buffer_size=40, standardise_rewards=False, **({"env_args": {"individual": True}} | more)
    )
    rng = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in made.controller.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=rng))
    return made


def episodes() -> EpisodeBatch:
    found, rng = by_hand.batch(), torch.Generator().manual_seed(3)
    reward = torch.randn(*found.mask.shape, N, generator=rng) * found.mask[..., None]
    return replace(found, reward=reward)


def steps() -> list[tuple[int, int]]:
    return [(row, t) for row, length in enumerate(LENGTHS) for t in range(length)]


def inputs(observers: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    obs = torch.randn(2, 3, N, 6, generator=rng).masked_fill(~SPEC.obs_mask, 0)
    return obs, one_hot(torch.randint(A, (2, 3, observers, N), generator=rng), A).float()


def dense(layer: Any, k: int, x: Tensor) -> Tensor:
    """Layer k of stacked ones, by itself."""
    return linear(x, layer.weight[k].T, None if layer.bias is None else layer.bias[k])


@pytest.mark.parametrize("observers", [1, N])
@pytest.mark.parametrize("agent_id", [True, False])
def test_whole_critics_are_n_networks(observers: int, agent_id: bool) -> None:
    critic = WholeCritic(SPEC, WholeConfig(critic_dim=8, critic_agent_id=agent_id))
    obs, joint = inputs(observers)
    q = critic(obs, joint).q
    for i in range(N):
        seen = torch.cat([obs[..., 0, :6], obs[..., 1, :5], obs[..., 2, :6]], -1)
        parts = [seen, joint[:, :, min(i, observers - 1)].flatten(2)]
        if agent_id:
            parts.append(one_hot(torch.tensor(i), N).float().expand(2, 3, N))
        x = leaky_relu(dense(critic.net.first, i, torch.cat(parts, -1)))
        expected = dense(critic.net.head, i, leaky_relu(dense(critic.net.second, i, x))).squeeze(-1)
        assert torch.allclose(q[:, :, i], expected, atol=1e-6)


@pytest.mark.parametrize("critic", ["whole_own", "attention", "copies", "own_obs"])
def test_an_agents_own_action_is_not_read(critic: str) -> None:
    made = {
        "whole_own": lambda: WholeOwnCritic(SPEC, WholeConfig(critic_dim=8)),
        "attention": lambda: AttentionCritic(SPEC, AttentionCritic.Config(critic_dim=8)),
        "copies": lambda: AttentionCritic(SPEC, AttentionCritic.Config(critic_dim=8, attention_copies=True)),
        "own_obs": lambda: OwnObsCritic(SPEC, OwnObsCritic.Config(critic_dim=8)),
    }[critic]()
    obs, joint = inputs(1)
    other = joint.clone()
    other[:, :, :, 1] = other[:, :, :, 1].roll(1, -1)
    before, after = made(obs, joint).q, made(obs, other).q
    assert before.shape == (2, 3, N, A)
    assert torch.allclose(before[:, :, 1], after[:, :, 1])
    if critic != "own_obs":
        assert not torch.allclose(before[:, :, 0], after[:, :, 0])


@pytest.mark.parametrize(("copies", "observers"), [(False, 1), (True, 1), (True, N)])
def test_attention_against_a_loop(copies: bool, observers: int) -> None:
    cfg = AttentionCritic.Config(critic_dim=8, attention_heads=2, attention_copies=copies, attention_regulariser=0.5)
    critic, (obs, joint) = AttentionCritic(SPEC, cfg), inputs(observers)
    worth = critic(obs, joint)
    assert worth.cost is not None
    for i in range(N):
        mine = i if copies else 0
        own = leaky_relu(dense(critic.own, i, obs[:, :, i]))
        query = dense(critic.query, mine, own).unflatten(-1, (2, 4))
        keys, values = [], []
        for j in range(N):
            x = torch.cat([obs[:, :, j], joint[:, :, min(i, observers - 1), j]], -1)
            if copies:
                x = torch.cat([x, one_hot(torch.tensor(j), N).float().expand(2, 3, N)], -1)
            e = leaky_relu(dense(critic.other, i if copies else j, x))
            keys.append(dense(critic.key, mine, e).unflatten(-1, (2, 4)))
            values.append(leaky_relu(dense(critic.value, mine, e)).unflatten(-1, (2, 4)))
        others = [j for j in range(N) if j != i]
        logits = torch.stack([(query * keys[j]).sum(-1) for j in others], -1)
        weight = torch.softmax(logits / 2, -1)  # sqrt of 4
        context = sum(weight[..., k, None] * values[j] for k, j in enumerate(others)).flatten(2)
        x = leaky_relu(dense(critic.first, i, torch.cat([own, context], -1)))
        assert torch.allclose(worth.q[:, :, i], dense(critic.head, i, x), atol=1e-5)
        assert torch.allclose(worth.cost[:, :, i], 0.5 * logits.square().mean(-1).sum(-1), atol=1e-5)


def test_a_single_agent_attends_to_nobody() -> None:
    alone = EnvSpec(actions=(ActionSpec(A),), obs_dims=(6,), state_dim=6, episode_limit=5)
    worth = AttentionCritic(alone, AttentionCritic.Config(critic_dim=8))(
        torch.randn(2, 3, 1, 6), torch.zeros(2, 3, 1, 1, A)
    )
    assert worth.q.isfinite().all() and not worth.cost.any()


@pytest.mark.parametrize("limit", [None, 2.0])
def test_far_away_places_are_cut(limit: float | None) -> None:
    """T-56: a place at -999 is as good as one at the limit."""
    critic = OwnObsCritic(SPEC, OwnObsCritic.Config(critic_dim=8, obs_clip=limit))
    obs, joint = inputs(1)
    far, near = obs.clone(), obs.clone()
    far[..., 0], near[..., 0] = -999.0, -2.0
    assert torch.allclose(critic(far, joint).q, critic(near, joint).q) == (limit is not None)


def test_stacked_adam_moves_only_those_whose_turn_it_is() -> None:
    """Like torch's own, one for each network, each with its own count of steps."""
    rng = torch.Generator().manual_seed(0)
    stack = torch.nn.Parameter(torch.randn(3, 4, generator=rng))
    singles = [stack.detach()[k].clone().requires_grad_() for k in range(3)]
    stacked, each = StackedAdam([stack], 0.1, 1e-8), [torch.optim.Adam([p], lr=0.1) for p in singles]
    for step in range(6):
        gradient = torch.randn(3, 4, generator=rng)
        which = torch.tensor([True, step % 2 == 0, step > 3])
        stacked.step_where(which, [gradient])
        for k in which.nonzero().flatten().tolist():
            singles[k].grad = gradient[k]
            each[k].step()
    assert torch.allclose(stack, torch.stack(singles), atol=1e-6)


def test_rewards_are_measured_over_all_real_steps() -> None:
    norm, rng = RewardNorm(2), torch.Generator().manual_seed(0)
    seen: list[Tensor] = []
    for lengths in ((2, 3), (1, 3), (3, 3)):
        mask = valid_mask(torch.tensor(lengths), 3)
        reward = torch.randn(2, 3, 2, generator=rng) * torch.tensor([1.0, 5.0]) + torch.tensor([0.0, 3.0])
        norm.update(torch.where(mask[..., None] > 0, reward, torch.nan), mask)
        seen.append(reward[mask > 0])
    every = torch.cat(seen)
    x = torch.randn(1, 2, 2, generator=rng)
    expected = (x - every.mean(0)) / every.std(0, unbiased=False)
    assert torch.allclose(norm.normalise(x), expected, atol=1e-5)


def test_maac_by_hand() -> None:
    """The critic's loss and the policies', step by step, with the actions that were drawn."""
    made = session("maac", alpha=0.2, regulariser=0.1)
    learner, batch, cfg = made.learner, episodes(), made.learner.cfg
    state = learner.rng.get_state()
    loss, _ = learner.critic_loss(batch)
    learner.rng.set_state(state)
    controller, critics = learner.target.slow
    slow = controller.policy(controller.unroll(batch)[:, 1:], batch.avail[:, 1:])
    ahead = slow.sample(learner.rng)
    q_ahead = critics[0](batch.obs[:, 1:], one_hot(ahead, A).float().unsqueeze(2)).q
    worth = learner.critics[0](batch.obs[:, :-1], one_hot(batch.action, A).float().unsqueeze(2))
    total = 0.0
    for row, t in steps():
        for i in range(N):
            a = int(ahead[row, t, i])
            value = float(q_ahead[row, t, i, a]) - cfg.alpha * float(slow.log_pi[row, t, i, a])
            y = float(batch.reward[row, t, i]) + (0 if batch.terminated[row, t] else cfg.gamma * value)
            total += (float(worth.q[row, t, i, batch.action[row, t, i]].detach()) - y) ** 2
            total += float(worth.cost[row, t, i].detach())
    assert float(loss.detach()) == pytest.approx(total / len(steps()), rel=1e-5)

    pi = learner.policy(batch)
    pi = Categorical(pi.logits[:, :-1], pi.avail[:, :-1])
    state = learner.rng.get_state()
    found = learner.policy_loss(batch, pi)
    learner.rng.set_state(state)
    drawn = pi.sample(learner.rng)
    q = learner.critics[0](batch.obs[:, :-1], one_hot(drawn, A).float().unsqueeze(2)).q.detach()
    total = torch.zeros(())
    for row, t in steps():
        for i in range(N):
            log_pi, avail = pi.log_pi[row, t, i], pi.avail[row, t, i]
            now, a = log_pi.exp().detach(), int(drawn[row, t, i])
            baseline = sum(float(now[k]) * float(q[row, t, i, k]) for k in range(A) if avail[k])
            weight = cfg.alpha * float(log_pi[a].detach()) - (float(q[row, t, i, a]) - baseline)
            total = total + weight * log_pi[a] + 0.1 * pi.logits[row, t, i][avail].square().mean()
    params = list(made.controller.agent.networks.parameters())
    mine = torch.autograd.grad(found, params, retain_graph=True)
    expected = torch.autograd.grad(total / len(steps()), params)
    assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(mine, expected, strict=True))


def test_networked_advantages_by_hand() -> None:
    made = session("ma_ac")
    learner, batch = made.learner, episodes()
    vectors = one_hot(batch.action, A).float()
    q = learner.own_values(batch.obs[:, :-1], vectors)
    for i in range(N):
        for a in range(A):
            other = vectors.clone()
            other[:, :, i] = one_hot(torch.tensor(a), A).float()
            expected = learner.critics[0](batch.obs[:, :-1], other.unsqueeze(2)).q[:, :, i]
            assert torch.allclose(q[:, :, i, a], expected, atol=1e-6)


def one_state(action: Tensor) -> EpisodeBatch:
    """One-step episodes of one state in which the agents earn 0, 3 and 6 whatever they do."""
    b = len(action)
    return EpisodeBatch(
        action=action,
        reward=torch.tensor([0.0, 3.0, 6.0]).expand(b, 1, N),
        terminated=torch.ones(b, 1, dtype=torch.bool),
        mask=torch.ones(b, 1),
        length=torch.ones(b, dtype=torch.long),
        obs=torch.ones(b, 2, N, 6),
        state=torch.ones(b, 2, 7),
        avail=torch.ones(b, 2, N, A, dtype=torch.bool),
    )


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_networked_critics_agree_on_the_mean_reward(share: float) -> None:
    """AC-26: rewards 0, 3 and 6 give 3; without edges everybody keeps its own."""
    made = session("ma_ac", topology_share=share, critic_lr=0.01)
    learner, rng = made.learner, torch.Generator().manual_seed(0)
    for _ in range(250):
        batch = one_state(torch.randint(A, (32, 1, N), generator=rng))
        loss, _ = learner.critic_loss(batch, batch.action.expand(-1, 2, -1))
        learner.descend_stacked("critic", loss)
        learner.average()
    batch = one_state(torch.randint(A, (32, 1, N), generator=rng))
    q = learner.critics[0](batch.obs[:, :1], one_hot(batch.action, A).float().unsqueeze(2)).q.mean((0, 1))
    expected = torch.tensor([0.0, 3.0, 6.0]) if share == 0 else torch.full((N,), 3.0)
    assert torch.allclose(q, expected, atol=0.05)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"critic_agent_id": True}, "critic_agent_id"),
        ({"undirected": False}, "undirected"),
        ({"critic": "attention"}, "critic"),
    ],
)
def test_networked_agents_refuse_what_does_not_fit(wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        session("ma_ac", **wrong)
