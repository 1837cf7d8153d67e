"""A recurrent agent: Linear-ReLU-GRU-Linear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding

from core.registry import AGENTS
from core.specs import EnvSpec, States
from modules.agents.base import Agent
from modules.layers import RecurrentEncoder, input_dim, walk_together


@AGENTS.register
class RNNAgent(Agent):
    """One output per action from an agent's own history (algorithms.md 1.13)."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Keys of the recurrent agent."""

        hidden_dim: int = 64
        """Width of the embedding and of the GRU."""

    def __init__(self, spec: EnvSpec, cfg: Config) -> None:
        super().__init__(spec, RecurrentEncoder(input_dim(spec), cfg.hidden_dim), cfg.hidden_dim)

    def encode_states(self, states: States) -> Float[Tensor, "m 1 n h"]:
        """See ``Agent.encode_states``."""
        return encode_together([self], states)[0] if self.packs(states) else super().encode_states(states)

    def packs(self, states: States) -> bool:
        """Whether its inputs can be looked up and its steps taken without padding."""
        return not states.action.is_floating_point() and states.obs.device.type == "cpu"

    def embedded(self, states: States) -> Float[Tensor, "m 1 n h"]:
        """Linear-ReLU of the inputs without building them: what an agent's last action and number add is looked up."""
        embed: Any = self.encoder.embed
        linear, n_actions = embed[0], self.head.out_features
        own, last, number = linear.weight.split([states.obs.shape[-1], n_actions, self.n_agents], 1)
        none_yet = torch.cat([last.t(), last.new_zeros(1, len(last))])
        added = number.t()[:, None] + none_yet + linear.bias
        row = states.last_action(n_actions) + (n_actions + 1) * torch.arange(self.n_agents, device=own.device)
        shift = embedding(row.flatten(), added.flatten(0, 1))
        y = torch.addmm(shift, states.obs.flatten(0, 2), own.t()).relu_()
        return y.view(*states.obs.shape[:3], -1)


def encode_together(agents: Sequence[Any], states: States) -> list[Float[Tensor, "m 1 n h"]]:
    """Several agents' ``encode_states``; recurrent ones of one shape take their steps together."""
    alike = all(type(a) is RNNAgent and a.packs(states) and a.hidden_dim == agents[0].hidden_dim for a in agents)
    if not alike:
        return [agent.encode_states(states) for agent in agents]
    y = [agent.embedded(states).squeeze(1) for agent in agents]
    return [h.unsqueeze(1) for h in walk_together([agent.encoder for agent in agents], y, states.alive)]
