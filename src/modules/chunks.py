"""Episodes cut into chunks for truncated backpropagation through time, with the memories that the chunks begin with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from core.device import sent
from core.specs import in_turn, valid_mask

Recurrent = Callable[..., tuple[Tensor, Tensor]]
"""A network called with inputs [b, t, ...], a memory [b, n, h] and lengths [b]; returns outputs and the memory."""


@dataclass(frozen=True)
class Chunks:
    """The places of all chunks of at most ``size`` steps that hold a real step.

    A chunk belongs to one episode and holds all its agents (T-39); an episode's last chunk may be shorter.
    """

    size: int
    steps: int
    """Steps of the longest episode."""
    length: Int[Tensor, " c"]
    """Real steps of each chunk, in host memory."""
    rows: Int[Tensor, " c"]
    """Where each stands among all chunks, empty ones too, counted episode by episode."""

    @classmethod
    def of(cls, length: Int[Tensor, " b"], size: int, device: torch.device | str) -> Chunks:
        """The chunks of episodes of ``length`` steps (in host memory)."""
        steps = int(length.max())
        size = min(size, steps)
        starts = torch.arange(0, steps, size)
        left = (length[:, None] - starts).clamp(0, size).flatten()
        rows = left.nonzero().squeeze(-1)
        return cls(size, steps, left[rows], sent(rows, device))

    @property
    def per_episode(self) -> int:
        """Chunks of the longest episode."""
        return -(-self.steps // self.size)

    def mask(self) -> Float[Tensor, "c l"]:
        """1 on real steps."""
        return valid_mask(self.length, self.size, self.rows.device)

    def cut(self, x: Shaped[Tensor, "b t ..."]) -> Shaped[Tensor, "c l ..."]:
        """x of every step, chunk by chunk; zeros on padding, whatever x holds there. Entries beyond T are left out."""
        room = x.new_zeros(len(x), self.per_episode * self.size, *x.shape[2:])
        room[:, : self.steps] = x[:, : self.steps]
        pieces = room.unflatten(1, (self.per_episode, self.size)).flatten(0, 1)[self.rows]
        padding = self.mask() == 0
        return pieces.masked_fill_(padding.view(*padding.shape, *[1] * (x.dim() - 2)), 0)

    def first(self, memory: Float[Tensor, "b k n h"]) -> Float[Tensor, "c n h"]:
        """The memories that the chunks begin with, from those of ``recall``."""
        return memory[:, : self.per_episode].flatten(0, 1)[self.rows]


@dataclass(frozen=True)
class Trail:
    """Every agent's steps in its chunks (or those of whatever has a history of its own) as far as they matter.

    They stand one below the other, without padding, in the order of ``core.specs.in_turn``.
    """

    shape: tuple[int, int, int]
    """Chunks, steps and agents."""
    places: Int[Tensor, " m"]
    """Where each is among all of them."""
    alive: list[int]
    """How many there are of each time."""
    first: Int[Tensor, " q"]
    """The places of the memories that they begin with."""

    @classmethod
    def of(cls, wanted: Bool[Tensor, "c l n"]) -> Trail:
        """All steps up to the last one that is wanted, of each agent in each chunk; in host memory."""
        c, steps, n = wanted.shape
        length = (wanted * torch.arange(1, steps + 1)[:, None]).amax(1).flatten()
        length[0].clamp_(min=int(not wanted.any()))  # one step rather than none: networks need something to read
        some = length.nonzero().squeeze(-1)
        rows, alive, order = in_turn(length[some], steps)
        one = some[rows.div(steps, rounding_mode="floor")]
        places = (one.div(n, rounding_mode="floor") * steps + rows % steps) * n + one % n
        return cls((c, steps, n), places, alive, some[order])

    def pick(self, x: Shaped[Tensor, "c l n ..."]) -> Shaped[Tensor, "m 1 ..."]:
        """What x holds at these steps."""
        return x.flatten(0, 2).index_select(0, self.places).unsqueeze(1)

    def begin(self, memory: Float[Tensor, "c n h"]) -> Float[Tensor, "q 1 h"]:
        """The memories before the first steps."""
        return memory.flatten(0, 1).index_select(0, self.first).unsqueeze(1)

    def spread(self, x: Float[Tensor, "m 1 p"], others: Float[Tensor, "c l n p"]) -> Float[Tensor, "c l n p"]:
        """The inverse of ``pick``, with ``others`` at the steps that were not picked."""
        return others.flatten(0, 2).index_copy(0, self.places, x.squeeze(1)).unflatten(0, self.shape)


@torch.no_grad()
def recall(
    network: Recurrent,
    inputs: Sequence[Shaped[Tensor, "b s ..."]],
    hidden: Float[Tensor, "b n h"],
    length: Int[Tensor, " b"],
    size: int,
) -> tuple[Float[Tensor, "b s n v"], Float[Tensor, "b k n h"]]:
    """Unrolls a recurrent network over whole episodes, and notes its memory before every ``size`` steps.

    Args:
        network: see ``Recurrent``; parameters are those of the collection, so that its memories are the same, too.
        inputs: what it reads at every state; padding is never read.
        hidden: memories before the first state.
        length: states of every episode, at least 1, in host memory.
        size: steps per chunk.

    Returns:
        Outputs at every state (0 beyond the episode) and memories before states 0, ``size``, 2 ``size``, ...
    """
    outputs, memories = [], []
    for start in range(0, int(length.max()), size):
        left = (length - start).clamp(max=size)
        running = (left > 0).nonzero().squeeze(-1)
        rows = sent(running, hidden.device)
        memories.append(hidden)
        now = [x[:, start : start + size].index_select(0, rows) for x in inputs]
        out, after = network(*now, hidden.index_select(0, rows), left[running])
        hidden = hidden.index_copy(0, rows, after)
        outputs.append(out.new_zeros(len(hidden), *out.shape[1:]).index_copy(0, rows, out))
    whole = torch.cat(outputs, 1)
    result = whole.new_zeros(*inputs[0].shape[:2], *whole.shape[2:])
    result[:, : whole.shape[1]] = whole
    beyond = (valid_mask(length, result.shape[1], hidden.device) == 0)[..., None, None]
    return result.masked_fill_(beyond, 0), torch.stack(memories, 1)
