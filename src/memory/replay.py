"""Episodes kept for learning, stored at their real lengths; padding is handed out as zeros, and marked."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from core.device import Lane, sent
from core.specs import EnvSpec, EpisodeBatch, Extras, valid_mask
from memory.past import PAST_ACTION, PAST_OBS, PAST_REAL
from memory.sparse import SparseRows

Format = Literal["dense", "sparse", "half"]
_SPARSE = ("obs", "state")
_PER_STATE = ("obs", "state", "avail")
_FIRST_ROWS = 4096


class _At(NamedTuple):
    """Rows of the ring, counted from its start, where the host and where the device reads them."""

    host: Int[Tensor, "*k"]
    there: Int[Tensor, "*k"]


class Replay:
    """A ring of rows, one per visited state, in which every episode of L steps occupies L + 1 rows.

    The ring grows as it fills, up to ``max_bytes``; then, or when ``capacity`` episodes are stored, the oldest go.
    Memory is thus what the episodes really need, not capacity times the episode limit. Actions are stored as small
    integers, masks as booleans.
    """

    def __init__(
        self,
        spec: EnvSpec,
        capacity: int,
        max_bytes: int,
        device: torch.device | str,
        rng: torch.Generator,
        enough_steps: int | None = None,
        stored: Format = "dense",
        shown_on: torch.device | str | None = None,
    ) -> None:
        """An empty replay.

        Args:
            spec: sizes.
            capacity: the most episodes.
            max_bytes: the most bytes.
            device: where they are kept.
            rng: draws episodes and steps; in host memory.
            enough_steps: the oldest episode goes where this many steps are stored without it; None: it stays.
            stored: ``sparse`` keeps of observations and states what is not zero, exactly, with up to a quarter of
                spare room beyond ``max_bytes``; ``half`` rounds observations to 16 bits.
            shown_on: where what is drawn is handed out; None: on ``device``. From host memory it gets to a GPU by
                copies that neither the host nor the GPU waits for.
        """
        self.spec, self.capacity, self.max_bytes, self.enough_steps = spec, capacity, max_bytes, enough_steps
        self.device, self.rng, self.stored = torch.device(device), rng, stored
        shown_on = self.device if shown_on is None else torch.device(shown_on)
        self._lane = Lane(shown_on) if self.device != shown_on else None
        self._own = spec.action_mask.to(self.device)
        self.added = 0
        """Episodes ever added: the clock of everything that counts episodes."""
        self._index: tuple[Tensor, Tensor] | None = None
        """Where every episode starts, and the steps up to its end; made when it is first needed."""
        self._rows: dict[str, Tensor | SparseRows] = {}
        self._size = 0
        self._episodes: deque[tuple[int, int]] = deque()
        self._head = 0

    def __len__(self) -> int:
        """The number of stored episodes."""
        return len(self._episodes)

    @property
    def steps(self) -> int:
        """The number of stored steps."""
        return self._used() - len(self)

    @property
    def nbytes(self) -> int:
        """Bytes allocated for episodes."""
        return sum(x.nbytes for x in self._rows.values())

    @property
    def used_bytes(self) -> int:
        """Bytes of those that hold an episode."""
        values = sum(x.value_bytes for x in self._sparse())
        return values + self._used() * self._fixed_bytes(self._rows)

    def add(self, batch: EpisodeBatch) -> None:
        """Stores copies of the episodes; padding is left behind.

        Raises:
            ValueError: a single episode is larger than ``max_bytes``.
        """
        fields = self._pack(batch.to(self.device))
        self._refuse_oversized(int(batch.length.max()) + 1, fields)
        for row, length in enumerate(batch.length.tolist()):
            start = self._make_room(length + 1, fields)
            place = self._at((start + torch.arange(length + 1)).remainder(self._size))
            for name, x in fields.items():
                self._write(name, place, x[row, : length + 1])
            self._episodes.append((start, length))
            while self._enough() or (len(self) > 1 and self.used_bytes > self.max_bytes):
                self._episodes.popleft()
                self._free()
        self.added += len(batch)
        self._index = None

    def uniform(self, n: int, newest: int | None = None) -> EpisodeBatch:
        """``n`` different episodes, each subset of all, or of the ``newest``, equally likely."""
        return self._gather(self.picks(n, newest))

    def picks(self, n: int, newest: int | None = None) -> list[int]:
        """Which episodes ``uniform`` hands out, counted from the oldest one."""
        older = 0 if newest is None else max(0, len(self) - newest)
        picks: list[int] = (torch.randperm(len(self) - older, generator=self.rng)[:n] + older).tolist()
        return picks

    def transitions(self, n: int, past: int = 0) -> EpisodeBatch:
        """``n`` single steps as episodes of one step, each of the stored steps equally likely, with replacement.

        A step that an episode goes on after counts as cut there, so that its next state is bootstrapped from. With
        ``past`` the extras hold the observations and actions of that many steps before, see ``memory.past``; what is
        drawn does not depend on it.
        """
        if self._index is None:
            start, length = torch.tensor(list(self._episodes)).T
            self._index = start, length.cumsum(0)
        start, ends = self._index
        picks = torch.randint(int(ends[-1]), (n,), generator=self.rng)
        episode = torch.searchsorted(ends, picks, right=True)
        start, step = start[episode], picks - torch.where(episode > 0, ends[episode - 1], 0)
        batch = self._take(start + step, torch.ones(n, dtype=torch.long))
        return self._shown(replace(batch, extras=batch.extras | self._before(start, step, past)) if past else batch)

    def latest(self, n: int) -> EpisodeBatch:
        """The ``n`` newest episodes, oldest of them first."""
        return self._gather(list(range(max(0, len(self) - n), len(self))))

    def latest_steps(self, n: int) -> EpisodeBatch:
        """As few of the newest episodes as have ``n`` steps, or all, oldest of them first."""
        episodes = steps = 0
        while steps < n and episodes < len(self):
            episodes += 1
            steps += self._episodes[-episodes][1]
        return self.latest(episodes)

    def numbered(self, first: int, n: int) -> EpisodeBatch:
        """``n`` stored episodes from the one on before which ``first`` were ever added."""
        oldest = self.added - len(self)
        return self._gather(list(range(first - oldest, first - oldest + n)))

    def state_dict(self) -> dict[str, Any]:
        """The stored rows in order of age, the episodes' lengths, and the generator."""
        order = self._in_order()
        return {
            "rows": {name: self._picked(name, order) for name in self._rows},
            "lengths": [length for _, length in self._episodes],
            "added": self.added,
            "rng": self.rng.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        rows = {name: x.to(self.device) for name, x in state["rows"].items()}
        self._size = len(next(iter(rows.values()))) if rows else 0
        self._rows = {name: self._empty(name, len(x), x.new_zeros(x.shape[1:])) for name, x in rows.items()}
        for name, x in rows.items():
            self._write(name, self._at(torch.arange(len(x))), x)
        self._episodes.clear()
        self._head = 0
        for length in state["lengths"]:
            self._episodes.append((self._head, length))
            self._head += length + 1
        self.added = state["added"]
        self._index = None
        self.rng.set_state(state["rng"])

    def _pack(self, batch: EpisodeBatch) -> dict[str, Tensor]:
        """Every field by name with t+1 entries; what belongs to an action gets an empty last one."""
        small = torch.uint8 if self.spec.n_actions <= 256 else torch.int16
        action = batch.action.to(small) if self.spec.discrete else batch.action
        steps = {"action": action, "reward": batch.reward, "terminated": batch.terminated}
        steps |= {f"extras.{k}": x for k, x in batch.extras.items() if k not in self.spec.extras}
        fields = {name: torch.cat([x, torch.zeros_like(x[:, :1])], 1) for name, x in steps.items()}
        fields |= {name: getattr(batch, name) for name in _PER_STATE}
        if self.stored == "half":
            fields["obs"] = fields["obs"].half()
        return fields | {f"extras.{k}": batch.extras[k] for k in self.spec.extras}

    def _refuse_oversized(self, rows: int, fields: dict[str, Tensor]) -> None:
        """Before anything is dropped for an episode that would not fit alone."""
        largest = rows * sum(x[0, 0].nbytes for x in fields.values())
        if largest > self.max_bytes:
            needs = f"an episode of {rows - 1} steps takes {largest} bytes"
            raise ValueError(f"{needs}, more than buffer_bytes={self.max_bytes}: raise buffer_bytes")

    def _make_room(self, rows: int, fields: dict[str, Tensor]) -> int:
        """Drops or grows until ``rows`` rows are free; returns where they start, counted without wrapping."""
        if len(self) == self.capacity:
            self._episodes.popleft()
        while self._used() + rows > self._size:
            if not self._grow(rows, fields):
                self._episodes.popleft()
        self._free()
        start = self._head
        self._head += rows
        return start

    def _enough(self) -> bool:
        """Whether the oldest episode is one more than is asked for."""
        return self.enough_steps is not None and self.steps - self._episodes[0][1] >= self.enough_steps

    def _is_sparse(self, name: str) -> bool:
        return self.stored == "sparse" and name in _SPARSE

    def _sparse(self) -> list[SparseRows]:
        return [x for x in self._rows.values() if isinstance(x, SparseRows)]

    def _free(self) -> None:
        """Lets the sparse fields forget what belongs to no episode any more."""
        oldest = self._episodes[0][0] % self._size if self._episodes else None
        for x in self._sparse():
            x.free(oldest)

    def _empty(self, name: str, size: int, row: Tensor) -> Tensor | SparseRows:
        """Room for ``size`` rows like ``row``."""
        if self._is_sparse(name):
            return SparseRows(size, row)
        return torch.zeros(size, *row.shape, dtype=row.dtype, device=self.device)

    def _grown(self, name: str, size: int, row: Tensor, order: _At) -> Tensor | SparseRows:
        """The stored rows of a field, in order, at the start of room for ``size``."""
        old = self._rows.get(name)
        if isinstance(old, SparseRows):
            return old.moved(size, order.host)
        grown = self._empty(name, size, row)
        if old is not None and isinstance(grown, Tensor):
            grown[: len(order.host)] = old[order.there]
        return grown

    def _at(self, index: Tensor) -> _At:
        return _At(index, sent(index, self.device))

    def _write(self, name: str, place: _At, x: Tensor) -> None:
        rows = self._rows[name]
        if isinstance(rows, SparseRows):
            rows.write(place.host, x)
        else:
            rows[place.there] = x

    def _picked(self, name: str, index: _At) -> Tensor:
        rows = self._rows[name]
        return rows[index.host] if isinstance(rows, SparseRows) else rows[index.there]

    def _fixed_bytes(self, rows: dict[str, Any]) -> int:
        """Bytes of one row of every field, without the values of sparse ones."""
        return sum(
            SparseRows.row_bytes(math.prod(x.shape[1:])) if self._is_sparse(name) else x[0].nbytes
            for name, x in rows.items()
        )

    def _used(self) -> int:
        return self._head - self._episodes[0][0] if self._episodes else 0

    def _grow(self, rows: int, fields: dict[str, Tensor]) -> bool:
        """Doubles the ring within the limits; False where it is as large as it may be."""
        row = {name: x[0] for name, x in fields.items()}
        largest = min(self.max_bytes // self._fixed_bytes(row), self.capacity * (self.spec.episode_limit + 1))
        size = min(max(2 * self._size, _FIRST_ROWS, rows), largest)
        if size <= self._size:
            return False
        order = self._in_order()
        self._rows = {name: self._grown(name, size, x[0, 0], order) for name, x in fields.items()}
        first = self._episodes[0][0] if self._episodes else self._head
        self._episodes = deque((start - first, length) for start, length in self._episodes)
        self._head -= first
        self._size = size
        return True

    def _in_order(self) -> _At:
        """Indices of the stored rows, oldest first."""
        if not self._episodes:
            return self._at(torch.zeros(0, dtype=torch.long))
        return self._at(torch.arange(self._episodes[0][0], self._head).remainder(self._size))

    def _gather(self, picks: list[int]) -> EpisodeBatch:
        chosen = [self._episodes[i] for i in picks]
        return self._shown(self._take(torch.tensor([s for s, _ in chosen]), torch.tensor([n for _, n in chosen])))

    def _shown(self, batch: EpisodeBatch) -> EpisodeBatch:
        """The batch where it is asked for."""
        return batch if self._lane is None else self._lane(batch.map)

    def _take(self, start: Int[Tensor, " b"], length: Int[Tensor, " b"]) -> EpisodeBatch:
        """``length`` steps and one more state from the rows ``start`` on, counted without wrapping."""
        steps = int(length.max())
        offset = torch.arange(steps + 1)
        beyond = offset > length[:, None]
        index = (start[:, None] + offset.expand_as(beyond).masked_fill(beyond, 0)).remainder(self._size)
        at, padding = self._at(index), sent(beyond, self.device)
        over = sent(offset >= length[:, None], self.device)

        def take(name: str, hide: Tensor) -> Tensor:
            return self._read(name, at, hide)

        def take_steps(name: str) -> Tensor:
            return take(name, over)[:, :steps]

        names = [name.partition(".")[2] for name in self._rows if name.startswith("extras.")]
        return EpisodeBatch(
            action=take_steps("action"),
            reward=take_steps("reward"),
            terminated=take_steps("terminated"),
            mask=valid_mask(length, steps, self.device),
            length=length,
            obs=take("obs", padding),
            state=take("state", padding),
            avail=take("avail", padding) | (padding[:, :, None, None] & self._own),
            extras={
                k: take(f"extras.{k}", padding) if k in self.spec.extras else take_steps(f"extras.{k}") for k in names
            },
        )

    def _before(self, start: Int[Tensor, " b"], step: Int[Tensor, " b"], past: int) -> Extras:
        """What was seen and done in the ``past`` steps before the one that is ``step`` rows behind ``start``."""
        at = step[:, None] + torch.arange(-past, 0)
        index = self._at((start[:, None] + at.clamp(min=0)).remainder(self._size))
        absent = sent(at < 0, self.device)
        obs, action = (self._read(name, index, absent) for name in ("obs", "action"))
        return {PAST_OBS: obs, PAST_ACTION: action, PAST_REAL: ~absent}

    def _read(self, name: str, index: _At, hide: Bool[Tensor, "b t"]) -> Tensor:
        """A field of the rows ``index``, zeros where they are to be hidden."""
        x = self._picked(name, index)
        if name == "obs" and self.stored == "half":
            x = x.float()
        x = x.masked_fill_(hide.view(*hide.shape, *[1] * (x.dim() - 2)), 0)
        return x.long() if name == "action" and self.spec.discrete else x
