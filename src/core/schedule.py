"""Values that change with the steps or episodes taken (algorithms.md 1.12)."""

from __future__ import annotations

from dataclasses import dataclass


def mark(t_env: int, interval: int, end: int) -> int:
    """The environment step for which a measurement at ``t_env`` stands: the multiple of ``interval`` that was due.

    Episodes end where they end, so runs are measured a little after each multiple; what they share is the multiple. The
    last measurement stands for ``end``.
    """
    return end if t_env >= end else t_env // interval * interval


@dataclass(frozen=True)
class Linear:
    """``start`` to ``finish`` in a straight line over ``steps``, then flat. ``steps`` 0 means ``finish`` at once."""

    start: float
    finish: float
    steps: int

    def __call__(self, t: int) -> float:
        """x(t) = start + (finish - start) min(1, t / steps); exactly ``finish`` from t = steps on."""
        if t >= self.steps:
            return float(self.finish)
        return self.start + (self.finish - self.start) * max(t, 0) / self.steps


@dataclass(frozen=True)
class Geometric:
    """``start`` shrinking by the factor ``rate`` per count, never below ``finish``."""

    start: float
    finish: float
    rate: float

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError(f"the rate of a geometric schedule lies in (0, 1], not {self.rate}")

    def __call__(self, t: int) -> float:
        """x(t) = max(finish, start rate^t)."""
        return max(float(self.finish), self.start * self.rate ** max(t, 0))
