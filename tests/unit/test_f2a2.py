"""F2A2's gradients row by row (AC-20), its limits (AC-22), and what agents believe of each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

import by_hand
from by_hand import LENGTHS, A, N
from core.config import ConfigError
from core.specs import EpisodeBatch, valid_mask
from learners.primal_dual import Scene
from modules.critics.peers import Worth
from rl.distributions import Categorical
from run import Session

OWN: dict[str, Any] = {"env_args": {"individual": True}}
OFF_POLICY = ["f2a2_sac", "f2a2_isac", "f2a2_td3", "f2a2_ddpg"]
EVERY = [*OFF_POLICY, "f2a2_coma"]


def session(name: str, **more: Any) -> Session:
    """A small run in which the agents' rewards are their own, with policies away from the uniform one."""
    made = by_hand.session(
        name,
        critic_dim=8,
        buffer_size=40,
        standardise_rewards=False,
        **(OWN | {"moa": "oracle", "alpha1_critic": None, "delta_clip": 1.0} | more),
    )
    rng = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in made.controller.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=rng))
    return made


def episodes() -> EpisodeBatch:
    found, rng = by_hand.batch(), torch.Generator().manual_seed(3)
    shape = found.mask.shape
    chance = torch.rand(*shape, N, A, generator=rng) * found.avail[:, :-1] + 1e-3
    return replace(
        found,
        reward=torch.randn(*shape, N, generator=rng) * found.mask[..., None],
        extras=found.extras | {"behaviour": chance / chance.sum(-1, keepdim=True)},
    )


def scene_of(made: Session) -> tuple[Scene, Categorical]:
    """What an update sees, and the policies with gradient."""
    batch = episodes()
    pi = made.learner.now(batch)
    return made.learner.scene(batch, Categorical(pi.logits.detach(), pi.avail)), pi


def steps() -> list[tuple[int, int]]:
    return [(row, t) for row, length in enumerate(LENGTHS) for t in range(length)]


def cim(x: Tensor, y: Tensor) -> float:
    return min(1.0, float(x.detach()) / float(y.detach()))


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-5, rtol=1e-4)


