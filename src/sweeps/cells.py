"""The runs of a manifest, each with its command line and an id that finds it again."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from core import cli
from core.config import COMMAND_LINE, ConfigError, Settings, masked, merge
from sweeps.manifest import Entry, Manifest

APART = cli.PLACE | {"label", "t_max"}
"""Keys that do not tell one run from another: where it works, what it is labelled, and how far it goes."""
DIGITS = 16
"""Hexadecimal digits of an id: of a million runs, two share one with a chance of 1 in 30 million."""
SHOWN = 4
"""Most runs that a message names one by one."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    algorithm: str
    """The name of its algorithm, and of its variant behind a dash."""
    environment: str
    seed: int
    words: tuple[str, ...]
    """Its command line, without the program."""
    id: str
    settings: Settings = field(repr=False, compare=False)
    """Checked and complete."""

    def __str__(self) -> str:
        return f"{self.algorithm} {self.environment} seed {self.seed}"

    @property
    def group(self) -> tuple[str, str]:
        """What it shares with runs of other seeds."""
        return self.algorithm, self.environment

    @property
    def t_max(self) -> int:
        """Steps that it is to reach."""
        return int(self.settings["t_max"])

    def moved(self) -> list[str]:
        """The assignments that a resume takes over: of keys that say where a run works."""
        words = self.words[self.words.index("with") + 1 :]
        return [word for word in words if word.partition("=")[0] in cli.PLACE - {"results_dir"}]


def ident(settings: Mapping[str, Any]) -> str:
    """The id of a run: a hash of every effective setting but ``APART``.

    Learning does not depend on ``t_max``, so a run that is to go further is the same run, continued.
    """
    decisive = {key: value for key, value in settings.items() if key not in APART}
    text = json.dumps(decisive, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def expand(manifest: Manifest) -> list[Cell]:
    """Every run of the manifest, all settings checked.

    Raises:
        ConfigError: with every mistake of every run, each once, and the runs that have it.
    """
    axes = product(manifest.algorithms, manifest.environments, manifest.variants or (None,), manifest.seeds)
    chosen = [names for names in axes if not _excluded(manifest, *names)]
    if not chosen:
        raise ConfigError([f"{manifest.file}: 'exclude' leaves no run"])
    cells: list[Cell] = []
    mistakes = Mistakes(len(chosen))
    for names in chosen:
        cell = _cell(manifest, *names, mistakes)
        if cell is not None:
            cells.append(cell)
    first: dict[str, Cell] = {}
    for cell in cells:
        twin = first.setdefault(cell.id, cell)
        if twin is not cell:
            mistakes.add(f"the runs '{twin}' and '{cell}' are the same: give them different settings, or leave one out")
    mistakes.raise_any(manifest)
    return cells


class Mistakes:
    """What is wrong with which runs, each mistake once."""

    def __init__(self, total: int) -> None:
        """``total``: how many runs there are."""
        self.total = total
        self.runs: dict[str, list[str]] = {}

    def add(self, problem: str, run: str = "") -> None:
        """Notes a mistake, of one run where it is given."""
        self.runs.setdefault(problem, []).extend([run] if run else [])

    def raise_any(self, manifest: Manifest) -> None:
        """Raises ConfigError if there are any."""
        problems = []
        for problem, runs in self.runs.items():
            where = ", ".join(runs[:SHOWN]) + (", ..." if len(runs) > SHOWN else "")
            some = f" [{len(runs)} of {self.total} runs: {where}]" if 0 < len(runs) < self.total else ""
            problems.append(problem.replace(f"(from {COMMAND_LINE})", f"(from {manifest.file.name})") + some)
        if problems:
            raise ConfigError(problems)


def rehearsed(cells: Iterable[Cell], manifest: Manifest, rehearse: Callable[[Settings], None]) -> None:
    """Tries every distinct set of settings once, seeds apart.

    Args:
        cells: the runs.
        manifest: where they are from.
        rehearse: raises ConfigError or ValueError for settings whose components do not go together.

    Raises:
        ConfigError: with every mistake and the runs that have it.
    """
    alike: dict[str, list[Cell]] = {}
    for cell in cells:
        alike.setdefault(ident(cell.settings | {"seed": 0}), []).append(cell)
    mistakes = Mistakes(sum(map(len, alike.values())))
    for group in alike.values():
        try:
            rehearse(group[0].settings)
        except ValueError as error:
            problems = error.problems if isinstance(error, ConfigError) else [str(error)]
            for problem, cell in product(problems, group):
                mistakes.add(problem, str(cell))
    mistakes.raise_any(manifest)


def shown(words: Iterable[str]) -> str:
    """A command line as a user would type it, without passwords."""
    return f"{cli.STARTED_AS} {masked(shlex.join(words))}"


def _excluded(manifest: Manifest, algorithm: Entry, environment: Entry, variant: Entry | None, seed: int) -> bool:
    at = {
        "algorithm": algorithm.name,
        "environment": environment.name,
        "variant": variant and variant.name,
        "seed": seed,
    }
    return any(all(at[axis] in values for axis, values in rule.items()) for rule in manifest.exclude)


def _cell(
    manifest: Manifest, algorithm: Entry, environment: Entry, variant: Entry | None, seed: int, mistakes: Mistakes
) -> Cell | None:
    """One run; None, and a report, where its settings are wrong."""
    updates: dict[str, Any] = manifest.common
    for entry in (environment, algorithm, variant):
        updates = merge(updates, entry.settings if entry else {})
    name = algorithm.name + (f"-{variant.name}" if variant else "")
    if name != algorithm.config and "name" not in updates:
        updates = updates | {"name": name}  # so that its results lie apart, and are compared under this name
    updates = updates | {"seed": seed, "results_dir": str(manifest.results_dir)}
    options = [f"--config={algorithm.config}", f"--env-config={environment.config}", "with"]
    cell = Cell(name, environment.name, seed, (*options, *assignments(updates)), "", Settings())
    try:
        settings = cli.compose(cli.parse(list(cell.words)))
    except ConfigError as error:
        for problem in error.problems:
            mistakes.add(problem, str(cell))
        return None
    found = ident(settings)
    label = f"{manifest.name}/{found}"
    return replace(
        cell, id=found, words=(*cell.words, f"label={label}"), settings=Settings({**settings, "label": label})
    )


def assignments(updates: Mapping[str, Any]) -> list[str]:
    """Nested settings as the command line takes them: ``KEY=VALUE``, those of the environment dotted."""
    flat = {key: value for key, value in updates.items() if key != "env_args"}
    args = updates.get("env_args", {})
    if isinstance(args, Mapping):
        flat |= {f"env_args.{key}": value for key, value in args.items()}
    else:
        flat["env_args"] = args
    return [f"{key}={_written(value)}" for key, value in flat.items()]


def _written(value: Any) -> str:
    """A value so that ``cli.literal`` reads it back: text as it is where that is not mistaken for something else."""
    plain = isinstance(value, str) and value and type(cli.literal(value)) is str and cli.literal(value) == value
    return value if plain else repr(value)
