"""Which runs are one algorithm: those of one name whose configurations say the same."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from comparison.guard import SAME_IN_ENVIRONMENT, SAME_ON_TASK, UNSET
from comparison.runs import HARMLESS, Run

_ELSEWHERE = frozenset({"name", "env", "env_args", *SAME_IN_ENVIRONMENT, *SAME_ON_TASK})
"""Keys that make the name or the task, or are the guard's."""

Groups = dict[str, list[Run]]
"""Runs by the name of their algorithm or of its variant."""


def grouped(runs: Sequence[Run], ignored: Collection[str] = ()) -> Groups:
    """Runs by algorithm; where configurations under one name differ, by name and what differs.

    Args:
        runs: of any algorithms.
        ignored: keys whose differences do not matter.
    """
    names: Groups = {}
    for run in runs:
        names.setdefault(run.name, []).append(run)
    groups: Groups = {}
    for name, own in names.items():
        keys = differing([run.config for run in own], ignored)
        for run in own:
            groups.setdefault(_variant(name, run.config, keys), []).append(run)
    return {name: sorted(groups[name], key=lambda run: (run.task, run.seed)) for name in sorted(groups)}


def split(groups: Groups) -> dict[str, list[str]]:
    """The names under which there are several variants, with the keys that tell these apart."""
    names = sorted({run.name for runs in groups.values() for run in runs})
    configs = {name: [run.config for runs in groups.values() for run in runs if run.name == name] for name in names}
    several = [name for name in names if name not in groups]
    return {name: differing(configs[name]) for name in several}


def differing(configs: Sequence[dict[str, Any]], ignored: Collection[str] = ()) -> list[str]:
    """The keys of algorithms that do not have one value in all of the configurations."""
    keys = sorted({key for config in configs for key in config} - HARMLESS - _ELSEWHERE - set(ignored))
    return [key for key in keys if len({repr(config.get(key, UNSET)) for config in configs}) > 1]


def _variant(name: str, config: dict[str, Any], keys: Sequence[str]) -> str:
    return f"{name} [{' '.join(f'{key}={config.get(key, UNSET)}' for key in keys)}]" if keys else name
