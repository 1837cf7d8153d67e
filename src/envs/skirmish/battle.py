"""The tensors of B battles around the kernels that play them."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import warp as wp
from jaxtyping import Bool, Float, Int
from torch import Tensor

from envs.skirmish import crew
from envs.skirmish.engine import kernels, layout
from envs.skirmish.maps import SIZE, BattleMap, walkable
from envs.skirmish.options import Options, complete
from envs.skirmish.scene import (
    FLOATS,
    INTS,
    SPOTTING,
    UNIT,
    VECTORS,
    Rules,
    Setting,
    announce_compilation,
    start_warp,
)

_STATE = (*VECTORS, *FLOATS, *INTS, "script", "last", "time", "running", "rng", "tally", *SPOTTING)
"""The tensors that decide what happens next, and the tally of what has happened."""
LOOK_EVERY = 8
"""Steps on a GPU between two looks at whether all actions were available."""


class Skirmish:
    """B battles on one map. ``live`` holds the tensors that the kernels work on, by name, one row per battle."""

    def __init__(
        self,
        battle_map: BattleMap,
        options: Options,
        n_envs: int,
        device: torch.device,
        seed: int,
        rules: Rules | None = None,
    ) -> None:
        """``seed`` derives every row's generator."""
        self.map, self.n_envs, self.device = battle_map, n_envs, device
        self.options = complete(options, battle_map)
        self.setting = Setting(battle_map, self.options, rules or Rules())
        units = battle_map.n_agents + battle_map.n_enemies
        self._units = torch.zeros(n_envs, units, UNIT.itemsize // 4, device=device)
        self.live = self._allocate()
        self._action = torch.zeros(n_envs, battle_map.n_agents, dtype=torch.int64, device=device)
        self._which = torch.zeros(n_envs, dtype=torch.uint8, device=device)
        fault = self.live["fault"]
        self._fault: Tensor | np.ndarray = fault if fault.is_cuda else fault.numpy()  # which is read faster
        self.look_every = LOOK_EVERY if fault.is_cuda else 1
        """Steps between two looks at ``fault``: on a GPU each is a wait."""
        self._steps = 0
        self._shown = {name: as_shown(tensor) for name, tensor in self.live.items()}
        self._commands: dict[int, list[dict[str, Any]]] = {}
        self.seed_rows(seed)

    def _allocate(self) -> dict[str, Tensor]:
        """Zeroed tensors: dead units, no battle running."""
        shapes = self.setting.arrays(self.n_envs)
        live = {k: torch.zeros(v, dtype=getattr(torch, t), device=self.device) for k, (v, t) in shapes.items()}
        live["stale"].fill_(1)
        return live | unit_fields(self._units)

    # ------------------------------------------------------------ playing

    def reset(self, which: Bool[Tensor, " b"] | None = None, *, observe: bool = True) -> None:
        """New battles in the rows of ``which`` (None: all). For ``observe`` see ``step``."""
        if which is None:
            self._which.fill_(1)
        else:
            self._which.copy_(which)
        self._launch("start", "show" if observe else "offer")

    def step(self, action: Int[Tensor, "b n"], *, observe: bool = True) -> None:
        """One agent step of every running battle.

        Without ``observe`` only the masks are renewed of all that is shown, and the next call with it shows the rest.

        Raises:
            ValueError: an action of a running battle is not available; nothing has changed then. On a GPU it may be
                told some steps later, in which no battle has gone on.
        """
        self._action.copy_(action)
        self._launch("check", slices=1)  # which of two faults is told must not depend on threads
        self._steps += 1
        if self._steps % self.look_every == 0 and (fault := int(self._fault[0])):
            self.live["fault"].zero_()
            row, agent = divmod(fault - 1, self.map.n_agents)
            raise ValueError(self._complaint(row, agent))
        self._launch("play", "show" if observe else "offer")

    def _complaint(self, row: int, agent: int) -> str:
        """Names an unavailable action."""
        if self.look_every > 1:
            within = f"one of its last {self.look_every} actions is not available, and all battles stand still since"
            return f"row {row}, agent {agent}: {within}"
        action = int(self._action[row, agent])
        available = self.live["avail"][row, agent].nonzero().flatten().tolist()
        return f"row {row}, agent {agent}: action {action} is not available; available are {available}"

    def copies(self, *names: str) -> dict[str, Tensor]:
        """What the kernels wrote, by its names in ``live``, in new tensors; flags as truth values."""
        shown = {name: self._shown[name] for name in names}
        if self.device.type == "cuda" or not crew.spread(shown.values()):
            return {name: tensor.clone() for name, tensor in shown.items()}
        new = {name: torch.empty_like(tensor) for name, tensor in shown.items()}
        crew.copy([(new[name].numpy(), tensor.numpy()) for name, tensor in shown.items()])
        return new

    # ------------------------------------------------------------ state

    def seed_rows(self, seed: int) -> None:
        """Restarts every row's generator."""
        words = np.random.SeedSequence(seed).generate_state(self.n_envs).astype(np.int32)
        self.live["rng"][:, 0] = torch.from_numpy(words)
        self.live["rng"][:, 1] = 0

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of everything that decides what happens next, and of the tally."""
        return {name: self.live[name].clone() for name in _STATE}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of ``state_dict``."""
        for name in _STATE:
            self.live[name].copy_(state[name])
        self.refresh()

    def refresh(self) -> None:
        """Shows all rows anew, after units were written to ``live`` by hand."""
        self.live["stale"].fill_(1)
        self._launch("show")

    def picture(self, row: int) -> str:
        """The battle as text: agents A, B, ..., enemies a, b, ..., walls #; below, everybody's health and shield."""
        live, n = self.live, self.map.n_agents
        canvas = [[" " if ok else "#" for ok in column] for column in walkable(self.map.terrain)]
        lines = []
        for u, (hp, shield) in enumerate(zip(live["hp"][row].tolist(), live["shield"][row].tolist(), strict=True)):
            letter = chr(ord("A") + u % 26) if u < n else chr(ord("a") + (u - n) % 26)
            lines.append(f"{letter} {hp:.0f}+{shield:.0f}" if hp > 0 else f"{letter} dead")
            x, y = (int(v) for v in live["pos"][row, u].tolist())
            if hp > 0:
                canvas[x][y] = letter
        rows = ["".join(canvas[x][y] for x in range(SIZE)) for y in range(SIZE - 1, -1, -1)]
        legend = f"{self.map.name}, step {int(live['time'][row])}"
        return "\n".join([legend, *rows, "  ".join(lines[:n]), "  ".join(lines[n:])])

    # ------------------------------------------------------------ kernels

    def _launch(self, *names: str, slices: int | None = None) -> None:
        """Runs kernels, one after the other, over all rows: on torch's stream, or on the CPU in slices side by side."""
        on_cuda = self.device.type == "cuda"
        slices = 1 if on_cuda else slices or crew.n_slices(self.n_envs, self.map.n_agents + self.map.n_enemies)
        if slices not in self._commands:
            self._commands[slices] = self._record(slices)
        stream = wp.stream_from_torch(self.live["hp"].device) if on_cuda else None
        tasks = [partial(_launch_all, [c[name] for name in names], stream) for c in self._commands[slices]]
        if slices == 1:
            tasks[0]()
        else:
            crew.side_by_side(tasks)

    def _record(self, slices: int) -> list[dict[str, Any]]:
        """Every kernel with its arguments bound once, for each slice of the rows."""
        device, (scene, battle, action, which) = self._bound
        arguments = {
            "start": (kernels.start, [scene, battle, which]),
            "check": (kernels.check, [scene, battle, action]),
            "play": (kernels.play, [scene, battle, action]),
            "show": (kernels.show, [scene, battle, 1]),
            "offer": (kernels.show, [scene, battle, 0]),
        }
        return [
            {
                name: wp.launch(kernel, dim=rows, inputs=[first, *inputs], device=device, record_cmd=True)
                for name, (kernel, inputs) in arguments.items()
            }
            for first, rows in crew.deal(self.n_envs, slices)
        ]

    @cached_property
    def _bound(self) -> tuple[Any, tuple[Any, ...]]:
        """Warp's device and what the kernels work on, which must outlive the commands: these keep addresses only."""
        start_warp()
        device = wp.device_from_torch(self.live["hp"].device)  # a tensor's device has its index
        announce_compilation(device)
        scene, battle = self.setting.scene(device), layout.Battle()
        for name in self.setting.arrays(self.n_envs):
            setattr(battle, name, wp.from_torch(self.live[name], requires_grad=False))
        shape, pointer = tuple(self._units.shape[:2]), self._units.data_ptr()
        battle.unit = wp.array(ptr=pointer, dtype=layout.Unit, shape=shape, device=device)
        return device, (scene, battle, wp.from_torch(self._action), wp.from_torch(self._which))


def unit_fields(units: Float[Tensor, "b u w"]) -> dict[str, Tensor]:
    """The fields of the units' records [b, u, ...], on the same memory."""
    fields = {}
    for name in UNIT.names or ():
        dtype, offset = UNIT.fields[name][:2]  # type: ignore[index]
        base, shape = dtype.subdtype or (dtype, ())
        words, at = units.view(getattr(torch, base.name)), offset // base.itemsize
        fields[name] = words[..., at : at + shape[0]] if shape else words[..., at]
    return fields


def as_shown(tensor: Tensor) -> Tensor:
    """Bytes that are 0 or 1 as truth values, on the same memory."""
    return tensor.view(torch.bool) if tensor.dtype == torch.uint8 else tensor


def _launch_all(commands: list[Any], stream: Any) -> None:
    """Launches recorded kernels, one after the other."""
    for command in commands:
        command.launch(stream=stream)
