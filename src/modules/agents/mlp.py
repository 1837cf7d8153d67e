"""A feed-forward agent, for games whose current observation says everything."""

from __future__ import annotations

from dataclasses import dataclass

from core.registry import AGENTS
from core.specs import EnvSpec
from modules.agents.base import Agent
from modules.layers import FeedForwardEncoder, input_dim


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

    def __init__(self, spec: EnvSpec, cfg: Config) -> None:
        encoder = FeedForwardEncoder(input_dim(spec, cfg.last_action), cfg.hidden_dim, cfg.layers)
        super().__init__(spec, encoder, cfg.hidden_dim, cfg.last_action)
