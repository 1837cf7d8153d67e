"""What an update of F2A2-ISAC costs with 12 to 256 agents, on random steps of the size of MAgent's battle.

    python benchmarks/papers/f2a2_cost.py [--agents 12,24,48,64,96,128,192,256] [--updates 5]

Writes ``f2a2_cost.csv``, ``f2a2_cost.md`` and ``f2a2_cost.png``. Learner only: no environment is played.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib
import torch
from sessions import ROOT, Row, conditions

from core.config import load, merge, resolve
from core.specs import ActionSpec, EnvSpec, EpisodeBatch, valid_mask
from learners.base import Learner
from memory.replay import Replay

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__)
OBS, ACTIONS, STEPS, EPISODES = 13 * 13 * 5, 21, 32, 4
GRAPHS = {"complete graph": {}, "no exchange": {"exchange_interval": None}}


def learner_of(n: int, keys: dict[str, object]) -> tuple[Learner, Replay]:
    """F2A2-ISAC for ``n`` agents, with its published settings, and a replay of random steps."""
    spec = EnvSpec((ActionSpec(ACTIONS),) * n, (OBS,) * n, 1, STEPS, reward="individual")
    config = merge(load(ROOT / "config/envs/simple_spread.yaml"), load(ROOT / "config/algs/f2a2_isac.yaml"))
    settings = resolve(merge(config, {"seed": 0, **keys}))
    rng = torch.Generator().manual_seed(0)
    controller = settings.build("mac", spec)
    learner = settings.build("learner", spec, controller, rng=rng)
    length = torch.full((EPISODES,), STEPS)
    replay = Replay(spec, EPISODES, 8 << 30, "cpu", torch.Generator().manual_seed(1))
    replay.add(
        EpisodeBatch(
            action=torch.randint(ACTIONS, (EPISODES, STEPS, n), generator=rng),
            reward=torch.randn(EPISODES, STEPS, n, generator=rng),
            terminated=torch.zeros(EPISODES, STEPS, dtype=torch.bool),
            mask=valid_mask(length, STEPS),
            length=length,
            obs=torch.randn(EPISODES, STEPS + 1, n, OBS, generator=rng),
            state=torch.zeros(EPISODES, STEPS + 1, 1),
            avail=torch.ones(EPISODES, STEPS + 1, n, ACTIONS, dtype=torch.bool),
            extras={"behaviour": torch.full((EPISODES, STEPS, n, ACTIONS), 1 / ACTIONS)},
        )
    )
    return learner, replay


def measure(n: int, graph: str, updates: int) -> Row:
    """CPU seconds of an update (median, least, most), and what was exchanged in it."""
    learner, replay = learner_of(n, GRAPHS[graph])
    learner.update(replay, 0)
    seconds = []
    for _ in range(updates):
        start = time.process_time()
        metrics = learner.update(replay, 0)
        seconds.append(time.process_time() - start)
    return {
        "agents": n,
        "graph": graph,
        "cpu_s": round(statistics.median(seconds), 4),
        "least": round(min(seconds), 4),
        "most": round(max(seconds), 4),
        "cpu_ms_per_agent": round(1000 * statistics.median(seconds) / n, 3),
        "exchanged_mb": round(float(metrics["exchanged_bytes"]) / 1e6, 1),
    }


def report(rows: list[Row]) -> str:
    """The Markdown table."""
    lines = [
        "# Cost of an update of F2A2-ISAC",
        "",
        "Command: `python benchmarks/papers/f2a2_cost.py`. Random steps of the size of MAgent's battle",
        f"({OBS} numbers seen, {ACTIONS} actions), batch 128, hidden layers of 128, an actor and two critics for every",
        "agent, all of them shared. CPU seconds of one update, median of five, one thread, without the first one.",
        "In a complete graph everybody hears everybody: the bytes grow with N², the arithmetic does not.",
        "",
        "![Cost per update](f2a2_cost.png)",
        "",
        "| agents | graph | CPU-s per update | least to most | CPU-ms per agent | exchanged MB |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['agents']} | {r['graph']} | {r['cpu_s']} | {r['least']} to {r['most']} | {r['cpu_ms_per_agent']} | "
        f"{r['exchanged_mb']} |"
        for r in rows
    ]
    return "\n".join([*lines, "", conditions(), ""])


def draw(rows: list[Row]) -> None:
    """Seconds over agents, with a line through the origin for comparison."""
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for graph in GRAPHS:
        own = [r for r in rows if r["graph"] == graph]
        axis.plot([r["agents"] for r in own], [r["cpu_s"] for r in own], marker="o", label=graph)
    first = min(rows, key=lambda r: r["agents"])
    most = max(r["agents"] for r in rows)
    axis.plot([0, most], [0, first["cpu_s"] / first["agents"] * most], color="grey", linestyle="--", label="linear")
    axis.set(xlabel="agents", ylabel="CPU seconds per update", title="F2A2-ISAC, learner only")
    axis.legend()
    figure.savefig(HERE.with_suffix(".png"), dpi=110)


def main() -> None:
    """Measures, then writes table, report and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", default="12,24,48,64,96,128,192,256")
    parser.add_argument("--updates", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for n in map(int, options.agents.split(",")):
        for graph in GRAPHS:
            rows.append(measure(n, graph, options.updates))
            print(rows[-1], flush=True)
    with HERE.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    HERE.with_suffix(".md").write_text(report(rows), encoding="utf-8")
    draw(rows)


if __name__ == "__main__":
    main()
