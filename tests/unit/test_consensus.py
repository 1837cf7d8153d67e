"""Agreement over a graph: topologies and turns (AC-21), and the primal-dual iteration on a sum of squares (AC-19)."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from modules.consensus import Consensus, ConsensusConfig
from rl.consensus import averaging, dual_step, metropolis, ring, topology

N, D = 8, 4
EVERY_UPDATE = ConsensusConfig(sync_init=False)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def centres() -> Tensor:
    """Agent i minimises ½ |w - c_i|²."""
    return torch.randn(N, D, generator=generator(1))


def descend(cfg: ConsensusConfig, steps: int, rate: float = 0.1) -> tuple[Tensor, Consensus]:
    """Plain gradient steps on the copies with the pull, and an exchange after each."""
    w, c = nn.Parameter(torch.randn(N, D, generator=generator(2))), centres()
    made = Consensus([w], cfg, generator(3))
    for _ in range(steps):
        (force,) = made.pull([w])
        with torch.no_grad():
            w -= rate * (w - c + (0 if force is None else force))
        made.exchange()
    return w.detach(), made


def reaches(heard: Tensor) -> bool:
    """Whether everybody hears of everybody, at least through others."""
    n = len(heard)
    return bool(torch.linalg.matrix_power(heard.float() + torch.eye(n), n).all())


@given(n=st.integers(1, 9), share=st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), both=st.booleans())
def test_edges_are_the_ring_and_a_share_of_the_rest(n: int, share: float, both: bool) -> None:
    rng = generator(n)
    heard = topology(torch.randperm(n, generator=rng), share, both, rng)
    assert not heard.diagonal().any()
    if both:
        assert torch.equal(heard, heard.T)
    if share == 0:
        assert not heard.any()  # not even the ring (T-44)
        return
    if both:
        around = n if n > 2 else n - 1
        expected = 2 * (around + round(share * (n * (n - 1) // 2 - around)))
    else:
        around = n if n > 1 else 0
        expected = around + round(share * (n * (n - 1) - around))
    assert int(heard.sum()) == expected
    assert reaches(heard)


def test_extra_edges_are_drawn_anew_and_the_ring_stays() -> None:
    rng = generator()
    order = torch.randperm(N, generator=rng)
    graphs = [topology(order, 0.2, False, rng) for _ in range(20)]
    assert len({tuple(g.flatten().tolist()) for g in graphs}) > 15
    assert all((g & ring(order)).sum() == N for g in graphs)


def test_the_ring_is_heard_in_the_drawn_order() -> None:
    heard = ring(torch.tensor([2, 0, 1]))
    assert heard.nonzero().tolist() == [[0, 2], [1, 0], [2, 1]]  # 0 hears 2, 1 hears 0, 2 hears 1


def test_averages_and_metropolis_weights_by_hand() -> None:
    path = torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=torch.bool)
    assert torch.allclose(
        averaging(path), torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1]]) / torch.tensor([[2.0], [3], [2]])
    )
    third = 1 / 3
    expected = torch.tensor([[2 * third, third, 0], [third, third, third], [0, third, 2 * third]])
    assert torch.allclose(metropolis(path), expected)


@given(n=st.integers(1, 9), share=st.floats(0, 1))
def test_metropolis_weights_keep_the_mean(n: int, share: float) -> None:
    rng = generator(n)
    weight = metropolis(topology(torch.randperm(n, generator=rng), share, True, rng))
    assert (weight >= 0).all()
    assert torch.allclose(weight.sum(0), torch.ones(n)) and torch.allclose(weight.sum(1), torch.ones(n))


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0, 5.0])
def test_a_complete_graph_finds_the_common_minimum(beta: float) -> None:
    """10.7-1 and 10.7-2: the mean of the centres; the duals sum to 0 and are minus the gradients there (KKT)."""
    w, made = descend(replace(EVERY_UPDATE, beta=beta), 700)
    assert (made.agreed - centres().mean(0)).norm(dim=1).max() < 1e-4
    assert made.dual.sum(0).norm() < 1e-4
    assert (made.dual + (w - centres())).abs().max() < 1e-4


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6, 0.8])
def test_some_edges_are_enough_to_agree_but_with_a_bias(share: float) -> None:
    """T-51: agreement, away from the mean by what the duals' sum says."""
    w, made = descend(replace(EVERY_UPDATE, beta=0.5, topology_share=share), 700)
    assert (w - w.mean(0)).norm(dim=1).max() < 1e-3
    assert torch.allclose(w.mean(0) - centres().mean(0), -made.dual.mean(0), atol=1e-4)


def test_turns_that_differ_are_enough_to_agree() -> None:
    w, _ = descend(replace(EVERY_UPDATE, beta=0.5, exchange_interval=8.0, exchange_std=4.0), 1500)
    assert (w - w.mean(0)).norm(dim=1).max() < 1e-3


def test_without_edges_nothing_is_exchanged_and_nobody_is_pulled() -> None:
    w, made = descend(replace(EVERY_UPDATE, topology_share=0.0), 300)
    assert torch.allclose(w, centres(), atol=1e-6)
    assert (w - w.mean(0)).norm(dim=1).max() > 1
    assert not made.dual.any() and not made.met.any()
    assert made.exchange()["exchanged_bytes"] == 0


