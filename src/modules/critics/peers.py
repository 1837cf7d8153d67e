"""Critics of agents that learn by themselves: one each, with weights of its own, that are exchanged or not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Worth(NamedTuple):
    """What a critic says at every step."""

    q: Float[Tensor, "b t n *a"]
    cost: Float[Tensor, "b t n"] | None = None
    """What the critic adds to its own loss there, so that it stays well-behaved; None: nothing."""


class PeerCritic(nn.Module, ABC):
    """N critics: agent i's is made of everybody's observations and of the joint action as agent i believes it to be.

    All N are stacked parameters [N, ...] and evaluated in the same operations.
    """

    reads_actions = True
    """False: ``joint`` is not read, and may be of any size."""

    @abstractmethod
    def forward(self, obs: Float[Tensor, "b t n o"], joint: Float[Tensor, "b t i n a"]) -> Worth:
        """The values at t states.

        Args:
            obs: everybody's observations.
            joint: ``joint[:, :, i, j]`` is agent j's action as a vector, as agent i believes it to be. The axis i has
                length 1 where all believe the same.
        """

    @abstractmethod
    def shared(self) -> list[nn.Parameter]:
        """The stacked parameters on which agents agree; the others are an agent's own."""


class OwnActionCritic(PeerCritic):
    """Q_i(o, (·, a_-i)): the values of all of agent i's own actions [b, t, n, a]. What it did is not read."""


class RelaxedCritic(PeerCritic):
    """Q_i(o, a): one value [b, t, n], with a gradient with respect to the actions."""


def others_only(joint: Float[Tensor, "b t i n a"]) -> Float[Tensor, "b t n n a"]:
    """Every agent's own action zeroed in what it believes."""
    others = ~torch.eye(joint.shape[3], dtype=torch.bool, device=joint.device)[..., None]
    return joint * others
