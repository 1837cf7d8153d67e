"""Learning on one-step games, over seeds: short forms of ``benchmarks/matrix_games.py``, whose functions they use.

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
sys.path.insert(0, str(ROOT / "benchmarks"))

import matrix_games  # noqa: E402

SEEDS = range(3)
QUICK = {"lr": 3e-3, "batch_size": 32, "batch_size_run": 16, "updates_per_collect": 1}
UNIFORM = matrix_games.UNIFORM | QUICK | {"t_max": 2400}
SOFT = QUICK | {"critic_lr": 3e-3, "burn_in": 32}
FOP = (
    matrix_games.FOP | SOFT | {"t_max": 3200, "alpha_anneal_time": 3200, "alpha_finish": 0.1, "updates_per_collect": 2}
)
XOR = matrix_games.XOR | SOFT | {"batch_size": 64, "t_max": 3200}
Train = Callable[[str, dict[str, Any], dict[str, Any]], list[dict[str, Any]]]


def session(algorithm: str, env_args: dict[str, Any], **settings: Any) -> Session:
    files = [load(ROOT / "config" / path) for path in ("envs/matrix_game.yaml", f"algs/{algorithm}.yaml")]
    return build(resolve(merge(merge(*files), settings | {"env_args": env_args})))


def results(algorithm: str, env_args: dict[str, Any], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """What ``matrix_games.measure`` says after a run of every seed."""
    torch.set_num_threads(1)
    rows = []
    for seed in SEEDS:
        made = session(algorithm, env_args, seed=seed, **settings)
        for _ in made.train():
            pass
        rows.append(matrix_games.measure(made))
    return rows


@pytest.fixture(scope="module")
def train() -> Iterator[Train]:
    """``results``, elsewhere."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield lambda *job: pool.submit(results, *job).result()


@pytest.mark.parametrize("name", ["qmix", "vdn"])
def test_monotone_factorisations_miss_the_optimum(train: Train, name: str) -> None:
    """AC-35: from uniform data they learn to stay on the plateau of 0; -12 would mean that they learnt nothing."""
    greedy = [row["greedy"] for row in train(name, {"preset": "qtran33"}, UNIFORM)]
    assert greedy == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", ["iql", "vdn", "qmix"])
def test_value_learners_solve_a_monotone_game(train: Train, name: str) -> None:
    """The same settings, where both agents' second actions are better whatever the other one does."""
    game = {"preset": None, "payoff": [[0, 1, 0], [1, 5, 2], [0, 2, 1]]}
    assert [row["greedy"] for row in train(name, game, UNIFORM | {"t_max": 1600})] == [5.0, 5.0, 5.0]


def test_fop_finds_the_optimum(train: Train) -> None:
    """AC-32 in short: the likeliest joint action is (A, A), and Q_jt of it is nearer to 8 than to any other payoff."""
    rows = train("fop", {"preset": "qtran33"}, FOP)
    assert sum(row["greedy"] == 8 and abs(row["q_best"] - 8) < 4 for row in rows) >= 2, rows


def test_the_dependent_policy_uses_both_optima(train: Train) -> None:
    """AC-37: at α = .2 the best joint policy earns .9933 with .497 on each optimum; independent ones earn .5 so."""
    rows = train("macpf", {"preset": "xor"}, XOR)
    assert sum(map(uses_both, rows)) >= 2, rows


def uses_both(row: dict[str, Any]) -> bool:
    return row["dep_expected"] >= 0.97 and min(map(float, row["optima"].split())) >= 0.3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iql", "vdn", "qmix"])
def test_values_are_learnt_in_few_bits(train: Train, name: str) -> None:
    """The monotone game again, its hidden layers evaluated with 8 bits."""
    game = {"preset": None, "payoff": [[0, 1, 0], [1, 5, 2], [0, 2, 1]]}
    rows = train(name, game, UNIFORM | {"t_max": 1600, "precision": "bfloat16"})
    assert [row["greedy"] for row in rows] == [5.0, 5.0, 5.0]


@pytest.mark.slow
def test_soft_policies_are_learnt_in_few_bits(train: Train) -> None:
    """FOP's optimum and MACPF's two optima, by the same measures as above."""
    few = {"precision": "bfloat16"}
    rows = train("fop", {"preset": "qtran33"}, FOP | few)
    assert sum(row["greedy"] == 8 and abs(row["q_best"] - 8) < 4 for row in rows) >= 2, rows
    rows = train("macpf", {"preset": "xor"}, XOR | few)
    assert sum(map(uses_both, rows)) >= 2, rows


@pytest.mark.parametrize(("preset", "algorithm", "mean"), [("xor", "macpf", 0.5), ("qtran33", "fop", -40 / 9)])
def test_untrained_policies_measure_as_next_to_uniform(preset: str, algorithm: str, mean: float) -> None:
    """So the thresholds above are far from where the runs begin."""
    row = matrix_games.measure(session(algorithm, {"preset": preset}, seed=0))
    assert row["expected"] == pytest.approx(mean, abs=0.6)
