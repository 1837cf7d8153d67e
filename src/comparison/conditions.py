"""Under which conditions runs were made: what a comparison has to state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from comparison.groups import Groups
from comparison.guard import SAME_EVERYWHERE, SAME_IN_ENVIRONMENT, SAME_ON_TASK
from comparison.runs import Run

_VERSIONS = ("python", "torch", "numpy")


def conditions(groups: Groups) -> list[str]:
    """One line for each fact, with all of its values."""
    runs = [run for own in groups.values() for run in own]
    lines = [_line(key, read, runs) for key, read in (SAME_EVERYWHERE | SAME_IN_ENVIRONMENT | SAME_ON_TASK).items()]
    lines += [_line(name, partial(_version, name), runs) for name in _VERSIONS]
    lines.append(_line("machine", _machine, runs))
    seeds = {name: sorted({run.seed for run in own}) for name, own in groups.items()}
    return [*lines, *(f"seeds of {name}: {', '.join(map(str, own))}" for name, own in seeds.items())]


def _line(key: str, read: Callable[[Run], Any], runs: list[Run]) -> str:
    return f"{key}: {', '.join(sorted({str(read(run)) for run in runs}))}"


def _version(name: str, run: Run) -> Any:
    return run.facts.get("versions", {}).get(name)


def _machine(run: Run) -> str:
    facts = run.facts.get("host_facts") or {}
    parts = [f"{facts[key]} {word}" for key, word in (("cpus", "CPUs"), ("memory_gib", "GiB")) if key in facts]
    return " ".join([*parts, *facts.get("gpus", [])]) or "not recorded"
