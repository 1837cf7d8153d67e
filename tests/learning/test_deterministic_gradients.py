"""Learning of deterministic policy gradients over seeds: a box and a matrix game.

The runs are made in a process of their own, where annotations are not checked: that is three times as fast.
"""

from __future__ import annotations

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from core.config import load, merge, resolve
from run import build

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import toy_aim  # noqa: E402, F401 - registers the environment

SEEDS = range(3)
QUICK = {"optimiser": "adam", "batch_size_run": 8, "test_nepisode": 0, "device": "cpu"}
BOX = QUICK | {
    "env": "toy_aim",
    "lr": 3e-3,
    "critic_lr": 3e-3,
    "adam_eps": 1e-8,
    "tau": 0.01,
    "critic_dim": 64,
    "batch_size": 64,
    "updates_per_step": 0.5,
    "noise_start": 0.3,
    "noise_finish": 0.3,
    "t_max": 600,
}
GAME = QUICK | {
    "env": "matrix_game",
    "env_args": {"preset": None, "payoff": [[0, 1, 0], [1, 5, 2], [0, 2, 1]]},
    "lr": 1e-3,
    "critic_lr": 1e-2,
    "batch_size": 32,
    "epsilon_start": 0.5,
    "epsilon_finish": 0.5,
    "t_max": 600,
}


def returns(algorithm: str, more: dict[str, Any]) -> list[float]:
    """The mean return of tests, for every seed."""
    torch.set_num_threads(1)
    found = []
    for seed in SEEDS:
        made = build(resolve(merge(load(ROOT / "config" / "algs" / f"{algorithm}.yaml"), more | {"seed": seed})))
        for _ in made.train():
            pass
        found.append(float(made.evaluate("test", 64)["return"].mean()))
    return found


def elsewhere(algorithm: str, more: dict[str, Any]) -> list[float]:
    """``returns`` in another process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(returns, algorithm, more).result()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maddpg_continuous", "facmac_continuous", "dop_deterministic"])
def test_a_box(name: str) -> None:
    """Hitting the numbers shown after 600 episodes; always answering 0 earns -2/3."""
    got = elsewhere(name, BOX)
    assert min(got) > -0.1, got


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"), [("maddpg", {"updates_per_step": 0.5}), ("facmac", {"updates_per_collect": 4})]
)
def test_a_monotone_game(name: str, more: dict[str, Any]) -> None:
    """Both agents' second actions are better whatever the other one does; 600 games, half of them random."""
    assert elsewhere(name, GAME | more) == [5.0, 5.0, 5.0]
