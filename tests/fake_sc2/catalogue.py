"""StarCraft II's numbers of the unit types and abilities that SMAC's maps use."""

from __future__ import annotations

from envs.skirmish.maps import BattleMap

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


def own_types(battle_map: BattleMap) -> list[str]:
    """The map's own types, in the order of their numbers."""
    return [name for name, _ in battle_map.allies]


def type_numbers(battle_map: BattleMap) -> list[int]:
    """Every unit's type, allies first."""
    own = own_types(battle_map)
    allies = [FIRST_OWN + own.index(kind.name) for kind in battle_map.kinds(battle_map.allies)]
    return allies + [STOCK[kind.name] for kind in battle_map.kinds(battle_map.enemies)]
