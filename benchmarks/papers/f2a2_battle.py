"""F2A2-ISAC in MAgent's battle with 12 and with 64 agents a side, against random opponents (AC-47).

    python benchmarks/papers/f2a2_battle.py [--sizes 12,64] [--seeds 0,1,2] [--jobs 2]

Needs magent2 (``./run.sh install envs``). Writes ``f2a2_battle.csv``, ``f2a2_battle.md`` and ``f2a2_battle.png``.
Complete runs are not made again, interrupted ones are resumed. The report is of all runs that there are.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot as plt
from commands import ROOT, Task
from curves import Row, panel, result, save, write
from sessions import conditions

HERE = Path(__file__)
FINAL = 3
COMMON = (
    *("hidden_dim=64", "critic_dim=64", "lr=0.0005", "critic_lr=0.0005", "batch_size_run=2", "device=cpu"),
    "test_nepisode=16",
)
SIZES = {
    12: (60_000, (*COMMON, "updates_per_step=0.1", "test_interval=6000", "buffer_steps=20000")),
    64: (10_000, (*COMMON, "updates_per_step=0.05", "test_interval=2000", "buffer_steps=5000")),
}
"""Steps, and keys, by the number of agents a side."""
COLUMN = {
    "test_battle_won_mean": "won",
    "test_return_per_agent_mean": "return_per_agent",
    "test_allies_alive_mean": "allies_alive",
    "test_enemies_alive_mean": "enemies_alive",
}
COLUMNS = ["size", "algorithm", "seed", "t_env", *COLUMN.values()]


def task(size: int, results: Path) -> Task:
    """The runs with ``size`` agents a side."""
    last, keys = SIZES[size]
    label = f"magent_battle/{size}v{size}-random"
    return Task("magent_battle", label, results, last, (f"env_args.team_size={size}", *keys), {})


def report(rows: list[Row], results: Path) -> str:
    """The Markdown summary."""
    lines = [
        "# F2A2-ISAC in MAgent's battle",
        "",
        "Against opponents that act at random, 200 steps an episode at most. A battle is won when more of ours than of",
        f"theirs are alive at its end. 16 greedy test episodes; a seed's result is the mean of its last {FINAL} tests.",
        "Not the paper's protocol (self-play for 2000 rounds, then frozen opponents). AC-47 asks for above 0.6 with 12",
        "a side. Command: `python benchmarks/papers/f2a2_battle.py`, which runs for every seed",
        "",
        *[f"    ./run.sh {' '.join(task(size, results).command('f2a2_isac', 0)[:-1])}" for size in SIZES],
        "",
        "![Battles won](f2a2_battle.png)",
        "",
        "| agents a side | seed | first test | last tests: won | ours alive | theirs alive | steps |",
        "|---|---|---|---|---|---|---|",
    ]
    for size in SIZES:
        own = [r for r in rows if r["size"] == size]
        for seed, won in result(own, "won", FINAL).items():
            alive, left = (result(own, key, FINAL)[seed] for key in ("allies_alive", "enemies_alive"))
            tests = [r for r in own if r["seed"] == seed]
            first, last = float(tests[0]["won"]), f"{tests[-1]['t_env']:,}"
            lines.append(f"| {size} | {seed} | {first:.2f} | {won:.2f} | {alive:.1f} | {left:.1f} | {last} |")
    return "\n".join([*lines, "", conditions(), ""])


def draw(rows: list[Row]) -> None:
    """A panel for each size."""
    figure, axes = plt.subplots(1, len(SIZES), figsize=(10, 4), layout="constrained")
    for axis, size in zip(axes, SIZES, strict=True):
        panel(axis, {"f2a2_isac": [r for r in rows if r["size"] == size]}, "won", window=1)
        axis.set(title=f"{size} against {size}", ylabel="battles won", ylim=(-0.02, 1.02))
        axis.axhline(0.6, color="grey", linewidth=0.8, linestyle="--")
        axis.legend(loc="lower right")
    save(figure, HERE)


def main() -> None:
    """Runs, then writes table, report and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=2, help="at a time; 0: only reports what there is")
    parser.add_argument("--results", default=str(ROOT / "results" / "benchmarks"))
    options = parser.parse_args()
    results, seeds = Path(options.results), [int(seed) for seed in options.seeds.split(",")]
    for size in map(int, options.sizes.split(",")):
        task(size, results).run_all(["f2a2_isac"], seeds, options.jobs)
    rows = [
        {"size": size} | row
        for size in SIZES
        for seed in range(10)
        for row in task(size, results).tests("f2a2_isac", seed, COLUMN)
    ]
    write(HERE, COLUMNS, rows, report(rows, results))
    draw(rows)


if __name__ == "__main__":
    main()
