"""F2A2 against MAAC, MADDPG and MA-AC in treasure collection and Rover-Tower, over seeds, with the real command line.

    python benchmarks/papers/f2a2_worlds.py [--worlds treasure_collection,rover_tower] [--algs maac,...] [--seeds 0,1,2]
        [--jobs 2]

Writes ``f2a2_worlds.csv`` (every record of training), ``f2a2_worlds.md`` and ``f2a2_worlds.png``. Complete runs are not
made again, interrupted ones are resumed. The report is of all runs that there are.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot as plt
import numpy as np
from commands import ROOT, Task
from curves import Row, panel, result, save, write
from sessions import conditions

HERE = Path(__file__)
LAST, LOG_EVERY, FINAL = 200_000, 6_400, 5
"""Steps of a run, between two records of training, and how many last records are the result."""
SMALL = (
    *("batch_size=256", "batch_size_run=32", "hidden_dim=64", "critic_dim=64", "obs_clip=5", "device=cpu"),
    *(f"log_interval={LOG_EVERY}", "test_nepisode=0"),
)
MODELS = ("moa_trajectories=100", "moa_batch=400", "moa_pairs=400", "moa_period=4")
ALGORITHMS: dict[str, tuple[str, ...]] = {
    "f2a2_sac": (*SMALL, *MODELS),
    "f2a2_td3": (*SMALL, *MODELS),
    "f2a2_ddpg": (*SMALL, *MODELS),
    "maac": SMALL,
    "maddpg": (
        *SMALL,
        *("share_parameters=False", "lr=0.001", "critic_lr=0.001", "tau=0.005", "gamma=0.99", "activation=leaky_relu"),
        "updates_per_step=None",
    ),
    "ma_ac": (*SMALL[1:], "batch_size=32", "buffer_size=32"),
}
WORLDS = {
    "treasure_collection": (
        "3_collectors_1_banks_3_treasures",
        ("env_args.n_collectors=3", "env_args.n_banks=1", "env_args.n_treasures=3"),
        32,
    ),
    "rover_tower": ("2_pairs_6_landmarks", ("env_args.n_pairs=2",), 8),
}
"""The world's label, its size, and the updates after each collection: one for 100 steps."""
COLUMN = {"return_per_agent": "return_per_agent"}
COLUMNS = ["world", "algorithm", "seed", "t_env", "return_per_agent"]


def task(world: str, results: Path) -> Task:
    """The runs in one world."""
    label, size, updates = WORLDS[world]
    more = {name: (*keys, f"updates_per_collect={updates}") for name, keys in ALGORITHMS.items()}
    more["ma_ac"] = ALGORITHMS["ma_ac"]
    return Task(world, f"{world}/{label}", results, LAST, size, more)


def report(rows: list[Row], results: Path) -> str:
    """The Markdown summary."""
    lines = [
        "# F2A2 in treasure collection and Rover-Tower, at reduced size",
        "",
        f"Three collectors, a bank and three treasures; two rovers and two towers. {LAST:,} steps, an update of",
        "256 steps for every 100 (MA-AC: one for every 32 new episodes), hidden layers of 64, observations cut",
        "at 5. The paper has eight agents, 1024, 128 and above a million steps: this is a ranking on a small",
        "machine, not a reproduction. Returns are means over agents of the episodes' returns in training; a seed's",
        f"result is the mean of its last {FINAL} records of {LOG_EVERY:,} steps. Command:",
        "`python benchmarks/papers/f2a2_worlds.py`, which runs for every seed",
        "",
    ]
    for world in WORLDS:
        runs = task(world, results)
        lines += [f"    ./run.sh {' '.join(runs.command(name, 0)[:-1])}" for name in ALGORITHMS]
    lines += ["", "![Returns](f2a2_worlds.png)", ""]
    for world in WORLDS:
        lines += [f"## {world}", "", "| algorithm | mean | each seed | steps, at least |", "|---|---|---|---|"]
        found = []
        for name in ALGORITHMS:
            own = [r for r in rows if r["world"] == world and r["algorithm"] == name]
            if own:
                seeds = result(own, "return_per_agent", FINAL)
                least = min(max(r["t_env"] for r in own if r["seed"] == seed) for seed in seeds)
                found.append((float(np.mean(list(seeds.values()))), name, seeds, least))
        for mean, name, seeds, least in sorted(found, reverse=True):
            each = ", ".join(f"{value:.1f}" for value in seeds.values())
            lines.append(f"| {name} | {mean:.1f} | {each} | {least:,} |")
        lines.append("")
    return "\n".join([*lines, conditions(), ""])


def draw(rows: list[Row]) -> None:
    """A panel for each world."""
    figure, axes = plt.subplots(1, len(WORLDS), figsize=(12, 4.5), layout="constrained")
    for axis, world in zip(axes, WORLDS, strict=True):
        own = {name: [r for r in rows if (r["world"], r["algorithm"]) == (world, name)] for name in ALGORITHMS}
        panel(axis, {name: found for name, found in own.items() if found}, "return_per_agent", window=5)
        axis.set(title=world, ylabel="return in training, mean over agents")
        axis.legend(fontsize=8)
    save(figure, HERE)


def main() -> None:
    """Runs, then writes table, report and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", default=",".join(WORLDS))
    parser.add_argument("--algs", default=",".join(ALGORITHMS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=2, help="at a time; 0: only reports what there is")
    parser.add_argument("--results", default=str(ROOT / "results" / "benchmarks"))
    options = parser.parse_args()
    results, seeds = Path(options.results), [int(seed) for seed in options.seeds.split(",")]
    for seed in seeds:
        for world in options.worlds.split(","):
            task(world, results).run_all(options.algs.split(","), [seed], options.jobs)
    rows = []
    for world in WORLDS:
        runs = task(world, results)
        for name in ALGORITHMS:
            for seed in range(10):
                rows += [{"world": world} | row for row in runs.tests(name, seed, COLUMN, "train")]
    write(HERE, COLUMNS, rows, report(rows, results))
    draw(rows)


if __name__ == "__main__":
    main()
