"""The cheapest one-to-one assignment of n agents to n targets, exact, for all rows at once."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import torch
import warp as wp
from jaxtyping import Float, Int
from torch import Tensor

from envs.particles import hungarian

FEW = 5
"""Up to so many agents all n! assignments are compared (120 for 5), in a few large tensor operations; for more a kernel
is compiled, once per machine."""


class Matching:
    """Assignments of ``n`` agents in each of ``n_rows`` rows."""

    def __init__(self, n: int, n_rows: int, device: torch.device) -> None:
        """Nothing is compiled before the first use."""
        self.n, self.n_rows, self.device = n, n_rows, device
        self._command: Any = None
        if n <= FEW:
            self._table = torch.tensor(list(permutations(range(n))), device=device)
            entries = self._table + n * torch.arange(n, device=device)
            self._entries = torch.zeros(len(entries), n * n, device=device).scatter_(1, entries, 1.0).t()

    def __call__(self, cost: Float[Tensor, "n n b"]) -> Float[Tensor, "n b"]:
        """Each agent's cost in the assignment with the smallest sum; ``cost[i, j]`` is that of agent i at target j."""
        target = self.by_permutations(cost) if self.n <= FEW else self.by_kernel(cost)
        return cost.gather(1, target[:, None])[:, 0]

    def by_permutations(self, cost: Float[Tensor, "n n b"]) -> Int[Tensor, "n b"]:
        """The target of each agent; the sums of all permutations are one matrix product."""
        totals = cost.flatten(0, 1).t() @ self._entries
        return self._table[totals.argmin(1)].t()

    def by_kernel(self, cost: Float[Tensor, "n n b"]) -> Int[Tensor, "n b"]:
        """The target of each agent, by the Hungarian algorithm."""
        if self._command is None:
            self._prepare()
        self._cost.copy_(cost)
        stream = wp.stream_from_torch(self._cost.device) if self.device.type == "cuda" else None
        self._command.launch(stream=stream)
        return self._target

    def _prepare(self) -> None:
        """Binds the kernel to tensors of its own."""
        from envs.skirmish.scene import without_missing_driver  # here, since few need it and it brings the simulator

        wp.config.log_level = max(wp.config.log_level, wp.LOG_WARNING)
        with without_missing_driver():
            wp.init()
        n, b = self.n, self.n_rows
        # What one thread works on lies together: with the rows last, each number would have a cache line of its own.
        self._cost = torch.zeros(b, n, n, device=self.device).permute(1, 2, 0)
        self._target = torch.zeros(n, b, dtype=torch.int64, device=self.device)
        device, search = wp.device_from_torch(self._cost.device), hungarian.Search()
        for name in ("agent_price", "target_price", "length"):
            setattr(search, name, wp.zeros((b, n + 1), dtype=wp.float32, device=device))
        for name in ("before", "reached", "agent_at"):
            setattr(search, name, wp.zeros((b, n + 1), dtype=wp.int32, device=device))
        self._held = (wp.from_torch(self._cost), search, wp.from_torch(self._target))  # Warp keeps only addresses
        self._command = wp.launch(hungarian.assign, dim=b, inputs=list(self._held), device=device, record_cmd=True)
