"""The maps as data: teams, episode limits, geometry, sight; and the ways round the corners of their terrain."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from core.registry import did_you_mean
from envs.skirmish.units import UNITS, UnitKind

SIZE = 32
"""Every map is SIZE x SIZE cells."""

Team = tuple[tuple[str, int], ...]
Point = tuple[float, float]
AllyBlock = Literal["drop", "zero", "full"]
"""What becomes of an observation's part on the other agents: left out, all zeros, or shown."""


@dataclass(frozen=True, kw_only=True)
class Draw:
    """How a battle's teams and places are drawn: SMACv2's distributions (Ellis et al. 2023)."""

    types: tuple[str, ...]
    """In the order of the agents."""
    weights: tuple[float, ...]
    """Probability of each type, for every unit by itself."""
    exceptions: tuple[str, ...]
    """A team of these types alone is drawn again."""
    observed: bool
    """Whether agents see what type their mates are of."""
    reflected: float | None
    """Probability that the enemies are the agents' mirror image, else they surround them; None: nothing is drawn."""
    area: Point
    """Width and height of the part of the map in which places are drawn."""

    def mean_health(self, size: int) -> float:
        """Expected health and shield of one unit of a team of ``size``, exceptions taken into account."""
        health = {name: UNITS[name].hp + UNITS[name].shield for name in self.types}
        drawn = dict(zip(self.types, self.weights, strict=True))
        among = sum(drawn[name] for name in self.exceptions)
        lost = sum(drawn[name] * health[name] for name in self.exceptions) * among ** (size - 1)
        return (sum(drawn[name] * health[name] for name in self.types) - lost) / (1.0 - among**size)


@dataclass(frozen=True, kw_only=True)
class BattleMap:
    """One map: who fights whom, where, and for how long at most."""

    name: str
    limit: int
    """Agent steps after which an undecided battle is cut."""
    races: str
    """Ally and enemy race: "P/Z"; Protoss units show their shields."""
    bits: int = 0
    """Length of the unit type's one-hot code."""
    allies: Team
    """In the order of the agents, which is the order of the one-hot code too."""
    enemies: Team
    ally_codes: tuple[str, ...] = ()
    """The allies' one-hot order, if it is another."""
    enemy_codes: tuple[str, ...] = ()
    """The enemies' one-hot order."""
    terrain: str = "strip"
    ally_points: tuple[Point, ...] = ((9.0, 16.0),)
    """Where the allies appear: all at one point, or each type at its own; one type may be dealt to several points."""
    enemy_points: tuple[Point, ...] = ((23.0, 16.0),)
    orders: tuple[Point, ...] = ((9.0, 16.0),)
    """Where the enemy attack-moves to; of two points: to a random point between them, drawn per episode."""
    hunted: bool = False
    """The enemy is ordered to attack the agents wherever they are."""
    sight_range: float = 9.0
    obs_allies: AllyBlock = "full"
    """Of both, what the options of the same names are where they are not set."""
    hunts_every: int = 0
    """Game loops between the map's orders to idle enemies to attack the closest agent; 0: it gives none."""
    draw: Draw | None = None
    """Teams and places are drawn for every battle; of ``allies`` and ``enemies`` only the types and the sums count."""

    def kinds(self, team: Team) -> list[UnitKind]:
        """One entry per unit of ``team``."""
        return [UNITS[name] for name, count in team for _ in range(count)]

    @property
    def n_agents(self) -> int:
        """Allies."""
        return sum(count for _, count in self.allies)

    @property
    def n_enemies(self) -> int:
        """Enemies."""
        return sum(count for _, count in self.enemies)

    @property
    def enemy_health(self) -> float:
        """All enemies' health and shields; the expectation where teams are drawn."""
        if self.draw is None:
            return sum(kind.hp + kind.shield for kind in self.kinds(self.enemies))
        extra = self.n_enemies - self.n_agents
        parts = ((min(self.n_agents, self.n_enemies), self.n_agents), (extra, extra))  # (units, drawn with how many)
        return sum(count * self.draw.mean_health(size) for count, size in parts if count > 0)


def _mirror(**fields: object) -> BattleMap:
    """A map on which both teams are the same."""
    return BattleMap(enemies=fields["allies"], **fields)  # type: ignore[arg-type]


