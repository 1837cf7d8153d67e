"""Streams: independent, repeatable, and those of SeedSequence.spawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core.seeding import NAMES, Streams


def test_children_are_those_of_spawn() -> None:
    children = np.random.SeedSequence(7).spawn(len(NAMES))
    expected = [int(child.generate_state(1, np.uint64)[0]) // 2 for child in children]
    assert [Streams(7).seed(name) for name in NAMES] == expected


def test_every_stream_differs_from_every_other() -> None:
    seeds = {
        Streams(root).seed(name, *extra) for root in range(20) for name in NAMES for extra in ((), (0,), (1,), (0, 0))
    }
    assert len(seeds) == 20 * len(NAMES) * 4
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_asking_moves_nothing() -> None:
    streams = Streams(3)
    first = torch.rand(5, generator=streams.generator("act"))
    torch.rand(100, generator=streams.generator("eval"))
    assert torch.equal(first, torch.rand(5, generator=streams.generator("act")))
    assert not torch.equal(first, torch.rand(5, generator=streams.generator("act", "cpu", 1)))


def test_the_global_generator_is_untouched() -> None:
    before = torch.get_rng_state()
    Streams(1).generator("init")
    assert torch.equal(before, torch.get_rng_state())


def test_unknown_purpose() -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        Streams(0).seed("tests")
