"""Values that change with the steps or episodes taken (algorithms.md 1.12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Scalar = float | Tensor
"""A number of one run, or a tensor without axes."""


class EachSeed(int):
    """The environment steps of several runs that are computed at once (see ``many``), in the place of one number.

    Schedules know it. Everybody else would take it for a number that it is not, so it cannot be compared.
    """

    each: Tensor
    """A tensor without axes: under ``torch.vmap`` that of every run."""

    @classmethod
    def of(cls, largest: int, each: Tensor) -> EachSeed:
        """``largest`` is what it is as an integer."""
        made = cls(largest)
        made.each = each
        return made

    def _refuse(self, _other: Any) -> bool:
        raise TypeError("these runs are at different environment steps: ask a schedule, which knows them all")

    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _refuse
    __hash__ = int.__hash__


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

    def __call__(self, t: int) -> Scalar:
        """x(t) = start + (finish - start) min(1, t / steps); exactly ``finish`` from t = steps on."""
        if isinstance(t, EachSeed):
            falling = self.start + (self.finish - self.start) * t.each.clamp(min=0) / max(self.steps, 1)
            return torch.where(t.each >= self.steps, float(self.finish), falling)
        if t >= self.steps:
            return float(self.finish)
        return self.start + (self.finish - self.start) * max(t, 0) / self.steps


@dataclass(frozen=True)
class Held:
    """``value`` for the first ``steps``, then what ``later`` says."""

    value: float
    steps: int
    later: Linear

    def __call__(self, t: int) -> Scalar:
        """x(t) = value where t < steps."""
        if isinstance(t, EachSeed):
            return torch.where(t.each < self.steps, self.value, self.later(t))
        return self.value if t < self.steps else self.later(t)


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