def critic_gradient(made: Session, scene: Scene, pi: Categorical) -> list[Tensor]:
    """The table's descent direction, step by step and agent by agent: (weight of ∇Q) times ∇Q."""
    learner, cfg = made.learner, made.learner.cfg
    params = list(learner.critics.parameters())
    total = [torch.zeros_like(p) for p in params]
    for k, critic in enumerate(learner.critics):
        pushed = cfg.push if k == 0 else 0.0
        worth = critic(scene.obs, scene.joint)
        replayed = learner.value(worth.q, scene.action)
        redrawn = learner.value(critic(scene.obs, scene.believed).q, scene.drawn)
        weighed = torch.zeros(())
        for row, t in steps():
            for i in range(N):
                old, now = scene.old[row, t, i], pi.log_pi[row, t, i].exp().detach()
                a, drawn, y = int(scene.action[row, t, i]), int(scene.drawn[row, t, i]), scene.y[row, t, i]
                q, r = replayed[row, t, i], redrawn[row, t, i]
                at_old = 2 * cfg.alpha2 * float((q - y).detach()) - pushed * cim(now[a], old[a])
                at_new = 2 * cfg.alpha2 * float((r - y).detach()) * cim(old[drawn], now[drawn]) - pushed
                weighed = weighed + at_old * q + (at_new * r if cfg.joint else 0)
                if worth.cost is not None:
                    weighed = weighed + worth.cost[row, t, i]
        found = torch.autograd.grad(weighed / len(steps()), params, allow_unused=True)
        total = [x if g is None else x + g for x, g in zip(total, found, strict=True)]
    return total


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("name", OFF_POLICY)
def test_critics_descend_the_tables_direction(name: str, joint: bool) -> None:
    made = session(name, joint=joint)
    scene, pi = scene_of(made)
    loss, _ = made.learner.critic_loss(scene, Categorical(pi.logits.detach(), pi.avail))
    found = torch.autograd.grad(loss, list(made.learner.critics.parameters()))
    expected = critic_gradient(made, scene, pi)
    assert all(close(a, b) for a, b in zip(found, expected, strict=True))
    assert any(x.abs().max() > 1e-3 for x in expected)


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("name", ["f2a2_sac", "f2a2_isac"])
def test_soft_actors_climb_the_tables_direction(name: str, joint: bool) -> None:
    made = session(name, joint=joint, alpha=0.3)
    learner, cfg = made.learner, made.learner.cfg
    scene, pi = scene_of(made)
    with torch.no_grad():
        at_old = learner.critics[0](scene.obs, scene.joint).q
        q1, q2 = (critic(scene.obs, scene.believed).q for critic in learner.critics)
    objective = torch.zeros(())
    for row, t in steps():
        for i in range(N):
            log_pi = pi.log_pi[row, t, i]
            now, old, avail = log_pi.exp().detach(), scene.old[row, t, i], pi.avail[row, t, i]
            a, drawn, y = int(scene.action[row, t, i]), int(scene.drawn[row, t, i]), float(scene.y[row, t, i])

            def advantage(q: Tensor, of: int, now: Tensor = now, avail: Tensor = avail) -> float:
                soft = [float(q[k]) - cfg.alpha * float(now[k].log()) for k in range(A)]
                return soft[of] - sum(float(now[k]) * soft[k] for k in range(A) if avail[k])

            deltas = [min(1.0, max(-1.0, float(q[row, t, i, drawn]) - y)) for q in (q1, q2)]
            weight_old = cfg.alpha1 * cim(now[a], old[a]) * advantage(at_old[row, t, i], a)
            weight_new = cfg.alpha1 * advantage(q1[row, t, i], drawn)
            if joint:
                weight_new -= cfg.alpha2 * cim(old[drawn], now[drawn]) * sum(d * d for d in deltas)
            objective = objective + weight_old * log_pi[a] + weight_new * log_pi[drawn]
    params = list(made.controller.agent.networks.parameters())
    found = torch.autograd.grad(learner.policy_loss(scene, pi), params, retain_graph=True)
    expected = torch.autograd.grad(-objective / len(steps()), params)
    assert all(close(a, b) for a, b in zip(found, expected, strict=True))
    assert any(x.abs().max() > 1e-3 for x in expected)


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("name", ["f2a2_td3", "f2a2_ddpg"])
def test_deterministic_actors_climb_the_tables_direction(name: str, joint: bool) -> None:
    made = session(name, joint=joint)
    learner, cfg = made.learner, made.learner.cfg
    scene, pi = scene_of(made)
    state = learner.rng.get_state()
    found = torch.autograd.grad(
        learner.policy_loss(scene, pi), list(made.controller.agent.networks.parameters()), retain_graph=True
    )
    learner.rng.set_state(state)
    mu = pi.deterministic(learner.rng)
    objective = torch.zeros(())
    for i in range(N):
        joint_i = scene.believed[:, :, 0].clone()
        joint_i[:, :, i] = mu[:, :, i]
        qs = [critic(scene.obs, joint_i.unsqueeze(2)).q[:, :, i] for critic in learner.critics]
        for row, t in steps():
            a = int(mu[row, t, i].argmax())
            back = cim(scene.old[row, t, i, a], pi.log_pi[row, t, i, a].exp())
            for k, q in enumerate(qs):
                delta = min(1.0, max(-1.0, float(q[row, t].detach()) - float(scene.y[row, t, i])))
                weight = (cfg.alpha1 if k == 0 else 0.0) - (2 * cfg.alpha2 * delta * back if joint else 0.0)
                objective = objective + weight * q[row, t]
    expected = torch.autograd.grad(-objective / len(steps()), list(made.controller.agent.networks.parameters()))
    assert all(close(a, b) for a, b in zip(found, expected, strict=True))
    assert any(x.abs().max() > 1e-4 for x in expected)


class Table(nn.Module):
    """A critic of one state: a value of every joint action, for each of two agents; see ``OwnActionCritic``."""

    reads_actions = True

    def __init__(self, q: Tensor) -> None:
        super().__init__()
        self.q = nn.Parameter(q)  # [i, a_0, a_1]

    def forward(self, obs: Tensor, joint: Tensor) -> Worth:
        of_0 = torch.einsum("ax,btx->bta", self.q[0], joint[:, :, 0, 1])
        of_1 = torch.einsum("xa,btx->bta", self.q[1], joint[:, :, 0, 0])
        return Worth(torch.stack([of_0, of_1], 2))