_ZEALOT_FIRST = ("zealot", "stalker")
"""SMAC numbers the enemies' types by StarCraft's own type numbers, which reverses the allies' order."""
_2S3Z: Team = (("stalker", 2), ("zealot", 3))
_3S5Z: Team = (("stalker", 3), ("zealot", 5))
_1C3S5Z: Team = (("colossus", 1), ("stalker", 3), ("zealot", 5))
_MMM: Team = (("marauder", 2), ("marine", 7), ("medivac", 1))
_MMM2: Team = (("marauder", 3), ("marine", 8), ("medivac", 1))
_BANE: Team = (("baneling", 4), ("zergling", 20))
_FAR: Point = (4.47, 4.33)
_DIAGONAL: Point = (27.91, 28.24)

_MAPS = (
    _mirror(name="3m", limit=60, races="T/T", allies=(("marine", 3),)),
    _mirror(name="8m", limit=120, races="T/T", allies=(("marine", 8),)),
    _mirror(name="25m", limit=150, races="T/T", allies=(("marine", 25),)),
    BattleMap(name="5m_vs_6m", limit=70, races="T/T", allies=(("marine", 5),), enemies=(("marine", 6),)),
    BattleMap(name="8m_vs_9m", limit=120, races="T/T", allies=(("marine", 8),), enemies=(("marine", 9),)),
    BattleMap(name="10m_vs_11m", limit=150, races="T/T", allies=(("marine", 10),), enemies=(("marine", 11),)),
    BattleMap(name="27m_vs_30m", limit=180, races="T/T", allies=(("marine", 27),), enemies=(("marine", 30),)),
    _mirror(name="MMM", limit=150, races="T/T", bits=3, allies=_MMM, enemy_codes=("marauder", "marine", "medivac")),
    BattleMap(
        name="MMM2", limit=180, races="T/T", bits=3, allies=_MMM, enemies=_MMM2,
        enemy_codes=("marauder", "marine", "medivac"),
    ),
    _mirror(name="2s3z", limit=120, races="P/P", bits=2, allies=_2S3Z, enemy_codes=_ZEALOT_FIRST),
    _mirror(name="3s5z", limit=150, races="P/P", bits=2, allies=_3S5Z, enemy_codes=_ZEALOT_FIRST),
    BattleMap(
        name="3s5z_vs_3s6z", limit=170, races="P/P", bits=2, allies=_3S5Z, enemies=(("stalker", 3), ("zealot", 6)),
        enemy_codes=_ZEALOT_FIRST,
    ),
    *(
        BattleMap(
            name=f"3s_vs_{n}z", limit=limit, races="P/P", allies=(("stalker", 3),), enemies=(("zealot", n),),
            terrain="field",
        )
        for n, limit in ((3, 150), (4, 200), (5, 250))
    ),
    _mirror(
        name="1c3s5z", limit=180, races="P/P", bits=3, allies=_1C3S5Z, enemy_codes=("colossus", "stalker", "zealot")
    ),
    BattleMap(
        name="2m_vs_1z", limit=150, races="T/P", allies=(("marine", 2),), enemies=(("zealot", 1),), terrain="octagon",
        ally_points=((13.0, 12.0), (19.0, 12.0)), enemy_points=((16.0, 19.0),), orders=((13.0, 12.0), (19.0, 12.0)),
    ),
    BattleMap(
        name="corridor", limit=400, races="P/Z", allies=(("zealot", 6),), enemies=(("zergling", 24),),
        terrain="corridor", ally_points=((19.04, 19.12),), enemy_points=(_DIAGONAL,), orders=(_FAR,),
    ),
    BattleMap(
        name="6h_vs_8z", limit=150, races="Z/P", allies=(("hydralisk", 6),), enemies=(("zealot", 8),),
        terrain="basin", ally_points=((14.60, 9.49),), enemy_points=((14.41, 16.76),), orders=((14.60, 9.49),),
    ),
    BattleMap(
        name="2s_vs_1sc", limit=300, races="P/Z", allies=(("stalker", 2),), enemies=(("spine_crawler", 1),),
        terrain="pentagon", ally_points=((11.12, 10.34), (16.98, 10.37)), enemy_points=((13.92, 20.04),), orders=(),
    ),
    BattleMap(
        name="so_many_baneling", limit=100, races="P/Z", allies=(("zealot", 7),), enemies=(("baneling", 32),),
        terrain="valley", ally_points=((11.47, 12.02),), enemy_points=(_DIAGONAL,), orders=(_FAR,),
    ),
    _mirror(
        name="bane_vs_bane", limit=200, races="Z/Z", bits=2, allies=_BANE, enemy_codes=("baneling", "zergling"),
        terrain="octagon", ally_points=((16.0, 8.0), (16.0, 11.0)), enemy_points=((16.0, 24.0), (16.0, 21.0)),
        orders=((16.0, 8.0),),
    ),
    BattleMap(
        name="2c_vs_64zg", limit=400, races="P/Z", allies=(("colossus", 2),), enemies=(("zergling", 64),),
        terrain="plateau", ally_points=((16.0, 16.0),), enemy_points=((16.0, 9.0),), orders=(), hunted=True,
    ),
)  # fmt: skip

