"""Slow copies of networks."""

from __future__ import annotations

import copy
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class Target(nn.Module, Generic[M]):
    r"""A copy of a network that follows it slowly and never gets a gradient (algorithms.md 1.12).

    Either copied whole each time ``period`` further events have been counted, or at every step by Polyak averaging,
    :math:`\theta' \leftarrow (1-\tau) \theta' + \tau \theta`. What is counted is the caller's declaration (T-18).
    """

    slow: M

    def __init__(self, online: M, period: int | None = None, tau: float | None = None) -> None:
        """Exactly one of ``period`` (events) and ``tau`` (share of the online network) is given.

        Raises:
            ValueError: both or neither given, or out of range.
        """
        super().__init__()
        if (period is None) == (tau is None):
            raise ValueError("a target network needs either a period or a tau")
        if period is not None and period < 1:
            raise ValueError(f"the period of a target network must be at least 1, not {period}")
        if tau is not None and not 0 < tau <= 1:
            raise ValueError(f"the tau of a target network must lie in (0, 1], not {tau}")
        self.slow = copy.deepcopy(online).requires_grad_(False)
        self._online = (online,)  # in a tuple, so that it is not a submodule and is not saved twice
        self.period, self.tau = period, tau
        self.count = 0

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the slow network says, without a graph."""
        return self.slow(*args, **kwargs)

    @torch.no_grad()
    def step(self, events: int = 1) -> None:
        """Counts ``events`` and follows the online network where that is due."""
        before, self.count = self.count, self.count + events
        online = self._online[0]
        if self.tau is not None:
            for slow, fast in zip(self.slow.parameters(), online.parameters(), strict=True):
                slow.lerp_(fast, self.tau)
            for copied, buffer in zip(self.slow.buffers(), online.buffers(), strict=True):
                copied.copy_(buffer)
        elif self.period is not None and self.count // self.period > before // self.period:
            self.slow.load_state_dict(online.state_dict())

    def get_extra_state(self) -> Tensor:
        """Part of ``state_dict``: the events counted. Kept on the host, so that counting never waits for a device."""
        return torch.tensor(self.count)

    def set_extra_state(self, state: Tensor) -> None:
        """The inverse of ``get_extra_state``."""
        self.count = int(state)
