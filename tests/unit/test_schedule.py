"""Schedules against numbers worked out by hand."""

from __future__ import annotations

import pytest

from core.schedule import Geometric, Linear


@pytest.mark.parametrize(
    ("t", "value"),
    [(0, 1.0), (1, 0.981), (25_000, 0.525), (49_999, 0.050019), (50_000, 0.05), (10**9, 0.05), (-5, 1.0)],
)
def test_linear_decay(t: int, value: float) -> None:
    steps = 50_000 if t > 1 else 50
    assert Linear(1.0, 0.05, steps)(t) == pytest.approx(value, abs=1e-12)


def test_linear_reaches_its_end_exactly_and_not_before() -> None:
    alpha = Linear(0.5, 0.05, 200_000)
    assert alpha(90_000) == pytest.approx(0.2975)  # T-19: the released code is at 0.05 here
    assert alpha(199_999) > 0.05
    assert alpha(200_000) == 0.05


def test_linear_may_rise_or_jump() -> None:
    assert [Linear(0.0, 1.0, 4)(t) for t in range(6)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert Linear(1.0, 0.1, 0)(0) == 0.1


def test_geometric() -> None:
    tau = Geometric(1.0, 0.3, 0.5)
    assert [tau(t) for t in range(4)] == [1.0, 0.5, 0.3, 0.3]
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        Geometric(1.0, 0.3, 1.5)
