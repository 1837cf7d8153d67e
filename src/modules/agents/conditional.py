"""Outputs that may lean on the actions of the agents before (MACPF)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import elu, embedding, linear

from core.specs import EnvSpec, States
from modules.agents.base import Agent


class ConditionalHead(nn.Module):
    r"""f_i(τ_i) alone, and f_i(τ_i, a_{<i}); serves as MACPF's policy and as its critic (algorithms.md 8.1).

    Wang, Ye & Lu, "More Centralized Training, Still Decentralized Execution" (ICLR 2023):

    .. math::
        d_i = \frac{1}{N} \sum_{j<i} vis_{ij}\, ELU(W_d [id_j, onehot(a_j)]), \qquad
        f_i^{dep} = sg[f_i^{ind}] + W_2\, ELU(W_1 [sg[h_i], d_i])

    The correction reads the trunk's features without training them (T-29), and only ever the actions of agents with
    smaller numbers (T-30). The parameters are shared by the agents, whose numbers are in the inputs (T-34).
    """

    earlier: Tensor

    def __init__(self, spec: EnvSpec, agent: Agent, dependent: bool = True) -> None:
        """Wraps any registered agent.

        Args:
            spec: sizes.
            agent: its encoder gives h_i, its head the independent output.
            dependent: False builds no correction, so that only the independent output exists (MACPF_CONTROL).
        """
        super().__init__()
        h = agent.hidden_dim
        self.n_agents, self.hidden_dim, self.agent = spec.n_agents, h, agent
        if dependent:
            self.embed = nn.Linear(spec.n_agents + spec.n_actions, h)
            self.correct = nn.Sequential(nn.Linear(2 * h, h), nn.ELU(), nn.Linear(h, spec.n_actions))
        earlier = torch.ones(spec.n_agents, spec.n_agents, dtype=torch.bool).tril(-1)
        self.register_buffer("earlier", earlier, persistent=False)

    def initial_hidden(self, b: int) -> Float[Tensor, "b n h"]:
        """The agent's."""
        return self.agent.initial_hidden(b)

    def encode(
        self,
        obs: Float[Tensor, "b t n o"],
        last: Float[Tensor, "b t n a"],
        hidden: Float[Tensor, "b n h"] | None = None,
        length: Int[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "b t n h"], Float[Tensor, "b n h"]]:
        """The agent's features h_i and recurrent state."""
        return self.agent.encode(obs, last, hidden, length)

    def encode_states(self, states: States) -> Float[Tensor, "m 1 n h"]:
        """The agent's features at every state of a batch."""
        return self.agent.encode_states(states)

    def independent(self, h: Float[Tensor, "b t n h"]) -> Float[Tensor, "b t n a"]:
        """f_i^ind: reads nobody's action."""
        return self.agent.head(h)

    def dependent(
        self,
        h: Float[Tensor, "b t n h"],
        action: Int[Tensor, "b t n"],
        visible: Bool[Tensor, "b t n n"] | None = None,
    ) -> Float[Tensor, "b t n a"]:
        """f_i^dep of all agents at once.

        Args:
            h: features of ``encode``.
            action: every agent's action; agent i reads those of j < i only.
            visible: [.., i, j]: agent i sees agent j; None: everybody sees everybody.
        """
        messages = self.messages()
        rows = action + len(messages[0]) * torch.arange(self.n_agents, device=action.device)
        reads = self.earlier if visible is None else self.earlier & visible
        first, alone = self.unheard(h)
        return self.given(first + reads.to(h.dtype) @ embedding(rows, messages.flatten(0, 1)), alone)

    def messages(self) -> Float[Tensor, "n a h"]:
        """What every agent tells those behind it by each of its actions: its part of W_1's output.

        W_1 is linear in d_i, so that it is applied once to each of the N A possible messages, not to every sum of
        them; and acting in turn is linear in N: each message is added to the agents behind that see its sender.
        """
        number, action = self.embed.weight.split([self.n_agents, self.embed.in_features - self.n_agents], 1)
        told = elu(number.t()[:, None] + action.t() + self.embed.bias)
        correct: Any = self.correct
        return linear(told, correct[0].weight[:, self.hidden_dim :]) / self.n_agents

    def unheard(self, h: Float[Tensor, "b t n h"]) -> tuple[Float[Tensor, "b t n h"], Float[Tensor, "b t n a"]]:
        """W_1's output while nobody has told anything, and sg[f_i^ind]; neither trains the trunk."""
        correct: Any = self.correct
        trunk, first = h.detach(), correct[0]
        return linear(trunk, first.weight[:, : self.hidden_dim], first.bias), self.agent.head(trunk).detach()

    def given(self, first: Float[Tensor, "*b h"], alone: Float[Tensor, "*b a"]) -> Float[Tensor, "*b a"]:
        """f_i^dep of some agents: ``first`` is what ``unheard`` gives and the messages that they read."""
        correct: Any = self.correct
        return alone + correct[2](correct[1](first))
