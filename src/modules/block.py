"""The network block of MAPPO (Yu et al. 2022): normalised layers and a GRU, orthogonally initialised."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from core.specs import in_turn
from modules.layers import FeedForwardEncoder, RecurrentEncoder, at_end, unpack


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """Keys of the block; agent and critic have the same, so one value sets both."""

    hidden_dim: int = 64
    """Width of every layer and of the GRU."""
    mlp_layers: int = 2
    """Linear layers before the GRU, each followed by ReLU and LayerNorm."""
    recurrent: bool = True
    """False: no GRU, only the current step is seen."""
    feature_norm: bool = True
    """LayerNorm on the input itself."""

    def __post_init__(self) -> None:
        """Raises ValueError where nothing would be computed."""
        if self.mlp_layers < 1:
            raise ValueError(f"mlp_layers must be at least 1, not {self.mlp_layers}")


class Block(nn.Module):
    """LayerNorm, ``mlp_layers`` times Linear-ReLU-LayerNorm, then GRU-LayerNorm (algorithms.md 1.13).

    ReLU as in the paper; the release's scripts switch to tanh by accident (T-37).
    """

    def __init__(self, input_dim: int, cfg: BlockConfig) -> None:
        super().__init__()
        dims = [input_dim, *[cfg.hidden_dim] * cfg.mlp_layers]
        layers: list[nn.Module] = [nn.LayerNorm(input_dim)] if cfg.feature_norm else []
        for i, o in pairwise(dims):
            layers += [nn.Linear(i, o), nn.ReLU(), nn.LayerNorm(o)]
        body = nn.Sequential(*layers)
        orthogonal(body, 2**0.5)
        self.encoder: nn.Module
        self.norm: nn.Module
        if cfg.recurrent:
            encoder = RecurrentEncoder(input_dim, cfg.hidden_dim, body)
            orthogonal(encoder.rnn, 1.0)
            self.encoder, self.norm = encoder, nn.LayerNorm(cfg.hidden_dim)
        else:
            self.encoder, self.norm = FeedForwardEncoder(input_dim, cfg.hidden_dim, net=body), nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "b t n i"],
        hidden: Float[Tensor, "b n h"] | None = None,
        length: Int[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "b t n h"], Float[Tensor, "b n h"]]:
        """As ``RecurrentEncoder.forward``, but that features beyond an episode's length are some finite constant."""
        features, hidden = self.encoder(x, hidden, length)
        return self.norm(features), hidden

    @property
    def splits(self) -> bool:
        """Whether ``numbered`` can be called."""
        return isinstance(self.encoder, RecurrentEncoder)

    def numbered(
        self, x: Float[Tensor, "b t j"], n: int, hidden: Float[Tensor, "b n h"], length: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b t n h"], Float[Tensor, "b n h"]]:
        """As ``forward`` of x and each agent's one-hot number: what the numbers do not change is computed once.

        Numbers move the mean and the variance of all agents' inputs alike.
        """
        b, t = x.shape[:2]
        rows, alive, order = in_turn(length, t)
        x, scale = pad(x.flatten(0, 1).index_select(0, rows), (0, n)), x.new_ones(1, 1)
        embed: Any = self.encoder.embed
        layers = list(embed)
        norm = layers.pop(0) if isinstance(layers[0], nn.LayerNorm) else None
        first, *rest = layers
        weight, bias = first.weight, first.bias
        if norm is not None:
            mean = (x.sum(-1, keepdim=True) + 1) / x.shape[-1]
            x = x - mean
            scale = ((x.square().sum(-1, keepdim=True) + 1 - 2 * mean) / x.shape[-1] + norm.eps).rsqrt()
            x, weight, bias = x * scale, weight * norm.weight, bias + weight @ norm.bias
        y = linear(x, weight, bias).unsqueeze(1) + scale.unsqueeze(-1) * weight[:, -n:].t()
        for layer in rest:
            y = layer(y)
        states = unpack(self.encoder.walk(y, alive, hidden[order]), rows, b, t)
        return self.norm(states), at_end(states, length)

    def unroll(
        self, x: Float[Tensor, "m n i"], alive: list[int], start: Float[Tensor, "b n h"]
    ) -> Float[Tensor, "m n h"]:
        """As ``RecurrentEncoder.unroll``."""
        return self.norm(self.encoder.unroll(x, alive, start))


@torch.no_grad()
def orthogonal(module: nn.Module, gain: float) -> nn.Module:
    """``module`` with orthogonal weight matrices and zero biases in its linear and recurrent layers."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.GRU):
            for p in layer.parameters(recurse=False):
                nn.init.orthogonal_(p, gain) if p.dim() == 2 else nn.init.zeros_(p)
    return module
