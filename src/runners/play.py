"""Episodes under way, every row at its own step, and the memory that they are written to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from controllers.base import Acted, Controller
from core.specs import EnvSpec, EpisodeBatch, Outcome, TimeStep, Trim, valid_mask
from envs.base import BatchedEnv

_PER_STATE = ("obs", "state", "avail")
_EXTRA = "extras."
"""How the names of further tensors begin."""
Fields = dict[str, Tensor]
"""The tensors of episodes by name: what belongs to states has an entry more than what belongs to actions."""


class Play:
    """Acts in every row of an environment, and writes down what happens where it is allocated once.

    A row that has ended goes on being stepped, as environments allow, until it is begun anew; what is written of it
    then lies beyond its episode and is never taken. What environments show is trimmed here: neither controllers nor
    learners ever see padding.
    """

    def __init__(self, env: BatchedEnv, controller: Controller) -> None:
        self.env, self.controller, self.spec = env, controller, env.spec
        b, device = env.n_envs, env.device
        self._trim = Trim(env.spec, device)
        self._columns = env.spec.episode_limit + 2  # the state after the last step, and what is written after the end
        self._offset = self._columns * torch.arange(b, device=device)
        self._room: Fields = {}  # all rows' columns, one row below the other
        self.t = torch.zeros(b, dtype=torch.long, device=device)
        """Steps taken of each row's episode."""
        self.running = torch.zeros(b, dtype=torch.bool, device=device)
        self.lost: Bool[Tensor, " b"] | None = None
        """Rows whose simulator failed; None as long as none has."""
        self.metrics = {name: torch.zeros(b, device=device) for name in env.spec.metrics}
        """At the latest step of each row's episode."""
        self._hidden = controller.initial_hidden(b)
        self._last = torch.zeros(b, env.spec.n_agents, env.spec.n_actions, device=device)
        self._step: TimeStep

    def begin(self, which: Bool[Tensor, " b"] | None = None) -> None:
        """New episodes in the rows of ``which`` (None: all), with empty memories."""
        everywhere = which is None
        which = torch.ones_like(self.running) if which is None else which
        self._step = self._trim(self.env.reset(None if everywhere else which))
        going_on = (self.running & ~which).view(-1, 1, 1)
        self._hidden = torch.where(going_on, self._hidden, self.controller.initial_hidden(self.env.n_envs))
        self._last = torch.where(going_on, self._last, 0.0)
        self.t = torch.where(which, 0, self.t)
        self.running = self.running | which
        self.lost = None if self.lost is None else self.lost & ~which
        rows = None if everywhere else which.nonzero()[:, 0]
        self._write(self._offset, _shown(self._step), rows)

    def advance(self, *, t_env: int, mode: str, rng: torch.Generator) -> None:
        """One step of every running row."""
        with torch.inference_mode():
            acted = self.controller.act(self._step, self._last, self._hidden, t_env=t_env, mode=mode, rng=rng)
        outcome = self.env.step(acted.action)
        outcome = replace(outcome, next=self._trim(outcome.next))
        at = self._offset + self.t
        self._write(at, _done(acted, outcome))
        self._write(at + 1, _shown(outcome.next))
        self._count(outcome)
        self._step, self._hidden, self._last = outcome.next, acted.hidden, self._vector(acted.action)

    def _vector(self, action: Tensor) -> Float[Tensor, "b n a"]:
        """What agents are told of their last action."""
        if not self.spec.discrete:
            return action
        return torch.zeros_like(self._last).scatter_(-1, action.unsqueeze(-1), 1.0)

    def _count(self, outcome: Outcome) -> None:
        running = self.running
        self.t += running
        for name, value in self.metrics.items():
            self.metrics[name] = torch.where(running, outcome.info[name].to(value.dtype), value)
        running = running & ~(outcome.terminated | outcome.truncated) & (self.t < self.spec.episode_limit)
        if outcome.lost is not None:
            self.lost = outcome.lost if self.lost is None else self.lost | outcome.lost
            running = running & ~outcome.lost
        self.running = running

    def _write(self, at: Int[Tensor, " b"], values: Fields, rows: Int[Tensor, " k"] | None = None) -> None:
        """Every row's entry at its own place, or that of ``rows`` only."""
        if rows is not None:
            at = at[rows]
        for name, x in values.items():
            if name not in self._room:
                self._room[name] = x.new_zeros(len(x) * self._columns, *x.shape[1:])
            self._room[name].index_copy_(0, at, x if rows is None else x[rows])

    def taken(self, length: Int[Tensor, " k"], rows: Int[Tensor, " k"] | None = None) -> Fields:
        """Copies of the episodes of ``rows`` (None: all), which have ``length`` steps; beyond them what happens to be.

        ``length`` is in host memory.
        """
        steps = int(length.max())
        found = {}
        for name, x in self._by_row().items():
            own = steps + self._belongs_to_states(name)
            found[name] = x[:, :own].clone() if rows is None else x[rows, :own]
        return found

    def _by_row(self) -> Fields:
        """What is written, with an axis of rows and one of columns."""
        return {name: x.unflatten(0, (-1, self._columns)) for name, x in self._room.items()}

    def _belongs_to_states(self, name: str) -> bool:
        return name in _PER_STATE or name.removeprefix(_EXTRA) in self.spec.extras

    def state_dict(self) -> dict[str, Any]:
        """Everything of the episodes under way but the environment's own state."""
        written = int(self.t.max()) + 1
        return {
            "room": {name: x[:, :written].clone() for name, x in self._by_row().items()},
            "t": self.t.clone(),
            "running": self.running.clone(),
            "lost": None if self.lost is None else self.lost.clone(),
            "metrics": {name: x.clone() for name, x in self.metrics.items()},
            "hidden": self._hidden.clone(),
            "last": self._last.clone(),
            "shown": _shown(self._step),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""

        def own(x: Tensor) -> Tensor:
            return x.to(self.t.device, copy=True)

        self._room = {name: own(x).new_zeros(len(x) * self._columns, *x.shape[2:]) for name, x in state["room"].items()}
        for name, x in self._by_row().items():
            x[:, : state["room"][name].shape[1]] = state["room"][name]
        self.t, self.running = own(state["t"]), own(state["running"])
        self.lost = None if state["lost"] is None else own(state["lost"])
        self.metrics = {name: own(x) for name, x in state["metrics"].items()}
        self._hidden, self._last = own(state["hidden"]), own(state["last"])
        shown = {name: own(x) for name, x in state["shown"].items()}
        extras = {name: shown.pop(_EXTRA + name) for name in self.spec.extras}
        self._step = TimeStep(**shown, extras=extras)


def _shown(step: TimeStep) -> Fields:
    return {name: getattr(step, name) for name in _PER_STATE} | {_EXTRA + k: x for k, x in step.extras.items()}


def _done(acted: Acted, outcome: Outcome) -> Fields:
    values = {"action": acted.action, "reward": outcome.reward, "terminated": outcome.terminated}
    return values | {_EXTRA + k: x for k, x in acted.extras.items()}


def batch_of(found: Fields, length: Int[Tensor, " b"], spec: EnvSpec) -> EpisodeBatch:
    """Episodes of what ``Play.taken`` found of each: zeros beyond their ends, where all actions are available.

    The tensors are written to.
    """
    device, steps = found["obs"].device, int(length.max())
    places = torch.arange(steps + 1)
    padding, over = ((places >= length[:, None] + more).to(device) for more in (1, 0))

    def hidden(x: Tensor) -> Tensor:
        hide = padding if x.shape[1] > steps else over[:, :steps]
        return x.masked_fill_(hide.view(*hide.shape, *[1] * (x.dim() - 2)), 0)

    clean = {name: hidden(x) for name, x in found.items()}
    clean["avail"] |= padding[:, :, None, None] & spec.action_mask.to(device)
    extras = {name.removeprefix(_EXTRA): x for name, x in clean.items() if name.startswith(_EXTRA)}
    own: dict[str, Any] = {name: x for name, x in clean.items() if not name.startswith(_EXTRA)}
    return EpisodeBatch(**own, mask=valid_mask(length, steps, device), length=length, extras=extras)
