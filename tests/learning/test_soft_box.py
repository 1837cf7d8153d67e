"""Continuous FOP learns a small game, over seeds; its own game takes minutes and is a benchmark (papers/mtq.py).

The runs are made in a process of their own, where annotations are not checked.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import toy_aim  # noqa: F401 - registers the environment
from core.config import load, merge, resolve
from run import build

ROOT = Path(__file__).resolve().parents[2]
SEEDS, UPDATES = range(3), 80
AIM: dict[str, Any] = {
    "env": "toy_aim",
    "lr": 5e-3,
    "critic_lr": 5e-3,
    "batch_size_run": 64,
    "alpha_start": 0.2,
    "alpha_anneal_time": 64 * UPDATES,
    "t_max": 64 * UPDATES,
    "test_nepisode": 0,
    "device": "cpu",
}


def returns(name: str, updates: int) -> list[float]:
    """The mean return of greedy tests, for every seed."""
    torch.set_num_threads(1)
    found = []
    for seed in SEEDS:
        config = merge(load(ROOT / "config" / "algs" / f"{name}.yaml"), AIM | {"seed": seed, "t_max": 64 * updates})
        made = build(resolve(config))
        for _ in made.train():
            pass
        found.append(float(made.evaluate("test", 64)["return"].mean()))
    return found


@pytest.mark.parametrize("name", ["fop_continuous", pytest.param("fop_continuous_linear", marks=pytest.mark.slow)])
def test_agents_hit_the_numbers_shown(name: str) -> None:
    """A sum of the agents' own rewards, which linear mixers can express, too; answering 0 earns -2/3."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        got = pool.submit(returns, name, UPDATES).result()
    assert max(got) <= 0
    assert min(got) > -0.1, got


def test_untrained_agents_do_not() -> None:
    assert max(returns("fop_continuous", 1)) < -0.5
