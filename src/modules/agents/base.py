"""What every agent network can do."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from core.specs import EnvSpec, States
from modules.layers import FeedForwardEncoder, agent_inputs, last_actions, numbered


class Agent(nn.Module):
    """An encoder of each agent's history and a linear head with one output per action: utilities or logits.

    Every agent uses the same parameters; its number is part of the input (T-34).
    """

    def __init__(self, spec: EnvSpec, encoder: nn.Module, hidden_dim: int, last_action: bool = True) -> None:
        """``encoder`` is called like ``RecurrentEncoder``; ``hidden_dim`` is the width of its features and state.

        Without ``last_action`` agents see their observations and numbers only.
        """
        super().__init__()
        self.n_agents, self.hidden_dim, self.last_action = spec.n_agents, hidden_dim, last_action
        self.encoder = encoder
        self.head = nn.Linear(hidden_dim, spec.n_actions)

    @property
    def memoryless(self) -> bool:
        """Whether an agent's outputs depend on nothing but what it observes in the same step."""
        return isinstance(self.encoder, FeedForwardEncoder) and not self.last_action

    def initial_hidden(self, b: int) -> Float[Tensor, "b n h"]:
        """Zeros, where the parameters live."""
        return torch.zeros(b, self.n_agents, self.hidden_dim, device=self.head.weight.device)

    def encode(
        self,
        obs: Float[Tensor, "b t n o"],
        last: Float[Tensor, "b t n a"],
        hidden: Float[Tensor, "b n h"] | None = None,
        length: Int[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "b t n h"], Float[Tensor, "b n h"]]:
        """The features below the head, and the recurrent state; see ``RecurrentEncoder.forward``."""
        return self.encoder(self.inputs(obs, last), hidden, length)

    def inputs(self, obs: Float[Tensor, "b t n o"], last: Float[Tensor, "b t n a"]) -> Float[Tensor, "b t n i"]:
        """What the encoder reads."""
        return agent_inputs(obs, last) if self.last_action else numbered(obs)

    def walk(
        self, x: Float[Tensor, "m n i"], alive: list[int], start: Float[Tensor, "b n h"]
    ) -> Float[Tensor, "m n a"]:
        """The outputs at the steps of ``core.specs.in_turn`` from ``inputs`` and the memories before the first ones.

        The rows may be any agents': an agent's number is a part of its input.
        """
        return self.head(self.encoder.unroll(x, alive, start))

    def encode_states(self, states: States) -> Float[Tensor, "m 1 n h"]:
        """The features at every state of a batch, from empty memories."""
        whole = states.whole
        last = last_actions(whole.action, self.head.out_features)
        return states.pack(self.encode(states.spread(states.obs), last, None, whole.length + 1)[0])

    def forward(
        self,
        obs: Float[Tensor, "b t n o"],
        last: Float[Tensor, "b t n a"],
        hidden: Float[Tensor, "b n h"] | None = None,
        length: Int[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "b t n a"], Float[Tensor, "b n h"]]:
        """One output per action, and the recurrent state."""
        features, hidden = self.encode(obs, last, hidden, length)
        return self.head(features), hidden
