"""GRUs over packed states, with a backward pass written by hand: on a CPU a quarter less work than torch's cells.

Every step's gates stay in small buffers that fit a core's cache, weights get their gradient while a step's numbers are
still there, and the engine of automatic differentiation sees one operation instead of hundreds. Networks of one shape
take their steps together.
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
    """Those of g ``nn.GRU`` in its order; rows: reset gate, update gate, new state."""

    x: Float[Tensor, "g 3h i"]
    h: Float[Tensor, "g 3h h"]
    bias_x: Float[Tensor, "g 3h"]
    bias_h: Float[Tensor, "g 3h"]


def packed_gru(
    x: Float[Tensor, "g m i"], hidden: Float[Tensor, "g k h"], weights: Weights, alive: list[int]
) -> Float[Tensor, "g m h"]:
    r"""The recurrent states of g networks after every step of sequences that end one after the other.

    Cho et al. 2014, as in torch:

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
    """What a forward pass leaves; without ``keep`` only ``state`` has a place for every step."""

    state: Tensor
    gates: Tensor
    """r and z side by side; like what follows [m g, ·], each step's numbers of all networks together."""
    new: Tensor
    """n."""
    told: Tensor
    """U_n h + c_n."""


def _forward(x: Tensor, hidden: Tensor, weights: Weights, alive: list[int], keep: bool) -> _Run:
    """All steps. tanh(a) is 2 σ(2a) - 1, which takes a third of its time."""
    w, bias, h, g = weights, weights.bias_x.clone(), weights.h.shape[-1], len(x)
    bias[:, : 2 * h] += w.bias_h[:, : 2 * h]
    doubled = torch.cat([x.new_ones(2 * h), x.new_full((h,), 2.0)])
    from_x, bias, minus_one = (w.x * doubled[:, None]).mT, (bias * doubled).unsqueeze(1), x.new_full((), -1.0)
    (x_gates, x_new), (bias_gates, bias_new) = from_x.split([2 * h, h], -1), bias.split([2 * h, h], -1)
    (h_gates, h_new), bias_told = w.h.mT.split([2 * h, h], -1), w.bias_h[:, None, 2 * h :]
    kept = g * (x.shape[1] if keep else alive[0])
    run = _Run(x.new_empty(*x.shape[:2], h), *(x.new_empty(kept, c * h) for c in (2, 1, 1)))
    sums = [_steps(x.new_empty(g * alive[0], c * h), alive, g, False) for c in (2, 1)]
    gates, new, told = (_steps(y, alive, g, keep) for y in run[1:])
    ends = (_columns(gates, 0, h), _columns(gates, h, 2 * h))
    steps = zip(x.split(alive, 1), run.state.split(alive, 1), *sums, gates, *ends, new, told, strict=True)
    for x_t, state, gate_sum, new_sum, both, reset, update, n, u in steps:
        hidden = hidden if hidden.shape[1] == x_t.shape[1] else hidden[:, : x_t.shape[1]]
        torch.baddbmm(bias_gates, x_t, x_gates, out=gate_sum)
        gate_sum.baddbmm_(hidden, h_gates)
        torch.baddbmm(bias_new, x_t, x_new, out=new_sum)
        torch.baddbmm(bias_told, hidden, h_new, out=u)
        torch.sigmoid(gate_sum, out=both)
        new_sum.addcmul_(reset, u, value=2).sigmoid_()
        torch.add(minus_one, new_sum, alpha=2, out=n)
        hidden = torch.lerp(n, hidden, update, out=state)
    return run


def _steps(buffer: Tensor, alive: list[int], g: int, keep: bool) -> list[Tensor]:
    """Each step's rows of ``buffer`` as [g, k, ·], contiguous: its own, or always the first ones."""
    if keep:
        return [y.view(g, -1, y.shape[-1]) for y in buffer.split([g * k for k in alive])]
    first = {k: buffer[: g * k].view(g, k, -1) for k in set(alive)}
    return [first[k] for k in alive]


def _columns(steps: list[Tensor], start: int, end: int) -> list[Tensor]:
    """Some columns of every step; made once for steps that share a buffer."""
    made = {id(y): y[..., start:end] for y in steps}
    return [made[id(y)] for y in steps]


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
        h, g, grad_x = w_h.shape[-1], len(x), torch.empty_like(x)
        turned = torch.cat([w_h[:, 2 * h :], w_h[:, : 2 * h]], 1)
        to_x, to_h, bias = torch.zeros_like(w_x), torch.zeros_like(turned), x.new_zeros(g, 4 * h)
        c, d = x.new_zeros(g, 0, h), _steps(x.new_empty(g * alive[0], 4 * h), alive, g, False)
        bounds = [(0, 1), (1, 2), (2, 3), (3, 4), (1, 3), (0, 3), (1, 4)]
        places = [_columns(d, h * start, h * end) for start, end in bounds]
        before, both = [hidden, *state.split(alive, 1)[:-1]], _steps(gates, alive, g, True)
        own = [y.split(alive, 1) for y in (x, grad_x, grad)]
        own += [both, _columns(both, 0, h), _columns(both, h, 2 * h)]
        own += [_steps(y, alive, g, True) for y in (new, told)]
        steps = reversed([*zip(before, *own, d, *places, strict=True)])
        for past, x_t, gx, g_t, rz, r, z, n, u, d_all, d_told, d_r, d_z, d_n, d_gates, d_h, d_x in steps:
            past_t = past if past.shape[1] == n.shape[1] else past[:, : n.shape[1]]
            c = c if c.shape[1] == n.shape[1] else torch.cat([c, torch.zeros_like(n[:, c.shape[1] :])], 1)
            c.add_(g_t)
            torch.sub(past_t, n, out=d_z).mul_(c)
            torch.addcmul(c, c, z, value=-1, out=d_told)
            _tanh_backward(d_told, n, grad_input=d_n)
            torch.mul(d_n, u, out=d_r)
            _sigmoid_backward(d_gates, rz, grad_input=d_gates)
            torch.mul(d_n, r, out=d_told)
            c.mul_(z).baddbmm_(d_h, turned)
            torch.bmm(d_x, w_x, out=gx)
            to_x.baddbmm_(d_x.mT, x_t)
            to_h.baddbmm_(d_h.mT, past_t)
            bias.add_(d_all.sum(1))
        bias_h = torch.cat([bias[:, h : 3 * h], bias[:, :h]], 1)
        return grad_x, c, to_x, torch.cat([to_h[:, h:], to_h[:, :h]], 1), bias[:, h:], bias_h, None
