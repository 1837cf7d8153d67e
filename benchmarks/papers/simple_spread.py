"""MAPPO, IPPO, HAPPO and QMIX on simple spread with 3 agents, over seeds, with the real command line (AC-48).

    python benchmarks/papers/simple_spread.py [--algs mappo,ippo,happo,qmix] [--seeds 0,1,2] [--jobs 2]

Writes ``simple_spread.csv`` (every test of every seed), ``simple_spread.md`` and ``simple_spread.png``. Complete runs
are not made again, interrupted ones are resumed; rows of runs whose folders are gone are kept, and
so is what somebody has written below the figures, from "What it says:" on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot as plt
import numpy as np
import torch
from commands import ROOT, Task
from curves import Row, kept, panel, remarks, save, write
from sessions import conditions, new_session

HERE = Path(__file__)
CONSTANT = -75.0
"""What three agents pay in 25 steps for touching themselves, whatever they do."""
LAST, TEST_EVERY, ENVIRONMENTS, FIFTHS = 500_000, 20_000, 16, 5
PPO = ("batch_size=128", "buffer_size=128", "lr=0.0007", "critic_lr=0.0007", "epochs=10")
"""MAPPO's for particle worlds: an update has 128 episodes, here of eight collections."""
HALVED = (*PPO, "num_mini_batch=2")
"""With two steps for each pass through them, where the paper has one."""
TASK = Task(
    "simple_spread",
    "simple_spread/3_discrete",
    ROOT / "results" / "benchmarks",
    LAST,
    (f"batch_size_run={ENVIRONMENTS}", f"test_interval={TEST_EVERY}", "device=cpu"),
    {"mappo": PPO, "ippo": HALVED, "happo": PPO, "qmix": ("updates_per_collect=4",)},
)
COLUMNS = ["algorithm", "seed", "t_env", "return"]


def random_return(episodes: int = 1024) -> float:
    """The mean return of uniformly random actions."""
    made = new_session("simple_spread", "mappo", {"batch_size_run": 8, "seed": 0, "device": "cpu"})
    env = type(made.env)(made.env.cfg, episodes, "cpu", 0)
    env.reset()
    rng = torch.Generator().manual_seed(0)
    total = torch.zeros(episodes)
    for _ in range(env.spec.episode_limit):
        action = torch.randint(env.spec.n_actions, (episodes, env.spec.n_agents), generator=rng)
        total += env.step(action).reward
    return float(total.mean())


def gain(value: float, chance: float) -> float:
    """By what share of its cost random play is improved on, without the constant."""
    return 1 - (value - CONSTANT) / (chance - CONSTANT)


def fifths(values: np.ndarray) -> np.ndarray:
    """Means over the fifths of the tests, in order."""
    return np.array([part.mean() for part in np.array_split(values, FIFTHS)])


def report(rows: list[Row], algorithms: list[str], chance: float) -> str:
    """The Markdown summary."""
    lines = [
        *HEAD,
        f"Random actions: {chance:.1f}.",
        "",
        "| algorithm | seed | return by fifths of the training | gain over random in the last fifth "
        "| every fifth better | steps |",
        "|---|---|---|---|---|---|",
    ]
    for algorithm in algorithms:
        for seed in sorted({row["seed"] for row in rows if row["algorithm"] == algorithm}):
            own = [row for row in rows if (row["algorithm"], row["seed"]) == (algorithm, seed)]
            parts = fifths(np.array([float(row["return"]) for row in own]))
            rises = "yes" if (np.diff(parts) > 0).all() else "NO"
            shown = ", ".join(f"{x:.1f}" for x in parts)
            last = f"{100 * gain(parts[-1], chance):.0f} % | {rises} | {own[-1]['t_env']:,}"
            lines.append(f"| {algorithm} | {seed} | {shown} | {last} |")
    return "\n".join([*lines, "", conditions(), ""])


HEAD = [
    "# Simple spread",
    "",
    "Do the baselines learn simple spread with 3 agents (AC-48)? Gate: MAPPO's cost in the end is at least 30 % below",
    f"that of random actions, and it improves all along. All returns here include the constant {CONSTANT:g} per",
    "episode, which the gain leaves out. Command: `python benchmarks/papers/simple_spread.py`, which runs",
    "",
    *[f"    ./run.sh {' '.join(TASK.command(name, 0)[:-1])}" for name in TASK.more],
    "",
    "for every seed. Raw tests (32 greedy episodes each): `simple_spread.csv`.",
    "",
    "![Test returns](simple_spread.png)",
    "",
]


def draw(rows: list[Row], algorithms: list[str], chance: float) -> None:
    """Every seed thin, the mean of each algorithm thick."""
    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    groups = {name: [row for row in rows if row["algorithm"] == name] for name in algorithms}
    panel(axis, {name: own for name, own in groups.items() if own}, "return")
    axis.axhline(chance, color="grey", linewidth=0.8, linestyle="--", label="random actions")
    axis.set(ylabel="test return", title="simple spread, 3 agents")
    axis.legend(loc="lower right")
    save(figure, HERE)


def main() -> None:
    """Runs, then writes the table, the report and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algs", default=",".join(TASK.more), help="what to run; the report is of all that there is")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=2, help="at a time; 0: only reports what there is")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    TASK.run_all(options.algs.split(","), seeds, options.jobs)
    names = {"test_return_mean": "return"}
    rows = [row for algorithm in TASK.more for seed in seeds for row in TASK.tests(algorithm, seed, names)]
    rows = kept(HERE, rows)
    chance = random_return()
    write(HERE, COLUMNS, rows, report(rows, list(TASK.more), chance) + remarks(HERE))
    draw(rows, list(TASK.more), chance)


if __name__ == "__main__":
    main()
