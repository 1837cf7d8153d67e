"""SMACv2's maps: teams and places that are drawn anew for every battle, from upstream's ``capability_config``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.registry import did_you_mean
from envs.skirmish.maps import SIZE, BattleMap, Draw

LOOPS_BETWEEN_ORDERS = 8
"""SMACv2's map orders idle enemies about every half second."""
POINTS = ((8.0, 16.0), (24.0, 16.0))
"""Where the teams appear if no places are drawn (allies, enemies)."""


@dataclass(frozen=True, kw_only=True)
class Race:
    """One of SMACv2's maps."""

    letter: str
    types: tuple[str, ...]
    """In the order of StarCraft's numbers of SMACv2's own units, which is the agents' order."""
    codes: tuple[str, ...]
    """In the order of the one-hot code."""
    weights: Mapping[str, float]
    """SMACv2's published ones."""
    exceptions: tuple[str, ...]
    """Types of which no whole team may consist, as published."""


RACES: dict[str, Race] = {
    "10gen_terran": Race(
        letter="T",
        types=("marauder", "marine", "medivac"),
        codes=("marine", "marauder", "medivac"),
        weights={"marine": 0.45, "marauder": 0.45, "medivac": 0.1},
        exceptions=("medivac",),
    ),
    "10gen_protoss": Race(
        letter="P",
        types=("colossus", "stalker", "zealot"),
        codes=("stalker", "zealot", "colossus"),
        weights={"stalker": 0.45, "zealot": 0.45, "colossus": 0.1},
        exceptions=(),
    ),
    "10gen_zerg": Race(
        letter="Z",
        types=("baneling", "hydralisk", "zergling"),
        codes=("zergling", "hydralisk", "baneling"),
        weights={"zergling": 0.45, "hydralisk": 0.45, "baneling": 0.1},
        exceptions=("baneling",),
    ),
}
"""SMACv2's maps by name."""

_NOT_BUILT = {
    "attack": "attacks that fail at random are not simulated",
    "health": "units that die before their health is gone are not simulated",
    "enemy_mask": "masks of the enemies' health and type are not built",
}
"""Parts of upstream's ``capability_config`` that are refused."""
_TEAM = ("dist_type", "unit_types", "weights", "exception_unit_types", "observe")
_PLACES = ("dist_type", "p", "map_x", "map_y", "n_enemies")
_SHARES: dict[str, float | None] = {"surrounded_and_reflect": None, "surrounded": 0.0, "reflect_position": 1.0}
"""How places can be drawn, and the share of mirrored ones where the way itself says it."""


def generated(map_name: str, capability: Mapping[str, Any]) -> BattleMap:
    """The map called ``map_name`` with teams and places drawn as ``capability`` says.

    Raises:
        ValueError: no such map, or a mistake in ``capability``; all mistakes at once.
    """
    if map_name not in RACES:
        raise ValueError(f"unknown map '{map_name}'.{did_you_mean(map_name, RACES)} SMACv2's are {', '.join(RACES)}")
    race, reader = RACES[map_name], _Reader(capability)
    agents, enemies = reader.size("n_units"), reader.size("n_enemies")
    weights, exceptions, observed = reader.team(race)
    share, area = reader.places()
    if reader.problems:
        raise ValueError("; ".join(reader.problems))
    draw = Draw(types=race.types, weights=weights, exceptions=exceptions, observed=observed, reflected=share, area=area)
    rest = tuple((name, 0) for name in race.types[1:])
    return BattleMap(
        name=f"{map_name}_{agents}_vs_{enemies}",
        limit=200,
        races=f"{race.letter}/{race.letter}",
        bits=len(race.types),
        allies=((race.types[0], agents), *rest),
        enemies=((race.types[0], enemies), *rest),
        ally_codes=race.codes,
        enemy_codes=race.codes,
        terrain="field",
        ally_points=POINTS[:1],
        enemy_points=POINTS[1:],
        orders=(),
        hunts_every=LOOPS_BETWEEN_ORDERS,
        draw=draw,
    )