def enumerated(chance: Tensor, y: Tensor) -> tuple[Scene, Tensor]:
    """Every joint action of two agents with three actions as often as ``chance`` [2, 3] says, of 4 times 4 draws."""
    times = (4 * chance).round().long()
    each = [torch.repeat_interleave(torch.arange(3), times[i]) for i in range(2)]
    action = torch.cartesian_prod(*each).unsqueeze(1)  # [16, 1, 2]
    vectors = one_hot(action, 3).float().unsqueeze(2)
    scene = Scene(
        mask=torch.ones(len(action), 1),
        obs=torch.zeros(len(action), 1, 2, 6),
        y=y[:, action[:, 0, 0], action[:, 0, 1]].T.unsqueeze(1),
        action=action,
        joint=vectors,
        drawn=action,
        believed=vectors,
        old=chance.expand(len(action), 1, 2, 3),
    )
    return scene, action


@pytest.mark.parametrize(("name", "times"), [("f2a2_coma", 1), ("f2a2_sac", 2)])
def test_the_joint_gradient_is_that_of_the_written_objective(name: str, times: int) -> None:
    r"""L = E_π[-α1 Q_i + α2 δ_i²] enumerated over joint actions and differentiated, on a game of one state.

    With π0 = π all ratios are 1. SAC has α1's terms under π0 and under π, so twice; and the first of its critics is in
    both, the second has δ² only.
    """
    made = session(
        name,
        env_args={"individual": True, "n_agents": 2, "n_actions": 3},
        delta_clip=None,
        **({"alpha": 0.0} if "sac" in name else {}),
    )
    learner, cfg = made.learner, made.learner.cfg
    chance = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]])
    rng = torch.Generator().manual_seed(1)
    tables = [Table(torch.randn(2, 3, 3, generator=rng)) for _ in learner.critics]
    learner.critics = nn.ModuleList(tables)
    y = torch.randn(2, 3, 3, generator=rng)
    scene, action = enumerated(chance, y)
    logits = chance.log().requires_grad_()
    pi = Categorical(logits.expand(len(action), 1, 2, 3), torch.ones(len(action), 1, 2, 3, dtype=torch.bool))

    # Each agent's policy answers for its own reward and its own critics' errors; the other's actions are as they are.
    errors = [cfg.alpha2 * (table.q - y).square() for table in tables]
    objective = torch.zeros(())
    for i in range(2):
        own, other = torch.softmax(logits[i], 0), chance[1 - i]
        weight = own[:, None] * other if i == 0 else other[:, None] * own
        objective = objective + (weight * (sum(errors)[i] - times * cfg.alpha1 * tables[0].q[i])).sum()
    (expected,) = torch.autograd.grad(objective, logits, retain_graph=True)
    (found,) = torch.autograd.grad(learner.policy_loss(scene, pi), logits, retain_graph=True)
    assert close(found, expected)

    loss, _ = learner.critic_loss(scene, Categorical(logits.detach().expand_as(pi.logits), pi.avail))
    for k, table in enumerate(tables):
        weight, pushed = chance[0][:, None] * chance[1], cfg.alpha1 if k == 0 else 0.0
        whole = sum((weight * (times * errors[k][i] - times * pushed * table.q[i])).sum() for i in range(2))
        (expected,) = torch.autograd.grad(whole, table.q)
        (found,) = torch.autograd.grad(loss, table.q, retain_graph=True)
        assert close(found, expected)


