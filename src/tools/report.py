"""``report RUN...``: one HTML page about runs, which needs no server and no network."""

from __future__ import annotations

import argparse
import html
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from core import cli
from core.config import ConfigError
from tools.pages import place, save

if TYPE_CHECKING:
    from comparison.groups import Groups
    from comparison.runs import Run

PAGE = Path(__file__).parent / "page"
STYLES = ("base.css", "report.css")
MOST_POINTS = 400
"""Of one curve; longer ones are thinned by taking means."""
REPLAY = "replay.html"
"""What ``replay RUN`` writes into the run's folder."""
FEW = 3
"""So many warnings are shown at once; more are folded."""
OPEN = ("RUNNING", "CREATED", "INTERRUPTED")

Row = Sequence[str]


def main(argv: list[str]) -> int:
    """Writes the page; the exit status.

    Raises:
        ConfigError: no such runs, or a place that cannot be written.
    """
    options = _parser().parse_args(argv)
    out = place(options.out)
    save(out, page(_found(options), out))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{cli.STARTED_AS} report",
        description="Writes one HTML page about runs: curves, configurations and their differences, machines, "
        "versions, warnings, and links to their replays.",
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="a run, a folder of runs, or a part of a run's name")
    parser.add_argument("-m", "--mongo", help="read runs from this MongoDB")
    parser.add_argument("--db", default="cofactor", help="its database (default: cofactor)")
    parser.add_argument("--out", default="report.html", help="the page's file (default: report.html)")
    parser.add_argument("--results-dir", default="results", help="where runs are looked for (default: results)")
    return parser


def _found(options: argparse.Namespace) -> list[Run]:
    if options.mongo:
        from comparison.database import from_mongo

        return from_mongo(options.mongo, options.db, options.runs, prefixes=("",))
    if not options.runs:
        raise ConfigError(["report needs runs: folders, parts of names, or a MongoDB with -m URL"])
    from comparison.runs import from_files

    return from_files(options.runs, options.results_dir, kinds=("test", "train", "perf"))


