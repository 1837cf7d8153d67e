"""What the learners compute: targets, losses and gradient routes against hand-made numbers and plain-Python oracles."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from by_hand import LENGTHS, TERMINATED, A, N, batch, best_of, ends, gradients, legal, returns, session
from controllers.base import unroll_agent
from core.registry import MIXERS
from core.specs import ActionSpec, EnvSpec, EpisodeBatch
from learners.macpf import local_values
from learners.soft import SoftConfig
from learners.value import mix_utilities
from rl.masked import masked_log_softmax, sample, taken
from run import Session

ALPHA = 0.5


# --- IQL, VDN, QMIX, QPLEX --------------------------------------------------------------------------------------------

Q = ["iql", "vdn", "qmix", "qplex"]
QATTEN = {"mixer": "fop", "mixing_embed_dim": 6}
"""With FOP's mixer on the largest values, QPLEX has Qatten's weights (the release's second StarCraft setting)."""


def q_tot_by_hand(
    net: torch.nn.Module | None, table: list[list[float]], action: list[int], episodes: EpisodeBatch, row: int, t: int
) -> tuple[list[float], float]:
    """Q_tot of one joint action (every agent's own value without a mixer), and the mixer's regulariser."""
    q = [table[i][action[i]] for i in range(N)]
    if net is None:
        return q, 0.0
    state, obs = episodes.state[row : row + 1, t : t + 1], episodes.obs[row : row + 1, t : t + 1]
    if not net.reads_joint:
        return [net(torch.tensor([[q]]), state).item()], 0.0
    allowed = legal(episodes, row, t)
    m = [max(table[i][a] for a in allowed[i]) for i in range(N)]
    lam = net.lambdas(state, one_hot(torch.tensor([[action]]), A).float())[0, 0].tolist()
    if hasattr(net, "weights"):  # Qatten: c is one for all agents
        weights, regulariser = net.weights(state, obs)
        w, c, extra = weights[0, 0].tolist(), [net.c(state).item() / N] * N, regulariser.item()
    else:
        w, c, extra = (net.w(state)[0, 0].abs() + 1e-10).tolist(), net.c(state)[0, 0].tolist(), 0.0
    q_hat, m_hat = ([w[i] * x[i] + c[i] for i in range(N)] for x in (q, m))
    return [sum(q_hat[i] + (q_hat[i] - m_hat[i]) * (lam[i] - 1) for i in range(N))], extra


def q_loss_by_hand(run: Session, episodes: EpisodeBatch, lam: float, double_q: bool) -> float:
    """Mean of (M(Q) - y)² over steps (and agents, without a mixer), with nothing but loops."""
    controller, mixer = run.controller, run.learner.mixer
    slow_controller, *slow_mixer = run.learner.target.slow
    fast, slow = controller.unroll(episodes).tolist(), slow_controller.unroll(episodes).tolist()
    slow_net = slow_mixer[0] if slow_mixer else None
    errors: list[float] = []
    for row, length in enumerate(episodes.length.tolist()):
        values = []
        for t in range(length + 1):
            best = best_of((fast if double_q else slow)[row][t], legal(episodes, row, t))
            values.append(q_tot_by_hand(slow_net, slow[row][t], best, episodes, row, t)[0])
        reward, ended = episodes.reward[row, :length].tolist(), bool(episodes.terminated[row, length - 1])
        for k in range(len(values[0])):
            y = returns(reward, ended, [v[k] for v in values], lam)
            for t in range(length):
                chosen, extra = q_tot_by_hand(mixer, fast[row][t], episodes.action[row, t].tolist(), episodes, row, t)
                errors.append((chosen[k] - y[t]) ** 2 + extra)
    return sum(errors) / len(errors)


@pytest.mark.parametrize("lam", [0.0, 0.6])
@pytest.mark.parametrize("double_q", [True, False])
@pytest.mark.parametrize(
    ("name", "more"),
    [*[pytest.param(name, {}, id=name) for name in Q], pytest.param("qplex", QATTEN, id="qplex_qatten")],
)
def test_q_loss_by_hand(name: str, more: dict, double_q: bool, lam: float) -> None:
    run, episodes = session(name, double_q=double_q, td_lambda=lam, **more), batch()
    expected = q_loss_by_hand(run, episodes, lam, double_q)
    assert run.learner.td_loss(episodes).item() == pytest.approx(expected, rel=1e-4)
    assert q_loss_by_hand(run, episodes, lam, not double_q) != pytest.approx(expected, rel=1e-3)  # it matters here


@pytest.mark.parametrize("name", Q)
def test_q_targets_bootstrap_through_time_limits_only(name: str) -> None:
    run, episodes = session(name), batch()
    y = run.learner.targets(episodes, run.controller.unroll(episodes).detach())
    reward = episodes.reward if y.dim() == 2 else episodes.reward[..., None].expand_as(y)
    assert torch.equal(ends(y), ends(reward))
    assert (ends(y, terminated=False) - ends(reward, terminated=False)).abs().min() > 1e-3


@pytest.mark.parametrize("name", Q)
def test_q_loss_teaches_the_online_networks_of_the_actions_taken(name: str) -> None:
    run, episodes = session(name), batch()
    for p in run.learner.parameters():
        p.grad = None
    q = run.controller.unroll(episodes).detach().requires_grad_()
    run.controller.unroll = lambda _: q  # type: ignore[method-assign]
    run.learner.td_loss(episodes).backward()
    touched = q.grad[:, :-1] != 0
    assert torch.equal(touched, one_hot(episodes.action, A).bool() & (episodes.mask[..., None, None] > 0))
    assert not q.grad[:, -1].any()
    assert all(p.grad is None for p in run.learner.target.parameters())


MIXINGS = {
    "vdn": ("vdn", {}),
    "qmix": ("qmix", {}),
    "linear": ("linear", {}),
    "qplex": ("qplex", {}),
    "qplex_matrix": ("qplex", {"n_head": 10, "adv_hypernet_layers": 3}),
    "qatten": ("fop", {}),
}


@pytest.mark.parametrize(("name", "keys"), MIXINGS.values(), ids=MIXINGS)
def test_the_joint_argmax_is_everybodys_own(name: str, keys: dict) -> None:
    """AC-25: Individual-Global-Max by enumeration of the available joint actions, in states with their own weights.

    The unavailable actions have the largest values, so a maximum that forgets the mask would show.
    """
    rows, joints = 20, torch.tensor(list(itertools.product(range(A), repeat=N)))
    spec = EnvSpec(actions=(ActionSpec(A),) * N, obs_dims=(6,) * N, state_dim=7, episode_limit=len(joints))
    torch.manual_seed(1)
    mixer = MIXERS[name](spec, MIXERS[name].Config(**keys)).double()
    rng = torch.Generator().manual_seed(4)
    avail = torch.rand(rows, 1, N, A, generator=rng) < 0.6
    avail[..., 0] |= ~avail.any(-1)
    q = 3 * torch.randn(rows, 1, N, A, generator=rng).double()
    best = torch.where(avail, q, -torch.inf).argmax(-1)[:, 0]
    q += 20 * ~avail
    states = dataclasses.replace(
        batch((len(joints),) * rows, (True,) * rows),
        state=3 * torch.randn(rows, 1, 7, generator=rng).double().expand(-1, len(joints) + 1, -1),
        obs=torch.randn(rows, 1, N, 6, generator=rng).double().expand(-1, len(joints) + 1, -1, -1),
        avail=avail.expand(-1, len(joints) + 1, -1, -1),
    )
    total, _ = mix_utilities(mixer, states, q.expand(-1, len(joints), -1, -1), joints.expand(rows, -1, -1))
    possible = taken(avail.expand(-1, len(joints), -1, -1).float(), joints.expand(rows, -1, -1)).bool().all(-1)
    total = torch.where(possible, total, -torch.inf)
    first, second = total.topk(2, dim=1).values.unbind(1)
    assert torch.equal(joints[total.argmax(1)], best)
    assert (first - second > 1e-9).all() and possible.sum(1).max() > 8


# --- soft targets -----------------------------------------------------------------------------------------------------


def one_step(terminated: bool) -> EpisodeBatch:
    """r = 1, and one state after it."""
    made = batch((1,), (terminated,))
    return dataclasses.replace(made, reward=torch.ones(1, 1))


NEXT = torch.tensor([[[-9.0, -9.0], [-1.0, -0.5]]])
"""log π of two agents' next actions; the state before must not matter."""


@pytest.mark.parametrize(("reduction", "expected"), [("sum", 3.07), ("mean", 2.935)])
def test_soft_target_golden(reduction: str, expected: float) -> None:
    """algorithms.md 6.4: 1 + .9 (2 + .2 · 1.5); with the mean over agents 1 + .9 (2 + .2 · .75)."""
    cfg = SoftConfig(gamma=0.9, td_lambda=0.0, entropy_reduction=reduction)
    y = cfg.soft_target(one_step(False), torch.tensor([[5.0, 2.0]]), NEXT, 0.2)
    assert y.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("lam", [0.0, 0.8])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_soft_target_of_a_terminal_step_is_the_reward(lam: float, reduction: str) -> None:
    cfg = SoftConfig(gamma=0.9, td_lambda=lam, entropy_reduction=reduction)
    assert cfg.soft_target(one_step(True), torch.tensor([[5.0, 2.0]]), NEXT, 0.2).item() == 1.0


def test_soft_target_of_two_steps_by_hand() -> None:
    """X_1 = 2 + .2 · 1.5 = 2.3, X_2 = 3 + .2 · 1 = 3.2; y_1 = 1 + .9 · 3.2; y_0 = 1 + .9 (.2 · 2.3 + .8 y_1)."""
    made = dataclasses.replace(batch((2,), (False,)), reward=torch.ones(1, 2))
    log_prob = torch.cat([NEXT, torch.full((1, 1, 2), -0.5)], 1)
    cfg = SoftConfig(gamma=0.9, td_lambda=0.8)
    y = cfg.soft_target(made, torch.tensor([[5.0, 2.0, 3.0]]), log_prob, 0.2)
    torch.testing.assert_close(y, torch.tensor([[1 + 0.9 * (0.46 + 0.8 * 3.88), 3.88]]))


def test_linear_temperature_takes_the_time_it_says() -> None:
    """T-19: half-way at half of the time; the releases' formula would be down to .05 after 90,000 steps."""
    cfg = SoftConfig(alpha_start=0.5, alpha_finish=0.05, alpha_anneal_time=200_000)
    values = [cfg.alpha(t, 7) for t in (0, 90_000, 100_000, 200_000, 10**7)]
    assert values == pytest.approx([0.5, 0.2975, 0.275, 0.05, 0.05])


def test_geometric_temperature_counts_episodes() -> None:
    cfg = SoftConfig(alpha_schedule="geometric", alpha_start=1.0, alpha_finish=0.5, alpha_rate=0.999)
    assert [cfg.alpha(10**6, e) for e in (0, 1, 100, 692, 5000)] == pytest.approx(
        [1.0, 0.999, 0.999**100, 0.999**692, 0.5]
    )
    assert cfg.alpha(0, 692) > 0.5 > 0.999**693


# --- FOP --------------------------------------------------------------------------------------------------------------


def same_draws(run: Session) -> torch.Generator:
    """A copy of the learner's generator as it is now."""
    return torch.Generator().set_state(run.learner.rng.get_state())


@pytest.mark.parametrize("lam", [0.0, 0.8])
def test_fop_target_by_hand(lam: float) -> None:
    """AC-10 and algorithms.md 6.4, with Q_jt = Σ λ_i w_i (Q_i - V_i) + c + Σ w_i V_i of the target critics."""
    run, episodes = session("fop", td_lambda=lam), batch()
    log_pi = masked_log_softmax(run.controller.unroll(episodes), episodes.avail).detach()
    action = sample(log_pi, same_draws(run))
    y = run.learner.critic_target(episodes, log_pi, ALPHA)
    assert torch.equal(ends(y), ends(episodes.reward))
    tables = []
    for slow in run.learner.target.slow:
        q = unroll_agent(slow.agent, episodes, A)
        v = ALPHA * torch.where(episodes.avail, q / ALPHA, -1e10).logsumexp(-1)
        w, _ = slow.mixer.weights(episodes.state, episodes.obs)
        lam_i = slow.mixer.lambdas(episodes.state, one_hot(action, A).float())
        v_jt = slow.mixer.c(episodes.state).squeeze(-1) + (w * v).sum(-1)
        tables.append((lam_i * w * (taken(q, action) - v)).sum(-1) + v_jt)
    assert ((tables[0] < tables[1]).any() and (tables[1] < tables[0]).any()).item()  # both critics have a say
    x = torch.minimum(*tables) - ALPHA * taken(log_pi, action).sum(-1)
    for row, length in enumerate(LENGTHS):
        expected = returns(episodes.reward[row, :length].tolist(), TERMINATED[row], x[row, : length + 1].tolist(), lam)
        assert y[row, :length].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_fop_losses_teach_their_own_networks_only() -> None:
    run, episodes = session("fop"), batch()
    learner = run.learner
    y = torch.zeros(episodes.reward.shape)
    for m in range(2):
        loss = learner.critic_loss(m, episodes, unroll_agent(learner.critics[m].agent, episodes, A), y, ALPHA)
        reached = gradients(loss, learner)
        own = {name for name, _ in learner.named_parameters() if name.startswith(f"critics.{m}.")}
        assert reached == own


def test_fop_critic_loss_by_hand() -> None:
    """Mean over real steps of (Q_jt - y)² plus the attention's regulariser, each computed step by step."""
    run, episodes = session("fop"), batch()
    critic = run.learner.critics[0]
    y = torch.randn(episodes.reward.shape, generator=torch.Generator().manual_seed(2))
    q = unroll_agent(critic.agent, episodes, A)
    loss = run.learner.critic_loss(0, episodes, q, y, ALPHA)
    q_jt, regulariser = critic.joint(episodes, q[:, :-1], episodes.action, ALPHA)
    steps = [
        (q_jt[row, t].item() - y[row, t].item()) ** 2 + regulariser[row, t].item()
        for row, length in enumerate(LENGTHS)
        for t in range(length)
    ]
    assert loss.item() == pytest.approx(sum(steps) / len(steps), rel=1e-5)
    assert regulariser.max().item() > 0


def test_fop_policies_improve_on_the_smaller_critic(monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy's loss is Σ_a π (α log π - min_m Q_i^m) over available actions, agents and real steps."""
    run, episodes = session("fop", alpha_start=ALPHA, alpha_finish=ALPHA), batch()
    run.replay.add(episodes)
    monkeypatch.setattr(run.replay, "uniform", lambda _: episodes)
    logits = run.controller.unroll(episodes).detach().tolist()
    q = [unroll_agent(critic.agent, episodes, A).detach().tolist() for critic in run.learner.critics]
    parts = []
    for row, length in enumerate(LENGTHS):
        for t, i in itertools.product(range(length), range(N)):
            legal = [a for a in range(A) if episodes.avail[row, t, i, a]]
            total = sum(math.exp(logits[row][t][i][a]) for a in legal)
            pi = {a: math.exp(logits[row][t][i][a]) / total for a in legal}
            low = {a: min(table[row][t][i][a] for table in q) for a in legal}
            parts.append(sum(pi[a] * (ALPHA * math.log(pi[a]) - low[a]) for a in legal))
    assert run.learner.update(run.replay, 0)["policy_loss"].item() == pytest.approx(sum(parts) / len(parts), rel=1e-4)


# --- MACPF ------------------------------------------------------------------------------------------------------------

MACPFS = ["macpf", "macpf_nonlinear", "macpf_attention"]
FORMS = [
    *[pytest.param(name, {}, id=name) for name in MACPFS],
    pytest.param("macpf", {"mixer_form": "adv", "mixer_bias": False}, id="macpf_adv"),
]


def corrects(name: str) -> bool:
    """Whether a parameter belongs to the dependent policy's, or critic's, correction."""
    return ".correct." in f".{name}" or name.endswith(("embed.weight", "embed.bias"))


@pytest.mark.parametrize("lam", [0.0, 0.8])
@pytest.mark.parametrize("mode", ["ind", "dep"])
@pytest.mark.parametrize(("name", "more"), FORMS)
def test_macpf_target(name: str, more: dict, mode: str, lam: float) -> None:
    """AC-10; elsewhere TD(λ) of Q_jt(s, u') - α Σ_i log π_i(u'_i)."""
    run, episodes = session(name, td_lambda=lam, **more), batch()
    learner, slow = run.learner, run.learner.target.slow
    action, log_pi = learner.decide(mode, episodes, run.controller.unroll(episodes))
    log_prob = taken(log_pi, action).detach()
    h = slow.encode(episodes)
    y = learner.critic_target(mode, episodes, h, action, log_prob, ALPHA)
    assert torch.equal(ends(y), ends(episodes.reward))
    q = slow.local(mode, episodes, h, action)
    x = slow.joint(mode, episodes, q, action, ALPHA)[0] - ALPHA * log_prob.sum(-1)
    for row, length in enumerate(LENGTHS):
        expected = returns(episodes.reward[row, :length].tolist(), TERMINATED[row], x[row, : length + 1].tolist(), lam)
        assert y[row, :length].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_macpf_joint_values_by_the_formulas() -> None:
    """Σ k_i Q_i + b of the release; Σ k_i (Q_i - V_i) + V_jt^mode of the paper's Eq. 6 (T-35)."""
    episodes = batch()
    for form, bias in (("ref", True), ("adv", False)):
        critics = session("macpf", mixer_form=form, mixer_bias=bias).learner.critics
        for mode in ("ind", "dep"):
            q = critics.local(mode, episodes, critics.encode(episodes), episodes.action)
            k, b = critics.mixer.weights(episodes.state[:, :-1])
            chosen, masked = taken(q, episodes.action), torch.where(episodes.avail[:, :-1], q, -torch.inf)
            expected = (k * chosen).sum(-1) + b
            if form == "adv":
                v = ALPHA * (masked / ALPHA).logsumexp(-1)
                expected = (k * (chosen - v)).sum(-1) + critics.v_jt[mode](episodes.state[:, :-1])
            torch.testing.assert_close(critics.joint(mode, episodes, q, episodes.action, ALPHA)[0], expected)


@pytest.mark.parametrize(("name", "more"), FORMS)
def test_macpf_losses_keep_the_two_policies_apart(name: str, more: dict) -> None:
    """AC-11 c, T-29: dependent losses reach corrections, Θ and V_jt^dep only, independent ones no correction."""
    run, episodes = session(name, **more), batch()
    learner, controller, critics = run.learner, run.controller, run.learner.critics
    h_pi, h_q, y = controller.unroll(episodes), critics.encode(episodes), torch.zeros(episodes.reward.shape)
    policy = {name for name, _ in controller.named_parameters()}
    critic = {name for name, _ in critics.named_parameters()}
    shared = {name for name in critic if name.startswith("mixer.")}
    for mode in ("ind", "dep"):
        action, log_pi = learner.decide(mode, episodes, h_pi)
        policy_loss = learner.policy_loss(mode, episodes, h_q, action, log_pi, ALPHA)
        critic_loss = learner.critic_loss(mode, episodes, h_q, y, ALPHA)
        values = {name for name in critic if name.startswith(f"v_jt.{mode}.")}
        own_policy = {n for n in policy if corrects(n) == (mode == "dep")}
        own_critic = {n for n in critic if n.startswith("head.") and corrects(n) == (mode == "dep")}
        assert gradients(policy_loss, controller) == own_policy
        assert gradients(policy_loss, critics) == set()
        assert gradients(critic_loss, critics) == own_critic | shared | values
        assert gradients(critic_loss, controller) == set()


def test_macpf_the_dependent_mode_leaves_the_independent_policy_alone() -> None:
    """With a mixer that does not learn, the independent networks move exactly as in the control without ``dep``."""
    more = {"mixer_weights": "one", "mixer_bias": False, "grad_norm_clip": 1e9}
    both, control = session("macpf", **more), session("macpf_control", **more)
    own = {name: x for name, x in both.learner.state_dict().items() if not corrects(name)}
    control.learner.load_state_dict(own | {"_extra_state": control.learner.state_dict()["_extra_state"]})
    for run in (both, control):
        run.replay.add(batch())
        run.learner.update(run.replay, 0)
    after = dict(both.learner.named_parameters())
    for name, p in control.learner.named_parameters():
        torch.testing.assert_close(p, after[name])
    assert any(corrects(name) and p.requires_grad for name, p in after.items())


def test_macpf_conditionals_multiply_to_one_over_joint_actions() -> None:
    """AC-11 d with action masks and visibility: Σ_u Π_i π_i(u_i | τ_i, u_{<i}) = 1, all of it on available actions."""
    run, episodes = session("macpf"), batch()
    h, head = run.controller.unroll(episodes), run.controller.agent
    b, t = episodes.avail.shape[:2]
    everything, legal = torch.zeros(b, t, dtype=torch.double), torch.zeros(b, t, dtype=torch.double)
    last: list[Tensor] = []
    for joint in itertools.product(range(A), repeat=N):
        action = torch.tensor(joint).expand(b, t, N)
        logits = local_values(head, "dep", episodes, h, action)
        prob = taken(masked_log_softmax(logits, episodes.avail), action).double().sum(-1).exp().detach()
        everything += prob
        legal += torch.where(taken(episodes.avail.float(), action).all(-1), prob, 0.0)
        last.append(logits[..., -1, :])
    torch.testing.assert_close(everything, torch.ones_like(everything), rtol=0, atol=1e-5)
    torch.testing.assert_close(legal, everything, rtol=0, atol=0)
    assert not all(torch.allclose(last[0], other) for other in last)  # the last agent does listen


def test_macpf_dependent_policy_draws_again_for_its_own_prefix() -> None:
    """Eq. 10: log π_i is given the u'_{<i} drawn now, not the replay's; so is Q_i^dep in the policy's loss."""
    run, episodes = session("macpf"), batch()
    other = dataclasses.replace(episodes, action=(episodes.action + 1) % A)
    h_pi, h_q = run.controller.unroll(episodes), run.learner.critics.encode(episodes)
    state = run.learner.rng.get_state()
    results = []
    for made in (episodes, other):
        run.learner.rng.set_state(state)
        action, log_pi = run.learner.decide("dep", made, h_pi)
        results.append((action, log_pi, run.learner.policy_loss("dep", made, h_q, action, log_pi, ALPHA)))
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))
    taken_now = masked_log_softmax(
        local_values(run.controller.agent, "dep", episodes, h_pi, results[0][0]), episodes.avail
    )
    torch.testing.assert_close(results[0][1], taken_now)


def test_macpf_control_has_no_dependent_policy() -> None:
    run = session("macpf_control")
    assert not any(corrects(name) for name, _ in run.learner.named_parameters())
    run.replay.add(batch())
    metrics = run.learner.update(run.replay, 0)
    assert "ind_policy_entropy" in metrics and not any(name.startswith("dep") for name in metrics)
    assert run.controller.test_modes == ("ind",)
