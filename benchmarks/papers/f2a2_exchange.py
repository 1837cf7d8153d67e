"""F2A2-SAC with fewer edges, rarer exchange and parts left out, in a small Rover-Tower (AC-45, AC-46; tables 4 and 5).

    python benchmarks/papers/f2a2_exchange.py [--seeds 0,1,2] [--settings "p = 0;(20, 10)"] [--jobs 2]

Writes ``f2a2_exchange.csv``, ``f2a2_exchange.md`` and ``f2a2_exchange.png``. Complete runs are not made again,
interrupted ones are resumed. The report is of all runs that there are.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot as plt
import numpy as np
from commands import ROOT, Task
from curves import Row, panel, result, save, write
from f2a2_worlds import COLUMN, FINAL, LAST, LOG_EVERY
from f2a2_worlds import task as world_task
from sessions import conditions

HERE = Path(__file__)
SHARES = {"p = 0": "0", "p = 0.6": "0.6", "p = 1": "1"}
LIKE_THE_REST = "p = 1"
ABLATIONS = {
    "separate updates": ("joint=False",),
    "true policies of the others": ("moa=oracle",),
    "as written: no bound on δ, critics pushed": ("delta_clip=None", "alpha1_critic=None"),
}
"""What is left out of ``LIKE_THE_REST``."""
TURNS = {"never": ("None", "0"), "(20, 10)": ("20", "10"), "(1, 0)": ("1", "0")}
SAME = {"never": "p = 0", "(1, 0)": "p = 1"}
"""Without edges and without exchange are one and the same, bit for bit; so are a complete graph and every update."""
COLUMNS = ["setting", "algorithm", "seed", "t_env", "return_per_agent"]


def task(setting: str, results: Path) -> Task:
    """The runs of one setting; ``LIKE_THE_REST`` is what ``f2a2_worlds.py`` runs."""
    setting, like_the_rest = SAME.get(setting, setting), world_task("rover_tower", results)
    if setting == LIKE_THE_REST:
        return like_the_rest
    if setting in SHARES:
        keys: tuple[str, ...] = (f"topology_share={SHARES[setting]}",)
    elif setting in ABLATIONS:
        keys = ABLATIONS[setting]
    else:
        mean, std = TURNS[setting]
        keys = (f"exchange_interval={mean}", f"exchange_std={std}")
    where = results / "f2a2_exchange" / "".join(c for c in setting if c.isascii() and c.isalnum())
    return replace(like_the_rest, results=where, keys=(*like_the_rest.keys, *keys))


def table(title: str, settings: list[str], rows: list[Row]) -> list[str]:
    """One of the tables."""
    columns = ("setting", "mean", "standard error", "each seed", "steps, at least")
    lines = [f"## {title}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for setting in settings:
        own = [row for row in rows if row["setting"] == SAME.get(setting, setting)]
        values = np.array(list(result(own, "return_per_agent", FINAL).values()))
        if len(values):
            steps = min(max(r["t_env"] for r in own if r["seed"] == seed) for seed in {r["seed"] for r in own})
            error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
            each = ", ".join(f"{value:.1f}" for value in values)
            lines.append(f"| {setting} | {values.mean():.1f} | {error:.1f} | {each} | {steps:,} |")
    return [*lines, ""]


def gate(found: dict[str, dict[int, float]], more: str, less: str) -> str:
    """Whether ``more`` is better than ``less`` by a pooled standard error, as AC-45 and AC-46 ask."""
    a, b = (np.array(list(found.get(name, {}).values())) for name in (more, less))
    if min(len(a), len(b)) < 2:
        return f"{more} against {less}: not enough seeds"
    pooled = float(np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)))
    verdict = "met" if a.mean() - b.mean() >= pooled else "NOT met"
    return f"{more} less {less}: {a.mean() - b.mean():.1f}, pooled standard error {pooled:.1f}: gate {verdict}"


def report(rows: list[Row], results: Path) -> str:
    """The Markdown summary."""
    found = {name: result([r for r in rows if r["setting"] == name], "return_per_agent", FINAL) for name in ALL}
    lines = [
        "# F2A2-SAC with fewer edges and rarer exchange, at reduced size",
        "",
        f"Rover-Tower with two pairs instead of four, {LAST:,} steps, all else as in `f2a2_worlds.md`: the settings",
        "of the paper's tables 4 and 5, not their size. Returns are means over agents of the episodes' returns in",
        f"training; a seed's result is the mean of its last {FINAL} records of {LOG_EVERY:,} steps. Command:",
        "`python benchmarks/papers/f2a2_exchange.py`, which runs for every setting and seed",
        "",
        f"    ./run.sh {' '.join(task('p = 0.6', results).command('f2a2_sac', 0)[:-1])}",
        "",
        "![Returns](f2a2_exchange.png)",
        "",
        *table("Edges (table 4): exchange with every update", list(SHARES), rows),
        *table("Updates between exchanges, mean and deviation (table 5): complete graph", list(TURNS), rows),
        *table("Ablations: complete graph, exchange with every update", [LIKE_THE_REST, *ABLATIONS], rows),
        f"- AC-45: {gate(found, 'p = 1', 'p = 0')}",
        f"- AC-46: {gate(found, '(20, 10)', 'p = 0')} (p = 0 is the run without any exchange)",
        "",
        "The paper, in the full world: 52, 52, 78, 126, 135, 139 at p = 0, .2, .4, .6, .8, 1; 52, 52, 56, 136, 139,",
        "139 for (never), (2000, 1000), (200, 100), (20, 10), (8, 4), (1, 0).",
        "",
        conditions(),
        "",
    ]
    return "\n".join(lines)


ALL = [*SHARES, *(name for name in TURNS if name not in SAME), *ABLATIONS]


def draw(rows: list[Row]) -> None:
    """A panel for each table."""
    figure, axes = plt.subplots(1, 3, figsize=(16, 4.5), layout="constrained")
    for axis, settings in zip(axes, (list(SHARES), list(TURNS), [LIKE_THE_REST, *ABLATIONS]), strict=True):
        own = {name: [r for r in rows if r["setting"] == SAME.get(name, name)] for name in settings}
        panel(axis, {name: found for name, found in own.items() if found}, "return_per_agent", window=5)
        axis.set(ylabel="return in training, mean over agents")
        axis.legend(fontsize=8)
    axes[0].set_title("share of edges")
    axes[1].set_title("updates between exchanges")
    axes[2].set_title("ablations")
    save(figure, HERE)


def main() -> None:
    """Runs, then writes tables, report and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--settings", default=";".join(ALL), help="what to run, separated by semicolons")
    parser.add_argument("--jobs", type=int, default=2, help="at a time; 0: only reports what there is")
    parser.add_argument("--results", default=str(ROOT / "results" / "benchmarks"))
    options = parser.parse_args()
    results, seeds = Path(options.results), [int(seed) for seed in options.seeds.split(",")]
    jobs = [(seed, name) for seed in seeds for name in options.settings.split(";")] if options.jobs else []
    with ThreadPoolExecutor(max(1, options.jobs)) as pool:
        list(pool.map(lambda job: task(job[1], results).run("f2a2_sac", job[0]), jobs))
    rows = [
        {"setting": name} | row
        for name in ALL
        for seed in range(10)
        for row in task(name, results).tests("f2a2_sac", seed, COLUMN, "train")
    ]
    write(HERE, COLUMNS, rows, report(rows, results))
    draw(rows)


if __name__ == "__main__":
    main()
