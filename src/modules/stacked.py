"""N networks of one shape with parameters of their own, called in one batched operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state


class Stacked(nn.Module):
    """The parameters of N independently initialised networks as tensors [N, ...], evaluated by ``torch.func.vmap``.

    Inputs and outputs have the networks' axis at ``axis`` (agents: b t n ·, so 2). The networks must be without
    buffers, randomness and branches on values.
    """

    def __init__(self, make: Callable[[], nn.Module], n: int, axis: int = 2) -> None:
        """``make`` builds one network; it is called N times, so that each is initialised by itself."""
        super().__init__()
        networks = [make() for _ in range(n)]
        stacked, _ = stack_module_state(networks)
        self._names = list(stacked)
        self.stack = nn.ParameterList([nn.Parameter(stacked[name].detach()) for name in self._names])
        self._one = (networks[0].requires_grad_(False),)  # in a tuple: its parameters are not this module's
        self.n, self.axis = n, axis

    def state(self) -> dict[str, Tensor]:
        """The stacked parameters by their names in one network, each [N, ...]."""
        return dict(zip(self._names, self.stack, strict=True))

    def forward(self, *inputs: Any) -> Any:
        """Network k on slice k of every input along ``axis``; outputs are stacked there again."""

        def one(state: dict[str, Tensor], *xs: Any) -> Any:
            return functional_call(self._one[0], state, xs)

        return torch.vmap(one, in_dims=(0, *[self.axis] * len(inputs)), out_dims=self.axis)(self.state(), *inputs)
