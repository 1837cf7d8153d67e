"""How often SMAC's scripted agents win on skirmish, beside what is published of the game; and the search for its rules.

python benchmarks/skirmish_calibration.py                  # every map, 1,000 battles each: CSV, and a page for the docs
python benchmarks/skirmish_calibration.py fit --tries 300  # draws rules at random, appends every try to a CSV
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
from envs.skirmish.battle import Skirmish
from envs.skirmish.maps import MAPS
from envs.skirmish.options import Options
from envs.skirmish.scene import Rules

ROOT = Path(__file__).resolve().parents[1]

PUBLISHED = {
    "2s_vs_1sc": 0.0, "2s3z": 0.90, "3s5z": 0.42, "1c3s5z": 0.81, "10m_vs_11m": 0.12, "2c_vs_64zg": 0.0,
    "bane_vs_bane": 0.43, "5m_vs_6m": 0.0, "3s_vs_5z": 0.0, "3s5z_vs_3s6z": 0.0, "6h_vs_8z": 0.0, "27m_vs_30m": 0.0,
    "MMM2": 0.0, "corridor": 0.0,
}  # fmt: skip
"""Win rates of SMAC's scripted agents on StarCraft II 4.6.2, as remembered of SMAC's paper (Samvelyan et al. 2019)."""

QUICK_FIRST = (
    "10m_vs_11m", "2s3z", "3s5z", "5m_vs_6m", "1c3s5z", "bane_vs_bane", "corridor", "2c_vs_64zg", "27m_vs_30m", "MMM2",
    "2s_vs_1sc", "3s_vs_5z", "3s5z_vs_3s6z", "6h_vs_8z",
)  # fmt: skip
"""The maps with published rates; first those that tell rules apart soonest."""

SPACE: dict[str, list[Any]] = {
    "spawn_turn": [0.5 + 22.5 * k for k in range(16)],
    "spawn_clockwise": [False, True],
    "swap": [0, 1],
    "splash_edges": [0, 1],
    "sweeps": [1, 2, 3],
    "contact": [0.2, 0.35, 0.5, 0.6, 0.7, 0.8],
    "fighting_weight": [0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6],
    "idle_weight": [0.2, 0.4, 0.7, 1.0],
    "side_memory": [4, 16, 32],
    "stuck_below": [0.3, 0.5, 0.7],
}
"""What is not known of the game's rules, and the values that are tried. The rest of ``Rules`` is game data."""


