"""The rows of several replays in one memory, written and read for all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from core.device import sent
from core.specs import EpisodeBatch
from memory.replay import Replay

Picking = Callable[[Replay], list[int]]
"""Chooses among a replay's episodes, which are counted from the oldest one."""


class Store:
    """Replays that keep what is not sparse or rounded; each one's rows are a view of its part of [S, rows, ...]."""

    def __init__(self, replays: Sequence[Replay]) -> None:
        self.replays = list(replays)
        self._whole: dict[str, Tensor] = {}
        self._size = 0

    @staticmethod
    def fits(replays: Sequence[Replay], device: torch.device) -> bool:
        """Whether their rows can lie together, and are on ``device``, where they are wanted."""
        return all(replay.stored == "dense" and replay.device.type == device.type for replay in replays)

    def add(self, episodes: EpisodeBatch) -> None:
        """Adds to each replay its part of the episodes of all, those of the first one first."""
        first, n = self.replays[0], len(self.replays)
        fields = first._pack(episodes.to(first.device))
        lengths = episodes.length.view(n, -1).tolist()
        for replay, own in zip(self.replays, lengths, strict=True):
            _make_room(replay, own, fields)
        self._gather_in()
        place, source = self._places(lengths, fields["obs"].shape[1])
        for name, x in fields.items():
            self._whole[name].flatten(0, 1)[place] = x.flatten(0, 1)[source]

    def take(self, pick: Picking) -> tuple[dict[str, Tensor], Int[Tensor, "seeds b"], Int[Tensor, "seeds b"]]:
        """The episodes that ``pick`` chooses from every replay, [S, b, t, ...] by field, each seed's longest first.

        Returns:
            The fields, padded as ``Replay`` pads; the steps of every episode; and where it stood when it was chosen.
        """
        self._gather_in()
        chosen = [[replay._episodes[i] for i in pick(replay)] for replay in self.replays]
        start, length = torch.tensor(chosen).unbind(-1)
        order = length.argsort(dim=1, descending=True, stable=True)
        start, length = start.gather(1, order), length.gather(1, order)
        device, offset = self.replays[0].device, torch.arange(int(length.max()) + 1)
        beyond = offset > length[..., None]
        row = self._row(start[..., None] + offset.expand_as(beyond).masked_fill(beyond, 0))
        index, idle = sent(row, device), sent(offset >= length[..., None], device)
        fields = {name: self._read(name, index, sent(beyond, device), idle) for name in self._whole}
        fields["mask"] = (~idle[..., :-1]).float()
        return fields, length, order

    def _read(self, name: str, index: Tensor, beyond: Tensor, idle: Tensor) -> Tensor:
        """A field of the rows ``index``; zeros, or all actions that an agent has, where there is no such state."""
        x, spec = self._whole[name].flatten(0, 1)[index], self.replays[0].spec
        per_state = name in ("obs", "state", "avail") or name.partition(".")[2] in spec.extras
        hide = beyond if per_state else idle
        x = x.masked_fill_(hide.view(*hide.shape, *[1] * (x.dim() - hide.dim())), 0)
        if name == "avail":
            return x | (hide[..., None, None] & self.replays[0]._own)
        if name == "action" and spec.discrete:
            x = x.long()
        return x if per_state else x[:, :, :-1]

    def _row(self, counted: Tensor) -> Tensor:
        """Rows [S, ...] of each replay, counted without wrapping, as rows of the whole memory."""
        axes = (-1, *[1] * (counted.dim() - 1))
        sizes = torch.tensor([replay._size for replay in self.replays]).view(axes)
        return counted.remainder(sizes) + self._size * torch.arange(len(self.replays)).view(axes)

    def _places(self, lengths: list[list[int]], states: int) -> tuple[Tensor, Tensor]:
        """Where the states of the newest episodes belong, and where they are among those of a batch."""
        kept = [_newest(replay, len(own)) for replay, own in zip(self.replays, lengths, strict=True)]
        start, length = torch.tensor(kept).unbind(-1)
        offset = torch.arange(states)
        real = offset <= length[..., None]
        row = self._row(start[..., None] + offset)
        device = self.replays[0].device
        source = torch.arange(real.numel()).view(real.shape)
        return sent(row[real], device), sent(source[real], device)

    def _gather_in(self) -> None:
        """Moves the replays' rows here, where one of them has got new memory since the last time."""
        if self._whole and all(self._is_here(k, replay) for k, replay in enumerate(self.replays)):
            return
        self._size, names = max(replay._size for replay in self.replays), self.replays[0]._rows
        for name, own_rows in names.items():
            example: Any = own_rows
            whole = example.new_zeros(len(self.replays), self._size, *example.shape[1:])
            for own, replay in zip(whole, self.replays, strict=True):
                own[: replay._size] = replay._rows[name]
                replay._rows[name] = own[: replay._size]
            self._whole[name] = whole

    def _is_here(self, k: int, replay: Replay) -> bool:
        rows: Any = replay._rows["obs"]
        return bool(rows.data_ptr() == self._whole["obs"][k].data_ptr())


def _make_room(replay: Replay, lengths: list[int], fields: dict[str, Tensor]) -> None:
    """What ``Replay.add`` does but for writing."""
    replay._refuse_oversized(max(lengths) + 1, fields)
    row_bytes = sum(x[0, 0].nbytes for x in fields.values())
    for length in lengths:
        start = replay._make_room(length + 1, fields)  # first, for it may make another list of episodes
        replay._episodes.append((start, length))
        while replay._enough() or (len(replay) > 1 and replay._used() * row_bytes > replay.max_bytes):
            replay._episodes.popleft()
    replay.added += len(lengths)
    replay._index = None


def _newest(replay: Replay, n: int) -> list[tuple[int, int]]:
    """Start and length of the ``n`` newest episodes; one without any state for each that is stored no more."""
    stored = min(n, len(replay))
    return [(0, -1)] * (n - stored) + [replay._episodes[-i] for i in range(stored, 0, -1)]
