"""What several seeds as one program gain over the same seeds one after another: 1, 4 and 16 of them.

    python benchmarks/many_seeds.py [--device cuda] [--cells "qmix simple_spread"] [--seeds 1,4,16] [--seconds 6]
    python benchmarks/many_seeds.py --report      # only writes table and picture anew

A step of training (one episode of every row, then the updates) of all seeds together is timed in turn with one of a
seed alone, in one process, so that a busy machine slows both. Writes ``many_seeds.csv`` (one row per repetition, those
of the same cell and device replaced), the table in ``many_seeds.md`` and ``many_seeds.png``.

The cells ``bare`` have networks and batches so small that only the overhead of Python, torch and kernels is left: what
a GPU waits for.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from sessions import Row, conditions, new_session, rows_of

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import torch

from many.loop import Together

TABLE, REPORT, PICTURE = (Path(__file__).with_suffix(end) for end in (".csv", ".md", ".png"))
BARE = {"hidden_dim": 4, "mixing_embed_dim": 4, "hypernet_embed": 4, "batch_size": 8}
CELLS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qmix matrix_game": ("qmix", "matrix_game", {}),
    "macpf matrix_game": ("macpf", "matrix_game", {"burn_in": 0, "updates_per_collect": 1}),
    "qmix simple_spread": ("qmix", "simple_spread", {}),
    "qmix 3m": ("qmix", "sc2", {"env_args": {"map_name": "3m", "engine": "skirmish"}}),
    "qmix matrix_game bare": ("qmix", "matrix_game", BARE),
    "qmix simple_spread bare": ("qmix", "simple_spread", BARE),
}
"""Algorithm, environment, and keys beside those of all cells."""
COMMON = {"batch_size_run": 8, "t_max": 10**9, "test_nepisode": 0, "log_interval": 10**9, "checkpoint_interval": 10**9}
REPETITIONS = 6
"""The first one is left out."""
COLUMNS = (
    "cell", "device", "seeds", "repetition", "seed_steps_per_cpu_second", "seed_steps_per_second",
    "alone_steps_per_cpu_second", "alone_steps_per_second", "gain_cpu", "gain_wall", "conditions",
)  # fmt: skip
SAYS = "## What it says"


def waited(device: str) -> None:
    """What was begun on a GPU has been done."""
    if device == "cuda":
        torch.cuda.synchronize()


def rates(steps: Callable[[], int], work: Callable[[], Any], n: int, device: str) -> tuple[float, float]:
    """Environment steps per CPU second and per second of ``n`` times ``work``."""
    waited(device)
    before, cpu, wall = steps(), time.process_time(), time.perf_counter()
    for _ in range(n):
        work()
    waited(device)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return (steps() - before) / cpu, (steps() - before) / wall


def measured(cell: str, seeds: int, device: str, seconds: float) -> Iterator[Row]:
    """The repetitions of one cell with one number of seeds; with one seed both sides are the usual loop."""
    algorithm, environment, keys = CELLS[cell]
    made = [
        new_session(environment, algorithm, COMMON | keys | {"seed": seed, "device": device})
        for seed in range(seeds + 1)
    ]
    one, many = made[0], made[1:]
    alone = one.train()
    together: Iterator[Any] = Together(many).train() if seeds > 1 else many[0].train()
    for _ in range(6):  # so that every replay has enough for updates
        next(alone)
        next(together)
    began = time.perf_counter()
    next(alone)
    next(together)
    n = max(1, round(seconds / (time.perf_counter() - began)))
    for repetition in range(REPETITIONS):
        single = rates(lambda: one.progress.t_env, lambda: next(alone), n, device)
        joint = rates(lambda: sum(s.progress.t_env for s in many), lambda: next(together), n, device)
        if repetition:
            values = (*joint, *single, joint[0] / single[0], joint[1] / single[1])
            yield dict(
                zip(
                    COLUMNS, (cell, device, seeds, repetition, *(f"{v:.4g}" for v in values), conditions()), strict=True
                )
            )
    for session in made:
        session.close()


def spread(rows: Sequence[Row], column: str) -> str:
    """Median, smallest and largest."""
    values = [float(row[column]) for row in rows]
    return f"{median(values):,.4g} ({min(values):,.4g} to {max(values):,.4g})"


def grouped(table: Sequence[Row]) -> dict[tuple[str, str, int], list[Row]]:
    """Repetitions by cell, device and number of seeds."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in table:
        groups.setdefault((row["cell"], row["device"], int(row["seeds"])), []).append(row)
    return dict(sorted(groups.items(), key=lambda item: ([*CELLS].index(item[0][0]), item[0][1:])))


