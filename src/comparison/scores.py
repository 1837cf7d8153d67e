"""The results of groups of runs in one metric, as arrays that can be aggregated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from comparison.groups import Groups
from comparison.runs import Run
from core.config import ConfigError
from stats import curves
from stats.aggregate import normalised

Bounds = tuple[float, float]
SHARES = ("battle_won_mean", "success_mean", "optimal_mean", "solved_mean")
"""Ends of the names of metrics that lie in [0, 1] by their nature."""


@dataclass(frozen=True)
class Scores:
    """One metric of every algorithm on every task."""

    metric: str
    tasks: tuple[str, ...]
    algorithms: tuple[str, ...]
    marks: Mapping[str, np.ndarray]
    """By task: the environment steps at which all of its runs were tested."""
    curves: Mapping[tuple[str, str], np.ndarray]
    """By algorithm and task, where there are runs: [runs, marks]."""
    absolute: Mapping[tuple[str, str], np.ndarray]
    """By algorithm and task, where all runs have it: [runs] means of the best policies' evaluations."""
    seeds: Mapping[tuple[str, str], list[int]]
    bounds: Mapping[str, Bounds] | None
    """By task what counts as 0 and as 1; None where nobody said it."""
    last: int
    """So many tests make the final score."""

    def of(self, quantity: str, algorithm: str, task: str) -> np.ndarray | None:
        """Every run's ``final``, ``area`` or ``absolute`` score in the metric's own unit, [runs]; None without runs."""
        key = algorithm, task
        if quantity == "absolute" or key not in self.curves:
            return self.absolute.get(key)
        if quantity == "area":
            return curves.area(self.curves[key], self.marks[task])
        return curves.ending(self.curves[key], self.last)

    def matrix(self, quantity: str, algorithm: str) -> np.ndarray | None:
        """[runs, tasks], normalised where bounds are given; None where the algorithm lacks a task.

        The same number of runs counts on every task, the fewest that there are on one: more of them, those with the
        largest seeds, would give a task more weight than the others.
        """
        columns = [self.of(quantity, algorithm, task) for task in self.tasks]
        present = [column for column in columns if column is not None]
        if len(present) < len(columns):
            return None
        fewest = min(len(column) for column in present)
        return self.normalise(np.stack([column[:fewest] for column in present], axis=-1))

    def normalise(self, scores: np.ndarray) -> np.ndarray:
        """[..., tasks] on the common scale, if there is one."""
        if self.bounds is None:
            return scores
        low, high = (np.array([self.bounds[task][end] for task in self.tasks]) for end in (0, 1))
        return normalised(scores, low, high)

    def over_marks(self, algorithm: str) -> tuple[np.ndarray, np.ndarray] | None:
        """The marks that all tasks share, and [marks, runs, tasks]; None without runs on a task, or without marks."""
        if any((algorithm, task) not in self.curves for task in self.tasks):
            return None
        shared = sorted(set.intersection(*(set(self.marks[task].tolist()) for task in self.tasks)))
        if not shared:
            return None
        fewest = min(len(self.curves[algorithm, task]) for task in self.tasks)
        columns = [self.curves[algorithm, task][:fewest, np.isin(self.marks[task], shared)].T for task in self.tasks]
        return np.array(shared), self.normalise(np.stack(columns, axis=-1))


def collect(groups: Groups, metric: str, given: Mapping[str, Bounds], last: int) -> Scores:
    """The scores of groups of runs.

    Args:
        groups: by algorithm.
        metric: a name of the runs' tests.
        given: bounds by task; under "" for all others.
        last: so many tests make the final score.

    Raises:
        ConfigError: runs without the metric, or runs on one task that were never tested at the same marks.
    """
    cells: dict[tuple[str, str], list[Run]] = {}
    for algorithm, runs in groups.items():
        for run in runs:
            cells.setdefault((algorithm, run.task), []).append(run)
    _check(cells, metric)
    tasks = tuple(sorted({task for _, task in cells}))
    marks = {
        task: _common([run for (_, t), own in cells.items() if t == task for run in own], metric) for task in tasks
    }
    values = {
        key: np.array([[run.at_marks(metric)[mark] for mark in marks[key[1]].tolist()] for run in runs])
        for key, runs in cells.items()
    }
    seeds = {key: [run.seed for run in runs] for key, runs in cells.items()}
    return Scores(
        metric,
        tasks,
        tuple(groups),
        marks,
        values,
        _absolute(cells, metric),
        seeds,
        _bounds(metric, tasks, given),
        last,
    )


def _check(cells: Mapping[tuple[str, str], list[Run]], metric: str) -> None:
    lacking = [run for runs in cells.values() for run in runs if metric not in run.curves]
    if lacking:
        known = sorted(set.intersection(*(set(run.curves) for runs in cells.values() for run in runs)))
        raise ConfigError(
            [f"{run.short} has no '{metric}'; all runs have: {', '.join(known) or 'nothing'}" for run in lacking[:5]]
        )


def _common(runs: list[Run], metric: str) -> np.ndarray:
    """The marks at which every one of the runs was tested."""
    common = sorted(set.intersection(*(set(run.at_marks(metric)) for run in runs)))
    if not common:
        raise ConfigError([f"the runs on {runs[0].task} were never tested at the same steps (test_interval)"])
    return np.array(common)


def _absolute(cells: Mapping[tuple[str, str], list[Run]], metric: str) -> dict[tuple[str, str], np.ndarray]:
    found = {}
    for key, runs in cells.items():
        values = [run.absolute(metric) for run in runs]
        if all(values):
            found[key] = np.array([np.mean(one) for one in values if one])
    return found


def _bounds(metric: str, tasks: tuple[str, ...], given: Mapping[str, Bounds]) -> dict[str, Bounds] | None:
    """Of every task, or None."""
    natural = (0.0, 1.0) if metric.endswith(SHARES) else None
    found = {task: given.get(task, given.get("", natural)) for task in tasks}
    known = {task: bounds for task, bounds in found.items() if bounds is not None}
    return known if len(known) == len(tasks) else None
