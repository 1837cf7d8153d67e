"""HAPPO's sequence of agents: against separate networks and loops, against PPO for one agent, and its order (AC-24)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.specs import EpisodeBatch
from learners.ppo import gather
from modules.agents.separate import SeparateAgents
from modules.layers import last_actions
from modules.stacked import StackedAdam
from ppo_family import BOX, Held, collected, learnt, session
from run import Session

WHOLE = {"chunk_length": 1000}


def slice_of(made: Session, i: int) -> dict[str, Tensor]:
    """Agent i's parameters by their names in one network."""
    return {name.removeprefix("agent."): p[i] for name, p in made.controller.agent.networks.state().items()}


def alone(made: Session) -> Session:
    """A session whose controller has one network for one agent of the same sizes: what an agent of HAPPO has."""
    args = dict(made.settings["env_args"]) | {"n_agents": 1}
    return session("mappo", env_args=args, agent=made.settings["agent"], mac=made.settings["mac"])


def brute_force(made: Session, batch: EpisodeBatch, order: list[int], first: dict[int, dict[str, Tensor]]) -> Any:
    """The update written out: single networks, torch's Adam, whole unrolls, M as a product of ratios, M outside."""
    cfg = made.learner.cfg
    data, _ = gather(batch, made.controller, made.learner.value, cfg)
    factor, factors, results = torch.ones_like(data.mask), {}, {}
    last = last_actions(batch.action, made.env.spec.n_actions)[:, :-1]
    for i in order:
        single = alone(made).controller
        single.agent.load_state_dict(first[i])
        optimiser = torch.optim.Adam(single.parameters(), lr=cfg.lr, eps=1e-5)
        factors[i] = factor

        def law(controller: Any = single, i: int = i) -> Any:
            obs = batch.obs[:, :-1, i : i + 1]
            out, _ = controller.agent(obs, last[:, :, i : i + 1], controller.initial_hidden(len(batch)), batch.length)
            return controller.policy(out, batch.avail[:, :-1, i : i + 1])

        action = made.controller.drawn(batch)[:, :, i : i + 1]
        old = law().log_prob(action)[..., 0].detach()
        counted = data.active[..., i] > 0
        for _ in range(cfg.epochs):
            pi = law()
            ratio = (pi.log_prob(action)[..., 0] - old).exp()
            a = data.advantage[..., i]
            objective = factor * torch.minimum(ratio * a, ratio.clamp(1 - cfg.clip, 1 + cfg.clip) * a)
            loss = -objective[counted].mean() - cfg.entropy_coef * pi.entropy()[..., 0][counted].mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(single.parameters(), cfg.grad_norm_clip)
            optimiser.step()
        change = (law().log_prob(action)[..., 0].detach() - old).exp()
        factor = torch.where(data.mask > 0, factor * change, 1.0)
        results[i] = single.agent.state_dict()
    return results, factors


