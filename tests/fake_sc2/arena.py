"""Battles of the skirmish engine, driven by game loops and unit orders instead of agents' actions; without torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, no_type_check

import numpy as np
import warp as wp

from envs.skirmish.engine import kernels, layout
from envs.skirmish.engine.draw import beside
from envs.skirmish.engine.spawn import line_up, sort_agents
from envs.skirmish.maps import BattleMap
from envs.skirmish.options import Options, complete
from envs.skirmish.scene import UNIT, Rules, Setting, start_warp
from envs.skirmish.units import UnitKind

NO_LIMIT = 1 << 30
"""Agent steps: the game itself never cuts a battle."""
_STAND, _MOVE, _ATTACK = (int(value) for value in (layout.STAND, layout.MOVE, layout.ATTACK))


@no_type_check
@wp.kernel(enable_backward=False)
def settle(s: layout.Scene, b: layout.Battle):
    """Units that were created on top of each other find places side by side, as in our own SMACv2."""
    for u in range(s.n_units):
        b.unit[0, u].origin = b.unit[0, u].pos
    for u in range(s.n_units):
        b.unit[0, u].pos = beside(s, b, 0, u)
    line_up(s, b, 0)
    sort_agents(s, b, 0)


class Arena:
    """The units of a game and how they fight. They are numbered allies first."""

    def __init__(self, battle_map: BattleMap, seed: int) -> None:
        """``seed`` makes the same draws as the first row of our own environment with that seed."""
        start_warp()
        endless = replace(battle_map, limit=NO_LIMIT)
        self.map = endless
        self.kinds: list[UnitKind] = [*endless.kinds(endless.allies), *endless.kinds(endless.enemies)]
        setting = Setting(endless, complete(Options(), endless), Rules())
        self._scene = setting.scene("cpu")
        self._battle = layout.Battle()
        self.live: dict[str, np.ndarray] = {}
        for name, (shape, kind) in setting.arrays(1).items():
            self.live[name] = np.zeros(shape, dtype=kind)
            dtype = wp.dtype_from_numpy(self.live[name].dtype)
            setattr(self._battle, name, wp.array(self.live[name], dtype=dtype, device="cpu", copy=False))
        units = np.zeros((1, len(self.kinds)), dtype=UNIT)
        self._battle.unit = wp.array(units, dtype=layout.Unit, device="cpu", copy=False)
        self.live |= {name: units[name] for name in UNIT.names or ()}
        self._no_action = wp.zeros((1, endless.n_agents), dtype=wp.int64, device="cpu")
        self._which = wp.ones(1, dtype=wp.uint8, device="cpu")
        self.live["rng"][0, 0] = np.random.SeedSequence(seed).generate_state(1).astype(np.int32)[0]
        self.begin()

    def begin(self) -> None:
        """A new battle."""
        self._launch(kernels.start, self._which)

    def place(self, points: np.ndarray) -> None:
        """Puts the units to these places [u, 2], or near them where these are taken."""
        self.live["pos"][0] = points
        wp.launch(settle, dim=1, inputs=[self._scene, self._battle], device="cpu")

    def play(self, loops: int) -> None:
        """Goes on for so many game loops."""
        self.live["running"][0] = 1  # a battle that is decided goes on until the client ends it
        self._scene.loops = loops
        self._launch(kernels.play, self._no_action)

    def _launch(self, kernel: Any, last: Any) -> None:
        wp.launch(kernel, dim=1, inputs=[0, self._scene, self._battle, last], device="cpu")

    @property
    def alive(self) -> np.ndarray:
        """[u] bool."""
        return self.live["hp"][0] > 0.0

    # ------------------------------------------------------------ what clients order

    def stop(self, unit: int) -> None:
        """``unit`` stands where it is."""
        self._order(unit, _STAND, target=-1)

    def move(self, unit: int, x: float, y: float) -> None:
        """``unit`` walks to a point."""
        self.live["goal"][0, unit] = (x, y)
        self._order(unit, _MOVE, target=-1)

    def attack(self, unit: int, target: int) -> bool:
        """``unit`` attacks ``target``, if its weapon works on it. Repeating the order interrupts nothing."""
        weapon, body = self.kinds[unit], self.kinds[target]
        mates = self._is_ally(unit) == self._is_ally(target)
        if mates or weapon.healing > 0.0 or (body.legs == "flies" and not weapon.hits_air):
            return False
        self._order(unit, _ATTACK, target)
        return True

    def heal(self, unit: int, target: int) -> bool:
        """``unit`` heals ``target``, if it can and that needs it."""
        body = self.kinds[target]
        hurt = 0.0 < self.live["hp"][0, target] < body.hp
        mates = self._is_ally(unit) == self._is_ally(target)
        if self.kinds[unit].healing <= 0.0 or not (mates and body.biological and hurt):
            return False
        self._order(unit, _ATTACK, target)
        return True

    def _order(self, unit: int, order: int, target: int) -> None:
        """Gives an order; another target, or none, interrupts an attack that has begun."""
        if order != _ATTACK or self.live["target"][0, unit] != target:
            self.live["windup"][0, unit] = -1.0
        self.live["order"][0, unit] = order
        self.live["target"][0, unit] = target

    def _is_ally(self, unit: int) -> bool:
        return unit < self.map.n_agents

    def kill(self, units: list[int]) -> None:
        """The units are dead at once, without any effect on others."""
        self.live["hp"][0, units] = 0.0
        self.live["shield"][0, units] = 0.0
