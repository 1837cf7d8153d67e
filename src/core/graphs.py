"""Work on a GPU that is recorded once and then replayed as a whole: a CUDA graph.

The host hands out an update's hundreds of small operations one by one, which on a fast GPU takes longer than they do.
A recording is handed out at once. What it can be made of: shapes that do not change, numbers that are on the device,
and nothing that the host decides or sends on the way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from core.device import sent
from core.specs import EnvSpec, EpisodeBatch, lengthened

Results = dict[str, Tensor]
Work = Callable[[EpisodeBatch], Results]

BUCKET = 16
"""Episodes are padded to a multiple of so many steps, or to the episode limit: each length is a recording."""
_WARM = 2
"""Calls of each shape that are no recording: libraries and optimisers make there what they keep."""


def fixed(batch: EpisodeBatch, spec: EnvSpec) -> EpisodeBatch:
    """The same episodes in one of few shapes, and all that is known of them on their device, ``length`` too."""
    steps = batch.mask.shape[1]
    steps = max(steps, min(-(-steps // BUCKET) * BUCKET, spec.episode_limit))
    return replace(lengthened(batch, steps, spec), length=sent(batch.length, batch.mask.device))


class Tape:
    """One recording on a GPU. Recorded work is not done yet: ``replay`` does it."""

    def __init__(self, work: Callable[[], Results], pool: Any) -> None:
        """``pool``: memory that recordings share, of which only one is replayed at a time."""
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self.results = work()

    def replay(self) -> None:
        """Does the work; ``results`` then hold what it has made."""
        self._graph.replay()


class Graphed:
    """A function of episodes, recorded for each of their shapes; whatever it changes, it changes in place."""

    def __init__(self, work: Work) -> None:
        """``work`` sends nothing to the device and draws no random numbers."""
        self._work = work
        self._calls: Counter[torch.Size] = Counter()
        self._tapes: dict[torch.Size, tuple[EpisodeBatch, Tape]] = {}
        self._pool: Any = None

    def __call__(self, batch: EpisodeBatch) -> Results:
        """What the function makes of ``batch``, see ``fixed``."""
        shape = batch.obs.shape
        self._calls[shape] += 1
        if self._calls[shape] <= _WARM:
            return self._aside(batch)
        if shape not in self._tapes:
            self._tapes[shape] = self._recorded(batch)
        static, tape = self._tapes[shape]
        _fill(static, batch)
        tape.replay()
        return {name: x.clone() for name, x in tape.results.items()}

    def _aside(self, batch: EpisodeBatch) -> Results:
        """On another stream, as recordings are made on one: what libraries keep, they keep for each stream."""
        present = torch.cuda.current_stream()
        stream = torch.cuda.Stream()
        stream.wait_stream(present)
        with torch.cuda.stream(stream):
            results = self._work(batch)
        present.wait_stream(stream)
        return results

    def _recorded(self, batch: EpisodeBatch) -> tuple[EpisodeBatch, Tape]:
        static = replace(batch.map(torch.clone), length=batch.length.clone())
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        return static, Tape(lambda: self._work(static), self._pool)


def _fill(static: EpisodeBatch, batch: EpisodeBatch) -> None:
    """Copies every tensor of ``batch`` to where a recording reads it."""
    for name, x in vars(batch).items():
        target = getattr(static, name)
        if isinstance(x, Tensor):
            target.copy_(x)
        else:
            for key, extra in x.items():
                target[key].copy_(extra)
