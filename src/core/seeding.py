"""One independent stream of random numbers per purpose, all from one seed."""

from __future__ import annotations

import numpy as np
import torch

NAMES = ("init", "env", "act", "learn", "replay", "eval")
"""The purposes, in the order in which children are spawned: append only, or every run changes."""


class Streams:
    """Children of ``numpy.random.SeedSequence(seed)`` by name.

    Nothing is kept: asking twice gives the same seed, and asking for one stream never moves another, so testing more
    often cannot change training.
    """

    def __init__(self, seed: int) -> None:
        """``seed`` is any integer from 0."""
        self.root = seed

    def seed(self, name: str, *extra: int) -> int:
        """A seed of 63 bits for the stream ``name`` and its sub-stream ``extra`` (a row, a count of tests)."""
        child = np.random.SeedSequence(self.root, spawn_key=(NAMES.index(name), *extra))
        return int(child.generate_state(1, np.uint64)[0] >> np.uint64(1))

    def generator(self, name: str, device: torch.device | str = "cpu", *extra: int) -> torch.Generator:
        """A new torch generator on ``device`` at the start of a stream."""
        return torch.Generator(device=device).manual_seed(self.seed(name, *extra))
