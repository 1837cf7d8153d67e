"""For environments that are tensor programs: a clock and a random stream per row, and the check of a joint action."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.specs import ActionSpec


def _signed(x: int) -> int:
    """The 64-bit two's complement of ``x``, as torch's integers wrap."""
    return (x + 2**63) % 2**64 - 2**63


_STEP, _MIX1, _MIX2 = _signed(0x9E3779B97F4A7C15), _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _mix(x: Int[Tensor, "*s"]) -> Int[Tensor, "*s"]:
    """SplitMix64's output function (Steele, Lea and Flood, 2014)."""
    x = (x ^ _shift(x, 30)) * _MIX1
    x = (x ^ _shift(x, 27)) * _MIX2
    return x ^ _shift(x, 31)


def _shift(x: Int[Tensor, "*s"], bits: int) -> Int[Tensor, "*s"]:
    """Logical shift to the right, since ``>>`` copies the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


class Clock:
    """Which rows are running, and for how many steps they have been."""

    def __init__(self, limit: int, n_rows: int, device: torch.device | str) -> None:
        self.limit = limit
        self.t = torch.zeros(n_rows, dtype=torch.int64, device=device)
        self.running = torch.zeros(n_rows, dtype=torch.bool, device=device)

    def start(self, which: Bool[Tensor, " b"] | None) -> Bool[Tensor, " b"]:
        """Starts the rows of ``which`` (None: all) anew; returns them."""
        which = torch.ones_like(self.running) if which is None else which
        self.t = torch.where(which, 0, self.t)
        self.running = self.running | which
        return which

    def tick(self, over: Bool[Tensor, " b"]) -> tuple[Bool[Tensor, " b"], Bool[Tensor, " b"]]:
        """One step passes; the running rows of ``over`` end, and those that reach the limit are cut.

        Returns:
            terminated, truncated.
        """
        self.t = self.t + self.running
        terminated = self.running & over
        going_on = self.running ^ terminated
        truncated = going_on & (self.t >= self.limit)
        self.running = going_on ^ truncated
        return terminated, truncated

    def state_dict(self) -> dict[str, Tensor]:
        """Times and flags."""
        return {"t": self.t.clone(), "running": self.running.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of ``state_dict``."""
        self.t, self.running = (state[name].to(self.t.device, copy=True) for name in ("t", "running"))


class RowRandom:
    """One stream of random numbers per row, advanced only where it is used.

    A number is a hash of the row's key and counter, so no row's numbers depend on what other rows did, on how many
    rows there are, or on the device; and there is no generator object, hence no Python loop, per row.
    """

    def __init__(self, seed: int, n_rows: int, device: torch.device | str) -> None:
        rows = torch.arange(1, n_rows + 1, device=device)
        self.key = _mix(_mix(rows * _STEP) + _signed(seed))
        self.counter = torch.zeros_like(self.key)

    def uniform(self, which: Bool[Tensor, " b"], n: int) -> Float[Tensor, "b {n}"]:
        """``n`` numbers in [0, 1) for each row; only the rows of ``which`` will get other ones next time."""
        index = self.counter[:, None] + torch.arange(1, n + 1, device=self.key.device)
        self.counter = self.counter + n * which
        return _shift(_mix(self.key[:, None] + index * _STEP), 40).float() / 2**24

    def normal(self, which: Bool[Tensor, " b"], n: int) -> Float[Tensor, "b {n}"]:
        """Standard normal numbers, by Box and Muller's method; as ``uniform``."""
        u = self.uniform(which, 2 * n)
        return torch.sqrt(-2 * torch.log1p(-u[:, :n])) * torch.cos(2 * math.pi * u[:, n:])

    def state_dict(self) -> dict[str, Tensor]:
        """Keys and counters."""
        return {"key": self.key.clone(), "counter": self.counter.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of ``state_dict``."""
        self.key, self.counter = (state[name].to(self.key.device, copy=True) for name in ("key", "counter"))


def refuse_unavailable(
    action: Int[Tensor, "b n"], avail: Bool[Tensor, "b n a"], running: Bool[Tensor, " b"]
) -> Int[Tensor, "b n"]:
    """``action`` with 0 in the rows that have ended, whose actions mean nothing.

    Raises:
        ValueError: a running row's action is not available; names the first row and agent.
    """
    action = torch.where(running[:, None], action, 0)
    inside = (action >= 0) & (action < avail.shape[-1])
    legal = avail.gather(-1, torch.where(inside, action, 0)[..., None])[..., 0] & inside
    bad = ~legal & running[:, None]
    if bool(bad.any()):
        row, agent = bad.nonzero()[0].tolist()
        raise ValueError(f"row {row}, agent {agent}: action {int(action[row, agent])} is not available")
    return action


def refuse_unknown(action: Int[Tensor, "b n"], n_actions: int, running: Bool[Tensor, " b"]) -> Int[Tensor, "b n"]:
    """``refuse_unavailable`` where all of ``n_actions`` are available to everybody, for the price of one look.

    Raises:
        ValueError: a running row's action is none of them; names the first row and agent.
    """
    low, high = action.aminmax()
    if int(low) >= 0 and int(high) < n_actions:
        return action
    avail = torch.ones(*action.shape, n_actions, dtype=torch.bool, device=action.device)
    return refuse_unavailable(action, avail, running)


class Box:
    """The agents' boxes side by side, and the check that actions lie in them."""

    def __init__(self, actions: Sequence[ActionSpec], device: torch.device | str) -> None:
        """``actions``: one box per agent; dimensions that an agent lacks are padding, where anything goes."""
        d = max(action.n for action in actions)
        inside = torch.arange(d) < torch.tensor([action.n for action in actions])[:, None]
        low, high = (torch.tensor([getattr(a, k) for a in actions])[:, None] for k in ("low", "high"))
        self.low = torch.where(inside, low, -torch.inf).to(device)
        self.high = torch.where(inside, high, torch.inf).to(device)
        self.slack = torch.where(inside, 1e-5 * (high - low), 0).to(device)

    def admit(self, action: Float[Tensor, "b n d"], running: Bool[Tensor, " b"]) -> Float[Tensor, "b n d"]:
        """``action`` without rounding errors beyond the edge, and finite in the rows that have ended.

        Raises:
            ValueError: a running row's action is outside, or nan; names the first row and agent.
        """
        if bool(((action >= self.low) & (action <= self.high)).all()):
            return action
        near = (action >= self.low - self.slack) & (action <= self.high + self.slack)
        bad = ~near.all(-1) & running[:, None]
        if bool(bad.any()):
            row, agent = bad.nonzero()[0].tolist()
            raise ValueError(
                f"row {row}, agent {agent}: action {action[row, agent].tolist()} is not in its box, "
                f"from {self.low[agent].tolist()} to {self.high[agent].tolist()}"
            )
        return torch.where(running[:, None, None], action, 0).clamp(self.low, self.high)
