"""Threads of this process among which the rows of a batch are dealt out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import torch

WORTH_WAKING = 1024
"""A thread is given at least so much: rows times the square of a battle's units, about a tenth of a millisecond."""


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
