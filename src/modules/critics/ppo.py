"""MAPPO's critic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from core.registry import CRITICS
from modules.block import Block, BlockConfig, orthogonal
from modules.critics.history import HistoryCritic
from modules.layers import mlp


@CRITICS.register
class PPOCritic(HistoryCritic):
    """MAPPO's block with a linear head (Yu et al. 2022), or, for MAIPG, with an MLP that also reads an action."""

    @dataclass(frozen=True, kw_only=True)
    class Config(BlockConfig):
        """Keys of the block."""

    def __init__(self, input_dim: int, n_outputs: int, action_dim: int, cfg: Config) -> None:
        super().__init__()
        h = self.hidden_dim = cfg.hidden_dim
        self.block = Block(input_dim, cfg)
        self.head = orthogonal(mlp(h + action_dim, h, n_outputs) if action_dim else nn.Linear(h, n_outputs), 1.0)

    def initial_hidden(self, b: int, n: int) -> Float[Tensor, "b n h"]:
        """Zeros."""
        return torch.zeros(b, n, self.hidden_dim, device=next(self.parameters()).device)

    def encode(
        self,
        x: Float[Tensor, "b t n i"],
        hidden: Float[Tensor, "b n h"] | None = None,
        length: Int[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "b t n h"], Float[Tensor, "b n h"]]:
        """The block's features."""
        return self.block(x, hidden, length)

    def encode_numbered(
        self,
        state: Float[Tensor, "b t s"],
        n: int,
        hidden: Float[Tensor, "b n h"],
        length: Int[Tensor, " b"],
    ) -> tuple[Float[Tensor, "b t n h"], Float[Tensor, "b n h"]]:
        """See ``HistoryCritic.encode_numbered``; on a CPU the state goes through the first layer once."""
        if state.device.type != "cpu" or not self.block.splits:
            return super().encode_numbered(state, n, hidden, length)
        return self.block.numbered(state, n, hidden, length)
