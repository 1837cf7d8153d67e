"""The environments of several seeds as the rows of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from core.specs import Outcome, TimeStep
from envs.base import BatchedEnv

State = dict[str, Any]


class JointEnv(BatchedEnv):
    """A native environment that has the rows of S equal ones, those of the first one first.

    Rows are independent, and an environment's state is that of its rows: which axis of a tensor they are follows from
    the sizes. So the states of S environments can be joined to that of a larger one, and be taken from it again.
    """

    def __init__(self, make: Callable[[int], BatchedEnv], each: Sequence[BatchedEnv]) -> None:
        """``make`` builds such an environment with a number of rows; the state of ``each`` is taken over.

        Raises:
            ValueError: the state of such an environment is not made of rows.
        """
        rows = each[0].n_envs
        self.env = make(len(each) * rows)
        super().__init__(self.env.cfg, self.env.n_envs, self.env.device, each[0].seed)
        self.spec, self.each = self.env.spec, list(each)
        self._axes = _axes(self.env.state_dict(), each[0].state_dict(), len(each), type(each[0]).__name__)
        self.alive = [False] * len(each)
        """Seeds of which an episode is running."""
        self._running = torch.zeros(len(each), rows, dtype=torch.bool, device=self.device)
        self.take_over()

    @classmethod
    def unmet(cls, state: State) -> str | None:
        """Why environments of such a ``state`` cannot be joined, or None."""
        if not state:
            return "there is no state to take over"
        kept = [key for key, x in state.items() if not isinstance(x, Tensor | dict)]
        return f"'{kept[0]}' of the state is no tensor of rows" if kept else None

    def take_over(self) -> None:
        """Goes on from where ``each`` of the environments is."""
        self.env.load_state_dict(_joined([env.state_dict() for env in self.each], self._axes))

    def hand_back(self) -> None:
        """Brings ``each`` of the environments to where this one is."""
        for env, state in zip(self.each, _split(self.env.state_dict(), self._axes, len(self.each)), strict=True):
            env.load_state_dict(state)

    def reset(self, which: Bool[Tensor, " b"] | None = None) -> TimeStep:
        """See ``BatchedEnv.reset``."""
        chosen = self._running.new_ones(self.n_envs) if which is None else which
        self._note(self._running | chosen.view_as(self._running))
        return self.env.reset(which)

    def step(self, action: Tensor) -> Outcome:
        """See ``BatchedEnv.step``."""
        outcome = self.env.step(action)
        over = outcome.terminated | outcome.truncated
        self._note(self._running & ~over.view_as(self._running))
        return outcome

    def _note(self, running: Tensor) -> None:
        self._running = running
        self.alive = running.any(1).tolist()


def _axes(large: State, small: State, times: int, name: str) -> State:
    """Where the rows are in every tensor of a state; None in those that have none."""
    axes: State = {}
    for key, x in large.items():
        own = small[key]
        if isinstance(x, dict):
            axes[key] = _axes(x, own, times, name)
            continue
        if not isinstance(x, Tensor) or x.dim() != own.dim():
            raise ValueError(f"'{key}' in the state of {name} is no tensor of rows")
        found = [axis for axis, (a, b) in enumerate(zip(x.shape, own.shape, strict=True)) if a != b]
        if len(found) > 1 or (found and x.shape[found[0]] != times * own.shape[found[0]]):
            raise ValueError(f"'{key}' in the state of {name} is no tensor of rows")
        axes[key] = found[0] if found else None
    return axes


def _joined(each: Sequence[State], axes: State) -> State:
    """The state of all rows; what has no rows is the first one's."""
    whole: State = {}
    for key, axis in axes.items():
        own = [state[key] for state in each]
        if isinstance(axis, dict):
            whole[key] = _joined(own, axis)
        else:
            whole[key] = own[0] if axis is None else torch.cat(own, axis)
    return whole


def _split(whole: State, axes: State, n: int) -> list[State]:
    """The inverse of ``_joined``."""
    each: list[State] = [{} for _ in range(n)]
    for key, axis in axes.items():
        if isinstance(axis, dict):
            parts: Sequence[Any] = _split(whole[key], axis, n)
        else:
            parts = [whole[key]] * n if axis is None else whole[key].chunk(n, axis)
        for state, part in zip(each, parts, strict=True):
            state[key] = part
    return each
