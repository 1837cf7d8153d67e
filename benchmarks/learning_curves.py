"""Trains algorithms on one map over several seeds with the real command line, and draws the test win rates.

    python benchmarks/learning_curves.py --map 3m --algs qmix_tuned,macpf --seeds 0,1,2 --t-max 500000 [--jobs 2]

Writes ``curves_<map>.csv`` (every test of every seed), ``curves_<map>.md`` (what was reached) and
``curves_<map>.png``. Runs that are complete are not run again; interrupted and shorter ones are resumed. What somebody
has written below the figures, from "What it says:" on, is kept.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from commands import ROOT, Task
from curves import Row, panel, remarks, save, write

HERE = Path(__file__).resolve().parent
NAMES = {"test_battle_won_mean": "won", "test_dep_battle_won_mean": "won_dependent", "test_return_mean": "return"}


def task(options: argparse.Namespace) -> Task:
    """The runs on one map."""
    keys = (f"env_args.map_name={options.map}", "env_args.engine=skirmish")
    return Task("sc2", f"sc2-skirmish/{options.map}", Path(options.results), options.t_max, keys, {})


def report(options: argparse.Namespace, rows: list[Row]) -> str:
    """What each seed reached."""
    lines = [
        f"# {options.map} on skirmish (our simulator, not StarCraft II)",
        "",
        "Command: `python benchmarks/learning_curves.py " + " ".join(sys.argv[1:]) + "`, which runs",
        f"`./run.sh {' '.join(task(options).command('ALGORITHM', 0)[:-1])}` for every algorithm and seed.",
        "",
        "| algorithm | seed | first test with win rate >= 0.9 (step) | mean of the last 10 tests | best | steps |",
        "|---|---|---|---|---|---|",
    ]
    for algorithm in options.algs.split(","):
        for seed in options.seeds.split(","):
            own = [row for row in rows if row["algorithm"] == algorithm and row["seed"] == int(seed)]
            won = [float(row["won"]) for row in own]
            if not won:
                continue
            first = next((f"{row['t_env']:,}" for row in own if float(row["won"]) >= 0.9), "never")
            last = f"{np.mean(won[-10:]):.3f} | {max(won):.3f} | {own[-1]['t_env']:,}"
            lines.append(f"| {algorithm} | {seed} | {first} | {last} |")
    return "\n".join([*lines, "", "Each test is 32 greedy episodes of the executed policy.", ""])


def draw(options: argparse.Namespace, rows: list[Row]) -> None:
    """One panel: every seed thin, the mean of each algorithm thick."""
    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    groups = {name: [row for row in rows if row["algorithm"] == name] for name in options.algs.split(",")}
    panel(axis, {name: own for name, own in groups.items() if own}, "won", window=1)
    axis.axhline(0.9, color="grey", linewidth=0.8, linestyle="--")
    axis.set(ylabel="test win rate", ylim=(-0.02, 1.02))
    axis.set_title(f"{options.map} on skirmish (Cofactor's simulator, not StarCraft II)")
    axis.legend(loc="lower right")
    save(figure, HERE / options.name)


def main() -> None:
    """Runs, then writes the table, the report and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", default="3m")
    parser.add_argument("--algs", default="qmix_tuned,macpf")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--t-max", type=int, default=500_000)
    parser.add_argument("--jobs", type=int, default=2, help="at a time; 0: only reports what there is")
    parser.add_argument("--name", default="", help="of the files that are written; curves_<map> if not given")
    parser.add_argument("--results", default=str(ROOT / "results" / "benchmarks"))
    options = parser.parse_args()
    options.name = options.name or f"curves_{options.map}"
    algorithms, seeds = options.algs.split(","), [int(seed) for seed in options.seeds.split(",")]
    runs = task(options)
    runs.run_all(algorithms, seeds, options.jobs)
    rows = [row for algorithm in algorithms for seed in seeds for row in runs.tests(algorithm, seed, NAMES)]
    columns, page = ["algorithm", "seed", "t_env", *NAMES.values()], HERE / options.name
    write(page, columns, rows, report(options, rows) + remarks(page))
    draw(options, rows)


if __name__ == "__main__":
    main()
