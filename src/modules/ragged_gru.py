"""A GRU over sequences of different length on a CPU, where padding and small operations cost most of the time."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def ragged_gru(
    inputs: Float[Tensor, "m 3*h"],
    state: Float[Tensor, "k h"],
    weight: Float[Tensor, "3*h h"],
    bias: Float[Tensor, " 3*h"],
    alive: list[int],
) -> Float[Tensor, "m h"]:
    """The recurrent states after every step of k sequences that are sorted by length, longest first.

    The mathematics and parameters of ``nn.GRU``. Step t only computes the first ``alive[t]`` sequences.

    Args:
        inputs: W_ih x + b_ih of the valid steps: step 0 of all sequences that have it, then step 1, and so on.
        state: before the first step.
        weight: W_hh.
        bias: b_hh.
        alive: sequences that have step t; never rises; sums to m.
    """
    return _RaggedGRU.apply(inputs, state, weight, bias, alive)


class _RaggedGRU(torch.autograd.Function):
    """Six small operations per step forwards, three backwards; what does not depend on the order of time is bulk."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, state: Tensor, weight: Tensor, bias: Tensor, alive: list[int]
    ) -> Tensor:
        h = state.shape[-1]
        recurrent = torch.empty_like(inputs)  # W_hh h + b_hh
        rz, n, out = inputs.new_empty(len(inputs), 2 * h), *inputs.new_empty(2, len(inputs), h)
        before = torch.empty_like(out)
        wt = weight.T
        steps = (x.split(alive) for x in (inputs, recurrent, rz, n, before, out))
        for x, r, g, new, old, y in zip(*steps, strict=True):
            state = old.copy_(state[: len(x)])
            torch.addmm(bias, state, wt, out=r)
            torch.add(x[:, : 2 * h], r[:, : 2 * h], out=g).sigmoid_()
            torch.addcmul(x[:, 2 * h :], g[:, :h], r[:, 2 * h :], out=new).tanh_()
            state = torch.lerp(new, state, g[:, h:], out=y)
        ctx.save_for_backward(recurrent[:, 2 * h :], rz, n, before, weight)
        ctx.alive = alive
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        rn, rz, n, before, weight = ctx.saved_tensors
        h = n.shape[-1]
        r, z = rz[:, :h], rz[:, h:]
        # d gate / d h_t is diagonal: one coefficient per gate, for all steps at once
        dn = (1 - z) * (1 - n * n)
        slope = torch.stack([dn * rn * r * (1 - r), (before - n) * z * (1 - z), dn * r], dim=1)
        d_recurrent = torch.empty_like(slope)
        d_state = d_out.new_zeros(0, h)
        d_h = d_out.clone()
        steps = [x.split(ctx.alive) for x in (slope, d_recurrent, z, d_h)]
        for s, dr, zt, dh in zip(*(reversed(x) for x in steps), strict=True):
            dh[: len(d_state)] += d_state
            torch.mul(s, dh.unsqueeze(1), out=dr)
            d_state = torch.addmm(zt * dh, dr.flatten(1), weight)
        d_recurrent = d_recurrent.flatten(1)
        d_inputs = torch.cat([d_recurrent[:, : 2 * h], dn * d_h], dim=1)
        return d_inputs, d_state, d_recurrent.T @ before, d_recurrent.sum(0), None
