"""FOP's max of two quadratics (Zhang et al. 2021, section 5.1; AC-36): who finds the narrow hill, seed by seed.

    python benchmarks/papers/mtq.py [--seeds 8] [--jobs 2] [--only FOP]

Writes ``mtq.csv`` (one row per algorithm, seed and step), ``mtq.md`` and ``mtq.png``. Runs that are in the CSV are not
made again; algorithms without a configuration are left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib
import numpy as np
import torch
from sessions import Row, Session, conditions, known, make_rows, new_session, rows_of

from envs.mtq import BOUND, payoff

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__)
EVERY, LAST = 500, 20_000
"""Steps between two measurements, and all of them."""
COLUMNS = ["algorithm", "seed", "t_env", "action_1", "action_2", "payoff", "cpu_s"]
GAME: dict[str, Any] = {"t_max": LAST, "test_nepisode": 0, "log_interval": 10**9, "device": "cpu"}
ALIKE: dict[str, Any] = GAME | {
    "optimiser": "adam",
    "adam_eps": 1e-8,
    "lr": 1e-3,
    "critic_lr": 1e-3,
    "batch_size": 128,
    "batch_size_run": 8,
    "updates_per_collect": 1,
    "updates_per_step": None,
    "noise_start": 0.3,
    "noise_finish": 0.05,
    "noise_anneal_time": 15_000,
}
"""The baselines learn as fast, and from as much, as FOP; their exploration falls over the same time."""
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "FOP": ("fop_continuous", GAME),
    "FOP, linear mixer": ("fop_continuous_linear", GAME),
    "FOP, greedy": ("fop_continuous_greedy", GAME),
    "MADDPG": ("maddpg_continuous", ALIKE),
    "FACMAC": ("facmac_continuous", ALIKE),
    "DOP, deterministic": ("dop_deterministic", ALIKE),
}
"""Label: configuration and settings."""
SOLVED = 9.5
GATES = {"FOP": ("at least 7 of 8", lambda n: n >= 7), "FOP, linear mixer": ("at most 1 of 8", lambda n: n <= 1)}


def train(job: tuple[str, int]) -> list[Row]:
    """One run, measured at the start and every ``EVERY`` steps."""
    label, seed = job
    algorithm, settings = RUNS[label]
    made = new_session("mtq", algorithm, settings | {"seed": seed})
    rows = [{"algorithm": label, "seed": seed, "t_env": 0} | measure(made)]
    for tick in made.train():
        if tick.t_env // EVERY > rows[-1]["t_env"] // EVERY:
            rows.append({"algorithm": label, "seed": seed, "t_env": tick.t_env} | measure(made))
    return rows


@torch.no_grad()
def measure(made: Session) -> Row:
    """The actions that tests take, and what they earn."""
    controller, spec = made.controller, made.env.spec
    step = made.env.reset()
    b = len(step.state)
    last, rng = torch.zeros(b, spec.n_agents, spec.n_actions), torch.Generator()
    acted = controller.act(
        step, last, controller.initial_hidden(b), t_env=made.progress.t_env, mode=controller.test_modes[0], rng=rng
    )
    action = acted.action[0, :, 0]
    shown = {f"action_{i}": round(float(a), 4) for i, a in enumerate(action, 1)}
    return shown | {"payoff": round(float(payoff(action)), 4)}


def runs_of(rows: list[dict[str, str]], label: str) -> dict[int, np.ndarray]:
    """Of every seed: steps, both actions and payoffs, in order of the steps."""
    found: dict[int, list[list[float]]] = {}
    for row in rows:
        if row["algorithm"] == label:
            numbers = [float(row[name]) for name in ("t_env", "action_1", "action_2", "payoff")]
            found.setdefault(int(row["seed"]), []).append(numbers)
    return {seed: np.array(sorted(found[seed])).T for seed in sorted(found)}


def report(rows: list[dict[str, str]]) -> str:
    """The Markdown summary."""
    lines = [*HEAD]
    for label in RUNS:
        ends = [run[:, -1] for run in runs_of(rows, label).values()]
        if not ends:
            continue
        solved = sum(end[3] >= SOLVED for end in ends)
        gate, passed = GATES.get(label, ("", None))
        verdict = f"{gate}: {'yes' if passed(solved) else 'NO'}" if passed else "logged"
        shown = " · ".join(f"{end[3]:z.2f} ({end[1]:.1f}, {end[2]:.1f})" for end in ends)
        lines.append(f"| {label} | {solved} of {len(ends)} | {verdict} | {shown} |")
    cpu = {label: [float(row["cpu_s"]) for row in rows if row["algorithm"] == label] for label in RUNS}
    times = ", ".join(f"{label} {np.median(seconds):.0f} s" for label, seconds in cpu.items() if seconds)
    return "\n".join([*lines, "", f"Median CPU time of a run: {times}.", conditions(), *FOOT])


HEAD = [
    "# The max of two quadratics",
    "",
    "Zhang et al. 2021, section 5.1 and figure 2: two agents give one number each, once. A wide hill of height 0 at",
    "(-5, -5) leads away from a narrow one of height 10 at (5, 5). Command: `python benchmarks/papers/mtq.py`. Raw",
    "rows: `mtq.csv`.",
    "",
    "![Payoffs over the steps, and the paths of the actions](mtq.png)",
    "",
    f"After {LAST:,} steps, without exploration. Solved: a payoff of at least {SOLVED}.",
    "",
    "| algorithm | solved | gate | payoff (actions) by seed |",
    "|---|---|---|---|",
]
FOOT = [
    "",
    "FOP and its ablations run with the defaults of their configurations: 8 games side by side, an update of 128 steps",
    "after each 8. The paper prints no settings for this game and shows one curve per algorithm: FOP at 10, all",
    "baselines and both ablations at 0. The baselines here learn at the same rates from as many steps; their policies",
    "begin at (0, 0), too. The bounds of the actions are ours ([mtq](../../docs/environments/mtq.md)).",
    "",
]


def draw_all(rows: list[dict[str, str]]) -> None:
    """Payoffs over the steps, and the paths of the greedy actions on the payoff's map."""
    figure, (curve, place) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    grid = torch.linspace(-BOUND, BOUND, 201)
    surface = payoff(torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1).flatten(0, 1)).view(201, 201)
    place.contourf(grid, grid, surface.clamp(min=-30), levels=20, cmap="Greys_r", alpha=0.6)
    for number, label in enumerate(RUNS):
        runs = list(runs_of(rows, label).values())
        if not runs:
            continue
        steps, payoffs = runs[0][0], np.array([run[3] for run in runs])
        low, middle, high = np.quantile(payoffs, [0, 0.5, 1], axis=0)
        curve.plot(steps, middle, color=f"C{number}", label=f"{label} ({len(runs)} seeds)")
        curve.fill_between(steps, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
        for run in runs:
            place.plot(run[1], run[2], color=f"C{number}", linewidth=0.8, alpha=0.7)
            place.plot(run[1, -1], run[2, -1], "o", color=f"C{number}", markersize=4)
    curve.set(xlabel="environment steps", ylabel="payoff of greedy actions", title="median, least and most over seeds")
    curve.set_ylim(-12, 10.5)
    curve.legend(loc="center right")
    place.set(xlabel="agent 1", ylabel="agent 2", title="paths of the greedy actions, and where they end")
    place.set_xlim(-BOUND, BOUND)
    place.set_ylim(-BOUND, BOUND)
    figure.savefig(HERE.with_suffix(".png"), dpi=110)


def main() -> None:
    """Runs what is missing and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="labels of algorithms, separated by semicolons; all if not given")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    path = HERE.with_suffix(".csv")
    done = {(row["algorithm"], int(row["seed"])) for row in rows_of(path)}
    labels = [label for label in RUNS if not options.only or label in options.only.split(";")]
    jobs = [(label, seed) for label in labels if known(RUNS[label][0]) for seed in range(options.seeds)]
    make_rows(path, COLUMNS, train, [job for job in jobs if job not in done], options.jobs)
    rows = rows_of(path)
    HERE.with_suffix(".md").write_text(report(rows), encoding="utf-8")
    draw_all(rows)
    print(report(rows))


if __name__ == "__main__":
    main()
