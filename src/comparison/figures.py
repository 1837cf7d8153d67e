"""Figures that could stand in a paper: curves, intervals, improvements, profiles; as PNG and SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from comparison.summary import Band, Estimate, Line, Summary
from comparison.tables import HEADS

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999")
"""Okabe and Ito's palette, which colour-blind eyes tell apart; lines differ in their dashes, too."""
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)), (0, (3, 3)))
STYLE = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "comparison",  # the same data make the same file
    "svg.fonttype": "none",
}
DPI = 200
COLUMNS, WIDE, HIGH, LETTER = 3, 2.6, 2.1, 0.07
"""Panels in a row, a panel's inches, and a letter's."""
LEAST = 4.0
"""Inches of a figure with a legend."""

Look = dict[str, dict[str, Any]]


def draw(summary: Summary, folder: Path) -> list[Path]:
    """Writes every figure that the scores allow."""
    name = summary.scores.metric
    look = {
        algorithm: {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)]}
        for i, algorithm in enumerate(summary.scores.algorithms)
    }
    made = {"curves": _curves, "aggregates": _aggregates, "improvement": _improvement, "profile": _profile}
    written: list[Path] = []
    with matplotlib.rc_context(STYLE):
        for kind, make in made.items():
            figure = make(summary, look)
            if figure is not None:
                written += _save(figure, folder / f"{kind}_{name}")
    return written


def _save(figure: Figure, stem: Path) -> list[Path]:
    paths = [stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")]
    figure.savefig(paths[0], dpi=DPI)
    figure.savefig(paths[1], metadata={"Date": None})
    return paths


def _plain(metric: str) -> str:
    """``test_battle_won_mean`` as one would say it."""
    return metric.removesuffix("_mean").replace("_", " ")


def _panels(number: int, *, columns: int = COLUMNS) -> tuple[Figure, list[Any]]:
    across = min(number, columns if number != 2 * (columns - 1) else columns - 1)  # four are two by two
    down = -(-number // across)
    figure = Figure(figsize=(max(WIDE * across, LEAST) + 0.6, HIGH * down + 0.5), layout="constrained")
    axes = [figure.add_subplot(down, across, i + 1) for i in range(number)]
    return figure, axes


def _band(axis: Any, band: Band, look: dict[str, Any], label: str) -> None:
    axis.plot(band.at, band.value, linewidth=1.5, label=label, **look)
    axis.fill_between(band.at, band.low, band.high, color=look["color"], alpha=0.18, linewidth=0)


def _legend(figure: Figure, axis: Any) -> None:
    handles, names = axis.get_legend_handles_labels()
    fitting = int(figure.get_figwidth() / (0.5 + LETTER * max(map(len, names))))
    figure.legend(handles, names, loc="outside lower center", ncols=max(1, fitting))


def _curves(summary: Summary, look: Look) -> Figure:
    """Sample efficiency: IQM by environment steps, one panel per task and one over all."""
    scores = summary.scores
    together = len(scores.tasks) > 1 and scores.bounds is not None
    figure, axes = _panels(len(scores.tasks) + together)
    for axis, task in zip(axes, scores.tasks, strict=False):
        own = [name for name in scores.algorithms if (name, task) in scores.curves]
        for name in own:
            _band(axis, summary.curve(name, task), look[name], name)
        axis.set(title=task, xlabel="environment steps", ylabel=f"{_plain(scores.metric)}, IQM")
    if together:
        for name, band in summary.curves_over_tasks().items():
            _band(axes[-1], band, look[name], name)
        axes[-1].set(title="all tasks", xlabel="environment steps", ylabel="normalised, IQM")
    for axis in axes:
        axis.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
        if scores.bounds == dict.fromkeys(scores.tasks, (0.0, 1.0)):
            axis.set_ylim(-0.03, 1.03)
    widest = max(axes, key=lambda axis: len(axis.lines))
    _legend(figure, widest)
    return figure


def _aggregates(summary: Summary, look: Look) -> Figure | None:
    """Each aggregate with its interval: over all tasks, or on the only one."""
    scores = summary.scores
    if scores.bounds is None and len(scores.tasks) > 1:
        return None
    lines = summary.over_tasks() if len(scores.tasks) > 1 else summary.on(scores.tasks[0])
    kinds = [kind for kind in HEADS if any(line.values[kind] for line in lines)]
    if not lines:
        return None
    figure, axes = _panels(len(kinds), columns=len(HEADS))
    longest = max(len(line.algorithm) for line in lines)
    figure.set_size_inches(WIDE * len(kinds) * 0.8 + LETTER * longest, 0.7 + 0.28 * len(lines))
    for axis, kind in zip(axes, kinds, strict=True):
        _intervals(axis, lines, _of(kind), look)
        axis.set_title("optimality gap (0 is best)" if kind == "gap" else f"{HEADS[kind]}, IQM")
    for axis in axes[1:]:
        axis.set_yticklabels([])
    return figure


def _of(kind: str) -> Callable[[Line], Estimate | None]:
    return lambda line: line.values[kind]


def _intervals(axis: Any, lines: Sequence[Line], read: Callable[[Line], Estimate | None], look: Look) -> None:
    """One horizontal bar per line, from its lower to its upper bound, with a notch at the value."""
    for row, line in enumerate(reversed(lines)):
        found, colour = read(line), look[line.algorithm]["color"]
        if found is not None:
            axis.barh(row, found.high - found.low, left=found.low, height=0.5, color=colour, alpha=0.4)
            axis.plot([found.value] * 2, [row - 0.25, row + 0.25], color=colour, linewidth=2)
    axis.use_sticky_edges = False  # else a bar would end where the axis does
    axis.margins(x=0.06)
    axis.set_yticks(range(len(lines)), [line.algorithm for line in reversed(lines)])
    axis.set_ylim(-0.6, len(lines) - 0.4)


def _improvement(summary: Summary, look: Look) -> Figure | None:
    """P(X > Y) for every pair; each once, the other way round is its complement."""
    scores = summary.scores
    if scores.bounds is None and len(scores.tasks) > 1:
        return None
    pairs = [(x, y, found) for (x, y), found in summary.improvement().items() if x < y]
    if not pairs:
        return None
    figure, (axis,) = _panels(1)
    longest = max(len(x) + len(y) for x, y, _ in pairs)
    figure.set_size_inches(1.3 * WIDE + LETTER * longest, 0.8 + 0.28 * len(pairs))
    lines = [Line(x, 0, {"p": found}) for x, _, found in pairs]
    _intervals(axis, lines, _of("p"), look)
    axis.set_yticks(range(len(pairs)), [f"{x} > {y}" for x, y, _ in reversed(pairs)])
    axis.axvline(0.5, color="#666666", linewidth=0.8, linestyle=":")
    axis.set(xlim=(-0.02, 1.02), xlabel=f"probability of improvement in {_plain(scores.metric)}")
    return figure


def _profile(summary: Summary, look: Look) -> Figure | None:
    """The share of runs above each score."""
    profiles = summary.profiles()
    if not profiles:
        return None
    figure, (axis,) = _panels(1)
    figure.set_size_inches(4.0, 2.9)
    for name, band in profiles.items():
        _band(axis, band, look[name], name)
    axis.set(
        xlabel=f"final {_plain(summary.scores.metric)}, normalised (τ)",
        ylabel="share of runs above τ",
        ylim=(-0.03, 1.03),
    )
    _legend(figure, axis)
    return figure
