"""A recurrent agent: Linear-ReLU-GRU-Linear."""

from __future__ import annotations

from dataclasses import dataclass

from core.registry import AGENTS
from core.specs import EnvSpec
from modules.agents.base import Agent
from modules.layers import RecurrentEncoder, input_dim


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
