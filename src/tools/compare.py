"""``compare RUN...``: statistics of several runs of several algorithms, as tables, figures and raw data."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from core import cli
from core.config import ConfigError

if TYPE_CHECKING:  # NumPy, matplotlib and rich are loaded only when something is really compared
    from comparison.groups import Groups
    from comparison.runs import Run
    from comparison.scores import Bounds, Scores
    from comparison.summary import Summary

ALL = "all"
WIDE = 160
"""Columns of what is piped to somewhere."""


def main(argv: list[str]) -> int:
    """Compares; the exit status.

    Raises:
        ConfigError: no such runs, or runs that must not be compared.
    """
    options = _parser().parse_args(argv)
    bounds = _normalisation(options.normalise)
    runs, notes = _wanted(_found(options), unfinished=options.unfinished)
    ignored = [key for words in options.pool_anyway for key in words.split(",")]
    notes += _guarded(runs, ignored)
    from comparison.groups import grouped
    from comparison.runs import usual_metric
    from comparison.scores import collect
    from comparison.summary import Summary

    groups = grouped(runs, ignored)
    scores = [collect(groups, metric, bounds, options.last) for metric in options.metric or [usual_metric(runs)]]
    summaries = [Summary(one, options.resamples, options.seed) for one in scores]
    notes += _said(groups, scores, options)
    _print(summaries, notes)
    if options.out:
        _write(Path(options.out), groups, summaries, notes)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{cli.STARTED_AS} compare",
        description="Compares algorithms over seeds and tasks: interquartile means with 95 % stratified bootstrap "
        "intervals, probability of improvement, performance profiles, optimality gap, sample efficiency, absolute "
        "metric.",
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="a run, a folder of runs, or a part of a run's name")
    parser.add_argument("-m", "--mongo", help=f"read runs from this MongoDB (or ${cli.MONGO_VARIABLE}, without RUN)")
    parser.add_argument("--db", default="cofactor", help="its database (default: cofactor)")
    parser.add_argument("--metric", action="append", help="a test metric; may be repeated (default: won, or return)")
    parser.add_argument("--out", help="folder for tables (md, tex, csv), figures (png, svg) and raw data (csv, json)")
    parser.add_argument(
        "--normalise", action="append", default=[], metavar="[TASK=]MIN,MAX", help="what counts as 0 and as 1"
    )
    parser.add_argument("--last", type=_positive, default=10, help="tests that make the final score (default: 10)")
    parser.add_argument("--seeds", help="seeds that every algorithm should have on every task, such as 0,1,2,3,4")
    parser.add_argument("--unfinished", action="store_true", help="take runs in that have not reached t_max")
    parser.add_argument(
        "--pool-anyway", action="append", default=[], metavar="KEY[,KEY]", help=f"differences to accept; or '{ALL}'"
    )
    parser.add_argument("--resamples", type=_positive, default=2000, help="of the bootstrap (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    parser.add_argument("--results-dir", default="results", help="where runs are looked for (default: results)")
    return parser


def _positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text}")
    return value


def _normalisation(words: Sequence[str]) -> dict[str, Bounds]:
    """Bounds by task; under "" those of all others."""
    found: dict[str, Bounds] = {}
    for word in words:
        task, _, text = word.rpartition("=")
        low, _, high = text.partition(",")
        try:
            found[task] = float(low), float(high)
        except ValueError:
            raise ConfigError([f"--normalise takes MIN,MAX or TASK=MIN,MAX, not '{word}'"]) from None
        if not found[task][0] < found[task][1]:
            raise ConfigError([f"--normalise {word}: MIN must be below MAX"])
    return found


def _found(options: argparse.Namespace) -> list[Run]:
    url = options.mongo or (None if options.runs else os.environ.get(cli.MONGO_VARIABLE))
    if url:
        from comparison.database import from_mongo

        return from_mongo(url, options.db, options.runs)
    if not options.runs:
        raise ConfigError(["compare needs runs: folders, parts of names, or a MongoDB with -m URL"])
    from comparison.runs import from_files

    return from_files(options.runs, options.results_dir)


def _wanted(runs: Sequence[Run], *, unfinished: bool) -> tuple[list[Run], list[str]]:
    """The runs that count, and what is to be said of the others."""
    short = [run for run in runs if not run.finished]
    if unfinished:
        return list(runs), [
            f"{run.short} is unfinished; all runs on its task are compared up to there" for run in short
        ]
    kept = [run for run in runs if run.finished]
    notes = [
        f"left out, unfinished ({run.status}): {run.short}; to finish it: {cli.STARTED_AS} resume {run.source}"
        for run in short
    ]
    if not kept:
        raise ConfigError(["none of the runs was tested at its t_max: add --unfinished to compare them as they are"])
    return kept, notes


def _guarded(runs: Sequence[Run], accepted: Sequence[str]) -> list[str]:
    """What differs and was accepted.

    Raises:
        ConfigError: something differs and was not.
    """
    from comparison.guard import differences

    found = differences(runs)
    refused = [one for one in found if one.key not in accepted and ALL not in accepted]
    if refused:
        keys = ",".join(dict.fromkeys(one.key for one in refused))
        advice = f"if this does no harm, say so: --pool-anyway {keys}"
        raise ConfigError([*(str(one) for one in refused), advice])
    return [f"accepted by --pool-anyway: {one}" for one in found]


def _said(groups: Groups, scores: Sequence[Scores], options: argparse.Namespace) -> list[str]:
    """What a reader must know besides."""
    from comparison.groups import split
    from comparison.missing import FEWEST, PREFERRED, missing

    try:
        seeds = [int(word) for word in options.seeds.split(",")] if options.seeds else None
    except ValueError:
        raise ConfigError([f"--seeds takes whole numbers with commas, not '{options.seeds}'"]) from None
    notes = [
        f"missing: {one.algorithm} on {one.task}, seed {one.seed}: {one.command}" for one in missing(groups, seeds)
    ]
    for name, keys in split(groups).items():
        notes.append(f"the runs of {name} are variants: they differ in {', '.join(keys)}, and are not pooled for that")
    fewest = min(len(own) for own in scores[0].seeds.values())
    if fewest < FEWEST:
        notes.append(f"as few as {fewest} seeds: intervals are rough; {FEWEST} are the least, {PREFERRED} are better")
    notes += [f"the final score is the mean of the last {options.last} tests"]
    for one in scores:
        if one.bounds is None and len(one.tasks) > 1:
            notes.append(f"{one.metric} is not aggregated over tasks: give its range with --normalise [TASK=]MIN,MAX")
        if len(one.absolute) < len(one.curves):
            notes.append(f"no absolute metric of {one.metric} for all: {cli.STARTED_AS} absolute RUN... makes it")
    return notes


def _print(summaries: Sequence[Summary], notes: Sequence[str]) -> None:
    import rich.console

    from comparison.tables import tables, terminal

    console = rich.console.Console(width=None if sys.stdout.isatty() else WIDE)
    for summary in summaries:
        for table in tables(summary):
            console.print(terminal(table))
    for note in notes:
        print(f"note: {note}")


def _write(folder: Path, groups: Groups, summaries: Sequence[Summary], notes: Sequence[str]) -> None:
    from comparison import conditions, figures, marl_eval
    from comparison.tables import comma_separated, latex, markdown, tables

    folder.mkdir(parents=True, exist_ok=True)
    made = [table for summary in summaries for table in tables(summary)]
    drawn = [path for summary in summaries for path in figures.draw(summary, folder)]
    pictures = [f"![{path.stem}]({path.name})\n" for path in drawn if path.suffix == ".png"]
    listed = [f"- {note}" for note in [*conditions.conditions(groups), *notes]]
    text = ["# Comparison", "", *map(markdown, made), *pictures, "## Conditions", "", *listed, ""]
    (folder / "compare.md").write_text("\n".join(text), encoding="utf-8")
    (folder / "compare.tex").write_text("\n".join(map(latex, made)), encoding="utf-8")
    (folder / "compare.csv").write_text(comma_separated(made), encoding="utf-8")
    raw = marl_eval.export(groups, [summary.scores for summary in summaries])
    (folder / "marl_eval.json").write_text(json.dumps(raw, indent=1), encoding="utf-8")
    _raw(folder / "scores.csv", groups, [summary.scores for summary in summaries])
    print(
        f"written to {folder}: compare.md, compare.tex, compare.csv, scores.csv, marl_eval.json, {len(drawn)} figures"
    )


def _raw(path: Path, groups: Groups, scores: Sequence[Scores]) -> None:
    """Every test of every run at the common marks."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["metric", "task", "algorithm", "seed", "run", "mark", "value"])
        runs = [(algorithm, run) for algorithm, own in groups.items() for run in own]
        for one, (algorithm, run) in product(scores, runs):
            at, name = run.at_marks(one.metric), Path(run.source).name
            rows = ([mark, at[mark]] for mark in one.marks[run.task].tolist())
            writer.writerows([one.metric, run.task, algorithm, run.seed, name, *row] for row in rows)
