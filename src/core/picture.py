"""What there is to see of an environment: a ``Stage`` that stays, and a ``Frame`` for every moment.

Both are plain numbers in host memory, so that pictures and pages need to know no environment. The axis e counts
entities: units, agents, landmarks, whatever has a place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

FLOOR, WALL, CLIFF = 0, 1, 2
"""Cells of a ground: open to everybody, to nobody, to some."""

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Entity:
    """One thing on the stage. Whatever it does not have is 0."""

    name: str
    """In full: "marine 2"."""
    kind: str
    """What it shares with others of its sort: "marine"."""
    mark: str
    """What is written on it: a few characters, the more of them the smaller."""
    team: int | None = None
    """Place in the stage's teams; None: nobody's, such as a landmark."""
    agent: int | None = None
    """The agent that acts for it, counted from 0."""
    actions: tuple[str, ...] = ()
    """Its agent's numbered actions by name; empty where they have none."""
    aims: tuple[int, ...] = ()
    """For each of these actions the entity that it is directed at, or -1; empty where none is directed at any."""
    pushes: tuple[Point, ...] = ()
    """For each of these actions the arrow that shows it, in the world's units; where the action is a box, for each of
    its numbers the arrow of a 1, and arrows add up. Empty: actions are not shown as arrows."""
    radius: float
    """In the world's units."""
    sight: float = 0.0
    """How far its agent sees, from its centre."""
    reach: float = 0.0
    """How far its weapon reaches, from its edge to the other's."""
    health: float = 0.0
    """At most, like the following."""
    shield: float = 0.0
    energy: float = 0.0
    cooldown: float = 0.0
    """Time until it can act again, in any unit."""

    @classmethod
    def of_agent(cls, agent: int, *, radius: float, **known: Any) -> Entity:
        """An agent without a name of its own: "agent 2", marked 2, in the first team."""
        return cls(name=f"agent {agent}", kind="agent", mark=str(agent), team=0, agent=agent, radius=radius, **known)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What stays as it is during an episode."""

    title: str
    """The map or the scenario."""
    note: str = ""
    """What a viewer has to know of the engine."""
    teams: tuple[str, ...]
    """Their names."""
    entities: tuple[Entity, ...]
    low: Point
    """The lower left corner of what is shown."""
    high: Point
    """The upper right corner."""
    ground: UInt8[np.ndarray, "x y"] | None = None
    """Equal cells that fill it, x to the right and y up: FLOOR, WALL or CLIFF; None: all floor."""

    def __post_init__(self) -> None:
        for named, numbered in (("aims", self.entities), ("pushes", [e for e in self.entities if e.actions])):
            odd = [e.name for e in numbered if len(getattr(e, named)) not in (0, len(e.actions))]
            if odd:
                wrong = f"has entities with other numbers of {named} than of actions"
                raise ValueError(f"the stage {self.title} {wrong}: {odd}")
        if not (self.low[0] < self.high[0] and self.low[1] < self.high[1]):
            raise ValueError(f"the stage {self.title} has no area: {self.low} to {self.high}")
        lost = [entity.name for entity in self.entities if entity.team not in (None, *range(len(self.teams)))]
        if lost:
            raise ValueError(f"the stage {self.title} has {len(self.teams)} teams, none of which is that of {lost}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """Every kind once, in the order in which they appear."""
        return tuple(dict.fromkeys(entity.kind for entity in self.entities))


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The entities at one moment, in the stage's order."""

    position: Float[np.ndarray, "e 2"]
    alive: Bool[np.ndarray, " e"]
    health: Float[np.ndarray, " e"]
    shield: Float[np.ndarray, " e"]
    energy: Float[np.ndarray, " e"]
    cooldown: Float[np.ndarray, " e"]
    target: Int[np.ndarray, " e"]
    """The entity that it is after; -1: none."""
    order: tuple[str, ...]
    """What it is told to do, in a word; empty where that is not known."""

    @classmethod
    def of(cls, position: Float[np.ndarray, "e 2"], **known: Any) -> Frame:
        """A frame of which not everything is ``known``: all live, nothing has health, nobody is after anybody."""
        n = len(position)
        values: dict[str, Any] = {"alive": np.ones(n, dtype=bool), "target": np.full(n, -1), "order": ("",) * n}
        values |= {name: np.zeros(n, dtype=np.float32) for name in ("health", "shield", "energy", "cooldown")}
        return cls(position=position, **(values | known))


@dataclass(frozen=True)
class Colour:
    """A team's colour on a light and on a dark ground."""

    light: str
    dark: str


TEAMS = (
    Colour("#0072b2", "#56b4e9"),
    Colour("#d55e00", "#f2901d"),
    Colour("#37103f", "#f6efff"),
    Colour("#a6857a", "#ff2c90"),
)
"""Of the teams in turn. The first two are from Okabe and Ito (2008); all stay apart for colour-blind eyes as well."""
NOBODY = Colour("#6e7781", "#8b949e")
"""Of what belongs to no team."""

_SHAPES = ((0, 0.0), (4, 0.125), (3, 0.25), (4, 0.0), (5, 0.25), (6, 0.0))
"""Corners, and the direction of the first one in turns: disc, square, triangle, diamond, pentagon, hexagon."""


def emblem(kind: int) -> tuple[Point, ...]:
    """The corners, within the unit circle, of what is drawn inside the entities of the stage's ``kind``-th kind.

    Empty for the first kind, which has none; kinds beyond the sixth begin again.
    """
    corners, first = _SHAPES[kind % len(_SHAPES)]
    angles = [2 * math.pi * (first + k / corners) for k in range(corners)]
    return tuple((round(math.cos(angle), 4), round(math.sin(angle), 4)) for angle in angles)


def colour(team: int | None) -> Colour:
    """Of a team, or of nobody."""
    return NOBODY if team is None else TEAMS[team % len(TEAMS)]
