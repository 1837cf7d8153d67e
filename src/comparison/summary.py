"""What is estimated of scores, with intervals: the numbers of tables and figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from comparison.scores import Scores
from stats import aggregate
from stats.bootstrap import Statistic, estimate

QUANTITIES = ("final", "area", "absolute")
FEWEST = 2
"""Runs that an interval needs."""
POINTS = 101
"""Thresholds of a performance profile."""


@dataclass(frozen=True)
class Estimate:
    """A number, and the interval in which it would lie with other seeds; NaN where one run cannot tell of others."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """One algorithm in one table; None where it cannot be told."""

    algorithm: str
    runs: int
    values: dict[str, Estimate | None]


@dataclass(frozen=True)
class Band:
    """A curve with its interval, each [points]."""

    at: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Summary:
    """Estimates from one metric's scores; the same seed draws the same resamples."""

    def __init__(self, scores: Scores, resamples: int, seed: int) -> None:
        """``resamples`` and ``seed`` of the bootstrap."""
        self.scores, self.resamples, self.seed = scores, resamples, seed

    def on(self, task: str) -> list[Line]:
        """Every algorithm with runs on one task, in the metric's unit; the gap is normalised."""
        scores = self.scores
        lines = []
        for algorithm in scores.algorithms:
            if (algorithm, task) not in scores.curves:
                continue
            columns = {quantity: scores.of(quantity, algorithm, task) for quantity in QUANTITIES}
            own = {name: None if column is None else column[:, None] for name, column in columns.items()}
            values = {name: self._one(aggregate.iqm, matrix) for name, matrix in own.items()}
            values["gap"] = self._gap(own["final"], task)
            lines.append(Line(algorithm, len(scores.curves[algorithm, task]), values))
        return lines

    def over_tasks(self) -> list[Line]:
        """Every algorithm with runs on all tasks, normalised."""
        lines = []
        for algorithm in self.scores.algorithms:
            matrices = {quantity: self.scores.matrix(quantity, algorithm) for quantity in QUANTITIES}
            final = matrices["final"]
            if final is None:
                continue
            values = {name: self._one(aggregate.iqm, matrix) for name, matrix in matrices.items()}
            values["gap"] = None if self.scores.bounds is None else self._one(aggregate.optimality_gap, final)
            lines.append(Line(algorithm, len(final), values))
        return lines

    def improvement(self) -> dict[tuple[str, str], Estimate]:
        """The probability that the first of two algorithms scores higher in the end than the second, over all tasks."""
        final = {name: self.scores.matrix("final", name) for name in self.scores.algorithms}
        return {
            (x, y): self._estimate(aggregate.probability_of_improvement, a, b)
            for x, y in permutations(final, 2)
            if (a := final[x]) is not None and (b := final[y]) is not None
        }

    def profiles(self) -> dict[str, Band]:
        """Performance profiles of final scores over normalised thresholds; empty without bounds."""
        if self.scores.bounds is None:
            return {}
        taus = np.linspace(0, 1, POINTS)
        final = {name: self.scores.matrix("final", name) for name in self.scores.algorithms}
        return {
            name: self._band(taus, lambda x: aggregate.profile(x, taus), matrix)
            for name, matrix in final.items()
            if matrix is not None
        }

    def curve(self, algorithm: str, task: str) -> Band:
        """IQM over the runs on one task by mark, in the metric's unit."""
        return self._iqm_by_mark(self.scores.marks[task], self.scores.curves[algorithm, task].T[:, :, None])

    def curves_over_tasks(self) -> dict[str, Band]:
        """IQM over runs and tasks by mark, normalised, of the algorithms with runs on all tasks."""
        found = {name: self.scores.over_marks(name) for name in self.scores.algorithms}
        return {name: self._iqm_by_mark(*pair) for name, pair in found.items() if pair is not None}

    def _iqm_by_mark(self, marks: np.ndarray, scores: np.ndarray) -> Band:
        """``scores`` are [marks, runs, tasks]; by marks, as all resamples of all of them might fill the memory."""
        rows = [self._estimate(aggregate.iqm, one) for one in scores]
        value, low, high = (np.array([getattr(row, part) for row in rows]) for part in ("value", "low", "high"))
        return Band(marks, value, low, high)

    def _gap(self, final: np.ndarray | None, task: str) -> Estimate | None:
        if self.scores.bounds is None or final is None:
            return None
        low, high = (np.array([end]) for end in self.scores.bounds[task])
        return self._one(aggregate.optimality_gap, aggregate.normalised(final, low, high))

    def _one(self, statistic: Callable[[np.ndarray], np.ndarray], matrix: np.ndarray | None) -> Estimate | None:
        return None if matrix is None else self._estimate(statistic, matrix)

    def _estimate(self, statistic: Statistic, *scores: np.ndarray) -> Estimate:
        return Estimate(*(float(x) for x in self._bounded(statistic, *scores)))

    def _band(self, at: np.ndarray, statistic: Statistic, matrix: np.ndarray) -> Band:
        return Band(at, *self._bounded(statistic, matrix))

    def _bounded(self, statistic: Statistic, *scores: np.ndarray) -> np.ndarray:
        """Value, lower and upper bound; NaN for the bounds where all resamples are alike, being of a single run."""
        found = estimate(statistic, scores, np.random.default_rng(self.seed), self.resamples)
        if min(len(one) for one in scores) < FEWEST:
            found[1:] = np.nan
        return found