def report(table: Sequence[Row]) -> None:
    """Writes the table into ``many_seeds.md``, and leaves what stands there below it; prints it, too."""
    lines = [
        "| cell | device | seeds | steps of all seeds per CPU second | of one alone | gain by CPU time | by wall |",
        "|---|---|---|---|---|---|---|",
    ]
    for (cell, device, seeds), rows in grouped(table).items():
        columns = ("seed_steps_per_cpu_second", "alone_steps_per_cpu_second", "gain_cpu", "gain_wall")
        lines.append("| " + " | ".join([cell, device, str(seeds), *(spread(rows, c) for c in columns)]) + " |")
    if not any(row["device"] == "cuda" for row in table):
        lines += ["", "**Missing: the figures of a GPU** (target: 16 seeds at 8 times the throughput of one)."]
    print("\n".join(lines))
    below = REPORT.read_text(encoding="utf-8").partition(SAYS)[2] if REPORT.exists() else "\n"
    head = [
        "# Several seeds as one program",
        "",
        "How much more do K seeds in one process (`n_seeds=K`) get done than one seed, in the same time?",
        "",
        "Command: `python benchmarks/many_seeds.py`. Raw rows: `many_seeds.csv`. Medians of "
        f"{REPETITIONS - 1} repetitions, with the smallest and the largest;",
        f"one thread; {COMMON['batch_size_run']} rows per seed, one update per collection. The gain is the ratio to "
        "one seed, timed in turn. `bare`: networks of",
        "width 4 and batches of 8 episodes, so that only overhead is left.",
        "",
        *sorted({row["conditions"] for row in table}),
        "",
    ]
    REPORT.write_text("\n".join([*head, *lines, "", SAYS]) + below, encoding="utf-8")


def draw(table: Sequence[Row]) -> None:
    """The gain over the number of seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    groups = grouped(table)
    for cell, device in dict.fromkeys(key[:2] for key in groups):
        points = [(key[2], median(float(r["gain_cpu"]) for r in rows)) for key, rows in groups.items()
                  if key[:2] == (cell, device)]  # fmt: skip
        axes.plot(*zip(*points, strict=True), marker="o", label=f"{cell}, {device}")
    most = max(key[2] for key in groups)
    axes.plot([1, most], [1, most], color="gray", linestyle=":", label="as many times as seeds")
    axes.set(xscale="log", yscale="log", xlabel="seeds", ylabel="throughput, in that of one seed (CPU time)")
    axes.legend(fontsize=8)
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    """Measures what is asked for, and writes all that is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--cells", default=",".join(CELLS), help="names with commas between them")
    parser.add_argument("--seeds", default="1,4,16")
    parser.add_argument("--seconds", type=float, default=6.0, help="of one repetition, both sides together")
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no usable GPU")
    table: list[Row] = list(rows_of(TABLE))
    for cell in () if options.report else options.cells.split(","):
        for seeds in map(int, options.seeds.split(",")):
            rows = list(measured(cell, seeds, options.device, options.seconds))
            print(cell, seeds, "gain", spread(rows, "gain_cpu"), flush=True)
            key = (cell, options.device, str(seeds))
            table = [row for row in table if (row["cell"], row["device"], str(row["seeds"])) != key] + rows
            with TABLE.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(table)
    report(table)
    draw(table)


if __name__ == "__main__":
    main()
