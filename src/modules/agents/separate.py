"""Agents that share nothing: one network each, all called at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from core.specs import EnvSpec
from modules.layers import RecurrentEncoder
from modules.stacked import Stacked


class SeparateAgents(nn.Module):
    """N networks of one kind with parameters of their own, called like one ``Agent``.

    Each sees its agent as the only one: its own observation and last action, and a number that is always 1.
    """

    def __init__(self, make: Callable[[EnvSpec], nn.Module], spec: EnvSpec) -> None:
        """``make`` builds the network of one agent for a spec with one agent; it is called N times."""
        super().__init__()
        alone = replace(spec, actions=(replace(spec.actions[0], n=spec.n_actions),), obs_dims=(spec.obs_dim,))
        self.networks: Stacked = Stacked(lambda: _Alone(make(alone)), spec.n_agents)
        self.hidden_dim: int = self.networks.example.agent.hidden_dim
        self.memoryless: bool = self.networks.example.agent.memoryless
        self.last_action: bool = self.networks.example.agent.last_action

    def initial_hidden(self, b: int) -> Float[Tensor, "b n h"]:
        """Zeros, where the parameters live."""
        return torch.zeros(b, self.networks.n, self.hidden_dim, device=next(self.parameters()).device)

    def forward(
        self,
        obs: Float[Tensor, "b t n o"],
        last: Float[Tensor, "b t n a"],
        hidden: Float[Tensor, "b n h"] | None = None,
        length: Int[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "b t n p"], Float[Tensor, "b n h"]]:
        """Each network's outputs for its agent, and the recurrent state; see ``Agent.forward``."""
        hidden = self.initial_hidden(len(obs)) if hidden is None else hidden
        out, after = self.networks(obs, last, hidden[:, None], common=(length,))
        return out, after[:, 0]

    def single(
        self,
        parameters: dict[str, Tensor],
        obs: Float[Tensor, "b t 1 o"],
        last: Float[Tensor, "b t 1 a"],
        hidden: Float[Tensor, "b 1 h"],
        length: Int[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "b t 1 p"], Float[Tensor, "b 1 h"]]:
        """One agent's network with ``parameters``, such as ``networks.leaves(i)``."""
        out, after = self.networks.single(parameters, obs[:, :, 0], last[:, :, 0], hidden, length)
        return out[:, :, None], after


class _Alone(nn.Module):
    """An agent network without the axis of agents, but in the recurrent state, where it stands in for that of time."""

    def __init__(self, agent: nn.Module) -> None:
        super().__init__()
        self.agent = agent
        for module in agent.modules():
            if isinstance(module, RecurrentEncoder):
                module.fused = False

    def forward(self, obs: Tensor, last: Tensor, hidden: Tensor, length: Tensor | None) -> tuple[Tensor, Tensor]:
        out, after = self.agent(obs[:, :, None], last[:, :, None], hidden, length)
        return out[:, :, 0], after
