"""On-policy and off-policy steps as one batch without padding, for critics that are fitted to both."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.device import sent
from core.specs import States


class Fit(NamedTuple):
    """What the critic is fitted to: the m real steps of both sources in order of time, without padding."""

    state: Float[Tensor, "m 1 s"]
    obs: Float[Tensor, "m 1 n o"]
    action: Int[Tensor, "m 1 n"]
    y: Float[Tensor, "m 1"]
    off: Float[Tensor, "m 1"]
    """1 for off-policy data."""
    counts: list[int]
    """How many of them belong to each time step."""

    @classmethod
    def of(cls, on: States, y_on: Float[Tensor, "k 1"], off: States, y_off: Float[Tensor, "l 1"]) -> Fit:
        """Both batches' steps with their targets."""
        parts = [_acted(on, y_on, 0.0), _acted(off, y_off, 1.0)]
        time = torch.cat([t for t, _ in parts])
        order = sent(time.argsort(stable=True), y_on.device)
        columns = zip(*(part for _, part in parts), strict=True)
        state, obs, action, y, source = (torch.cat(column).index_select(0, order) for column in columns)
        return cls(state, obs, action, y, source, time.bincount().tolist())

    def steps(self, mode: Literal["sequence", "batch"]) -> Iterator[slice]:
        """The rows of each gradient step: those of one time step after the other, as in the release, or all."""
        if mode == "batch":
            return iter([slice(None)])
        ends = list(accumulate(self.counts))
        return (slice(start, end) for start, end in pairwise([0, *ends]))


def _acted(batch: States, y: Tensor, off: float) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The time of every state in which somebody acted, in host memory, and what belongs to it in ``Fit``'s order."""
    acting = batch.acting()
    t = torch.arange(len(acting)).repeat_interleave(torch.tensor([at.stop - at.start for at in acting]))
    rows = sent(torch.cat([torch.arange(at.start, at.stop) for at in acting]), y.device)
    columns = batch.state, batch.obs, batch.action, y, torch.full_like(y, off)
    return t, tuple(x.index_select(0, rows) for x in columns)
