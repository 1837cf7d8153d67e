"""The steps before a state, as far as they belong to the same episode."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.specs import EpisodeBatch

PAST_OBS, PAST_ACTION, PAST_REAL = "past_obs", "past_action", "past_real"
"""The extras of single steps that say what was before them, oldest first: [b, k, n, o], [b, k, n] and [b, k]."""


class Past(NamedTuple):
    """The k steps before each state, oldest first; zeros where the episode had not begun."""

    obs: Float[Tensor, "b states k n o"]
    action: Int[Tensor, "b states k n"]
    real: Bool[Tensor, "b states k"]
    """False where the episode had not begun."""


def past_of(batch: EpisodeBatch, k: int) -> Past:
    """The ``k`` steps before every state of whole episodes, or of single steps drawn with ``past=k``; views.

    A single step is itself the newest one before the state that follows it. At states beyond an episode's last one
    the windows mean nothing.

    Raises:
        ValueError: the steps were drawn with another number of past ones.
    """
    b, t, n = batch.action.shape
    before_obs = batch.extras.get(PAST_OBS)
    if before_obs is None:
        before_obs, before_action = batch.obs.new_zeros(b, k, *batch.obs.shape[2:]), batch.action.new_zeros(b, k, n)
        before_real = torch.zeros(b, k, dtype=torch.bool, device=batch.obs.device)
    else:
        before_action, before_real = batch.extras[PAST_ACTION], batch.extras[PAST_REAL]
    if before_obs.shape[1] != k:
        raise ValueError(f"the steps were drawn with past={before_obs.shape[1]}, but {k} steps are asked for")

    def windows(before: Tensor, after: Tensor) -> Tensor:
        return torch.cat([before, after], 1).unfold(1, k, 1).movedim(-1, 2)

    return Past(
        windows(before_obs, batch.obs[:, :t]),
        windows(before_action, batch.action),
        windows(before_real, batch.mask > 0),
    )
