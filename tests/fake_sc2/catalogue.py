"""StarCraft II's numbers of the unit types and abilities that SMAC's maps use."""

from __future__ import annotations

from dataclasses import dataclass, replace

from envs.skirmish.draws import LOOPS_BETWEEN_ORDERS
from envs.skirmish.maps import BattleMap, Team

STOCK = {
    "colossus": 4,
    "baneling": 9,
    "marine": 48,
    "marauder": 51,
    "medivac": 54,
    "zealot": 73,
    "stalker": 74,
    "spine_crawler": 98,
    "zergling": 105,
    "hydralisk": 107,
}
"""The game's own types, of which the enemies are."""
FIRST_OWN = 1922
"""A map's own types, of which SMAC's agents are, are numbered from the end of the game's own on."""
OWN_V2 = ("baneling", "colossus", "hydralisk", "marauder", "marine", "medivac", "stalker", "zealot", "zergling")
"""Those of SMACv2's map, in its order."""
STOP, MOVE, ATTACK, HEAL = 4, 16, 23, 386
"""Abilities."""


FLAT = BattleMap(
    name="32x32_flat",
    limit=200,
    races="T/T",
    terrain="field",
    allies=(),
    enemies=(),
    ally_points=((8.0, 16.0),),
    enemy_points=((24.0, 16.0),),
    orders=(),
    hunts_every=LOOPS_BETWEEN_ORDERS,
)
"""SMACv2's map, on which the client creates the units."""


@dataclass(frozen=True)
class Created:
    """A unit that a client creates."""

    name: str
    ally: bool
    point: tuple[float, float]


def own_types(battle_map: BattleMap) -> tuple[str, ...]:
    """The map's own types, in the order of their numbers."""
    return OWN_V2 if battle_map.name == FLAT.name else tuple(name for name, _ in battle_map.allies)


def type_numbers(battle_map: BattleMap) -> list[int]:
    """Every unit's type, allies first."""
    own = own_types(battle_map)
    allies = [FIRST_OWN + own.index(kind.name) for kind in battle_map.kinds(battle_map.allies)]
    return allies + [STOCK[kind.name] for kind in battle_map.kinds(battle_map.enemies)]


def created(number: int, ally: bool, point: tuple[float, float]) -> Created | None:
    """A unit of a type's number; None where there is no such type."""
    names = {kind: name for name, kind in STOCK.items()}
    names |= {FIRST_OWN + place: name for place, name in enumerate(OWN_V2)}
    return Created(names[number], ally, point) if number in names else None


def teams(units: list[Created]) -> tuple[BattleMap, list[Created]]:
    """SMACv2's map with the units that were created, and these in the order of its units."""
    allies = sorted((unit for unit in units if unit.ally), key=lambda unit: OWN_V2.index(unit.name))
    enemies = [unit for unit in units if not unit.ally]
    drawn = replace(FLAT, allies=_team(allies), enemies=_team(enemies))
    return drawn, allies + enemies


def _team(units: list[Created]) -> Team:
    return tuple((unit.name, 1) for unit in units)
