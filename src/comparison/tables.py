"""Tables for the terminal, Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import rich.table

from comparison.summary import Estimate, Line, Summary

Cell = str | int | Estimate | None
EMPTY = "–"
HEADS = {
    "final": "final",
    "area": "area under curve",
    "absolute": "absolute",
    "gap": "optimality gap",
}
_LATEX = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "{": r"\{", "}": r"\}", "–": "--", "$": r"\$"}


@dataclass(frozen=True)
class Table:
    """Cells that are estimates are written with their intervals."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def tables(summary: Summary) -> list[Table]:
    """One per task, one over all tasks where there are several, and who improves on whom."""
    scores = summary.scores
    found = [_lines(f"{scores.metric} on {task}", summary.on(task)) for task in scores.tasks]
    comparable = scores.bounds is not None or len(scores.tasks) == 1
    if len(scores.tasks) > 1 and comparable:
        found.append(_lines(f"{scores.metric} over {len(scores.tasks)} tasks, normalised", summary.over_tasks()))
    if comparable:
        found.append(_improvement(summary))
    return [table for table in found if table.rows]


def _lines(title: str, lines: Sequence[Line]) -> Table:
    names = [name for name in HEADS if any(line.values.get(name) for line in lines)]
    rows = [[line.algorithm, line.runs, *(line.values[name] for name in names)] for line in lines]
    return Table(title, ["algorithm", "runs", *(HEADS[name] for name in names)], rows)


def _improvement(summary: Summary) -> Table:
    pairs = summary.improvement()
    names = sorted({name for pair in pairs for name in pair})
    rows = [[x, *(pairs.get((x, y)) for y in names)] for x in names]
    return Table(f"{summary.scores.metric}: probability that the row improves on the column", ["", *names], rows)


def text(cell: Cell) -> str:
    """A cell in plain characters."""
    if isinstance(cell, Estimate):
        digits = 3 if max(abs(x) for x in (cell.value, cell.low, cell.high) if isfinite(x)) < 10 else 1
        if not isfinite(cell.low):
            return f"{cell.value:.{digits}f}"
        return f"{cell.value:.{digits}f} [{cell.low:.{digits}f}, {cell.high:.{digits}f}]"
    return EMPTY if cell is None else str(cell)


def terminal(table: Table) -> rich.table.Table:
    """For rich."""
    shown = rich.table.Table(title=table.title, title_justify="left")
    for number, name in enumerate(table.head):
        shown.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in table.rows:
        shown.add_row(*(rich.markup.escape(text(cell)) for cell in row))
    return shown


def markdown(table: Table) -> str:
    """A heading and a pipe table."""
    lines = [f"### {table.title}", "", _piped(table.head), _piped(["---"] * len(table.head))]
    return "\n".join([*lines, *(_piped([text(cell) for cell in row]) for row in table.rows), ""])


def _piped(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def latex(table: Table) -> str:
    """A table environment with booktabs' rules."""
    body = [" & ".join(_escaped(text(cell)) for cell in row) + r" \\" for row in table.rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_escaped(table.title)}: interquartile mean [95\,\% stratified bootstrap interval].}}",
            rf"  \begin{{tabular}}{{l{'r' * (len(table.head) - 1)}}}",
            r"    \toprule",
            "    " + " & ".join(map(_escaped, table.head)) + r" \\",
            r"    \midrule",
            *(f"    {line}" for line in body),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _escaped(words: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in words)


def comma_separated(parts: Sequence[Table]) -> str:
    """All tables in long form: one line per number, with its interval and unrounded."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["table", "row", "column", "value", "low", "high"])
    for table in parts:
        for row in table.rows:
            for name, cell in zip(table.head[1:], row[1:], strict=True):
                writer.writerow([table.title, row[0], name, *_numbers(cell)])
    return file.getvalue()


def _numbers(cell: Cell) -> list[Any]:
    """Value, lower and upper bound; empty where there is none."""
    if not isinstance(cell, Estimate):
        return [cell, None, None]
    return [x if isfinite(x) else None for x in (cell.value, cell.low, cell.high)]
