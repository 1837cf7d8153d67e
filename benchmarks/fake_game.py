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
from statistics import mean, stdev, variance
from typing import Any

from commands import ROOT, Task

sys.path.insert(0, str(ROOT / "tests"))

import numpy as np
import torch

from envs.skirmish.battle import Skirmish
from envs.skirmish.maps import MAPS
from envs.skirmish.options import Options, max_reward
from fake_sc2 import install
from fake_sc2.lockstep import choose

HERE = Path(__file__)
REPORT, PICTURE = HERE.with_suffix(".md"), HERE.with_suffix(".png")
FILES = {name: HERE.with_name(f"fake_game_{name}.csv") for name in ("lockstep", "episodes", "job")}
BEGIN, END = "<!-- written by fake_game.py -->", "<!-- end of what fake_game.py writes -->"
COMPARED = ("3m", "8m", "2s3z", "corridor")
POLICIES = {"random": 0.0, "eager": 0.8}
"""Probability with which an agent attacks if it can; else it does anything that it may."""
MEASURES = ("return", "length", "won", "dead_allies", "dead_enemies", "damage")
GAME, NATIVE = "starcraft2 (stand-in)", "skirmish"
STEPS, INTERVAL, EPISODES_PER_TEST = 3_000, 1_500, 32
TESTED = {
    f"test_{policy}{metric}_mean": f"{policy}{metric}"
    for policy in ("", "dep_")
    for metric in ("return", "ep_length", "battle_won", "dead_allies", "dead_enemies")
}
"""Columns by the metrics' names; ``dep_`` is the dependent policy, which explores."""


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
    total, length, won = np.zeros(count), np.zeros(count, dtype=int), np.zeros(count)
    while live["running"].any():
        running = live["running"].astype(bool)
        battle.step(torch.from_numpy(_choose_all(live["avail"], rng, eager)))
        total += live["reward"]
        length += running
        won = np.where(running, live["won"], won)
    for row in zip(total, length, won, live["dead_allies"], live["dead_enemies"], strict=True):
        yield _row(name, *map(float, row))


def _choose_all(avail: np.ndarray, rng: np.random.Generator, eager: float) -> np.ndarray:
    """[b, n]: what ``choose`` does, for all battles at once."""
    noise = rng.random(avail.shape) * avail
    anything = noise.argmax(-1)
    last = avail.shape[-1] - 1 - avail[..., ::-1].argmax(-1)
    attacks = (last > 5) & (rng.random(last.shape) < eager)
    return np.where(attacks, last, anything)


def _row(
    name: str, total: float, length: float, won: float, dead_allies: float, dead_enemies: float
) -> dict[str, float]:
    """One episode; the damage is what the return holds besides bonuses, regeneration included."""
    options = Options()
    points = total * max_reward(MAPS[name], options) / options.reward_scale_rate
    damage = points - options.reward_death_value * dead_enemies - options.reward_win * won
    values = (total, length, float(won), dead_allies, dead_enemies, damage)
    return {key: round(value, 6) for key, value in zip(MEASURES, values, strict=True)}


# ---------------------------------------------------------------- the main job


def job(results: Path, seeds: int) -> Iterator[dict[str, Any]]:
    """The tests of macpf on corridor, on either engine."""
    keys = ("env_args.map_name=corridor", "batch_size_run=4", f"test_nepisode={EPISODES_PER_TEST}")
    keys += (f"test_interval={INTERVAL}", f"log_interval={INTERVAL}")
    for seed in range(seeds):
        for engine, value in ((GAME, "starcraft2"), (NATIVE, "skirmish")):
            task = Task("sc2", f"sc2-{value}/corridor", results, STEPS, (*keys, f"env_args.engine={value}"), {})
            task.run("macpf", seed)
            yield from ({"engine": engine} | row for row in task.tests("macpf", seed, TESTED))


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


# ---------------------------------------------------------------- what it says


