"""A batch's gradient in two threads, half of the episodes in each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from core.specs import EpisodeBatch
from learners.base import gradients_of

Loss = Callable[[EpisodeBatch], Tensor]
"""A mean over the real steps of a batch that draws no random numbers."""


def in_halves(loss: Loss, batch: EpisodeBatch, params: Sequence[Tensor]) -> Float[Tensor, ""]:
    """``loss`` of a batch of two episodes or more, whose gradient with respect to ``params`` is computed here.

    Torch lets go of Python while it computes, so two threads keep two cores at work. Each has a loss of its own, of
    half of the episodes; values and gradients are summed in a fixed order, in proportion to the halves' real steps, so
    equal inputs give equal results. They differ from the whole batch's by the order of additions.
    """
    n, steps = len(batch) // 2, int(batch.length.sum())
    first, second = (_part(batch, rows) for rows in (slice(None, n), slice(n, None)))
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    other = _helper().submit(_descent, loss, second, int(second.length.sum()) / steps, params, dtype)
    value, gradients = _descent(loss, first, int(first.length.sum()) / steps, params, dtype)
    more, others = other.result()
    return _Known.apply(value + more, [_sum(*pair) for pair in zip(gradients, others, strict=True)], *params)


@lru_cache(maxsize=1)
def _helper() -> ThreadPoolExecutor:
    """The second thread, which lives as long as the process."""
    return ThreadPoolExecutor(1, "learner", torch.set_num_threads, (torch.get_num_threads(),))


def _part(batch: EpisodeBatch, rows: slice) -> EpisodeBatch:
    """Some of the episodes, on the same memory."""
    values: dict[str, Any] = {f.name: getattr(batch, f.name)[rows] for f in fields(EpisodeBatch) if f.name != "extras"}
    return EpisodeBatch(**values, extras={name: x[rows] for name, x in batch.extras.items()})


def _descent(
    loss: Loss, batch: EpisodeBatch, weight: float, params: Sequence[Tensor], dtype: torch.dtype | None
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """``weight`` times the loss, and its gradient. ``dtype``: of autocast, which every thread has to itself."""
    with torch.enable_grad(), torch.autocast("cpu", dtype, enabled=dtype is not None, cache_enabled=False):
        value = weight * loss(batch)
    return value.detach(), gradients_of(value, params, allow_unused=True)


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return one if other is None else other if one is None else one + other


class _Known(torch.autograd.Function):
    """A value whose gradient is known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor | None], *params: Tensor) -> Tensor:  # noqa: ARG004
        """The value; ``gradients`` are with respect to ``params``."""
        ctx.gradients = gradients
        return value

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        """``gradients``, times what comes from above."""
        return None, None, *(None if gradient is None else outer * gradient for gradient in ctx.gradients)