def page(runs: Sequence[Run], out: Path) -> str:
    """The whole page; links to replays are relative to ``out``."""
    from comparison.groups import grouped

    groups = grouped(runs)
    named = {id(run): name for name, own in groups.items() for run in own}
    tasks, names = (sorted({getattr(run, kind) for run in runs}) for kind in ("task", "name"))
    data = json.dumps(_data(groups, tasks), separators=(",", ":"), allow_nan=False)
    return Template((PAGE / "report.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(f"{', '.join(names)} on {', '.join(tasks)}" if len(names) * len(tasks) < 7 else "Runs"),
        facts=f"{_many(len(runs), 'run')} of {_many(len(groups), 'algorithm')} on {_many(len(tasks), 'task')}",
        style="".join((PAGE / name).read_text(encoding="utf-8") for name in STYLES),
        warnings=_warnings(runs),
        runs=_runs(runs, named, out),
        differences=_differences(runs, named),
        machines=_machines(runs, named),
        configurations="\n".join(_configuration(run, named[id(run)]) for run in runs),
        data=data.replace("<", "\\u003c"),  # so that no text in it can end the element
        script=(PAGE / "report.js").read_text(encoding="utf-8"),
    )


def _many(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' if number != 1 else ''}"


# --- curves -----------------------------------------------------------------------------------------------------------


def _data(groups: Groups, tasks: Sequence[str]) -> dict[str, Any]:
    runs: list[dict[str, Any]] = [
        {"group": name, "task": run.task, "curves": {metric: _points(curve) for metric, curve in run.curves.items()}}
        for name, own in groups.items()
        for run in own
    ]
    names = {metric for run in runs for metric, points in run["curves"].items() if points}
    return {"groups": list(groups), "tasks": list(tasks), "metrics": sorted(names, key=_rank), "runs": _drawn(runs)}


def _drawn(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [run | {"curves": {metric: points for metric, points in run["curves"].items() if points}} for run in runs]


def _rank(metric: str) -> tuple[int, str]:
    """What a run is judged by first, then other tests, then training."""
    from tracking.record import HEADLINES

    if metric in HEADLINES:
        return HEADLINES.index(metric), metric
    return len(HEADLINES) + (not metric.startswith("test_")), metric


def _points(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most ``MOST_POINTS`` of them; what is not finite is left out."""
    finite = [(t, y) for t, y in curve if math.isfinite(y)]
    size = -(-len(finite) // MOST_POINTS)
    parts = [finite[i : i + size] for i in range(0, len(finite), max(size, 1))]
    return [(part[-1][0], float(f"{sum(y for _, y in part) / len(part):.5g}")) for part in parts]


# --- tables -----------------------------------------------------------------------------------------------------------


def _warnings(runs: Sequence[Run]) -> str:
    """What must be known before the numbers are read; empty where there is nothing."""
    from comparison.guard import differences

    said = [f"{run.short} is {run.status}: {_reason(run)}" for run in runs if run.status != "COMPLETED"]
    said += [str(one) for one in differences(runs)]
    said += [f"{run.short} ran on code that was not committed ({run.code})" for run in runs if _dirty(run)]
    if not said:
        return ""
    items = "".join(f"<li>{html.escape(text)}</li>" for text in said)
    shown = " open" if len(said) <= FEW else ""
    title = f"<summary><strong>Before you compare</strong>: {len(said)} things to know</summary>"
    return f'<details class="note" id="warnings"{shown}>{title}<ul>{items}</ul></details>'


def _reason(run: Run) -> str:
    return run.facts.get("error") or f"tested up to step {max((c[-1][0] for c in run.curves.values()), default=0):,}"


def _dirty(run: Run) -> bool:
    return bool((run.facts.get("git") or {}).get("dirty"))


def _runs(runs: Sequence[Run], named: dict[int, str], out: Path) -> str:
    from comparison.runs import usual_metric

    try:
        metric = usual_metric(runs)
    except ConfigError:  # what they were tested for differs; the curves show it
        metric = ""
    head = ["algorithm", "task", "seed", "status", "steps", f"last {metric}", "best", "steps/s", "run", ""]
    rows = [_run(run, named[id(run)], metric, out) for run in runs]
    return _table(head, rows)


def _run(run: Run, name: str, metric: str, out: Path) -> Row:
    values = [value for _, value in run.curves.get(metric, [])]
    speeds = [value for _, value in run.curves.get("steps_per_second", [])]
    steps = max((curve[-1][0] for curve in run.curves.values()), default=0)
    kind = "" if run.status == "COMPLETED" else " open" if run.status in OPEN else " bad"
    replay = Path(run.source) / REPLAY
    link = os.path.relpath(replay, out.parent).replace(os.sep, "/") if replay.is_file() else ""
    return [
        _cell(name),
        _cell(run.task),
        _number(run.seed),
        f'<td><span class="status{kind}">{html.escape(run.status.lower())}</span></td>',
        _number(f"{steps:,}"),
        _number(f"{values[-1]:.3g}" if values else "–"),
        _number(f"{max(values):.3g}" if values else "–"),
        _number(f"{sorted(speeds)[len(speeds) // 2]:,.0f}" if speeds else "–"),
        _cell(Path(run.source).name),
        f'<td><a href="{html.escape(link)}">replay</a></td>' if link else "<td></td>",
    ]


def _differences(runs: Sequence[Run], named: dict[int, str]) -> str:
    """One row per key that has not the same value in all runs, one column per run."""
    flat = [_flat(run.config) for run in runs]
    keys = sorted({key for config in flat for key in config} - {"seed", "results_dir"})
    rows = [
        [f'<th scope="row">{html.escape(key)}</th>', *(_cell(config.get(key, "unset")) for config in flat)]
        for key in keys
        if len({str(config.get(key, "unset")) for config in flat}) > 1
    ]
    if not rows:
        return '<p class="faint">None but the seeds.</p>'
    return _table(["", *(f"{named[id(run)]}, seed {run.seed}" for run in runs)], rows)


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    nested = {f"env_args.{key}": value for key, value in config["env_args"].items()}
    return {key: value for key, value in config.items() if key != "env_args"} | nested


def _machines(runs: Sequence[Run], named: dict[int, str]) -> str:
    versions = sorted({key for run in runs for key in run.facts.get("versions", {})})
    hardware = ("hostname", "system", "cpus", "memory_gib", "gpus")
    head = ["run", "commit", "started", "stopped", *hardware, *versions]
    rows = [
        [
            _cell(f"{named[id(run)]}, seed {run.seed}"),
            *(_cell(text) for text in (run.code, run.facts.get("started"), run.facts.get("stopped"))),
            *(_cell((run.facts.get("host_facts") or {}).get(key)) for key in hardware),
            *(_cell(run.facts.get("versions", {}).get(key)) for key in versions),
        ]
        for run in runs
    ]
    return _table(head, rows)


def _configuration(run: Run, name: str) -> str:
    lines = "\n".join(f"{key}: {value}" for key, value in sorted(_flat(run.config).items()))
    command = run.facts.get("command")
    started = f"# {command}\n" if command else ""
    title = html.escape(f"{name} on {run.task}, seed {run.seed}: {run.source}")
    return f"<details><summary>{title}</summary><pre>{html.escape(started + lines)}</pre></details>"


def _table(head: Sequence[str], rows: Sequence[Row]) -> str:
    """Cells of ``rows`` are HTML already."""
    titles = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in head)
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _cell(value: Any) -> str:
    return f"<td>{html.escape('–' if value is None else str(value))}</td>"


def _number(value: Any) -> str:
    return f'<td class="number">{html.escape(str(value))}</td>'
