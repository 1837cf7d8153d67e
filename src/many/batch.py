"""Episodes of several seeds side by side: drawn from every seed's own replay, brought to common lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from core.specs import EnvSpec, EpisodeBatch, States, Uniforms
from many.program import Program
from many.store import Picking, Store
from memory.replay import Replay


@dataclass(frozen=True)
class Draws:
    """How each seed's batch was before it was brought to the common shape: what its random numbers are drawn for."""

    program: Program
    order: Int[Tensor, "seeds b"]
    """Which episode of its own batch a seed has in each place; in host memory."""
    steps: Sequence[int]
    """Steps of each seed's longest episode."""

    def uniforms(self, shape: Sequence[int], more: int, dtype: torch.dtype) -> Tensor:
        """Numbers [b, t, ...] from the seeds' generators, each as many as for its own episodes and ``more`` steps."""

        def drawn() -> Tensor:
            whole: Tensor | None = None
            for k, (learner, steps) in enumerate(zip(self.program.learners, self.steps, strict=True)):
                own = (shape[0], steps + more, *shape[2:])
                u = torch.rand(own, generator=learner.rng, device=learner.rng.device, dtype=dtype)
                whole = u.new_zeros(self.program.n, *shape) if whole is None else whole
                whole[k, :, : own[1]] = u[self.order[k].to(u.device)]
            assert whole is not None
            return whole

        return self.program.outside(drawn)


@dataclass(frozen=True)
class JointBatch(EpisodeBatch):
    """What a learner's code sees of the batches of all seeds: b episodes of one of them.

    Every seed's episodes stand in order of their lengths, longest first. ``length`` is that of the longest episode
    that any seed has in a place, ``mask`` says how long each seed's own is: what lies between is padding.
    """

    draws: Draws = field(kw_only=True)

    def packed(self) -> JointStates:
        """See ``EpisodeBatch.packed``; the states have the same places in all seeds."""
        states = super().packed()
        own = {f.name: getattr(states, f.name) for f in fields(States)}
        return JointStates(**own)

    def uniforms(self, rng: torch.Generator, dtype: torch.dtype = torch.double, steps: bool = False) -> Uniforms:  # noqa: ARG002
        """See ``EpisodeBatch.uniforms``; the seeds' own generators are drawn from."""
        return lambda shape: self.draws.uniforms(shape, shape[1] - self.mask.shape[1], dtype)


@dataclass(frozen=True)
class JointStates(States):
    """The states of a ``JointBatch``."""

    def uniforms(self, rng: torch.Generator, dtype: torch.dtype = torch.double, steps: bool = False) -> Uniforms:
        """See ``EpisodeBatch.uniforms``."""
        numbers: Any = self.whole.uniforms(rng, dtype)
        b, states = self.whole.obs.shape[:2]

        def drawn(shape: torch.Size) -> Tensor:
            u = numbers(torch.Size((b, states - steps, *shape[2:])))
            return self.pack(torch.cat([u, torch.zeros_like(u[:, :1])], 1) if steps else u)

        return drawn

    def samples(self, rng: torch.Generator) -> Uniforms:
        """Not known here: such numbers are drawn for the visited states only, of which seeds have different ones."""
        raise NotImplementedError("this learner's draws cannot be made for several seeds at once")


