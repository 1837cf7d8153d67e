"""Aggregate scores of few runs on several tasks.

Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (NeurIPS 2021, arXiv 2108.13264);
its use in cooperative MARL: Gorsane et al., "Towards a Standardised Performance Evaluation Protocol for Cooperative
MARL" (NeurIPS 2022, arXiv 2209.10485).

Scores are [..., runs, tasks]; leading axes, such as one of resamples, are kept. Where scores are compared over tasks
they have to be normalised before.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num

TRIMMED = 0.25
"""The share of scores that the interquartile mean leaves out at either end."""


def iqm(scores: Num[np.ndarray, "*rest runs tasks"]) -> Float[np.ndarray, "*rest"]:
    """The interquartile mean over all runs and tasks together: the mean of the middle half of the scores.

    Whole scores are left out, a quarter of them at either end, rounded down; of fewer than four nothing is.
    """
    flat = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = int(TRIMMED * flat.shape[-1])
    return np.asarray(flat[..., cut : flat.shape[-1] - cut].mean(-1))


def mean(scores: Num[np.ndarray, "*rest runs tasks"]) -> Float[np.ndarray, "*rest"]:
    """The mean over tasks of the mean over runs."""
    return np.asarray(scores.mean((-2, -1)))


def median(scores: Num[np.ndarray, "*rest runs tasks"]) -> Float[np.ndarray, "*rest"]:
    """The median over tasks of the mean over runs."""
    return np.asarray(np.median(scores.mean(-2), axis=-1))


def optimality_gap(scores: Num[np.ndarray, "*rest runs tasks"], target: float = 1.0) -> Float[np.ndarray, "*rest"]:
    """How far the scores fall short of ``target`` on average; what lies beyond it does not make up for others."""
    return np.asarray(target - np.minimum(scores, target).mean((-2, -1)))


def probability_of_improvement(
    x: Num[np.ndarray, "*rest runs_x tasks"], y: Num[np.ndarray, "*rest runs_y tasks"]
) -> Float[np.ndarray, "*rest"]:
    """How likely a run of X scores higher than one of Y on a task drawn at random; ties are half (Mann-Whitney)."""
    ahead = np.sign(x[..., :, None, :] - y[..., None, :, :])
    return np.asarray((ahead.mean((-3, -2)) / 2 + 0.5).mean(-1))


def profile(
    scores: Num[np.ndarray, "*rest runs tasks"], thresholds: Float[np.ndarray, " taus"]
) -> Float[np.ndarray, "*rest taus"]:
    """The performance profile: the share of runs over all tasks that score above each threshold."""
    flat = scores.reshape(*scores.shape[:-2], -1)
    return np.stack([(flat > threshold).mean(-1) for threshold in thresholds], -1)


def normalised(
    scores: Num[np.ndarray, "*rest tasks"], low: Num[np.ndarray, " tasks"], high: Num[np.ndarray, " tasks"]
) -> Float[np.ndarray, "*rest tasks"]:
    """0 at each task's ``low`` and 1 at its ``high``; not clipped.

    Raises:
        ValueError: a task's ``high`` is not above its ``low``.
    """
    if not (high > low).all():
        raise ValueError(f"normalisation needs low < high for every task, not {low.tolist()} and {high.tolist()}")
    return (scores - low) / (high - low)