class _Reader:
    """Reads a ``capability_config`` and collects what is wrong with it."""

    def __init__(self, capability: Mapping[str, Any]) -> None:
        self.problems: list[str] = []
        self.given = capability
        legal = ("n_units", "n_enemies", "team_gen", "start_positions")
        refused = [name for name in capability if name in _NOT_BUILT]
        self.problems += [f"the skirmish engine cannot honour capability_config.{n}: {_NOT_BUILT[n]}" for n in refused]
        self._known("capability_config", {k: v for k, v in capability.items() if k not in refused}, legal)

    def size(self, name: str) -> int:
        """A number of units."""
        value = self.given.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        self.problems.append(f"capability_config.{name} must be a whole number above 0, not {value!r}")
        return 1

    def team(self, race: Race) -> tuple[tuple[float, ...], tuple[str, ...], bool]:
        """Every type's weight, in the order of the race's types; the exceptions; whether mates' types are seen."""
        team = self._part("team_gen", _TEAM)
        self._choice("team_gen.dist_type", team.get("dist_type", "weighted_teams"), ("weighted_teams",))
        observed = team.get("observe", True)
        if not isinstance(observed, bool):
            self.problems.append(f"capability_config.team_gen.observe must be True or False, not {observed!r}")
        weights = dict(race.weights)
        if ("unit_types" in team) != ("weights" in team):
            self.problems.append("capability_config.team_gen needs both unit_types and weights, or neither")
        elif "unit_types" in team:
            weights = self._weights(race, team["unit_types"], team["weights"])
        exceptions = team.get("exception_unit_types", () if "unit_types" in team else race.exceptions)
        if not self._types(race, "exception_unit_types", exceptions):
            exceptions = ()
        if not self.problems and not any(w for name, w in weights.items() if name not in exceptions):
            self.problems.append("capability_config.team_gen draws only exception_unit_types, so no team is allowed")
        return tuple(weights.get(name, 0.0) for name in race.types), tuple(exceptions), bool(observed)

    def places(self) -> tuple[float | None, tuple[float, float]]:
        """The share of mirrored places, None for the two fixed points; and the area's width and height."""
        if "start_positions" not in self.given:
            return None, (float(SIZE), float(SIZE))
        places = self._part("start_positions", _PLACES)
        way = self._choice("start_positions.dist_type", places.get("dist_type"), tuple(_SHARES))
        share = _SHARES.get(way)
        if share is None:
            share = self._number("start_positions.p", places.get("p"), 0.0, 1.0)
        if places.get("n_enemies", self.given.get("n_enemies")) != self.given.get("n_enemies"):
            self.problems.append("capability_config.start_positions.n_enemies must equal capability_config.n_enemies")
        area = [self._number(f"start_positions.{k}", places.get(k, SIZE), 4.0, float(SIZE)) for k in ("map_x", "map_y")]
        return share, (area[0], area[1])

    def _weights(self, race: Race, types: Any, weights: Any) -> dict[str, float]:
        """The given weights by type."""
        if not self._types(race, "unit_types", types):
            return {}
        numbers = isinstance(weights, list | tuple) and all(isinstance(w, int | float) for w in weights)
        if not numbers or len(weights) != len(types) or min(weights) < 0 or not math.isclose(sum(weights), 1.0):
            self.problems.append(
                f"capability_config.team_gen.weights must be {len(types)} numbers from 0 that sum to 1, not {weights!r}"
            )
            return {}
        return dict(zip(types, map(float, weights), strict=True))

    def _types(self, race: Race, key: str, types: Any) -> bool:
        """Whether ``types`` lists units of the race, each once."""
        known = isinstance(types, list | tuple) and all(name in race.types for name in types)
        if known and len(set(types)) == len(types):
            return True
        names = ", ".join(race.codes)
        self.problems.append(f"capability_config.team_gen.{key} must list some of {names}, none twice, not {types!r}")
        return False

    def _part(self, name: str, legal: tuple[str, ...]) -> Mapping[str, Any]:
        part = self.given.get(name, {})
        if not isinstance(part, Mapping):
            self.problems.append(f"capability_config.{name} must be a mapping, not {part!r}")
            return {}
        self._known(f"capability_config.{name}", part, legal)
        return part

    def _known(self, where: str, given: Mapping[str, Any], legal: tuple[str, ...]) -> None:
        self.problems += [f"{where} has no key '{k}'.{did_you_mean(k, legal)}" for k in given if k not in legal]

    def _choice(self, name: str, value: Any, legal: tuple[str, ...]) -> str:
        if value in legal:
            return str(value)
        ways = " or ".join(legal)
        self.problems.append(f"the skirmish engine cannot honour capability_config.{name} {value!r}: it knows {ways}")
        return legal[-1]

    def _number(self, name: str, value: Any, low: float, high: float) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
            return float(value)
        self.problems.append(f"capability_config.{name} must be a number from {low:g} to {high:g}, not {value!r}")
        return low
