"""Local values of actions with what mixes them."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from modules.critics.action import ActionCritic, LocalCritic
from modules.mixers.base import Mixer


class MixedCritic(ActionCritic):
    """Q_tot(s, a) = M(Q_1, …, Q_N; s)."""

    mixer: Any

    def __init__(self, local: LocalCritic, mixer: Mixer) -> None:
        """``mixer`` has a ``forward``: it does not read the joint action."""
        super().__init__()
        self.local, self.mixer = local, mixer

    def forward(
        self, state: Float[Tensor, "b t s"], obs: Float[Tensor, "b t n o"], action: Float[Tensor, "b t n a"]
    ) -> Float[Tensor, "b t"]:
        """Q_tot."""
        return self.mixer(self.local(state, obs, action), state)
