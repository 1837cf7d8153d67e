"""Running statistics of values: debiasing by hand, padding, and what PopArt leaves unchanged (AC-17)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modules.normaliser import DECAY, PopArt, Unnormalised, ValueNorm

FIRST = torch.tensor([[[1.0], [3.0]], [[8.0], [float("nan")]]])
SECOND = torch.tensor([[[10.0], [20.0]]])
MASK = torch.tensor([[[1.0], [1.0]], [[1.0], [0.0]]])


def test_debiased_averages_by_hand() -> None:
    """After one update the statistics are the batch's own; after two, nearly the mean of both (T-16: no padding)."""
    norm = ValueNorm()
    norm.update(FIRST, MASK)
    mean, std = norm.statistics()
    assert mean == pytest.approx(4.0, abs=1e-5)
    assert std == pytest.approx(((1 + 9 + 64) / 3 - 16) ** 0.5, abs=1e-5)
    norm.update(SECOND, torch.ones(1, 2, 1))
    old, new = DECAY * (1 - DECAY), 1 - DECAY
    mean, square = ((old * a + new * b) / (old + new) for a, b in ((4, 15), (74 / 3, 250)))
    assert [float(x) for x in norm.statistics()] == pytest.approx([mean, (square - mean**2) ** 0.5], rel=1e-5)


def test_the_variance_has_a_floor_and_no_entry_is_no_update() -> None:
    norm = ValueNorm()
    assert [float(x) for x in norm.statistics()] == pytest.approx([0.0, 0.1])
    norm.update(torch.full((1, 4, 1), 5.0), torch.ones(1, 4, 1))
    assert [float(x) for x in norm.statistics()] == pytest.approx([5.0, 0.1])
    before = norm.state_dict()["moments"].clone()
    norm.update(torch.full((1, 4, 1), 9.0), torch.zeros(1, 4, 1))
    assert torch.equal(norm.state_dict()["moments"], before)


def test_large_means_leave_small_deviations_visible() -> None:
    norm, x = ValueNorm(), 10_000 + torch.randn(1, 5000, 1, generator=torch.Generator().manual_seed(0))
    norm.update(x, torch.ones_like(x))
    assert float(norm.statistics()[1]) == pytest.approx(float(x.std()), rel=0.01)


@pytest.mark.parametrize("make", [ValueNorm, Unnormalised])
def test_normalising_is_undone(make: type[ValueNorm]) -> None:
    norm = make()
    norm.update(FIRST, MASK)
    x = torch.tensor([-3.0, 0.0, 7.0])
    torch.testing.assert_close(norm.denormalise(norm.normalise(x)), x)
    assert torch.equal(norm.normalise(x), x) == (make is Unnormalised)


def test_statistics_are_saved() -> None:
    one, other = ValueNorm(), ValueNorm()
    one.update(FIRST, MASK)
    other.load_state_dict(one.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(one.statistics(), other.statistics(), strict=True))


def test_popart_keeps_the_values_and_valuenorm_does_not() -> None:
    """AC-17: the denormalised outputs are what they were before the statistics moved."""
    torch.manual_seed(0)
    head, x = nn.Linear(6, 1), torch.randn(50, 6)
    norm, plain = PopArt(head), ValueNorm()
    assert not list(norm.parameters())
    for batch, mask in ((FIRST, MASK), (SECOND, torch.ones(1, 2, 1)), (100 * SECOND, torch.ones(1, 2, 1))):
        before, loose = norm.denormalise(head(x)), plain.denormalise(head(x))
        kept, frozen = norm.keep(head(x)), plain.keep(head(x))
        weight = head.weight.clone()
        norm.update(batch, mask)
        assert not torch.equal(head.weight, weight)
        torch.testing.assert_close(norm.denormalise(head(x)), before, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(norm.kept(kept), head(x), atol=1e-4, rtol=1e-4)
        plain.update(batch, mask)
        assert not torch.allclose(plain.denormalise(frozen), loose, atol=0.1)
        assert torch.equal(plain.kept(frozen), frozen)
