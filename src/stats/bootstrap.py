"""Stratified bootstrap: how much an aggregate would change with other seeds (Agarwal et al. 2021, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int, Num

Statistic = Callable[..., np.ndarray]
"""From scores [..., runs, tasks] (or several of them) to one value, or several, for each of the leading axes."""

RESAMPLES = 2000
CONFIDENCE = 0.95


def draw(rng: np.random.Generator, resamples: int, runs: int, tasks: int) -> Int[np.ndarray, "resamples runs tasks"]:
    """Which run stands in for which: drawn with replacement within every task, each task on its own."""
    return rng.integers(runs, size=(resamples, runs, tasks))


def resampled(
    scores: Num[np.ndarray, "runs tasks"], which: Int[np.ndarray, "resamples runs tasks"]
) -> Num[np.ndarray, "resamples runs tasks"]:
    """The scores of every resample."""
    return scores[which, np.arange(scores.shape[1])]


def interval(
    statistic: Statistic,
    scores: Sequence[Num[np.ndarray, "_ tasks"]],
    which: Sequence[Int[np.ndarray, "resamples _ tasks"]],
    confidence: float = CONFIDENCE,
) -> Float[np.ndarray, "2 *rest"]:
    """The percentile interval of ``statistic`` over resamples.

    Args:
        statistic: of as many arrays as there are ``scores``.
        scores: one array, or two for a comparison of two algorithms, which may have different numbers of runs.
        which: the resamples of each, from ``draw``.
        confidence: the share of resamples within.

    Returns:
        Lower and upper bounds.
    """
    values = statistic(*(resampled(one, drawn) for one, drawn in zip(scores, which, strict=True)))
    tail = (1 - confidence) / 2
    return np.quantile(values, [tail, 1 - tail], axis=0)


def estimate(
    statistic: Statistic,
    scores: Sequence[Num[np.ndarray, "_ tasks"]],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Float[np.ndarray, "3 *rest"]:
    """The statistic of the scores themselves, and its interval: value, lower, upper."""
    which = [draw(rng, resamples, *one.shape) for one in scores]
    bounds = interval(statistic, scores, which, confidence)
    return np.concatenate([np.asarray(statistic(*scores))[None], bounds])
