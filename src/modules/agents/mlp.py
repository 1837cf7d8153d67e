"""A feed-forward agent, for games whose current observation says everything."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from core.registry import AGENTS
from core.specs import EnvSpec
from modules.layers import FeedForwardEncoder, agent_inputs, input_dim


@AGENTS.register
class MLPAgent(nn.Module):
    """One output per action from the current input alone; the interface of ``RNNAgent``, whose state stays as it is."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Keys of the feed-forward agent."""

        hidden_dim: int = 64
        """Width of each hidden layer."""
        layers: int = 1
        """Number of hidden layers."""

    def __init__(self, spec: EnvSpec, cfg: Config) -> None:
        super().__init__()
        self.n_agents, self.hidden_dim = spec.n_agents, cfg.hidden_dim
        self.encoder = FeedForwardEncoder(input_dim(spec), cfg.hidden_dim, cfg.layers)
        self.head = nn.Linear(cfg.hidden_dim, spec.n_actions)

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
        """The features below the head, and the unchanged state; see ``RecurrentEncoder.forward``."""
        return self.encoder(agent_inputs(obs, last), hidden, length)

    def forward(
        self,
        obs: Float[Tensor, "b t n o"],
        last: Float[Tensor, "b t n a"],
        hidden: Float[Tensor, "b n h"] | None = None,
        length: Int[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "b t n a"], Float[Tensor, "b n h"]]:
        """One output per action, and the unchanged state."""
        features, hidden = self.encode(obs, last, hidden, length)
        return self.head(features), hidden
