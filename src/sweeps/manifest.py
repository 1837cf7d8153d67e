"""The manifest of a sweep: one YAML file that says which runs there are to be."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core import cli
from core.config import LEAST, MOST, ConfigError, fits, load, merge, wanted
from core.registry import did_you_mean

NAME = re.compile(r"\w[\w.+-]*")
"""What runs, variants and sweeps may be called: a part of a path."""
OWN = {
    "seed": "list the seeds under 'seeds'",
    "n_seeds": "a sweep makes one run of each of its 'seeds'",
    "label": "it holds the sweep's name and the run's id, by which the run is found again",
    "results_dir": "give results_dir at the top of the manifest: a sweep's runs lie together",
}
"""Keys of a run that the sweep sets, and what to do instead."""


@dataclass(frozen=True)
class Entry:
    """One value of an axis: a named set of settings on top of a file of ``config/``."""

    name: str
    config: str
    """The file's name; empty for a variant, which has none."""
    settings: dict[str, Any]
    """Flat keys, ``env_args`` nested."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one run is given."""

    cpus: int = 1
    """Processor cores."""
    gpus: float | None = None
    """Share of one GPU: 0.25 puts four runs on each, 0 keeps runs off; null: local runs share what there is."""
    memory_gb: float | None = None
    """Memory in gigabytes; null: it is not limited."""
    hours: float = 24
    """Time of a Slurm job; a run that needs more is stopped with a checkpoint and queued again."""

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for what no machine can give."""
        problems = []
        if self.cpus < 1:
            problems.append(f"'resources.cpus' must be at least 1, not {self.cpus!r}")
        if self.gpus is not None and not 0 <= self.gpus <= 1:
            problems.append(f"'resources.gpus' must lie between 0 and 1, a run's share of one GPU, not {self.gpus!r}")
        for name in ("memory_gb", "hours"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                problems.append(f"'resources.{name}' must be positive, not {value!r}")
        if problems:
            raise ConfigError(problems)

    @property
    def per_gpu(self) -> int:
        """Runs side by side on one GPU."""
        return int(1 / self.gpus + 1e-6) if self.gpus else 1


@dataclass(frozen=True)
class Manifest:
    """A checked manifest; the settings of its runs are checked when they are put together (``cells.expand``)."""

    file: Path
    name: str
    algorithms: tuple[Entry, ...]
    environments: tuple[Entry, ...]
    variants: tuple[Entry, ...]
    seeds: tuple[int, ...]
    common: dict[str, Any]
    """What follows ``with``: settings of every run."""
    exclude: tuple[dict[str, tuple[Any, ...]], ...]
    """Combinations that are left out, by axis."""
    resources: Resources
    retries: int
    """How often a failed run is tried again."""
    results_dir: Path
    slurm: dict[str, Any]
    """Further parameters of Slurm jobs, by submitit's names."""

    @property
    def folder(self) -> Path:
        """Where the sweep keeps its logs and notes."""
        return self.results_dir / "sweeps" / self.name


@dataclass(frozen=True, kw_only=True)
class _Sheet:
    """The manifest's keys as they may be written."""

    name: str | None = None
    algorithms: list[str] | dict[str, dict[str, Any] | None]
    environments: list[str] | dict[str, dict[str, Any] | None]
    variants: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    seeds: int | list[int]
    with_: dict[str, Any] = field(default_factory=dict)
    exclude: list[dict[str, Any]] = field(default_factory=list)
    resources: dict[str, Any] = field(default_factory=dict)
    retries: int = 1
    results_dir: str = "results"
    slurm: dict[str, Any] = field(default_factory=dict)


def read(path: Path | str) -> Manifest:
    """The manifest in a file.

    Raises:
        ConfigError: with every mistake: it cannot be read, has unknown keys, wrong values or unknown files.
    """
    path, problems = Path(path), list[str]()
    content = load(path)
    if "with" in content:
        content["with_"] = content.pop("with")
    sheet = _filled(_Sheet, content, "", problems)
    if sheet is None:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    resources = _filled(Resources, sheet.resources, "resources.", problems)
    algorithms = _entries("algorithms", sheet.algorithms, "algs", problems)
    environments = _maps(_entries("environments", sheet.environments, "envs", problems), problems)
    variants = _entries("variants", sheet.variants, None, problems)
    seeds = _seeds(sheet.seeds, problems)
    axes: dict[str, list[Any]] = {
        "algorithm": [entry.name for entry in algorithms],
        "environment": [entry.name for entry in environments],
        "variant": [entry.name for entry in variants],
        "seed": list(seeds),
    }
    name = sheet.name if sheet.name is not None else path.stem
    if not NAME.fullmatch(name):
        problems.append(f"'name' is part of a path: letters, digits and any of _ . + -, not {name!r}")
    if sheet.retries < 0:
        problems.append(f"'retries' must be at least 0, not {sheet.retries}")
    manifest = Manifest(
        file=path,
        name=name,
        algorithms=algorithms,
        environments=environments,
        variants=variants,
        seeds=seeds,
        common=_settings("with", sheet.with_, problems),
        exclude=tuple(_exclusion(number, rule, axes, problems) for number, rule in enumerate(sheet.exclude, 1)),
        resources=resources or Resources(),
        retries=sheet.retries,
        results_dir=Path(sheet.results_dir).resolve(),
        slurm=dict(sheet.slurm),
    )
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return manifest


