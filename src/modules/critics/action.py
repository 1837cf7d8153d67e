"""Critics with a gradient with respect to the actions, which they read as vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn


class ActionCritic(nn.Module, ABC):
    """Q of actions as vectors: those of a box, or one-hots of numbered ones and what is relaxed to them."""

    @abstractmethod
    def forward(
        self, state: Float[Tensor, "b t s"], obs: Float[Tensor, "b t n o"], action: Float[Tensor, "b t n a"]
    ) -> Float[Tensor, "b t *n"]:
        """The values of a joint action at t states."""


class LocalCritic(ActionCritic):
    """Q_i of each agent's own action, from [b, t, n]; what mixers make one value of."""
