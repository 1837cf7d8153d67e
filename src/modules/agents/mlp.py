"""A feed-forward agent, for games whose current observation says everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from core.registry import AGENTS
from core.specs import EnvSpec, States
from modules.agents.base import Agent
from modules.layers import FeedForwardEncoder, clipped, input_dim, last_of, mlp


@AGENTS.register
class MLPAgent(Agent):
    """One output per action from an agent's current input alone; its recurrent state stays as it is."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Keys of the feed-forward agent."""

        hidden_dim: int = 64
        """Width of each hidden layer."""
        layers: int = 1
        """Number of hidden layers."""
        last_action: bool = True
        """Whether an agent sees its last action, too."""
        activation: Literal["relu", "leaky_relu"] = "relu"
        """Between the layers."""
        obs_clip: float | None = None
        """Observations are cut to this size; null: they are not."""

    def __init__(self, spec: EnvSpec, cfg: Config) -> None:
        activation = nn.ReLU if cfg.activation == "relu" else nn.LeakyReLU
        net = mlp(input_dim(spec, cfg.last_action), *[cfg.hidden_dim] * cfg.layers, activation=activation)
        encoder = FeedForwardEncoder(0, cfg.hidden_dim, net=nn.Sequential(net, activation()))
        super().__init__(spec, encoder, cfg.hidden_dim, cfg.last_action)
        self.obs_clip = cfg.obs_clip

    def inputs(self, obs: Float[Tensor, "b t n o"], last: Float[Tensor, "b t n a"]) -> Float[Tensor, "b t n i"]:
        """See ``Agent.inputs``."""
        return super().inputs(clipped(obs, self.obs_clip), last)

    def encode_states(self, states: States) -> Float[Tensor, "m 1 n h"]:
        """See ``Agent.encode_states``: each state by itself."""
        return self.encode(states.obs, last_of(states, self.head.out_features))[0]