_MYOPIC = tuple(
    replace(battle_map, name=f"{battle_map.name}_myopic", sight_range=6.0, obs_allies="drop")
    for battle_map in _MAPS
    if battle_map.name in ("8m_vs_9m", "10m_vs_11m")
)
"""Short sight and no word of the other agents: the myopic maps of MACPF's paper, section 5.2."""

MAPS: dict[str, BattleMap] = {battle_map.name: battle_map for battle_map in _MAPS + _MYOPIC}

_Rows = tuple[tuple[int, int, int, int], ...]
"""(first y, last y, first x, x after the last)."""
_CORRIDOR: _Rows = (
    (2, 3, 2, 13), (4, 9, 2, 12), (10, 10, 2, 13), (11, 11, 2, 14), (12, 12, 2, 15), (13, 13, 11, 26),
    (14, 14, 12, 27), (15, 15, 13, 28), (16, 16, 13, 29), (17, 22, 12, 30),
    *((y, y, y - 10, 30) for y in range(23, 30)),
)  # fmt: skip
"""Between the map's cell flags (too narrow on diagonals) and its cliff levels (too wide): a neck about 3 cells wide."""

TERRAINS: dict[str, _Rows] = {
    "strip": ((8, 23, 0, 32),),
    "field": ((0, 31, 0, 32),),
    "octagon": ((6, 7, 10, 22), (8, 9, 8, 24), (10, 21, 6, 26), (22, 23, 8, 24), (24, 25, 10, 22)),
    "basin": ((8, 9, 10, 20), (10, 17, 8, 22), (18, 19, 10, 20)),
    "pentagon": ((8, 19, 8, 20), (20, 21, 10, 18), (22, 23, 12, 16)),
    "corridor": _CORRIDOR,
    "valley": (
        (2, 3, 2, 8), (4, 7, 2, 12), (8, 11, 4, 16), (12, 15, 8, 20), (16, 17, 10, 20), (18, 21, 14, 26),
        (22, 23, 16, 30), (24, 27, 20, 30), (28, 29, 22, 30),
    ),
    "plateau": (
        (6, 7, 4, 28), (8, 9, 2, 30), (10, 11, 0, 32), (12, 13, 0, 4), (12, 13, 28, 32), (14, 15, 0, 32),
        (16, 17, 2, 30), (18, 19, 8, 24),
    ),
}  # fmt: skip
"""Walkable cells by row, as far as the maps' own grids tell."""

CLIFFS: dict[str, _Rows] = {"plateau": ((12, 13, 4, 28),)}
"""Cells that only climbers can walk on."""


class Ways(NamedTuple):
    """How to walk round corners: ``via[number[a], number[b]]`` is the next cell on the way from cell a to cell b."""

    number: np.ndarray
    """[SIZE * SIZE] int32: which of the n walkable cells the cell x * SIZE + y is, or is nearest to."""
    via: np.ndarray
    """[n, n] int32: -1 straight on, else the cell (x * SIZE + y) to head for."""


def find_map(name: str) -> BattleMap:
    """The map called ``name``.

    Raises:
        ValueError: no such map (did you mean ...?).
    """
    if name not in MAPS:
        raise ValueError(f"unknown map '{name}'.{did_you_mean(name, MAPS)}")
    return MAPS[name]


def ground(terrain: str) -> np.ndarray:
    """[SIZE, SIZE] uint8, indexed [x, y]: 1 where units can stand, 2 where only climbers can, 0 elsewhere."""
    grid = np.zeros((SIZE, SIZE), dtype=np.uint8)
    for value, rows in ((2, CLIFFS.get(terrain, ())), (1, TERRAINS[terrain])):
        for first, last, left, right in rows:
            grid[left:right, first : last + 1] = value
    return grid


