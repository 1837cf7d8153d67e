"""What there is to see of a skirmish: the map and its units, as pictures and pages want them."""

from __future__ import annotations

import numpy as np

from core.picture import CLIFF, FLOOR, WALL, Entity, Frame, Stage
from envs.skirmish.battle import Skirmish
from envs.skirmish.engine.layout import MOVE
from envs.skirmish.maps import SIZE, ground
from envs.skirmish.units import LOOPS_PER_SECOND, UNITS, UnitKind

TEAMS = ("agents", "enemies")
NOTE = "Played on skirmish, Cofactor's own simulator: not StarCraft II, and not a SMAC result."
MARGIN = 1
"""Cells around the walkable ground that are shown where nobody flies."""
_MOVES = ("no-op", "stop", "north", "south", "east", "west")
"""SMAC's actions before those at targets."""


def stage(battle: Skirmish, row: int) -> Stage:
    """The map of a battle and the units that fight it."""
    kinds = _kinds(battle, row)
    (left, bottom), (right, top) = _shown(battle.map.terrain, kinds)
    return Stage(
        title=battle.map.name,
        note=NOTE,
        teams=TEAMS,
        entities=tuple(_entity(battle, u, kind) for u, kind in enumerate(kinds)),
        low=(float(left), float(bottom)),
        high=(float(right), float(top)),
        ground=_cells(battle.map.terrain)[left:right, bottom:top],
    )


def frame(battle: Skirmish, row: int) -> Frame:
    """Where the units of a battle are, how they are, and whom they are after."""
    names = ("pos", "hp", "shield", "energy", "cooldown", "target", "order")
    live = {name: battle.live[name][row].cpu().numpy().copy() for name in names}
    alive = live["hp"] > 0
    aimed = alive & (live["target"] >= 0)
    words = ["heal" if kind.healing > 0 else "attack" for kind in _kinds(battle, row)]
    walking = live["order"] == int(MOVE)
    orders = [word if a else "move" if w else "stand" for word, a, w in zip(words, aimed, walking, strict=True)]
    return Frame(
        position=live["pos"],
        alive=alive,
        health=live["hp"] * alive,
        shield=live["shield"] * alive,
        energy=live["energy"] * alive,
        cooldown=live["cooldown"] * alive,
        target=np.where(aimed, live["target"], -1).astype(np.int64),
        order=tuple(order if lives else "" for order, lives in zip(orders, alive, strict=True)),
    )


def _kinds(battle: Skirmish, row: int) -> list[UnitKind]:
    """Every unit's type, by the kernels' records: one per type and team."""
    types = [name for team in (battle.map.allies, battle.map.enemies) for name, _ in team]
    return [UNITS[types[k]] for k in battle.live["kind"][row].tolist()]


def _entity(battle: Skirmish, u: int, kind: UnitKind) -> Entity:
    """Unit ``u``. Marks are the numbers by which actions call units."""
    agents, enemies, name = battle.map.n_agents, battle.map.n_enemies, kind.name.replace("_", " ")
    team = int(u >= agents)
    number = u - team * agents
    healer = kind.healing > 0
    repeats = not healer and not kind.burst  # neither a healer nor who dies by its only attack
    verb, aims = ("heal", range(agents)) if healer else ("attack", range(agents, agents + enemies))
    actions = (*_MOVES, *(f"{verb} {k}" for k in range(len(aims))))
    return Entity(
        name=f"{name} {number}",
        kind=name,
        mark=str(number),
        team=team,
        agent=None if team else u,
        actions=() if team else actions,
        aims=() if team else (*(-1 for _ in _MOVES), *aims),
        radius=kind.radius,
        sight=0.0 if team else _sight(battle, kind),
        reach=kind.reach,
        health=kind.hp,
        shield=kind.shield,
        energy=kind.energy_max,
        cooldown=kind.period * LOOPS_PER_SECOND if repeats else 0.0,
    )


def _sight(battle: Skirmish, kind: UnitKind) -> float:
    """How far an agent of that kind sees."""
    return kind.sight if battle.options.use_unit_ranges else battle.options.sight_range or 0.0


def _cells(terrain: str) -> np.ndarray:
    """[SIZE, SIZE] uint8, indexed [x, y]: the ground in a stage's terms."""
    return np.array([WALL, FLOOR, CLIFF], dtype=np.uint8)[ground(terrain)]


def _shown(terrain: str, kinds: list[UnitKind]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The lower left and the upper right corner of where units can get to, in cells."""
    if any(kind.legs == "flies" for kind in kinds):
        return (0, 0), (SIZE, SIZE)
    cells = np.argwhere(_cells(terrain) != WALL)
    low, high = np.maximum(cells.min(0) - MARGIN, 0), np.minimum(cells.max(0) + 1 + MARGIN, SIZE)
    return (int(low[0]), int(low[1])), (int(high[0]), int(high[1]))
