"""Threads of this process among which the rows of a batch are dealt out.

Torch's own threads are no help to the kernels, and hinder: they wait for more work by spinning, on the cores that the
kernels' threads need. So large copies are made here, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

WORTH_WAKING = 1024
"""A thread is given at least so much: rows times the square of a battle's units, about a tenth of a millisecond."""

WORTH_COPYING = 1 << 20
"""The same for copies, in bytes."""
TORCH_SPREADS = 1 << 15
"""Torch copies tensors of at least so many elements by several threads, if it may."""


def n_slices(rows: int, units: int) -> int:
    """Among how many threads ``rows`` battles of ``units`` units are dealt out: at most those that torch may use."""
    return max(1, min(torch.get_num_threads(), rows, rows * units * units // WORTH_WAKING))


def deal(rows: int, slices: int) -> list[tuple[int, int]]:
    """First row and number of rows of every slice; as even as can be."""
    edges = [rows * k // slices for k in range(slices + 1)]
    return [(first, last - first) for first, last in pairwise(edges)]


@cache
def helpers(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that wait for work. A forked process needs its own, hence ``process``."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"skirmish-{process}")


def side_by_side(tasks: Sequence[Callable[[], None]]) -> None:
    """Runs all tasks at once, the first in this thread. They gain if they release the interpreter's lock."""
    others = tasks[1:]
    waiting = [helpers(len(others), os.getpid()).submit(task) for task in others]
    try:
        tasks[0]()
    finally:
        for other in waiting:
            other.result()


def spread(tensors: Iterable[Tensor]) -> bool:
    """Whether torch would copy any of the tensors by several threads."""
    return torch.get_num_threads() > 1 and max(tensor.numel() for tensor in tensors) >= TORCH_SPREADS


def copy(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Copies every pair's second array to the first; all have the same number of rows."""
    rows, size = len(pairs[0][0]), sum(target.nbytes for target, _ in pairs)

    def run(first: int, count: int) -> None:
        for target, source in pairs:
            np.copyto(target[first : first + count], source[first : first + count])

    slices = max(1, min(torch.get_num_threads(), rows, size // WORTH_COPYING))
    side_by_side([partial(run, *share) for share in deal(rows, slices)])
