"""Rows of numbers of which most are zero, kept exactly: one bit per entry, and the entries that are not zero."""

from __future__ import annotations

import math

import torch
from jaxtyping import Int
from torch import Tensor

from core.device import sent


class SparseRows:
    """Stands in for a tensor of rows [size, *shape] in a ring that is written in order and freed in order.

    The values lie in a ring of their own, that grows by a quarter where it is full. Observations of StarCraft's battles
    are zero to three quarters and more: of the dead, of all that is out of sight, and one-hots.

    How many values each row has, and where they begin, is kept in host memory, and so are the indices of rows that are
    asked for: reading decides sizes by them, and never waits for the device on which the values are.
    """

    def __init__(self, size: int, example: Tensor) -> None:
        """Room for ``size`` rows of the shape, type and device of ``example``."""
        self.shape, width = example.shape, example.numel()
        self._bits = torch.zeros(size, math.ceil(width / 8), dtype=torch.uint8, device=example.device)
        self._count = torch.zeros(size, dtype=torch.int32)
        self._start = torch.zeros(size, dtype=torch.long)
        self._values = example.new_zeros(0)
        self._tail = self._head = 0
        self._powers = 2 ** torch.arange(8, dtype=torch.uint8, device=example.device)

    @staticmethod
    def row_bytes(width: int) -> int:
        """Bytes of a row of ``width`` entries beside its values."""
        return math.ceil(width / 8) + 12

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(x.nbytes for x in (self._bits, self._count, self._start, self._values))

    @property
    def value_bytes(self) -> int:
        """Bytes of the values that are stored."""
        return (self._head - self._tail) * self._values.element_size()

    def write(self, place: Int[Tensor, " k"], x: Tensor) -> None:
        """Stores the rows x [k, *shape], the newest ones, at ``place``; waits to learn how many values they have."""
        flat = x.reshape(len(x), -1)
        there = flat != 0
        count = there.sum(1).cpu()
        self._make_room(int(count.sum()))
        self._count[place] = count.int()
        self._start[place] = self._head + count.cumsum(0) - count
        octets = torch.nn.functional.pad(there, (0, -there.shape[1] % 8)).unflatten(1, (-1, 8))
        self._bits[sent(place, flat.device)] = (octets * self._powers).sum(-1, dtype=torch.uint8)
        values = flat[there]
        at = self._head + torch.arange(len(values), device=values.device)
        self._values[at.remainder(max(len(self._values), 1))] = values
        self._head += len(values)

    def free(self, oldest: int | None) -> None:
        """Forgets what was stored before row ``oldest``; None: everything."""
        self._tail = self._head if oldest is None else int(self._start[oldest])

    def __getitem__(self, index: Int[Tensor, "*b"]) -> Tensor:
        """The rows [*b, *shape], as they were; on the device of the values."""
        rows, device = index.flatten(), self._values.device
        octets = self._bits[sent(rows, device)].unsqueeze(-1) & self._powers
        there = octets.bool().flatten(1)[:, : math.prod(self.shape)]
        count = self._count[rows].long()
        ends = count.cumsum(0)
        first, total = sent(self._start[rows] - ends + count, device), int(ends[-1]) if len(ends) else 0
        shift = first.repeat_interleave(sent(count, device), output_size=total)
        found = self._values[(torch.arange(total, device=device) + shift).remainder(max(len(self._values), 1))]
        out = self._values.new_zeros(there.shape).masked_scatter_(there, found)
        return out.view(*index.shape, *self.shape)

    def moved(self, size: int, order: Int[Tensor, " k"]) -> SparseRows:
        """The rows ``order`` at the start of ``size`` rows; the values stay where they are."""
        made = SparseRows(size, self._values.new_zeros(self.shape))
        for name in ("_bits", "_count", "_start"):
            old = getattr(self, name)
            getattr(made, name)[: len(order)] = old[sent(order, old.device)]
        made._values, made._tail, made._head = self._values, self._tail, self._head
        return made

    def _make_room(self, more: int) -> None:
        """Grows the ring of values where ``more`` do not fit."""
        needed, size = self._head - self._tail + more, len(self._values)
        if needed <= size:
            return
        grown = self._values.new_zeros(needed + needed // 4)
        kept = torch.arange(self._tail, self._head, device=grown.device)
        grown[kept.remainder(len(grown))] = self._values[kept.remainder(max(size, 1))]
        self._values = grown