def estimate(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    return mean(values), stdev(values) / len(values) ** 0.5


def apart(ours: list[float], theirs: list[float]) -> float:
    """Difference of two means in its standard errors, with the deviation that both have together.

    One that has seen no case of something rare has no deviation of its own.
    """
    n, m = len(ours), len(theirs)
    common = ((n - 1) * variance(ours) + (m - 1) * variance(theirs)) / (n + m - 2)
    return (mean(ours) - mean(theirs)) / (common * (1 / n + 1 / m)) ** 0.5 if common else 0.0


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """A table in Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines] + [""]


def lockstep_table() -> list[str]:
    """The largest differences by map."""
    names = ("avail_actions", "obs", "state", "ends", "battle_won", "dead_allies", "dead_enemies", "reward")
    rows = [
        [row["map"], row["episodes"], row["steps"], *(f"{float(row[n]):.1g}" for n in names)]
        for row in read_rows("lockstep")
    ]
    return [
        "### Same seed, same actions: the largest differences",
        "",
        *table(["map", "episodes", "steps", *names], rows),
    ]


def samples(measure: str) -> dict[tuple[str, str], dict[str, list[float]]]:
    """A measure's values by map and policy, then by engine."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in read_rows("episodes"):
        cell = found.setdefault((row["map"], row["policy"]), {})
        cell.setdefault(row["engine"], []).append(float(row[measure]))
    return {key: cell for key, cell in found.items() if len(cell) == 2}


def episodes_table() -> list[str]:
    """Means and standard errors of both engines, and how far they are apart."""
    rows, scores = [], []
    for measure in MEASURES:
        for (name, policy), cell in samples(measure).items():
            (a, s), (b, t) = estimate(cell[GAME]), estimate(cell[NATIVE])
            score = apart(cell[GAME], cell[NATIVE])
            scores += [score] if s or t else []
            game, native = f"{a:.3f} ± {s:.3f} ({len(cell[GAME])})", f"{b:.3f} ± {t:.3f} ({len(cell[NATIVE])})"
            rows.append([name, policy, measure, game, native, f"{score:+.1f}"])
    rows.sort(key=lambda row: (COMPARED.index(row[0]), row[1]))
    inside = sum(abs(score) < 2 for score in scores)
    title = "### Other seeds, the same agents: mean ± standard error (episodes)"
    said = f"{inside} of {len(scores)} differences are below 2 standard errors (by chance 95 % would be)."
    head = ("map", "agents", "measure", GAME, NATIVE, "difference in standard errors")
    return [title, "", *table(head, rows), said, ""] if rows else []


def job_table() -> list[str]:
    """Every metric at every test: means over seeds."""
    found = read_rows("job")
    rows = []
    for step in sorted({_rounded(row) for row in found}):
        due = [row for row in found if _rounded(row) == step]
        for metric in TESTED.values():
            cell = {
                engine: {row["seed"]: float(row[metric]) for row in due if row["engine"] == engine}
                for engine in (GAME, NATIVE)
            }
            (a, s), (b, t) = (estimate(list(values.values())) for values in cell.values())
            d, e = estimate([cell[GAME][seed] - cell[NATIVE][seed] for seed in cell[NATIVE]])
            rows.append([step, metric, f"{a:.2f} ± {s:.2f}", f"{b:.2f} ± {t:.2f}", f"{d:+.2f} ± {e:.2f}"])
    seeds = len({row["seed"] for row in found})
    title = f"### The main job: macpf on corridor, {seeds} seeds, tests of {EPISODES_PER_TEST} episodes"
    return [title, "", *table(("step", "metric", GAME, NATIVE, "difference within seeds"), rows)] if rows else []


def _rounded(row: dict[str, str]) -> int:
    """The step that a test was due at."""
    return int(row["t_env"]) // INTERVAL * INTERVAL


def draw() -> None:
    """Returns of both engines, map by map."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = samples("return")
    figure, axes = pyplot.subplots(1, len(COMPARED), figsize=(11, 3.2), layout="constrained")
    for axis, name in zip(axes, COMPARED, strict=True):
        for offset, (engine, mark) in enumerate(((GAME, "o"), (NATIVE, "s"))):
            cells = [found[name, policy][engine] for policy in POLICIES]
            heights, errors = zip(*(estimate(cell) for cell in cells), strict=True)
            places = [place + 0.2 * offset for place in range(len(POLICIES))]
            axis.errorbar(places, heights, [2 * e for e in errors], fmt=mark, capsize=3, label=engine)
        axis.set(title=name, xticks=[place + 0.1 for place in range(len(POLICIES))], xlim=(-0.4, 1.6), ylim=(0, None))
        axis.set_xticklabels(POLICIES)
    axes[0].set_ylabel("return, ± 2 standard errors")
    axes[0].legend(fontsize=8)
    figure.suptitle("Skirmish through StarCraft II's API and SMAC, and natively")
    figure.savefig(PICTURE, dpi=110)


def report() -> None:
    """Renews what the report has of the CSV files, and the picture."""
    text = REPORT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    lines = [*lockstep_table(), *episodes_table(), *job_table()]
    REPORT.write_text(before + BEGIN + "\n\n" + "\n".join(lines) + END + rest.partition(END)[2], encoding="utf-8")
    draw()


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=(*FILES, "report"))
    parser.add_argument(
        "--episodes", type=int, default=100, help="on the stand-in, per map and policy; natively ten times"
    )
    parser.add_argument("--seeds", type=int, default=4, help="of the main job")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="of the main job's runs")
    given = parser.parse_args()
    if given.what == "report":
        report()
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SC2PATH"] = str(install(Path(folder)))
        made = {
            "lockstep": lockstep,
            "episodes": lambda: episodes(given.episodes),
            "job": lambda: job(given.results, given.seeds),
        }
        write(given.what, made[given.what]())


if __name__ == "__main__":
    main()
