"""A GRU over packed states, with a backward pass written by hand: on a CPU a quarter less work than torch's cells.

Every step's gates stay in small buffers that fit a core's cache, weights get their gradient while a step's numbers are
still there, and the engine of automatic differentiation sees one operation instead of hundreds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


class Weights(NamedTuple):
    """Those of ``nn.GRU`` in its order; rows: reset gate, update gate, new state."""

    x: Float[Tensor, "3h i"]
    h: Float[Tensor, "3h h"]
    bias_x: Float[Tensor, " 3h"]
    bias_h: Float[Tensor, " 3h"]


def packed_gru(
    x: Float[Tensor, "m i"], hidden: Float[Tensor, "k h"], weights: Weights, alive: list[int]
) -> Float[Tensor, "m h"]:
    r"""The recurrent state after every step of sequences that end one after the other (Cho et al. 2014).

    .. math::
        r, z = \sigma(W x + U h), \qquad n = \tanh(W_n x + b_n + r (U_n h + c_n)), \qquad h' = n + z (h - n)

    Args:
        x: the inputs of the first step, of the second, and so on, m in all.
        hidden: the memories before the first step.
        weights: parameters.
        alive: how many sequences have each step; never more than before. The last ones end first.
    """
    if torch.is_grad_enabled() and any(p.requires_grad for p in (x, hidden, *weights)):
        return _PackedGRU.apply(x, hidden, *weights, alive)
    return _forward(x, hidden, weights, alive, keep=False).state


class _Run(NamedTuple):
    """What a forward pass leaves; without ``keep`` only ``state`` has a row for every step."""

    state: Tensor
    gates: Tensor
    """r and z side by side."""
    new: Tensor
    """n."""
    told: Tensor
    """U_n h + c_n."""


def _forward(x: Tensor, hidden: Tensor, weights: Weights, alive: list[int], keep: bool) -> _Run:
    """All steps. tanh(a) is 2 σ(2a) - 1, which takes a third of its time."""
    w, bias, h = weights, weights.bias_x.clone(), weights.h.shape[1]
    bias[: 2 * h] += w.bias_h[: 2 * h]
    doubled = torch.cat([x.new_ones(2 * h), x.new_full((h,), 2.0)])
    from_x, bias, minus_one = (w.x * doubled[:, None]).t(), bias * doubled, x.new_full((), -1.0)
    to_gates, to_new, bias_new = w.h[: 2 * h].t(), w.h[2 * h :].t(), w.bias_h[2 * h :]
    kept = len(x) if keep else alive[0]
    run = _Run(x.new_empty(len(x), h), *(x.new_empty(kept, k * h) for k in (2, 1, 1)))
    sums = x.new_empty(alive[0], 3 * h)
    buffers = (_rows(sums[:, : 2 * h], alive, False), _rows(sums[:, 2 * h :], alive, False), _rows(sums, alive, False))
    parts = (run.gates, run.gates[:, :h], run.gates[:, h:], run.new, run.told)
    steps = zip(x.split(alive), run.state.split(alive), *buffers, *(_rows(y, alive, keep) for y in parts), strict=True)
    for x_t, state, gate_sum, new_sum, both, gates, reset, update, new, told in steps:
        hidden = hidden if len(hidden) == len(x_t) else hidden[: len(x_t)]
        torch.addmm(bias, x_t, from_x, out=both)
        gate_sum.addmm_(hidden, to_gates)
        torch.sigmoid(gate_sum, out=gates)
        torch.addmm(bias_new, hidden, to_new, out=told)
        new_sum.addcmul_(reset, told, value=2).sigmoid_()
        torch.add(minus_one, new_sum, alpha=2, out=new)
        hidden = torch.lerp(new, hidden, update, out=state)
    return run


def _rows(buffer: Tensor, alive: list[int], keep: bool) -> tuple[Tensor, ...]:
    """Each step's rows: its own, or always the first ones."""
    if keep:
        return buffer.split(alive)
    first = {k: buffer[:k] for k in set(alive)}
    return tuple(first[k] for k in alive)


class _PackedGRU(torch.autograd.Function):
    """``packed_gru`` with gradients of its inputs, first memories and weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, hidden: Tensor, *weights: Any) -> Tensor:  # type: ignore[override]
        *parameters, ctx.alive = weights
        run = _forward(x, hidden, Weights(*parameters), ctx.alive, keep=True)
        ctx.save_for_backward(x, hidden, *parameters[:2], *run)
        return run.state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """From the last step to the first. ∂ stands side by side for U_n h + c_n, and the sums within r, z and n."""
        (grad,), (x, hidden, w_x, w_h, state, gates, new, told), alive = grads, ctx.saved_tensors, ctx.alive
        h, grad_x = w_h.shape[1], torch.empty_like(x)
        turned = torch.cat([w_h[2 * h :], w_h[: 2 * h]])
        to_x, to_h, bias = torch.zeros_like(w_x), torch.zeros_like(turned), x.new_zeros(4 * h)
        carried, d = torch.zeros_like(hidden), x.new_empty(alive[0], 4 * h)
        slots = [slice(0, h), slice(h, 2 * h), slice(2 * h, 3 * h), slice(3 * h, 4 * h)]
        wide = [slice(h, 3 * h), slice(0, 3 * h), slice(h, 4 * h), slice(0, 4 * h)]
        places = [_rows(d[:, columns], alive, False) for columns in slots + wide]
        before = [hidden, *state.split(alive)[:-1]]
        own = [y.split(alive) for y in (x, grad_x, grad, gates, gates[:, :h], gates[:, h:], new, told)]
        steps = reversed([*zip(before, _rows(carried, alive, False), *own, *places, strict=True)])
        for past, c, x_t, gx, g, both, r, z, n, u, d_told, d_r, d_z, d_n, d_gates, d_h, d_x, d_all in steps:
            past_t = past if len(past) == len(c) else past[: len(c)]
            c.add_(g)
            torch.sub(past_t, n, out=d_z).mul_(c)
            torch.addcmul(c, c, z, value=-1, out=d_told)
            _tanh_backward(d_told, n, grad_input=d_n)
            torch.mul(d_n, u, out=d_r)
            _sigmoid_backward(d_gates, both, grad_input=d_gates)
            torch.mul(d_n, r, out=d_told)
            c.mul_(z).addmm_(d_h, turned)
            torch.mm(d_x, w_x, out=gx)
            to_x.addmm_(d_x.t(), x_t)
            to_h.addmm_(d_h.t(), past_t)
            bias.add_(d_all.sum(0))
        bias_h = torch.cat([bias[h : 3 * h], bias[:h]])
        return grad_x, carried, to_x, torch.cat([to_h[h:], to_h[:h]]), bias[h:], bias_h, None
