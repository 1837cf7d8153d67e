"""Assignments against all permutations, one row at a time."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor

from envs.particles.matching import FEW, Matching

CPU = torch.device("cpu")
METHODS = [*((n, "by_permutations") for n in range(1, FEW + 1)), *((n, "by_kernel") for n in (1, 4, FEW + 1))]


def best(cost: Tensor) -> list[float]:
    """The least sum of each row, by looking at every assignment."""
    n, _, b = cost.shape
    return [min(sum(cost[i, p[i], k].item() for i in range(n)) for p in permutations(range(n))) for k in range(b)]


def costs(n: int, kind: str) -> Tensor:
    rng = torch.Generator().manual_seed(n)
    cost = torch.rand(n, n, 5 if n > FEW else 15, generator=rng)
    return {"random": cost, "ties": (3 * cost).round(), "equal": torch.ones_like(cost), "mixed": cost - 0.5}[kind]


@pytest.mark.parametrize("kind", ["random", "ties", "equal", "mixed"])
@pytest.mark.parametrize(("n", "method"), METHODS)
def test_least_sum(n: int, method: str, kind: str) -> None:
    cost = costs(n, kind)
    target = getattr(Matching(n, cost.shape[-1], CPU), method)(cost)
    assert torch.equal(target.sort(0).values, torch.arange(n)[:, None].expand_as(target))
    chosen = cost.gather(1, target[:, None])[:, 0].sum(0)
    assert chosen.tolist() == pytest.approx(best(cost), abs=1e-5)


def test_many_agents_agree_with_a_known_optimum() -> None:
    """Points on a line are matched in order."""
    rng = torch.Generator().manual_seed(0)
    a, b = torch.rand(30, 8, generator=rng), torch.rand(30, 8, generator=rng)
    cost = (a[:, None] - b).abs()
    expected = (a.sort(0).values - b.sort(0).values).abs().sum(0)
    assert torch.allclose(Matching(30, 8, CPU)(cost).sum(0), expected, atol=1e-4)


@pytest.mark.parametrize("n", [3, FEW + 1])
def test_each_agent_gets_its_own_cost(n: int) -> None:
    """Agent i belongs to target i + 1."""
    cost = 10 + torch.rand(n, n, 4)
    wanted = torch.rand(n, 4)
    cost[torch.arange(n), (torch.arange(n) + 1) % n] = wanted
    assert torch.equal(Matching(n, 4, CPU)(cost), wanted)


def test_rows_are_apart() -> None:
    match, cost = Matching(FEW + 1, 6, CPU), torch.rand(FEW + 1, FEW + 1, 6)
    before = match(cost)
    other = cost.clone()
    other[..., 1:] = torch.rand(FEW + 1, FEW + 1, 5)
    assert torch.equal(match(other)[:, 0], before[:, 0])
