"""Learning of the PPO family over seeds: a matrix game, a box, and values at time limits and at true ends (AC-18).

The runs are made in a process of their own, where annotations are not checked: that is three times as fast.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from core.config import load, merge, resolve
from run import Session, build

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import toy_aim  # noqa: E402, F401 - registers the environment
import toy_cut  # noqa: E402

SEEDS = range(3)
FAMILY = ["mappo", "ippo", "happo", "maipg"]
QUICK = {"lr": 1e-2, "critic_lr": 1e-2, "recurrent": False, "test_nepisode": 0, "device": "cpu"}
GAME = {
    "env": "matrix_game",
    "env_args": {"preset": None, "payoff": [[0, 1, 0], [1, 5, 2], [0, 2, 1]]},
    **{key: 32 for key in ("batch_size_run", "batch_size", "buffer_size")},
    "t_max": 8 * 32,
}
BOX = {
    "env": "toy_aim",
    "mac": "gaussian_mac",
    "log_std_init": -0.5,
    **{key: 64 for key in ("batch_size_run", "batch_size", "buffer_size")},
    "t_max": 8 * 64,
}
LIMIT = {"env": "toy_cut", "gamma": 0.9, "t_max": 25 * 40, "lr": 5e-4, "critic_lr": 2e-3}
LIMIT |= dict.fromkeys(("batch_size_run", "batch_size", "buffer_size"), 8)
Train = Callable[..., list[Any]]


def trained(algorithm: str, seed: int, more: dict[str, Any]) -> Session:
    made = build(resolve(merge(load(ROOT / "config" / "algs" / f"{algorithm}.yaml"), QUICK | more | {"seed": seed})))
    for _ in made.train():
        pass
    return made


def returns(algorithm: str, more: dict[str, Any]) -> list[float]:
    """The mean return of greedy tests, for every seed."""
    torch.set_num_threads(1)
    return [float(trained(algorithm, seed, more).evaluate("test", 64)["return"].mean()) for seed in SEEDS]


def values(algorithm: str, terminal: bool, more: dict[str, Any]) -> list[list[float]]:
    """V of every step of an episode, for each of the values that the algorithm has."""
    torch.set_num_threads(1)
    made = trained(algorithm, 1, LIMIT | {"env_args": {"terminal": terminal}} | more)
    value = made.learner.value
    v = value.scale.denormalise(value.recall(made.replay.latest(1))[0])
    return v[0, : toy_cut.STEPS].T.tolist()


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Train]:
    """Calls a function in another process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield lambda job, *arguments: pool.submit(job, *arguments).result()


@pytest.mark.parametrize("name", FAMILY)
def test_a_monotone_game(elsewhere: Train, name: str) -> None:
    """Both agents' second actions are better whatever the other one does; 256 games."""
    assert elsewhere(returns, name, GAME) == [5.0, 5.0, 5.0]


@pytest.mark.parametrize("name", FAMILY)
def test_a_box(elsewhere: Train, name: str) -> None:
    """Hitting the numbers shown after 512 episodes; always answering 0 earns -2/3."""
    got = elsewhere(returns, name, BOX)
    assert min(got) > -0.2, got


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize(("name", "more"), [("mappo", {}), ("ippo", {}), ("mappo", {"value_norm": "popart"})])
def test_time_limits_are_bootstrapped_through_and_ends_are_not(
    elsewhere: Train, name: str, more: dict[str, Any], terminal: bool
) -> None:
    """AC-18: cut after 5 steps of reward 1, V is 1/(1-γ) = 10; ended there, what is left to earn."""
    expected = [(1 - 0.9 ** (5 - t)) / 0.1 if terminal else 10.0 for t in range(5)]
    got = elsewhere(values, name, terminal, more)
    assert len(got) == (2 if name == "ippo" else 1)
    for v in got:
        assert v == pytest.approx(expected, abs=0.05)