@pytest.mark.parametrize(("wrong", "expected"), [(0.0, 0.25), (1.0, 0.25 - 0.5 * 0.25)])
def test_signs_on_a_bandit(wrong: float, expected: float) -> None:
    """Golden: Q = (1, 0), π uniform: the ascent on logit 0 is +.25 α1; δ² = 1 on action 0 takes .25 α2 off."""
    made = session("f2a2_coma", env_args={"individual": True, "n_agents": 2, "n_actions": 3}, delta_clip=None)
    table = Table(torch.stack([torch.tensor([[1.0], [0.0], [0.0]]).expand(3, 3), torch.zeros(3, 3)]))
    made.learner.critics = nn.ModuleList([table])
    y = table.q.detach().clone()
    y[0, 0] -= wrong
    scene, action = enumerated(torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]]), y)
    logits = torch.zeros(2, 3, requires_grad=True)
    avail = torch.tensor([[True, True, False], [True, True, True]]).expand(len(action), 1, 2, 3)
    pi = Categorical(logits.expand(len(action), 1, 2, 3), avail)
    (found,) = torch.autograd.grad(-made.learner.policy_loss(scene, pi), logits)
    assert found[0, 0].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_targets_look_ahead_with_slow_copies(name: str) -> None:
    """y by hand, from the actions that were drawn; nothing lies ahead of a true end (T-52)."""
    made = session(name, **({"smoothing": 0.0} if name in ("f2a2_td3", "f2a2_ddpg") else {}))
    learner, batch = made.learner, episodes()
    state = learner.rng.get_state()
    y = learner.bootstrapped(batch, learner.ahead(batch)).detach()
    learner.rng.set_state(state)
    controller, critics = learner.target.slow
    pi = controller.policy(controller.unroll(batch)[:, 1:], batch.avail[:, 1:])
    drawn = pi.sample(learner.rng)
    q = [critic(batch.obs[:, 1:], one_hot(drawn, A).float().unsqueeze(2)).q.detach() for critic in critics]
    for row, t in steps():
        for i in range(N):
            at = int(drawn[row, t, i])
            values = [float(x[row, t, i, at] if x.dim() == 4 else x[row, t, i]) for x in q]
            ahead = min(values)
            if name in ("f2a2_sac", "f2a2_isac"):
                ahead -= learner.cfg.alpha * float(pi.log_pi[row, t, i, at])
            ended = bool(batch.terminated[row, t])
            expected = float(batch.reward[row, t, i]) + (0.0 if ended else learner.cfg.gamma * ahead)
            assert float(y[row, t, i]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("moa", ["on", "oracle", "replay"])
def test_what_agents_believe(moa: str) -> None:
    made = session("f2a2_sac", moa=moa)
    scene, _ = scene_of(made)
    real = scene.mask > 0
    own = one_hot(scene.drawn, A).float()
    if moa == "oracle":
        assert torch.equal(scene.believed[:, :, 0], own)
        return
    for i in range(N):
        assert torch.equal(scene.believed[:, :, i, i], own[:, :, i])
        for j in range(N):
            if i != j and moa == "replay":
                assert torch.equal(scene.believed[:, :, i, j][real], scene.joint[:, :, 0, j][real])
    assert (scene.believed.sum(-1) == 1).all()


def trained(name: str, **more: Any) -> tuple[Session, dict[str, Tensor]]:
    """Five updates from one replay."""
    made = session(name, sync_init=False, batch_size=8, sample="episodes", **more)
    for seed in range(3):
        batch = by_hand.batch(seed=seed)
        behaviour = torch.full((*batch.mask.shape, N, A), 1 / A)
        reward = torch.randn(*batch.mask.shape, N, generator=torch.Generator().manual_seed(seed))
        made.replay.add(replace(batch, reward=reward, extras=batch.extras | {"behaviour": behaviour}))
    metrics = {}
    for _ in range(5):
        metrics = made.learner.update(made.replay, 0)
    return made, metrics


def parameters(made: Session) -> Tensor:
    return torch.cat([p.detach().flatten() for p in made.learner.parameters()])


@pytest.mark.parametrize("name", ["f2a2_sac", "f2a2_isac", "f2a2_td3"])
def test_no_edges_and_no_exchange_are_independent_learning(name: str) -> None:
    """AC-22: bit for bit the same, and another thing than with exchange."""
    alone, metrics = trained(name, topology_share=0.0)
    never, _ = trained(name, exchange_interval=None)
    together, exchanged = trained(name)
    assert torch.equal(parameters(alone), parameters(never))
    assert not torch.equal(parameters(alone), parameters(together))
    assert metrics["exchanged_bytes"] == 0 and exchanged["exchanged_bytes"] > 0


def test_bytes_are_the_floats_on_the_edges() -> None:
    made, metrics = trained("f2a2_sac", topology_share=0.0)
    assert metrics["exchanged_bytes"] == 0
    made, metrics = trained("f2a2_sac", topology_share=1.0)
    floats = sum(p[0].numel() for critic in made.learner.critics for p in critic.shared())
    assert metrics["exchanged_bytes"] == 4 * floats * N * (N - 1)


def test_without_penalty_a_step_is_the_plain_gradients() -> None:
    """Before the first exchange nothing but the clipped gradient moves the copies: torch's own Adam agrees."""
    made = session("f2a2_sac", exchange_interval=None, joint=False)
    learner = made.learner
    scene, pi = scene_of(made)
    params = list(learner.critics.parameters())
    loss, _ = learner.critic_loss(scene, Categorical(pi.logits.detach(), pi.avail))
    gradients = torch.autograd.grad(loss, params, retain_graph=True)
    norm = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
    copies = [p.detach().clone().requires_grad_() for p in params]
    for p, g in zip(copies, gradients, strict=True):
        p.grad = g * (learner.cfg.grad_norm_clip / norm).clamp(max=1).view(-1, *[1] * (g.dim() - 1))
    torch.optim.Adam(copies, lr=learner.cfg.critic_lr).step()
    learner.descend_stacked("critic", loss, learner.consensus.pull)
    assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(params, copies, strict=True))


