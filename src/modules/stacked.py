"""N networks of one shape with parameters of their own, called in one batched operation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.optim import Optimizer
from torch.optim.adam import adam


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

    @property
    def example(self) -> Any:
        """One network, of which only the structure means anything."""
        return self._one[0]

    def state(self) -> dict[str, Tensor]:
        """The stacked parameters by their names in one network, each [N, ...]."""
        return dict(zip(self._names, self.stack, strict=True))

    def forward(self, *inputs: Any, common: tuple[Any, ...] = ()) -> Any:
        """Network k on slice k of every input along ``axis``; outputs are stacked there again.

        ``common`` are further inputs, the same for every network and no part of the batched operation.
        """

        def one(state: dict[str, Tensor], *xs: Any) -> Any:
            return self.single(state, *xs, *common)

        return torch.vmap(one, in_dims=(0, *[self.axis] * len(inputs)), out_dims=self.axis)(self.state(), *inputs)

    def single(self, state: dict[str, Tensor], *inputs: Any) -> Any:
        """One network, with the parameters ``state``."""
        return functional_call(self.example, state, inputs)

    def leaves(self, k: int) -> dict[str, Tensor]:
        """Network k's parameters by name, to be differentiated by themselves; they share the stack's memory."""
        return {name: p.detach()[k].requires_grad_() for name, p in self.state().items()}


class StackedAdam(Optimizer):
    """Adam (Kingma & Ba 2015) for stacked parameters [N, ...], of which one network takes a step at a time.

    Each network has moments and a count of steps of its own, so the others stay exactly as they are.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, eps: float) -> None:
        super().__init__(params, {"lr": lr, "eps": eps, "betas": (0.9, 0.999), "fused": True})

    @torch.no_grad()
    def step_of(self, k: int, gradients: Iterable[Tensor]) -> None:
        """One step of network k along its ``gradients``, in the order of the parameters."""
        group = self.param_groups[0]
        states = [self._state(p) for p in group["params"]]
        adam(
            [p.detach()[k] for p in group["params"]],
            list(gradients),
            [state["exp_avg"][k] for state in states],
            [state["exp_avg_sq"][k] for state in states],
            [],
            [state["step"][k] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )

    @torch.no_grad()
    def step_where(self, which: Tensor | None, gradients: Iterable[Tensor]) -> None:
        """One step of every network of ``which`` [N], along its slice of ``gradients`` [N, ...]; the others stay.

        None: all of them, which takes fewer passes over the parameters.
        """
        group = self.param_groups[0]
        beta1, beta2 = group["betas"]
        for p, gradient in zip(group["params"], gradients, strict=True):
            state, axes = self._state(p), (-1, *[1] * (p.dim() - 1))
            first, second = state["exp_avg"], state["exp_avg_sq"]
            if which is None:
                state["step"] += 1
                first.lerp_(gradient, 1 - beta1)
                second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            else:
                state["step"] += which
                due = which.view(axes)
                first.copy_(torch.where(due, torch.lerp(gradient, first, beta1), first))
                second.copy_(torch.where(due, torch.lerp(gradient.square(), second, beta2), second))
            step = state["step"].view(axes).clamp(min=1)
            size = (second / (1 - beta2**step)).sqrt_().add_(group["eps"]).mul_(1 - beta1**step)
            size = size if which is None else size.masked_fill_(~due, torch.inf)
            p.addcdiv_(first, size, value=-group["lr"])

    def _state(self, p: Tensor) -> dict[str, Tensor]:
        """Made when first needed, where the parameter then is."""
        state = self.state[p]
        if not state:
            state |= {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            state["step"] = torch.zeros(len(p), device=p.device)
        return state