class JointReplay(Replay):
    """The replays of all seeds, as the template's code sees them: each draws with its own generator."""

    def __init__(self, program: Program, replays: Sequence[Replay]) -> None:
        self.program, self.replays, self.spec = program, list(replays), replays[0].spec
        self._store = Store(replays) if Store.fits(replays, program.index.device) else None

    @property
    def added(self) -> int:  # type: ignore[override]
        """Episodes ever added by every seed."""
        return self.replays[0].added

    def __len__(self) -> int:
        """Episodes that each seed can draw from."""
        return min(map(len, self.replays))

    def add(self, batch: EpisodeBatch) -> None:
        """Adds to each seed's replay its part of the episodes of all, those of the first seed first."""
        if self._store is not None:
            self._store.add(batch)
            return
        for replay, own in zip(self.replays, parted(batch, len(self.replays)), strict=True):
            replay.add(own)

    def uniform(self, n: int, newest: int | None = None) -> EpisodeBatch:
        """See ``Replay.uniform``."""
        if self._store is None:
            return self._of_each(lambda replay: replay.uniform(n, newest))
        return self._stored(self._store, lambda replay: replay.picks(n, newest))

    def transitions(self, n: int, past: int = 0) -> EpisodeBatch:
        """See ``Replay.transitions``."""
        return self._of_each(lambda replay: replay.transitions(n, past))

    def latest(self, n: int) -> EpisodeBatch:
        """See ``Replay.latest``."""
        if self._store is None:
            return self._of_each(lambda replay: replay.latest(n))
        return self._stored(self._store, lambda replay: list(range(max(0, len(replay) - n), len(replay))))

    def _stored(self, store: Store, pick: Picking) -> EpisodeBatch:
        """The episodes that ``pick`` chooses from every replay; they are drawn outside."""
        made: list[tuple[dict[str, Tensor], Tensor, Tensor]] = []

        def work() -> tuple[Tensor, ...]:
            made.append(store.take(pick))
            return tuple(made[0][0].values())

        own = self.program.outside(work)
        fields, length, order = made[0]
        draws = Draws(self.program, order, length.amax(1).tolist())
        return _as_batch(dict(zip(fields, own, strict=True)), length.amax(0), draws)

    def _of_each(self, draw: Callable[[Replay], EpisodeBatch]) -> EpisodeBatch:
        """The batches that ``draw`` gets from every replay as one. They are drawn, and joined, outside."""
        made: list[_Joined] = []

        def work() -> tuple[Tensor, ...]:
            made.append(_Joined([draw(replay) for replay in self.replays], self.spec))
            return tuple(made[0].values.values())

        own = self.program.outside(work)
        return made[0].seen(own, self.program)


class _Joined:
    """The episodes of all seeds' batches, each seed's in order of length, padded to one number of steps."""

    def __init__(self, each: Sequence[EpisodeBatch], spec: EnvSpec) -> None:
        self.order = torch.stack([batch.length.argsort(descending=True, stable=True) for batch in each])
        self.length = torch.stack([batch.length[own] for batch, own in zip(each, self.order, strict=True)]).amax(0)
        self.steps = [batch.mask.shape[1] for batch in each]
        self._rows = self.order.to(each[0].mask.device)
        self._longest = int(self.length[0])
        names = [f.name for f in fields(EpisodeBatch) if f.name not in ("length", "extras", "avail")]
        self.values = {name: self._together([getattr(batch, name) for batch in each]) for name in names}
        self.values["avail"] = self._together([batch.avail for batch in each], spec.action_mask)
        for name in each[0].extras:
            self.values[f"extras.{name}"] = self._together([batch.extras[name] for batch in each])

    def seen(self, own: Sequence[Tensor], program: Program) -> JointBatch:
        """The batch whose tensors are ``own``, one for each of ``values``."""
        named = dict(zip(self.values, own, strict=True))
        return _as_batch(named, self.length, Draws(program, self.order, self.steps))

    def _together(self, each: Sequence[Tensor], padding: Tensor | None = None) -> Tensor:
        """One field of all seeds, [S, b, t, ...]; beyond a seed's longest episode zeros, or ``padding``."""
        more = each[0].shape[1] - self.steps[0]
        whole = each[0].new_zeros(len(each), each[0].shape[0], self._longest + more, *each[0].shape[2:])
        for k, x in enumerate(each):
            whole[k, :, : x.shape[1]] = x[self._rows[k]]
            if padding is not None:
                whole[k, :, x.shape[1] :] = padding.to(whole.device)
        return whole


def _as_batch(named: dict[str, Tensor], length: Tensor, draws: Draws) -> JointBatch:
    """The batch of one seed's tensors by field."""
    extras = {name.partition(".")[2]: x for name, x in named.items() if name.startswith("extras.")}
    parts: dict[str, Any] = {name: x for name, x in named.items() if not name.startswith("extras.")}
    return JointBatch(**parts, length=length, extras=extras, draws=draws)


def parted(episodes: EpisodeBatch, n: int) -> list[EpisodeBatch]:
    """The episodes of each of ``n`` seeds, cut to the longest of its own."""
    lengths = episodes.length.chunk(n)
    more = {f.name: getattr(episodes, f.name).chunk(n) for f in fields(EpisodeBatch) if f.name != "extras"}
    extras = {name: x.chunk(n) for name, x in episodes.extras.items()}
    whole, each = episodes.mask.shape[1], []
    for k, length in enumerate(lengths):
        beyond = whole - int(length.max())
        own = {name: _cut(x[k], beyond) for name, x in more.items() if name != "length"}
        kept = {name: _cut(x[k], beyond) for name, x in extras.items()}
        each.append(replace(episodes, **own, length=length, extras=kept))
    return each


def _cut(x: Tensor, beyond: int) -> Tensor:
    """Without the last ``beyond`` steps."""
    return x[:, : x.shape[1] - beyond]
