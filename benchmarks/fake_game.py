"""Whether battles through StarCraft II's API are those that skirmish plays natively: SMAC on our stand-in for the game.

    python benchmarks/fake_game.py lockstep     # SMAC's own environment beside ours, number by number, on all 23 maps
    python benchmarks/fake_game.py episodes     # the same agents on either, with seeds of their own: means of episodes
    python benchmarks/fake_game.py job          # the main job on either engine: macpf on corridor
    python benchmarks/fake_game.py report       # tables and picture from the CSV files alone

Needs pysc2 and smac (requirements-sc2.txt), and none of StarCraft II: ``tests/fake_sc2`` stands in for it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from commands import ROOT, Task

sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from fake_sc2 import install  # noqa: E402
from fake_sc2.lockstep import choose  # noqa: E402

from envs.skirmish.battle import Skirmish  # noqa: E402
from envs.skirmish.maps import MAPS  # noqa: E402
from envs.skirmish.options import Options, max_reward  # noqa: E402

HERE = Path(__file__)
REPORT, PICTURE = HERE.with_suffix(".md"), HERE.with_suffix(".png")
FILES = {name: HERE.with_name(f"fake_game_{name}.csv") for name in ("lockstep", "episodes", "job")}
BEGIN, END = "<!-- written by fake_game.py -->", "<!-- end of what fake_game.py writes -->"
COMPARED = ("3m", "8m", "2s3z", "corridor")
POLICIES = {"random": 0.0, "eager": 0.8}
"""Probability with which an agent attacks if it can; else it does anything that it may."""
MEASURES = ("return", "length", "won", "dead_allies", "dead_enemies", "damage")
GAME, NATIVE = "starcraft2 (stand-in)", "skirmish"
SEEDS = range(3)
STEPS, TESTS, EPISODES_PER_TEST = 4_000, 1_000, 32


# ---------------------------------------------------------------- the same draws: every number


def lockstep() -> Iterator[dict[str, Any]]:
    """Largest differences on every map, each in a process of its own."""
    paths = os.pathsep.join((str(ROOT / "tests"), str(ROOT / "src")))
    for name in MAPS:
        if not name.endswith("_myopic"):
            command = [sys.executable, "-m", "fake_sc2.lockstep", name, "5"]
            done = subprocess.run(
                command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": paths}
            )
            yield json.loads(done.stdout.splitlines()[-1])


# ---------------------------------------------------------------- other draws: means of episodes


def episodes(count: int) -> Iterator[dict[str, Any]]:
    """Episodes of the same agents on the stand-in and natively."""
    for name in COMPARED:
        for policy, eager in POLICIES.items():
            for engine, play in ((GAME, _through_smac), (NATIVE, _natively)):
                rows = play(name, eager, count if engine == GAME else 10 * count)
                yield from ({"map": name, "policy": policy, "engine": engine} | row for row in rows)


def _through_smac(name: str, eager: float, count: int) -> Iterator[dict[str, float]]:
    """Episodes of SMAC's own environment."""
    from smac.env import StarCraft2Env

    env, rng = StarCraft2Env(map_name=name, seed=11), np.random.default_rng(12)
    for _ in range(count):
        env.reset()
        total, length, over = 0.0, 0, False
        while not over:
            reward, over, info = env.step(choose(np.array(env.get_avail_actions()), rng, eager))
            total, length = total + reward, length + 1
        yield _row(name, total, length, info["battle_won"], info["dead_allies"], info["dead_enemies"])
    env.close()


def _natively(name: str, eager: float, count: int) -> Iterator[dict[str, float]]:
    """Episodes of our native battles, one batch."""
    battle, rng = Skirmish(MAPS[name], Options(), count, torch.device("cpu"), 21), np.random.default_rng(22)
    live = {key: tensor.numpy() for key, tensor in battle.live.items()}
    battle.reset()
    total, length = np.zeros(count), np.zeros(count, dtype=int)
    while live["running"].any():
        running = live["running"].astype(bool)
        battle.step(torch.from_numpy(_choose_all(live["avail"], rng, eager)))
        total += live["reward"]
        length += running
        won = np.where(running, live["won"], won if length.max() > 1 else 0.0)
    for row in zip(total, length, won, live["dead_allies"], live["dead_enemies"], strict=True):
        yield _row(name, *map(float, row))


def _choose_all(avail: np.ndarray, rng: np.random.Generator, eager: float) -> np.ndarray:
    """[b, n]: what ``choose`` does, for all battles at once."""
    noise = rng.random(avail.shape) * avail
    anything = noise.argmax(-1)
    last = avail.shape[-1] - 1 - avail[..., ::-1].argmax(-1)
    attacks = (last > 5) & (rng.random(last.shape) < eager)
    return np.where(attacks, last, anything)


def _row(name: str, total: float, length: float, won: float, dead_allies: float, dead_enemies: float) -> dict[str, float]:
    """One episode; the damage is what the return holds besides bonuses, regeneration included."""
    options = Options()
    points = total * max_reward(MAPS[name], options) / options.reward_scale_rate
    damage = points - options.reward_death_value * dead_enemies - options.reward_win * won
    values = (total, length, float(won), dead_allies, dead_enemies, damage)
    return {key: round(value, 6) for key, value in zip(MEASURES, values, strict=True)}


# ---------------------------------------------------------------- the main job


def job(results: Path) -> Iterator[dict[str, Any]]:
    """Metrics of the tests of macpf on corridor, on either engine."""
    keys = ("env_args.map_name=corridor", "batch_size_run=4", f"test_nepisode={EPISODES_PER_TEST}")
    keys += (f"test_interval={TESTS}", f"log_interval={TESTS}")
    for engine, value in ((GAME, "starcraft2"), (NATIVE, "skirmish")):
        place = f"sc2-{value}/corridor"
        task = Task("sc2", place, results, STEPS, (*keys, f"env_args.engine={value}"), {})
        for seed in SEEDS:
            task.run("macpf", seed)
            yield from ({"engine": engine, "seed": seed} | row for row in _tests(task, seed))


def _tests(task: Task, seed: int) -> Iterator[dict[str, Any]]:
    """Every value of the metrics that tests have, and of the speed."""
    from tracking.journal import read

    folder = task.folder("macpf", seed)
    assert folder is not None
    for line in read(folder / "metrics.jsonl"):
        yield from _values(line)


def _values(line: dict[str, Any]) -> Iterator[dict[str, Any]]:
    step = line.get("step", line.get("t_env", 0))
    for name, value in line.items():
        if name.startswith(("test_", "return_", "ep_length", "battle_won")) and isinstance(value, float | int):
            yield {"step": step, "metric": name, "value": value}


# ---------------------------------------------------------------- files


def write(name: str, rows: Iterable[dict[str, Any]]) -> None:
    """Rewrites one CSV file, row by row."""
    writer = None
    with FILES[name].open("w", newline="") as file:
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(file, list(row), lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)
            file.flush()


def read_rows(name: str) -> list[dict[str, str]]:
    """One CSV file; nothing where it is missing."""
    if not FILES[name].exists():
        return []
    with FILES[name].open(newline="") as file:
        return list(csv.DictReader(file))
