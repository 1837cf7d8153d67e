"""Runs as they are compared, whether their files or a database tell of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core import schedule
from core.cli import PLACE
from core.config import ConfigError, load
from tracking import journal
from tracking.folder import RECORD, RunFolder
from tracking.journal import JournalError, Series
from tracking.record import HEADLINES

EVALUATIONS = "evaluations.jsonl"
"""In a run's folder: one line per evaluation and way of acting, with every episode's values."""
BEST, LAST = "best", "last"
"""The ``checkpoint`` of an evaluation."""
HARMLESS = PLACE | {"seed", "label", "log_interval", "checkpoint_interval", "best_by"}
"""Keys that do not decide what is learnt or measured, or whose differences are what seeds are for."""

Episodes = dict[str, list[float]]
"""Per metric every episode's value."""


@dataclass(frozen=True)
class Run:
    """One run: what it was, and its curves."""

    source: str
    """Where it is: a folder, or a database's address and number."""
    config: dict[str, Any]
    status: str
    label: str
    """Environment, engine and map, such as sc2-skirmish/3m."""
    curves: Series
    facts: dict[str, Any] = field(default_factory=dict)
    """What is known of its origin: engine, git, versions, host_facts, command, created, stopped, error, ..."""
    marks: dict[int, int] = field(default_factory=dict)
    """By t_env of a test the step for which it stands, where it was recorded."""
    episodes: dict[int, Episodes] = field(default_factory=dict)
    """By t_env of a test every episode's values, where they were kept."""
    evaluations: tuple[dict[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """What the run is called, usually the algorithm."""
        return str(self.config["name"])

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.config["seed"])

    @property
    def task(self) -> str:
        """Environment and map, without the engine: that one is for the guard to see."""
        _, _, which = self.label.partition("/")
        return f"{self.config['env']}/{which}" if which else str(self.config["env"])

    @property
    def short(self) -> str:
        """A name for lists."""
        return f"{self.name} seed {self.seed} ({self.source.rstrip('/').rpartition('/')[2]})"

    @property
    def finished(self) -> bool:
        """Whether it was tested at its ``t_max``."""
        return any(curve[-1][0] >= self.config["t_max"] for name, curve in self.curves.items() if name[:5] == "test_")

    @property
    def code(self) -> str | None:
        """The commit, marked where files differed from it; None where it is not known."""
        git = self.facts.get("git") or {}
        commit = git.get("commit")
        return commit and f"{commit[:12]}{' with changes' if git.get('dirty') else ''}"

    def mark(self, t_env: int) -> int:
        """The step for which the test of step ``t_env`` stands (see ``schedule.mark``)."""
        if t_env in self.marks:
            return self.marks[t_env]
        return schedule.mark(t_env, int(self.config["test_interval"]), int(self.config["t_max"]))

    def at_marks(self, metric: str) -> dict[int, float]:
        """The curve by mark; where a resumed run was tested twice at one mark, the later test."""
        return {self.mark(t_env): value for t_env, value in self.curves.get(metric, [])}

    def absolute(self, metric: str) -> list[float] | None:
        """Every episode's value of the last evaluation of the best checkpoint, or None where there was none."""
        best = [x for x in self.evaluations if x.get("checkpoint") == BEST]
        named = [{f"{x['prefix']}{name}_mean": values for name, values in x["values"].items()} for x in best]
        found = [metrics[metric] for metrics in named if metric in metrics]
        return found[-1] if found else None


def from_files(words: Sequence[str], results_dir: str, kinds: Iterable[str] = ("test",)) -> list[Run]:
    """The runs of ``folders`` with their curves of these kinds.

    Raises:
        ConfigError: no such run, or a folder without runs; a run's files cannot be read.
    """
    return [_from_folder(RunFolder(path), tuple(kinds)) for path in folders(words, results_dir)]


def folders(words: Sequence[str], results_dir: str) -> list[Path]:
    """The run folders that paths of runs, folders of runs, or parts of run names stand for; each once, in order.

    Raises:
        ConfigError: no such run, or a folder without runs.
    """
    paths: dict[Path, None] = {}
    for word in words:
        for path in _under(word, results_dir):
            paths[path.resolve()] = None
    return list(paths)


def _under(word: str, results_dir: str) -> list[Path]:
    path = Path(word)
    if not path.is_dir() or (path / RECORD).exists():
        return [RunFolder.open(word, results_dir).path]
    found = sorted(record.parent for record in path.rglob(RECORD))
    if not found:
        raise ConfigError([f"there are no runs under {path}"])
    return found


def _from_folder(folder: RunFolder, kinds: tuple[str, ...]) -> Run:
    record, config = folder.record, load(folder.config)
    curves: Series = {}
    marks: dict[int, int] = {}
    episodes: dict[int, Episodes] = {}
    try:
        for line in journal.read(folder.journal) if folder.journal.exists() else ():
            if line.get("kind") not in kinds:
                continue
            for name, value in line["values"].items():
                curves.setdefault(name, []).append((line["t_env"], value))
            if "mark" in line:
                marks[line["t_env"]] = line["mark"]
                episodes[line["t_env"]] = line["episodes"]
    except JournalError as error:
        raise ConfigError([str(error)]) from error
    kept = folder.path / EVALUATIONS
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    return Run(
        source=str(folder.path),
        config=config,
        status=folder.status,
        label=record.get("label", ""),
        curves=curves,
        facts=record,
        marks=marks,
        episodes=episodes,
        evaluations=tuple(json.loads(line) for line in lines),
    )


def usual_metric(runs: Sequence[Run]) -> str:
    """What all of the runs have: the share of won episodes, else the return.

    Raises:
        ConfigError: they have neither in common.
    """
    common = set.intersection(*(set(run.curves) for run in runs))
    for metric in HEADLINES:
        if metric in common:
            return metric
    without = [run.short for run in runs if not run.curves]
    hint = f" These were never tested: {', '.join(without[:5])}." if without else ""
    raise ConfigError([f"the runs have no usual test metric in common: name one with --metric.{hint}"])
