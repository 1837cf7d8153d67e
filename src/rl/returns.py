"""Targets for values, as pure functions of tensors (algorithms.md 1.5).

An episode takes the first L steps of its row, those where ``mask`` is 1. ``terminated`` says that its last step
reached a true end; where it did not, the episode was cut by a time limit and is bootstrapped through with
``value`` at its own state L. Nothing beyond is read, so padding may hold NaN; results are 0 there.

Inputs other than ``mask`` and ``terminated`` may have further axes (agents); a reward without them is everybody's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class _Steps:
    """The inputs with 0 on padding, aligned with the value; c is 1 - terminated."""

    reward: Tensor
    here: Tensor
    """value[t]"""
    ahead: Tensor
    """c_t value[t+1]"""
    goes_on: Tensor
    """Boolean: step t+1 is a real step of the same episode."""
    real: Tensor

    def only_real(self, x: Tensor) -> Tensor:
        return torch.where(self.real, x, 0.0)


def _align(reward: Tensor, terminated: Tensor, mask: Tensor, value: Tensor) -> _Steps:
    def wide(x: Tensor) -> Tensor:
        return x.reshape(*x.shape, *[1] * (value.dim() - x.dim()))

    real = wide(mask > 0)
    continues = real & ~wide(terminated)
    goes_on = continues & torch.cat([real[:, 1:], torch.zeros_like(real[:, :1])], dim=1)
    ahead = torch.where(continues, value[:, 1:], 0.0)
    here = torch.where(real, value[:, :-1], 0.0)
    return _Steps(torch.where(real, wide(reward), 0.0), here, ahead, goes_on, real)


def _later(x: Tensor) -> Tensor:
    """x one step later, 0 after the last."""
    return torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], dim=1)


def _accumulate(x: Tensor, decay: Tensor) -> Tensor:
    """y_t = x_t + decay_t y_{t+1}, backwards in time: sequential by nature."""
    y, out = torch.zeros_like(x[:, 0]), []
    for x_t, decay_t in zip(reversed(x.unbind(1)), reversed(decay.expand_as(x).unbind(1)), strict=True):
        y = x_t + decay_t * y
        out.append(y)
    return torch.stack(out[::-1], dim=1)


def td_lambda(
    reward: Float[Tensor, "b t ..."],
    terminated: Bool[Tensor, "b t"],
    mask: Float[Tensor, "b t"],
    value: Float[Tensor, "b t+1 *n"],
    gamma: float,
    lam: float,
) -> Float[Tensor, "b t *n"]:
    r"""TD(λ): :math:`G_t = r_t + \gamma c_t [(1-\lambda) X_{t+1} + \lambda G_{t+1}]`, :math:`G_L = X_L`.

    c is 1 - terminated. The recursion starts at each episode's own end (T-01). λ = 0 gives one-step targets, λ = 1
    the discounted rewards up to the end. Sutton & Barto 2018, equation 12.18.
    """
    steps = _align(reward, terminated, mask, value)
    mixed = torch.where(steps.goes_on, (1 - lam) * steps.ahead, steps.ahead)
    return _accumulate(steps.reward + gamma * mixed, gamma * lam * steps.goes_on.to(value.dtype))


def n_step(
    reward: Float[Tensor, "b t ..."],
    terminated: Bool[Tensor, "b t"],
    mask: Float[Tensor, "b t"],
    value: Float[Tensor, "b t+1 *n"],
    gamma: float,
    steps: int,
) -> Float[Tensor, "b t *n"]:
    r"""n-step returns: :math:`\sum_{k<n} \gamma^k r_{t+k} + \gamma^n X_{t+n}`, cut at the episode's end (T-10).

    Built from the one-step return by n - 1 times looking one step further.
    """
    parts = _align(reward, terminated, mask, value)
    ahead = parts.ahead
    for _ in range(steps - 1):
        ahead = torch.where(parts.goes_on, _later(parts.reward + gamma * ahead), parts.ahead)
    return parts.reward + gamma * ahead


def gae(
    reward: Float[Tensor, "b t ..."],
    terminated: Bool[Tensor, "b t"],
    mask: Float[Tensor, "b t"],
    value: Float[Tensor, "b t+1 *n"],
    gamma: float,
    lam: float,
) -> Float[Tensor, "b t *n"]:
    r"""Generalised advantages: :math:`A_t = \delta_t + \gamma\lambda c_t A_{t+1}`.

    There :math:`\delta_t = r_t + \gamma c_t V_{t+1} - V_t`; c is 1 - terminated. Schulman et al. 2016, equation 16.
    The matching returns are ``gae(...) + value[:, :-1]``.
    """
    steps = _align(reward, terminated, mask, value)
    delta = steps.reward + gamma * steps.ahead - steps.here
    return _accumulate(delta, gamma * lam * steps.goes_on.to(value.dtype))


def tree_backup(  # noqa: PLR0913 - the equation has as many symbols
    reward: Float[Tensor, "b t"],
    terminated: Bool[Tensor, "b t"],
    mask: Float[Tensor, "b t"],
    q: Float[Tensor, "b t"],
    expected: Float[Tensor, "b t+1"],
    pi: Float[Tensor, "b t"],
    gamma: float,
    lam: float,
    steps: int,
) -> Float[Tensor, "b t"]:
    r"""DOP's decomposed multi-agent tree backup over k steps (Wang et al., ICLR 2021; algorithms.md 1.5e).

    .. math::
        y_t = Q_t + \sum_{l=0}^{k-1} (\gamma\lambda)^l \Big(\prod_{j=1}^{l} p_{t+j}\Big) \delta_{t+l}, \qquad
        \delta_t = r_t + \gamma c_t \bar V_{t+1} - Q_t

    Args:
        reward: r.
        terminated: true ends.
        mask: real steps.
        q: Q_tot of the actions taken.
        expected: V̄ = E_π[Q_tot] of every state.
        pi: p, the current policies' probability of the joint action taken.
        gamma: discount factor.
        lam: λ_tb.
        steps: k.
    """
    parts = _align(reward, terminated, mask, expected)
    q, pi = parts.only_real(q), parts.only_real(pi)
    delta = parts.reward + gamma * parts.ahead - q
    total = delta
    for _ in range(steps - 1):
        total = delta + torch.where(parts.goes_on, gamma * lam * _later(pi * total), 0.0)
    return q + total