def test_actors_wait_for_their_turn() -> None:
    """T-50: agents 0 and 2 have delay 2, agent 1 has 3."""
    made = session("f2a2_td3")
    learner = made.learner
    moved = []
    for _ in range(6):
        before = [p.detach().clone() for p in made.controller.agent.networks.parameters()]
        scene, pi = scene_of(made)
        learner.step_policies(scene, pi)
        after = list(made.controller.agent.networks.parameters())
        moved.append([any(not torch.equal(b[i], a[i]) for b, a in zip(before, after, strict=True)) for i in range(N)])
    assert [m[0] for m in moved] == [False, True, False, True, False, True]
    assert [m[1] for m in moved] == [False, False, True, False, False, True]
    assert [m[2] for m in moved] == [m[0] for m in moved]


class Constant(nn.Module):
    """A critic that says the same of every own action of two agents."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Parameter(torch.zeros(2, 1))

    def forward(self, obs: Tensor, joint: Tensor) -> Worth:
        return Worth(self.q.expand(*obs.shape[:3], 3))


@pytest.mark.parametrize(
    ("name", "push", "expected"),
    [
        ("f2a2_coma", None, [20.0]),
        ("f2a2_coma", 0.0, [10.0]),
        ("f2a2_sac", None, [11.0, 10.0]),
        ("f2a2_sac", 0.0, [10.0, 10.0]),
    ],
)
def test_critics_are_pushed_up_by_a_constant(name: str, push: float | None, expected: list[float]) -> None:
    """T-46, on a self-loop with r = 1 and γ = .9: one critic (r + α1 / (2 α2)) / (1 - γ); of two only the first."""
    made = session(name, env_args={"individual": True, "n_agents": 2, "n_actions": 3}, alpha1_critic=push)
    learner = made.learner
    learner.critics = nn.ModuleList([Constant() for _ in learner.critics])
    even = torch.tensor([[0.25, 0.25, 0.5], [0.5, 0.25, 0.25]])
    scene, action = enumerated(even, torch.zeros(2, 3, 3))
    pi = Categorical(even.log().expand(len(action), 1, 2, 3), torch.ones(len(action), 1, 2, 3, dtype=torch.bool))
    for _ in range(400):
        values = torch.stack([critic.q.detach() for critic in learner.critics])
        y = (1 + 0.9 * values.amin(0)).squeeze(-1).expand_as(scene.y)
        loss, _ = learner.critic_loss(replace(scene, y=y), pi)
        for critic in learner.critics:
            (gradient,) = torch.autograd.grad(loss, critic.q, retain_graph=True)
            critic.q.data -= 0.3 * gradient
    assert [float(critic.q.detach().mean()) for critic in learner.critics] == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize(
    ("name", "wrong", "word"),
    [
        ("f2a2_sac", {"store_behaviour": False}, "store_behaviour"),
        ("f2a2_sac", {"share_parameters": True}, "share_parameters"),
        ("f2a2_sac", {"attention_copies": False}, "attention_copies"),
        ("f2a2_sac", {"critic": "whole"}, "critic"),
        ("f2a2_td3", {"critic": "attention"}, "critic"),
        ("f2a2_td3", {"policy_delays": [0]}, "policy_delays"),
        ("f2a2_sac", {"beta": 0.0}, "beta"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        session(name, **wrong)


def test_padding_is_no_step() -> None:
    """The mean over real steps: 2 + 3 + 1 + 2 of them."""
    made = session("f2a2_coma")
    x = torch.ones(4, 3, N)
    assert float(made.learner.total(x, valid_mask(torch.tensor(LENGTHS), 3))) == pytest.approx(N)
