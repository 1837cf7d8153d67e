"""Critics that remember what they have seen."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float, Int
from torch import Tensor, nn

from modules.layers import with_numbers


class HistoryCritic(nn.Module, ABC):
    """Values of histories, and of actions where they are given.

    ``n`` in the shapes counts what has a history of its own: the agents, or 1 for the team's state. Built with the
    width of an input, the number of outputs, and the width of the action that the head reads beside the features (0
    for none).
    """

    head: nn.Module
    """Makes the outputs of the features, or of features and action."""

    @abstractmethod
    def initial_hidden(self, b: int, n: int) -> Float[Tensor, "b n h"]:
        """The recurrent state at the start of b episodes, where the parameters live."""

    @abstractmethod
    def encode(
        self,
        x: Float[Tensor, "b t n i"],
        hidden: Float[Tensor, "b n h"] | None = None,
        length: Int[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "b t n h"], Float[Tensor, "b n h"]]:
        """The features below the head, and the recurrent state; see ``RecurrentEncoder.forward``."""

    def encode_numbered(
        self,
        state: Float[Tensor, "b t s"],
        n: int,
        hidden: Float[Tensor, "b n h"],
        length: Int[Tensor, " b"],
    ) -> tuple[Float[Tensor, "b t n h"], Float[Tensor, "b n h"]]:
        """``encode`` of the state and each agent's number, for all n agents."""
        return self.encode(with_numbers(state, n), hidden, length)

    def forward(
        self,
        x: Float[Tensor, "b t n i"],
        hidden: Float[Tensor, "b n h"] | None = None,
        length: Int[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "b t n v"], Float[Tensor, "b n h"]]:
        """The head's outputs, and the recurrent state, for critics without actions."""
        features, hidden = self.encode(x, hidden, length)
        return self.head(features), hidden
