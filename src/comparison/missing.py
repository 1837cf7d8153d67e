"""Which runs a comparison lacks, and the commands that would run them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

from comparison.groups import Groups
from comparison.runs import HARMLESS, Run
from core import cli
from core.config import ConfigError, load, merge, resolve

FEWEST, PREFERRED = 5, 10
"""Seeds that a comparison should have (Gorsane et al. 2022)."""


@dataclass(frozen=True)
class Missing:
    """One run that there should be."""

    algorithm: str
    task: str
    seed: int
    command: str


def missing(groups: Groups, seeds: Sequence[int] | None = None) -> list[Missing]:
    """The runs that would give every algorithm as many seeds on every task.

    Args:
        groups: by algorithm.
        seeds: those that each should have; None: as many as the fullest cell has, any of the seeds that are in use.
    """
    tasks = {run.task: run for runs in groups.values() for run in runs}
    cells = {(name, task): [r for r in groups[name] if r.task == task] for name in groups for task in sorted(tasks)}
    used = sorted({run.seed for runs in groups.values() for run in runs})
    found = []
    for (name, task), runs in cells.items():
        like = runs[0] if runs else groups[name][0]
        changes = {} if runs else _place(tasks[task])
        have = {run.seed for run in runs}
        wanted = sorted(set(seeds) - have) if seeds is not None else _next(used, have, max(map(len, cells.values())))
        found += [Missing(name, task, seed, command(like, changes | {"seed": seed})) for seed in wanted]
    return found


def _next(used: Sequence[int], have: set[int], wanted: int) -> list[int]:
    """As many further seeds as are wanted, first those that others use."""
    unused = [seed for seed in used if seed not in have]
    further = (seed for seed in count() if seed not in have and seed not in unused)
    return [*unused, *islice(further, wanted)][: max(0, wanted - len(have))]


def _place(run: Run) -> dict[str, Any]:
    """What puts another algorithm on the task of ``run``."""
    return {"t_max": run.config["t_max"], "env_args": run.config["env_args"]}


def command(run: Run, changes: Mapping[str, Any]) -> str:
    """The command line of a run like ``run`` with other values."""
    config = {key: value for key, value in run.config.items() if key not in HARMLESS}
    config |= {"results_dir": _results(run), **changes}
    files = [("algs", run.name), ("envs", _environment(run))]
    if any(name not in cli.names(kind) for kind, name in files):
        return f"{run.facts.get('command', run.name)}  (with {_words(changes)})"
    layers = [
        load(cli.CONFIG / "default.yaml"),
        *(load(cli.CONFIG / kind / f"{name}.yaml") for kind, name in files[::-1]),
    ]
    given = {**config, "env_args": None}
    words = _changed(given, _merged(layers)) + _changed(config["env_args"], _merged(layers)["env_args"], "env_args.")
    return shlex.join([*cli.STARTED_AS.split(), f"--config={run.name}", f"--env-config={files[1][1]}", "with", *words])


def _results(run: Run) -> str:
    """Where the run's folder lies now, which may not be where it was made; a run of a database has no folder here."""
    path, above = Path(run.source), len(run.label.split("/")) + 1
    return str(path.parents[above]) if path.is_dir() else str(run.config["results_dir"])


def _environment(run: Run) -> str:
    """The file of config/envs that selects the run's environment."""
    env = str(run.config["env"])
    return (
        env
        if env in cli.names("envs")
        else next(
            (name for name in cli.names("envs") if load(cli.CONFIG / "envs" / f"{name}.yaml").get("env") == env), ""
        )
    )


def _merged(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All keys with their present defaults; only the files' own where these cannot be resolved."""
    config: dict[str, Any] = {}
    for layer in layers:
        config = merge(config, layer)
    try:
        return dict(resolve(config))
    except ConfigError:
        return config


def _changed(values: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str = "") -> list[str]:
    """KEY=VALUE of what is not as it is by default; what is as absent as before is left out."""
    return [
        f"{prefix}{key}={_literal(value)}"
        for key, value in values.items()
        if key != "env_args" and value != defaults.get(key)
    ]


def _literal(value: Any) -> str:
    """``value`` so that the command line reads it as what it is: '7' is text only with its quotes."""
    return repr(value) if isinstance(value, str) and cli.literal(value) != value else str(value)


def _words(changes: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in changes.items())
