"""QTRAN and weighted QMIX: losses, weights and gradient routes against hand-made numbers and plain-Python oracles."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.functional import one_hot

from by_hand import LENGTHS, TERMINATED, A, N, batch, best_of, ends, gradients, legal, returns, session
from controllers.base import encode_agent
from core.config import ConfigError
from core.specs import EpisodeBatch
from learners.qtran import QTRAN
from run import Session

WEIGHTED = ["ow_qmix", "cw_qmix"]
VALUE = ["iql", "vdn", "qmix", "qplex", "qtran", *WEIGHTED]


def mean(parts: list[float]) -> float:
    return sum(parts) / len(parts)


@pytest.mark.parametrize("name", VALUE)
def test_agents_must_act_on_their_values(name: str) -> None:
    for mac in ("policy_mac", "conditional_mac"):
        with pytest.raises(ConfigError, match=f"'mac' is '{mac}', but .* needs .* basic_mac"):
            session(name, mac=mac)


@pytest.mark.parametrize("name", ["qplex", "qtran", *WEIGHTED])
def test_padding_does_not_reach_losses(name: str) -> None:
    """The same losses with NaN in all that padding could hold; the contract tests do it through the replay."""
    run, episodes = session(name), batch()
    states = torch.arange(episodes.obs.shape[1]) > episodes.length[:, None]
    padded = episodes.mask == 0
    poisoned = dataclasses.replace(
        episodes,
        obs=episodes.obs.masked_fill(states[..., None, None], torch.nan),
        state=episodes.state.masked_fill(states[..., None], torch.nan),
        reward=episodes.reward.masked_fill(padded, torch.nan),
    )
    assert padded.any()
    one, other = (losses_of(run, x) for x in (episodes, poisoned))
    assert one == other and all(value == value for value in one)


def losses_of(run: Session, episodes: EpisodeBatch) -> list[float]:
    """Every loss of a learner."""
    learner = run.learner
    if hasattr(learner, "losses"):
        return [loss.item() for loss in learner.losses(episodes).values()]
    return [learner.td_loss(episodes).item()]


# --- QTRAN ------------------------------------------------------------------------------------------------------------


def test_qtran_losses_golden() -> None:
    """Σ Q_i - Q_jt + V of the real steps: 3 - 4 + .5 = -.5, -.5 - 0 + 1 = .5, 0 - 1 - 1 = -2; the rest is padding."""
    episodes = batch((2, 1), (True, True))
    q = torch.tensor([[[1.0, 2.0, 0.0], [0.5, -1.0, 0.0]], [[1.0, -1.0, 0.0], [torch.nan] * 3]])
    q_jt = torch.tensor([[4.0, 0.0], [1.0, torch.nan]])
    v = torch.tensor([[0.5, 1.0], [-1.0, torch.nan]])
    y = torch.tensor([[3.0, 2.0], [1.5, torch.nan]])
    assert QTRAN.opt_loss(episodes, q, q_jt, v).item() == pytest.approx((0.25 + 0.25 + 4) / 3)
    assert QTRAN.nopt_loss(episodes, q, q_jt, v).item() == pytest.approx((0.25 + 0 + 4) / 3)
    assert QTRAN.td_loss(episodes, q_jt, y).item() == pytest.approx((1 + 4 + 0.25) / 3)


def qtran_by_hand(run: Session, episodes: EpisodeBatch, lam: float, double_q: bool) -> dict[str, float]:
    """L_td, L_opt and L_nopt with loops over episodes and steps."""
    slow_controller, slow_critic = run.learner.target.slow
    nets = {"fast": (run.controller, run.learner.critic), "slow": (slow_controller, slow_critic)}
    h = {who: encode_agent(net.agent, episodes, A) for who, (net, _) in nets.items()}
    table = {who: net.unroll(episodes).tolist() for who, (net, _) in nets.items()}

    def joint(who: str, row: int, t: int, action: list[int]) -> float:
        u = one_hot(torch.tensor([[action]]), A).float()
        return nets[who][1](h[who][row : row + 1, t : t + 1], episodes.state[row : row + 1, t : t + 1], u).item()

    td, opt, nopt = [], [], []
    for row, length in enumerate(LENGTHS):
        q = table["fast"][row]
        best = [best_of(q[t], legal(episodes, row, t)) for t in range(length + 1)]
        chooser = table["fast" if double_q else "slow"][row]
        chosen = [best_of(chooser[t], legal(episodes, row, t)) for t in range(length + 1)]
        values = [joint("slow", row, t, chosen[t]) for t in range(length + 1)]
        y = returns(episodes.reward[row, :length].tolist(), TERMINATED[row], values, lam)
        for t in range(length):
            action, v = episodes.action[row, t].tolist(), run.learner.critic.value(episodes.state)[row, t].item()
            taken_sum, best_sum = (sum(q[t][i][a[i]] for i in range(N)) for a in (action, best[t]))
            td.append((joint("fast", row, t, action) - y[t]) ** 2)
            opt.append((best_sum - joint("fast", row, t, best[t]) + v) ** 2)
            nopt.append(min(taken_sum - joint("fast", row, t, action) + v, 0.0) ** 2)
    return {"td_loss": mean(td), "opt_loss": mean(opt), "nopt_loss": mean(nopt)}


@pytest.mark.parametrize("lam", [0.0, 0.6])
@pytest.mark.parametrize("double_q", [True, False])
def test_qtran_losses_by_hand(double_q: bool, lam: float) -> None:
    run, episodes = session("qtran", double_q=double_q, td_lambda=lam), batch()
    expected = qtran_by_hand(run, episodes, lam, double_q)
    got = {name: loss.item() for name, loss in run.learner.losses(episodes).items()}
    assert got == pytest.approx(expected, rel=1e-4)
    assert got["nopt_loss"] > 1e-4
    other = qtran_by_hand(run, episodes, lam, not double_q)["td_loss"]
    assert other != pytest.approx(expected["td_loss"], rel=1e-3)  # it matters here


def test_qtran_descends_the_weighted_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    run, episodes = session("qtran", opt_loss=2.0, nopt_min_loss=0.5), batch()
    run.replay.add(episodes)
    monkeypatch.setattr(run.replay, "uniform", lambda _: episodes)
    parts = {name: loss.item() for name, loss in run.learner.losses(episodes).items()}
    metrics = run.learner.update(run.replay, 0)
    total = parts["td_loss"] + 2 * parts["opt_loss"] + 0.5 * parts["nopt_loss"]
    assert metrics["q_loss"].item() == pytest.approx(total, rel=1e-5)
    assert {name: metrics[name].item() for name in parts} == pytest.approx(parts)
    assert session("qtran").learner.cfg.opt_loss == 1.0 and session("qtran").learner.cfg.nopt_min_loss == 0.1


def test_qtran_losses_teach_their_own_networks() -> None:
    """L_td: Q_jt and, through their features, the agents' trunks. L_opt, L_nopt: utilities and V_jt, never Q_jt."""
    run, episodes = session("qtran"), batch()
    losses = run.learner.losses(episodes)
    everything = {name for name, p in run.learner.named_parameters() if p.requires_grad}
    trunk = {name for name in everything if name.startswith("controller.agent.encoder.")}
    head = {name for name in everything if name.startswith("controller.agent.head.")}
    value = {name for name in everything if name.startswith("critic.v.")}
    joint = {name for name in everything if name.startswith(("critic.q.", "critic.encoder."))}
    assert trunk | head | value | joint == everything
    assert gradients(losses["td_loss"], run.learner) == trunk | joint
    assert gradients(losses["opt_loss"], run.learner) == trunk | head | value
    assert gradients(losses["nopt_loss"], run.learner) == trunk | head | value


