"""MAPPO's agent."""

from __future__ import annotations

from dataclasses import dataclass

from core.registry import AGENTS
from core.specs import EnvSpec
from modules.agents.base import Agent
from modules.block import Block, BlockConfig, orthogonal
from modules.layers import input_dim


@AGENTS.register
class PPOAgent(Agent):
    """MAPPO's block and a head that starts with nearly equal outputs (Yu et al. 2022; algorithms.md 1.13)."""

    @dataclass(frozen=True, kw_only=True)
    class Config(BlockConfig):
        """Keys of the block."""

    def __init__(self, spec: EnvSpec, cfg: Config) -> None:
        super().__init__(spec, Block(input_dim(spec), cfg), cfg.hidden_dim)
        orthogonal(self.head, 0.01)