def _filled(cls: Any, values: Mapping[str, Any], prefix: str, problems: list[str]) -> Any:
    """An instance of a dataclass from a mapping; None, and a report, where a key or a value is wrong."""
    before = len(problems)
    hints = typing.get_type_hints(cls)
    written = {name: name.rstrip("_") for name in hints}
    for key in values:
        if key not in hints:
            problems.append(f"key '{prefix}{key}' is not known.{did_you_mean(str(key), written.values())}")
    for each in dataclasses.fields(cls):
        key, required = prefix + written[each.name], each.default is each.default_factory is dataclasses.MISSING
        if each.name in values and not fits(values[each.name], hints[each.name]):
            value = values[each.name]
            problems.append(f"'{key}' must be {wanted(hints[each.name])}, not {value!r} ({type(value).__name__})")
        elif each.name not in values and required:
            problems.append(f"'{key}' is missing: give {wanted(hints[each.name])}")
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except ConfigError as error:
        problems += error.problems
        return None


def _entries(
    axis: str, written: list[str] | dict[str, dict[str, Any] | None], kind: str | None, problems: list[str]
) -> tuple[Entry, ...]:
    """The values of an axis, given as a list of files or as named settings."""
    if not written and kind is not None:
        problems.append(f"'{axis}' is empty: name at least one file of config/{kind}")
    if isinstance(written, list):
        problems += [f"'{axis}' names '{name}' twice" for name in _twice(written)]
        written = dict.fromkeys(written)
    found = []
    for name, values in written.items():
        where, settings = f"{axis}.{name}", dict(values or {})
        config = settings.pop("config", name) if kind is not None else ""
        if not NAME.fullmatch(name):
            problems.append(f"'{where}': a name has letters, digits and any of _ . + -")
        if kind is not None and config not in cli.names(kind):
            near = did_you_mean(str(config), cli.names(kind))
            problems.append(f"'{where}': there is no config/{kind}/{config}.yaml.{near}")
        maps = {"maps": settings.pop("maps")} if axis == "environments" and "maps" in settings else {}
        found.append(Entry(name, config, _settings(where, settings, problems) | maps))
    return tuple(found)


def _maps(entries: tuple[Entry, ...], problems: list[str]) -> tuple[Entry, ...]:
    """One environment for each map, called by it, where an environment lists ``maps``."""
    found = []
    for entry in entries:
        settings = dict(entry.settings)
        if "maps" not in settings:
            found.append(entry)
            continue
        maps = settings.pop("maps")
        if not fits(maps, list[str]) or not maps:
            problems.append(f"'environments.{entry.name}.maps' must be {wanted(list[str])}, not {maps!r}")
            continue
        chosen = [merge(settings, {"env_args": {"map_name": name}}) for name in maps]
        found += [Entry(name, entry.config, values) for name, values in zip(maps, chosen, strict=True)]
    problems += [f"two environments are called '{name}': name one of them" for name in _twice(e.name for e in found)]
    return tuple(found)


def _settings(where: str, written: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """Settings of runs with dotted keys nested."""
    nested: dict[str, Any] = {}
    for key, value in written.items():
        first, *rest = key.split(".")
        if first in OWN:
            problems.append(f"'{where}.{key}' cannot be set: {OWN[first]}")
        for part in reversed(rest):
            value = {part: value}
        nested = merge(nested, {first: value})
    return nested


def _seeds(written: int | list[int], problems: list[str]) -> tuple[int, ...]:
    """The seeds: those listed, or 1 to the number given."""
    seeds = list(range(1, written + 1)) if isinstance(written, int) else written
    if not seeds:
        problems.append(f"'seeds' must be a list of seeds, or how many (from 1 on), not {written!r}")
    problems += [f"'seeds' has {seed} twice" for seed in _twice(seeds)]
    low, high = LEAST["seed"], MOST["seed"]
    problems += [
        f"'seeds' has {seed}: it must lie between {low} and {high}" for seed in seeds if not low <= seed <= high
    ]
    return tuple(seeds)


def _exclusion(number: int, rule: dict[str, Any], axes: Mapping[str, list[Any]], problems: list[str]) -> dict[str, Any]:
    """What one rule leaves out: the axes it names, each with a value or several."""
    checked: dict[str, tuple[Any, ...]] = {}
    if not rule:
        problems.append(f"'exclude', rule {number}, is empty and would leave everything out")
    for axis, values in rule.items():
        if axis not in axes:
            problems.append(f"'exclude', rule {number}: there is no axis '{axis}'.{did_you_mean(str(axis), axes)}")
            continue
        checked[axis] = tuple(values) if isinstance(values, list) else (values,)
        unknown = [value for value in checked[axis] if value not in axes[axis]]
        for value in unknown:
            near = did_you_mean(str(value), map(str, axes[axis]))
            problems.append(f"'exclude', rule {number}: there is no {axis} '{value}'.{near}")
    return checked


def _twice(values: Iterable[Any]) -> list[Any]:
    """Values that occur more than once."""
    values = list(values)
    return [value for at, value in enumerate(values) if value in values[:at] and values.index(value) != at]