@pytest.mark.parametrize("name", ["qtran", *WEIGHTED])
def test_targets_bootstrap_through_time_limits_only(name: str) -> None:
    run, episodes = session(name), batch()
    best = torch.zeros(*episodes.avail.shape[:3], dtype=torch.long)
    learner = run.learner
    if name == "qtran":
        y = learner.targets(episodes, best)
    else:
        y = learner.cfg.returns(episodes, learner.target(episodes, best))
    assert torch.equal(ends(y), ends(episodes.reward)) and not y.requires_grad
    assert (ends(y, terminated=False) - ends(episodes.reward, terminated=False)).abs().min() > 1e-3


# --- weighted QMIX ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Q_tot        1    1    1    1    1
        # y            2    0    1    2    0
        # greedy      no   no   no  yes  yes
        # Q̂*'(û)       3   -1    0    3    1
        ("ow_qmix", [1.0, 0.3, 0.3, 1.0, 0.3]),
        ("cw_qmix", [0.3, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_weights_by_hand(name: str, expected: list[float]) -> None:
    """OW: underestimated, strictly. CW: greedy, or better than the greedy one."""
    learner = session(name, w=0.3).learner
    q_tot, y = torch.ones(1, 5), torch.tensor([[2.0, 0.0, 1.0, 2.0, 0.0]])
    greedy, best_value = torch.tensor([[False] * 3 + [True] * 2]), torch.tensor([[3.0, -1.0, 0.0, 3.0, 1.0]])
    assert learner.weights(q_tot, y, greedy, best_value).tolist()[0] == pytest.approx(expected)


def test_equal_to_the_greedy_value_is_not_better() -> None:
    learner = session("cw_qmix").learner
    one = torch.ones(1, 1)
    assert learner.weights(one, one, torch.tensor([[False]]), one).item() == pytest.approx(0.1)


def weighted_by_hand(run: Session, episodes: EpisodeBatch, lam: float) -> tuple[dict[str, float], set[float]]:
    """Both losses and the mean weight with loops, and which weights occurred."""
    learner, central, slow = run.learner, run.learner.central, run.learner.target.slow
    table = run.controller.unroll(episodes).tolist()

    def central_value(net: torch.nn.Module, row: int, t: int, action: list[int]) -> float:
        with torch.no_grad():
            return net(episodes, torch.tensor(action).expand(len(episodes), t + 1, N))[row, t].item()

    qmix, centrals, weights = [], [], []
    for row, length in enumerate(LENGTHS):
        best = [best_of(table[row][t], legal(episodes, row, t)) for t in range(length + 1)]
        values = [central_value(slow, row, t, best[t]) for t in range(length + 1)]
        y = returns(episodes.reward[row, :length].tolist(), TERMINATED[row], values, lam)
        for t in range(length):
            action = episodes.action[row, t].tolist()
            q = torch.tensor([[[table[row][t][i][action[i]] for i in range(N)]]])
            q_tot = learner.mixer(q, episodes.state[row : row + 1, t : t + 1]).item()
            optimistic, centrally = q_tot < y[t], action == best[t] or y[t] > values[t]
            weights.append(1.0 if (optimistic if learner.cfg.weighting == "optimistic" else centrally) else 0.1)
            qmix.append(weights[-1] * (q_tot - y[t]) ** 2)
            centrals.append((central_value(central, row, t, action) - y[t]) ** 2)
    return {"qmix_loss": mean(qmix), "central_loss": mean(centrals), "weight_mean": mean(weights)}, set(weights)


@pytest.mark.parametrize("lam", [0.0, 0.6])
@pytest.mark.parametrize("name", WEIGHTED)
def test_weighted_losses_by_hand(name: str, lam: float, monkeypatch: pytest.MonkeyPatch) -> None:
    run, episodes = session(name, td_lambda=lam), batch()
    run.replay.add(episodes)
    monkeypatch.setattr(run.replay, "uniform", lambda _: episodes)
    expected, weights = weighted_by_hand(run, episodes, lam)
    assert weights == {0.1, 1.0}
    metrics = {name: value.item() for name, value in run.learner.update(run.replay, 0).items()}
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert metrics["q_loss"] == pytest.approx(expected["qmix_loss"] + expected["central_loss"], rel=1e-4)


def test_weighted_losses_share_nothing() -> None:
    run, episodes = session("ow_qmix"), batch()
    losses = run.learner.losses(episodes)
    everything = {name for name, p in run.learner.named_parameters() if p.requires_grad}
    central = {name for name in everything if name.startswith("central.")}
    assert gradients(losses["central_loss"], run.learner) == central
    assert gradients(losses["qmix_loss"], run.learner) == everything - central
    assert any(name.startswith("mixer.") for name in everything - central)


@pytest.mark.parametrize("w", [0.0, -0.5, 1.5])
def test_a_weight_lies_between_0_and_1(w: float) -> None:
    with pytest.raises(ConfigError, match=r"w=.* must lie above 0"):
        session("ow_qmix", w=w)
