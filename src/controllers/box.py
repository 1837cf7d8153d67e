"""What ways of acting in a box of real numbers share."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.specs import EnvSpec
from modules.agents.base import Agent


def unmet_box(spec: EnvSpec) -> str | None:
    """Why nobody can act there with one vector per agent, or None."""
    if any(action.discrete for action in spec.actions):
        return "it needs actions in a box; for discrete ones there is mac=policy_mac"
    same = len({action.n for action in spec.actions}) == 1
    return None if same else "it needs boxes of equally many dimensions"


def bounds(spec: EnvSpec) -> tuple[Float[Tensor, "n 1"], Float[Tensor, "n 1"]]:
    """The lowest and the highest number that each agent may give."""
    low, high = ([[getattr(action, name)] for action in spec.actions] for name in ("low", "high"))
    return torch.tensor(low), torch.tensor(high)


def centred(agent: Agent) -> Agent:
    """``agent`` with outputs that are 0 at the start, which squashed are the boxes' centres."""
    nn.init.zeros_(agent.head.weight)
    nn.init.zeros_(agent.head.bias)
    return agent
