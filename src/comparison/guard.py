"""What must be alike before results are pooled or set side by side.

Each of these has made published results of this field incomparable: the simulator's version, the number of parallel
environments, the kind of runner, greedy against stochastic tests, the reward, and unnoticed changes of code
(docs/comparing.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from comparison.runs import Run

MAP_KEYS = ("env_args.map_name",)
"""What tells tasks apart, by which the comparison groups anyway."""
UNSET = "unset"
"""The value of a key that a run's configuration does not have."""
SHOWN = 3
"""So many runs are named for each value."""


@dataclass(frozen=True)
class Difference:
    """One key in which runs differ that are to be compared."""

    key: str
    among: str
    """The task or the environment whose runs differ."""
    runs: dict[str, list[Run]]
    """By value."""

    def __str__(self) -> str:
        """Key, values and runs."""
        lines = [f"'{self.key}' differs among the runs on {self.among}:"]
        for value, runs in self.runs.items():
            more = f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
            lines.append(f"      {value}: {', '.join(run.short for run in runs[:SHOWN])}{more}")
        return "\n".join(lines)


def _engine(run: Run) -> Any:
    return run.facts.get("engine") or run.config["env_args"].get("engine")


def _build(run: Run) -> Any:
    """StarCraft II's, where the run recorded one or asked for one; other engines come with the code."""
    return run.facts.get("game_version") or run.config["env_args"].get("game_version")


def _acting(run: Run) -> str:
    return "greedy" if run.config.get("test_greedy", True) else "stochastic"


SAME_EVERYWHERE: dict[str, Callable[[Run], Any]] = {"commit": lambda run: run.code}
SAME_IN_ENVIRONMENT: dict[str, Callable[[Run], Any]] = {
    "engine": _engine,
    "game_version": _build,
    "batch_size_run": lambda run: run.config["batch_size_run"],
    "runner": lambda run: run.config["runner"],
    "test_nepisode": lambda run: run.config["test_nepisode"],
    "test_policy": _acting,
}
SAME_ON_TASK: dict[str, Callable[[Run], Any]] = {
    "t_max": lambda run: run.config["t_max"],
    "test_interval": lambda run: run.config["test_interval"],
}


def differences(runs: Sequence[Run]) -> list[Difference]:
    """Everything in which runs differ that should not, most general first."""
    found = _among("all environments", runs, SAME_EVERYWHERE)
    for env, group in _by(runs, lambda run: str(run.config["env"])):
        found += _among(env, group, SAME_IN_ENVIRONMENT)
    for task, group in _by(runs, lambda run: run.task):
        found += _among(task, group, SAME_ON_TASK | _options(group))
    return found


def _options(runs: Sequence[Run]) -> dict[str, Callable[[Run], Any]]:
    """Every option of the environment, but the engine's, which are compared for all of its tasks."""
    names = sorted({name for run in runs for name in run.config["env_args"]} - {"engine", "game_version", "seed"})
    readers = {f"env_args.{name}": lambda run, name=name: run.config["env_args"].get(name, UNSET) for name in names}
    return {key: read for key, read in readers.items() if key not in MAP_KEYS}


def _by(runs: Sequence[Run], key: Callable[[Run], str]) -> list[tuple[str, list[Run]]]:
    return [(value, list(group)) for value, group in groupby(sorted(runs, key=key), key)]


def _among(where: str, runs: Sequence[Run], readers: dict[str, Callable[[Run], Any]]) -> list[Difference]:
    found = []
    for key, read in readers.items():
        values: dict[str, list[Run]] = {}
        for run in runs:
            values.setdefault(str(read(run)), []).append(run)
        if len(values) > 1:
            found.append(Difference(key, where, values))
    return found