def play(name: str, rules: Rules, battles: int, seed: int) -> dict[str, float]:
    """Means over ``battles`` battles of SMAC's scripted agents (``heuristic_ai``), all side by side."""
    battle_map = MAPS[name]
    game = Skirmish(battle_map, Options(heuristic_ai=True), battles, torch.device("cpu"), seed, rules)
    game.reset()
    ignored = torch.zeros(battles, battle_map.n_agents, dtype=torch.long)
    totals = {"won": torch.zeros(battles), "steps": torch.zeros(battles), "reward": torch.zeros(battles)}
    while bool(game.live["running"].any()):
        totals["steps"] += game.live["running"]
        game.step(ignored)
        for key in ("won", "reward"):
            totals[key] += game.live[key]
    ends = {key: game.live[key].mean().item() for key in ("dead_allies", "dead_enemies")}
    return {key: value.mean().item() for key, value in totals.items()} | ends


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a proportion."""
    middle, half = share + z * z / (2 * n), z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return (middle - half) / scale, (middle + half) / scale


def error(rates: dict[str, float]) -> float:
    """Sum of squared differences from the published rates."""
    return sum((rate - PUBLISHED[name]) ** 2 for name, rate in rates.items())


def verdict(name: str, share: float) -> str:
    """How well our rate fits the published one."""
    if name not in PUBLISHED:
        return "nothing published"
    distance = abs(share - PUBLISHED[name])
    return "fits" if distance <= 0.05 else "near" if distance <= 0.15 else "**does not fit**"


def calibrate(battles: int, seed: int, folder: Path, page: Path) -> None:
    """Plays every map with the default rules; writes the CSV and the page."""
    rows = []
    whole = [name for name, m in MAPS.items() if m.obs_allies == "full"]  # scripts do not mind what others see
    for name in track(whole, description="maps"):
        means = play(name, Rules(), battles, seed)
        low, high = wilson(means["won"], battles)
        rows.append({
            "map": name, "battles": battles, "seed": seed, "won": round(means["won"], 3), "low": round(low, 3),
            "high": round(high, 3), "published": PUBLISHED.get(name, ""), "steps": round(means["steps"], 1),
            "return": round(means["reward"], 2), "dead_allies": round(means["dead_allies"], 2),
            "dead_enemies": round(means["dead_enemies"], 2),
        })  # fmt: skip
    with (folder / "skirmish_calibration.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    page.write_text(as_page(rows, battles, seed))
    print(page.read_text())


def as_page(rows: list[dict[str, Any]], battles: int, seed: int) -> str:
    """The table as Markdown."""
    lines = [
        "# Scripted agents on skirmish and on the game",
        "",
        f"SMAC's scripted agents (`heuristic_ai=True`) in {battles:,} battles a map, seed {seed}, default rules;",
        "written by `python benchmarks/skirmish_calibration.py`. *Published* is the win rate on StarCraft II 4.6.2,",
        "remembered of SMAC's paper. What can be said of this comparison stands in [sc2.md](sc2.md).",
        "",
        "| map | won here (95 %) | published | | steps | return | dead agents | dead enemies |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        known = f"{row['published']:.2f}" if row["published"] != "" else "–"
        lines.append(
            f"| {row['map']} | {row['won']:.3f} ({row['low']:.3f}–{row['high']:.3f}) | {known} | "
            f"{verdict(row['map'], row['won'])} | {row['steps']:.0f} | {row['return']:.1f} | "
            f"{row['dead_allies']:.1f} | {row['dead_enemies']:.1f} |"
        )
    rates = {row["map"]: row["won"] for row in rows if row["map"] in PUBLISHED}
    near = sum(abs(rates[name] - rate) <= 0.15 for name, rate in PUBLISHED.items())
    lines += [
        "",
        f"{near} of {len(PUBLISHED)} published rates are met within 0.15; squared errors sum to {error(rates):.3f}.",
    ]
    return "\n".join(lines) + "\n"


def fit(tries: int, battles: int, seed: int, out: Path) -> None:
    """Random search from the defaults: half of the tries anew, half vary two values of the best. Goes on from ``out``.

    A try is given up when its error exceeds the best one's; maps that it did not come to stay empty.
    """
    done = list(csv.DictReader(out.open())) if out.exists() else []
    rng = np.random.default_rng([seed, len(done)])
    best = min((row for row in done if row[QUICK_FIRST[-1]]), key=lambda row: float(row["error"]), default=None)
    for _ in track(range(tries), description="tries"):
        chosen = draw(rng, best) if done or best else {key: asdict(Rules())[key] for key in SPACE}
        rates = judge(replace(Rules(), **chosen), battles, seed, float(best["error"]) if best else np.inf)
        row = {"error": round(error(rates), 4)} | chosen | {name: rates.get(name, "") for name in QUICK_FIRST}
        fresh = not out.exists()
        with out.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if fresh:
                writer.writeheader()
            writer.writerow(row)
        if len(rates) == len(PUBLISHED) and (best is None or row["error"] < float(best["error"])):
            best = {key: str(value) for key, value in row.items()}
            print(row, flush=True)
    print("best:", best, "\ndefaults:", {key: asdict(Rules())[key] for key in SPACE})


def judge(rules: Rules, battles: int, seed: int, enough: float) -> dict[str, float]:
    """Our rates under ``rules``, map by map until their error exceeds ``enough``."""
    rates: dict[str, float] = {}
    for name in QUICK_FIRST:
        rates[name] = round(play(name, rules, battles, seed)["won"], 3)
        if error(rates) > enough:
            break
    return rates


def draw(rng: np.random.Generator, best: dict[str, str] | None) -> dict[str, Any]:
    """One try's values."""
    chosen = {key: values[rng.integers(len(values))] for key, values in SPACE.items()}
    if best is None or rng.random() < 0.5:
        return chosen
    changed = set(rng.choice(list(SPACE), 2, replace=False))
    texts = {key: {str(value): value for value in values} for key, values in SPACE.items()}
    return {key: chosen[key] if key in changed else texts[key][best[key]] for key in SPACE}


def main() -> None:
    """Calibrates or fits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("table", "fit"), default="table")
    parser.add_argument("--battles", type=int, help="a map (1,000 for the table, 200 for a try)")
    parser.add_argument("--seed", type=int, help="of the battles and the search (1 for the table, 7 for the search)")
    parser.add_argument("--tries", type=int, default=100)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "skirmish_fit.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "fit":
        fit(args.tries, args.battles or 200, args.seed if args.seed is not None else 7, args.out)
    else:
        page = ROOT / "docs" / "environments" / "sc2_calibration.md"
        calibrate(args.battles or 1000, args.seed if args.seed is not None else 1, ROOT / "benchmarks", page)


if __name__ == "__main__":
    main()