def walkable(terrain: str) -> np.ndarray:
    """[SIZE, SIZE] bool, indexed [x, y]: where units without wings or stilts can stand."""
    return ground(terrain) == 1


@lru_cache(maxsize=8)
def ways(terrain: str) -> Ways | None:
    """The shortest ways between all pairs of cells; None where no wall is ever in between.

    Cells are the corners of a visibility graph: an edge joins two cells whose centres see each other, and shortest
    ways over it need no smoothing.
    """
    if len(TERRAINS[terrain]) == 1:  # a rectangle
        return None
    grid = walkable(terrain)
    cells = np.argwhere(grid)
    sight = _sight(grid, cells)
    span = np.linalg.norm(cells[:, None] - cells[None], axis=-1)
    length = np.where(sight, span, np.inf)
    for k in range(len(cells)):  # Floyd-Warshall
        np.minimum(length, length[:, k, None] + length[None, k], out=length)
    flat = cells[:, 0] * SIZE + cells[:, 1]
    everywhere = np.argwhere(np.ones_like(grid))
    number = np.linalg.norm(everywhere[:, None] - cells[None], axis=-1).argmin(-1).astype(np.int32)
    via = np.full((len(cells), len(cells)), -1, dtype=np.int32)
    for i in range(len(cells)):
        through = np.where(sight[i], span[i], np.inf)[:, None] + length
        through[i] = np.inf
        via[i] = np.where(sight[i], -1, flat[through.argmin(0)])
    return Ways(number, via)


def _sight(grid: np.ndarray, cells: np.ndarray, margin: float = 0.2) -> np.ndarray:
    """[n, n] bool: whether the straight line between two cells' centres is walkable, ``margin`` to both its sides."""
    n = len(cells)
    clear = np.ones((n, n), dtype=bool)
    centres, flat = cells.astype(np.float32) + 0.5, grid.ravel().astype(bool)
    shares = np.linspace(0.0, 1.0, 3 * SIZE, dtype=np.float32)[:, None, None]
    for i in range(n - 1):
        gap = centres[i + 1 :] - centres[i]
        aside = margin * np.stack([-gap[:, 1], gap[:, 0]], -1) / np.linalg.norm(gap, axis=-1, keepdims=True)
        for side in (centres[i] - aside, centres[i] + aside):
            line = (side + shares * gap).astype(np.int32)
            clear[i, i + 1 :] &= flat[line[..., 0] * SIZE + line[..., 1]].all(0)
    return clear & clear.T


def formation(team: Team, points: tuple[Point, ...], grid: np.ndarray, turn: float, clockwise: bool) -> np.ndarray:
    """[n, 2]: where units created one after the other on their point come to stand, each as near to it as is free.

    Of equally near places comes first the one at ``turn`` degrees from the east, then those further round. With
    several points every type has its own; a single type is dealt to them in equal groups.
    """
    kinds = [UNITS[name] for name, count in team for _ in range(count)]
    groups = np.repeat(np.arange(len(team)), [count for _, count in team])
    if len(points) != len(team):
        groups = np.arange(len(kinds)) * len(points) // len(kinds)
    offsets = _nearest_first(turn, clockwise)
    spots = np.array(points)[:, None] + offsets
    x, y = np.clip(spots.astype(np.int64), 0, SIZE - 1).transpose(2, 0, 1)
    inside = (spots >= 0).all(-1) & (spots < SIZE).all(-1) & grid[x, y]
    free = {kind: inside.copy() for kind in kinds}  # [points, offsets]: where one of a kind still finds room
    placed = []
    for i, kind in enumerate(kinds):
        spot = spots[groups[i], free[kind][groups[i]].argmax()]
        placed.append(spot)
        for other, places in free.items():
            if other.legs == kind.legs:
                places &= np.linalg.norm(spots - spot, axis=-1) >= kind.separation + other.separation - 1e-9
    return np.array(placed)


def _nearest_first(turn: float, clockwise: bool) -> np.ndarray:
    """[m, 2] steps of an eighth of a cell away from a point; equally long ones in the order of their direction."""
    steps = np.stack(np.meshgrid(*[np.arange(-8, 8.01, 0.125)] * 2, indexing="ij"), -1).reshape(-1, 2)
    angle = np.arctan2(steps[:, 1], steps[:, 0]) - np.radians(turn)
    angle = (np.where(clockwise, -angle, angle) + 1e-9) % (2 * np.pi)
    return steps[np.lexsort((angle, np.linalg.norm(steps, axis=-1).round(6)))]