def test_without_duals_the_fixed_point_is_another() -> None:
    """The check that the duals matter: with the penalty alone the copies stay apart."""
    w, c = torch.zeros(N, D), centres()
    for _ in range(2000):
        w = w - 0.1 * (w - c + 0.5 * (w - w.mean(0)))
    assert (w - w.mean(0)).norm(dim=1).max() > 1


def test_one_round_by_hand() -> None:
    """Two agents in a complete graph: everybody publishes before anybody averages (T-41)."""
    w = nn.Parameter(torch.tensor([[0.0], [4.0]]))
    made = Consensus([w], replace(EVERY_UPDATE, beta=0.5), generator())
    assert made.pull([w]) == [None]  # nobody has heard anything yet (T-43)
    assert made.exchange()["exchanged_bytes"] == 2 * 4  # one float each way
    assert made.agreed.tolist() == [[2.0], [2.0]]
    assert made.dual.tolist() == [[-1.0], [1.0]]  # λ - β (agreed - copy)
    assert made.pull([w])[0].tolist() == [[-2.0], [2.0]]  # λ + β (copy - agreed)
    assert torch.equal(dual_step(w.detach(), made.agreed, torch.zeros(2, 1), 0.5), made.dual)


def test_one_agent_is_never_pulled() -> None:
    w = nn.Parameter(torch.randn(1, D))
    made = Consensus([w], ConsensusConfig(), generator())
    for _ in range(5):
        made.exchange()
    assert made.pull([w]) == [None]


def test_only_shared_parameters_are_pulled() -> None:
    w, own = nn.Parameter(torch.randn(N, 2, 3)), nn.Parameter(torch.randn(N, 5))
    made = Consensus([w], EVERY_UPDATE, generator())
    made.exchange()
    force, none = made.pull([w, own])
    assert none is None and force.shape == w.shape and force.any()


@pytest.mark.parametrize(("mean", "std"), [(1.0, 0.0), (8.0, 4.0), (20.0, 10.0), (None, 0.0)])
def test_turns_come_after_the_drawn_numbers_of_updates(mean: float | None, std: float) -> None:
    """AC-21: (1, 0) always, never for null, and at least one update between two."""
    w = nn.Parameter(torch.randn(N, D))
    made = Consensus([w], replace(EVERY_UPDATE, exchange_interval=mean, exchange_std=std), generator())
    turns = torch.stack([(made.exchange(), made.fresh.clone())[1] for _ in range(400)]).float()
    if mean is None:
        assert not turns.any()
    elif std == 0:
        assert turns.all()
    else:
        assert turns.mean() == pytest.approx(1 / mean, rel=0.2)
        assert len({tuple(t.tolist()) for t in turns.T}) == N  # every agent has turns of its own


def test_an_agent_uses_what_others_published_last() -> None:
    w = nn.Parameter(torch.arange(3.0).unsqueeze(1))
    made = Consensus([w], replace(EVERY_UPDATE, exchange_interval=1000.0), generator())
    made.wait[:] = torch.tensor([1, 3, 1000])
    made.exchange()
    assert not made.met.any()  # the first publishes, and has nothing to hear yet
    with torch.no_grad():
        w += 10
    made.exchange()
    made.exchange()
    assert made.met.tolist() == [False, True, False]
    assert made.agreed[1].item() == (0.0 + 11.0) / 2  # agent 0's old word, agent 1's present one


def test_a_pull_may_last_one_update_only() -> None:
    w = nn.Parameter(torch.randn(N, D))
    made = Consensus([w], replace(EVERY_UPDATE, exchange_interval=3.0, stale_pull=False), generator())
    pulled = []
    for _ in range(6):
        made.exchange()
        pulled.append(made.pull([w])[0] is not None)
    assert pulled == [False, False, True, False, False, True]


def test_copies_start_equal_where_asked() -> None:
    w = nn.Parameter(torch.randn(N, D))
    Consensus([w], ConsensusConfig(sync_init=True), generator())
    assert (w == w[0]).all()


def test_it_goes_on_as_saved() -> None:
    cfg = replace(EVERY_UPDATE, topology_share=0.4, exchange_interval=3.0, exchange_std=2.0)
    w, made = descend(cfg, 20)
    again = Consensus([nn.Parameter(w.clone())], cfg, generator(99))
    again.load_state_dict(copy.deepcopy(made.state_dict()))
    for _ in range(10):
        made.exchange()
        again.exchange()
    assert torch.equal(made.dual, again.dual) and torch.equal(made.agreed, again.agreed)
    assert made.wait.tolist() == again.wait.tolist()


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"beta": 0.0}, "beta"),
        ({"exchange_interval": 0.5}, "exchange_interval"),
        ({"exchange_std": -1.0}, "exchange_std"),
        ({"topology_share": 1.5}, "topology_share"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(wrong: dict[str, float], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        replace(EVERY_UPDATE, **wrong).check_consensus()
