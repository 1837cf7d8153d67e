"""Raw results in the layout that marl-eval reads (Gorsane et al. 2022), which BenchMARL and Mava write, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from comparison.groups import Groups
from comparison.runs import Run
from comparison.scores import Scores


def export(groups: Groups, scores: Sequence[Scores]) -> dict[str, Any]:
    """By environment, task, algorithm, run, step and metric every episode's value; the mean where only that was kept.

    All metrics must have been collected from ``groups``. Marks stand for steps, so that runs can be merged.
    """
    data: dict[str, Any] = {}
    for algorithm, runs in groups.items():
        for run in runs:
            env, _, task = run.task.partition("/")
            of_task = data.setdefault(env, {}).setdefault(task or env, {}).setdefault(algorithm.replace(",", ";"), {})
            of_task[_unused(f"seed_{run.seed}", of_task)] = _steps(run, scores)
    return data


def _unused(name: str, taken: dict[str, Any]) -> str:
    """Two runs may have one seed."""
    return name if name not in taken else _unused(f"{name}_again", taken)


def _steps(run: Run, scores: Sequence[Scores]) -> dict[str, Any]:
    marks = scores[0].marks[run.task].tolist()
    at = {run.mark(t_env): t_env for t_env, _ in run.curves[scores[0].metric]}
    steps: dict[str, Any] = {}
    for number, mark in enumerate(marks):
        values = {_plain(one.metric): _values(run, one.metric, at[mark], mark) for one in scores}
        steps[f"step_{number}"] = {"step_count": mark, **values}
    absolute = {_plain(one.metric): run.absolute(one.metric) for one in scores}
    if all(absolute.values()):
        steps["absolute_metrics"] = absolute
    return steps


def _plain(metric: str) -> str:
    return metric.removeprefix("test_").removesuffix("_mean")


def _values(run: Run, metric: str, t_env: int, mark: int) -> list[float]:
    kept = run.episodes.get(t_env, {}).get(_plain(metric))
    values = kept if kept is not None else [run.at_marks(metric)[mark]]
    return [float(np.nan) if value is None else float(value) for value in values]