@pytest.mark.parametrize("more", [{}, BOX | {"agent": "rnn"}])
def test_an_update_by_brute_force(more: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made = session("happo", lr=0.05, epochs=2, **WHOLE | more)
    batch = collected(made)
    first = {i: {k: p.detach().clone() for k, p in slice_of(made, i).items()} for i in range(3)}
    order = torch.randperm(3, generator=torch.Generator().set_state(made.learner.rng.get_state())).tolist()
    expected, factors = brute_force(made, batch, order, first)
    assert len({float(f.sum()) for f in factors.values()}) == 3, "the agents' factors differ"
    assert (factors[order[2]] / factors[order[1]] - 1).abs().max() > 0.05, "and by enough to be seen"
    seen: list[tuple[int, Tensor]] = []
    improve = type(made.learner).improve
    monkeypatch.setattr(
        type(made.learner),
        "improve",
        lambda self, i, part: (seen.append((i, part.advantage)), improve(self, i, part))[1],
    )
    data, _ = gather(batch, made.controller, made.learner.value, made.learner.cfg)
    made.learner.update(made.replay, 0)
    assert [i for i, _ in seen[::2]] == order
    for i, weighed in seen[::2]:
        torch.testing.assert_close(weighed[..., 0], factors[i] * data.advantage[..., i], atol=1e-4, rtol=1e-4)
    for i in range(3):
        for name, p in slice_of(made, i).items():
            torch.testing.assert_close(p.detach(), expected[i][name], atol=2e-5, rtol=1e-4, msg=f"{i} {name}")


@pytest.mark.parametrize("more", [{}, BOX])
def test_one_agent_is_mappo(more: dict[str, Any]) -> None:
    """AC-24: with N = 1, the same parameters after three updates."""
    args = more.get("env_args", {}) | {"n_agents": 1}
    happo, mappo = session("happo", **more | {"env_args": args}), session("mappo", **more | {"env_args": args})
    with torch.no_grad():
        for name, p in slice_of(happo, 0).items():
            p.copy_(mappo.controller.agent.state_dict()[name])
    happo.learner.value.load_state_dict(mappo.learner.value.state_dict())
    for _ in range(3):
        batch = collected(mappo)
        mappo.learner.update(Held(batch), 0)
        happo.learner.update(Held(batch), 0)
    for name, p in slice_of(happo, 0).items():
        torch.testing.assert_close(p.detach(), mappo.controller.agent.state_dict()[name], atol=2e-6, rtol=1e-5)
    for a, b in zip(happo.learner.value.parameters(), mappo.learner.value.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_orders_are_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    made = session("happo", env_args={"n_agents": 4})
    seen: list[int] = []
    change = type(made.learner).change
    monkeypatch.setattr(type(made.learner), "change", lambda self, i, own: (seen.append(i), change(self, i, own))[1])
    learnt(made, 5)
    orders = [tuple(seen[k : k + 4]) for k in range(0, 20, 4)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert len(set(orders)) >= 3


def test_only_the_agent_that_improves_moves() -> None:
    made = learnt(session("happo"), 1)
    data, _ = gather(collected(made), made.controller, made.learner.value, made.learner.cfg)
    before = {name: p.detach().clone() for name, p in made.controller.agent.networks.state().items()}
    made.learner.improve(1, data.agent(1))
    for name, p in made.controller.agent.networks.state().items():
        assert torch.equal(p[0], before[name][0]) and torch.equal(p[2], before[name][2])
        assert not torch.equal(p[1], before[name][1])


def test_separate_networks_act_as_each_alone() -> None:
    """Acting and unrolling: each agent's outputs are those of a single network with its parameters."""
    made = session("happo")
    batch = collected(made)
    assert isinstance(made.controller.agent, SeparateAgents)
    whole = made.controller.unroll(batch)
    last = last_actions(batch.action, 4)
    for i in range(3):
        single = alone(made).controller.agent
        single.load_state_dict(slice_of(made, i))
        out, _ = single(batch.obs[:, :, i : i + 1], last[:, :, i : i + 1], None, batch.length + 1)
        torch.testing.assert_close(whole[:, :, i : i + 1], out, atol=1e-5, rtol=1e-5)
        first, hidden = made.controller.agent(batch.obs[:, :1], last[:, :1], made.controller.initial_hidden(8))
        torch.testing.assert_close(first[:, 0, i], out[:, 0, 0], atol=1e-5, rtol=1e-5)
    assert hidden.shape == (8, 3, 8)
    assert not torch.allclose(slice_of(made, 0)["head.weight"], slice_of(made, 1)["head.weight"])


def test_stacked_adam_is_adam_for_each() -> None:
    """Different numbers of steps for each network, saved and restored in between."""
    torch.manual_seed(0)
    stack = [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(3, 2, 2))]
    singles = [[nn.Parameter(p.detach()[k].clone()) for p in stack] for k in range(3)]
    adams = [torch.optim.Adam(params, lr=0.1, eps=1e-5, fused=True) for params in singles]
    optimiser = StackedAdam(stack, lr=0.1, eps=1e-5)
    for step, k in enumerate([0, 2, 0, 0, 2]):
        gradients = [torch.randn_like(p) for p in singles[k]]
        for p, gradient in zip(singles[k], gradients, strict=True):
            p.grad = gradient
        adams[k].step()
        if step == 3:
            saved, optimiser = optimiser.state_dict(), StackedAdam(stack, lr=0.1, eps=1e-5)
            optimiser.load_state_dict(saved)
        optimiser.step_of(k, gradients)
        for j in range(3):
            assert all(torch.equal(p[j], q) for p, q in zip(stack, singles[j], strict=True))
