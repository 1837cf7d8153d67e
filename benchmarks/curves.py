"""Pictures and tables of learning curves over seeds."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

Row = dict[str, Any]


def curves_of(rows: Sequence[Row], key: str) -> list[np.ndarray]:
    """Steps and values of every seed, [2, tests] each."""
    seeds = sorted({row["seed"] for row in rows})
    return [np.array([(row["t_env"], float(row[key])) for row in rows if row["seed"] == seed]).T for seed in seeds]


def result(rows: Sequence[Row], key: str, last: int) -> dict[int, float]:
    """Each seed's mean over its ``last`` tests."""
    seeds = sorted({row["seed"] for row in rows})
    return {seed: float(np.mean([float(row[key]) for row in rows if row["seed"] == seed][-last:])) for seed in seeds}


def panel(axis: Any, groups: dict[str, list[Row]], key: str, window: int = 3) -> None:
    """Every seed thin, the mean of each group thick; both are running means over ``window`` tests."""
    for number, (name, rows) in enumerate(groups.items()):
        curves = [(t, smooth(y, window)) for t, y in curves_of(rows, key)]
        for curve in curves:
            axis.plot(*curve, color=f"C{number}", alpha=0.25, linewidth=1)
        if curves:
            grid = np.linspace(0, min(t[-1] for t, _ in curves), 100)
            mean = np.mean([np.interp(grid, *curve) for curve in curves], axis=0)
            seeds = "1 seed" if len(curves) == 1 else f"mean of {len(curves)} seeds"
            axis.plot(grid, mean, color=f"C{number}", linewidth=2, label=f"{name} ({seeds})")
    axis.set(xlabel="environment steps")


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of each value and those up to ``window`` - 1 before it."""
    return np.array([values[max(0, k + 1 - window) : k + 1].mean() for k in range(len(values))])


def kept(script: Path, rows: Sequence[Row]) -> list[Row]:
    """``rows``, after those of the script's CSV whose (algorithm, seed) they lack."""
    path, new = script.with_suffix(".csv"), {(row["algorithm"], row["seed"]) for row in rows}
    if not path.exists():
        return list(rows)
    with path.open(newline="") as file:
        old: list[Row] = [row | {"seed": int(row["seed"]), "t_env": int(row["t_env"])} for row in csv.DictReader(file)]
    return [row for row in old if (row["algorithm"], row["seed"]) not in new] + list(rows)


def remarks(script: Path) -> str:
    """What somebody has written below the figures of the script's page, from "What it says:" on."""
    page = script.with_suffix(".md")
    _, found, rest = (page.read_text(encoding="utf-8") if page.exists() else "").partition("\nWhat it says:")
    return found + rest


def write(script: Path, columns: Sequence[str], rows: Sequence[Row], text: str) -> None:
    """The CSV and the Markdown page beside the script, under its name; the page is printed, too."""
    with script.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    script.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def save(figure: Any, script: Path) -> None:
    """Beside the script, under its name."""
    figure.savefig(script.with_suffix(".png"), dpi=110)
    plt.close(figure)
