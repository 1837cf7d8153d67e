"""Scripted opponents of ``magent_battle``: functions of what a team sees to one action per living agent.

Another one is another function of ``OPPONENTS``. Imported by worker processes: numpy only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer[Any]]
REACH, SIGHT = 2, 6
"""Radius of the circle within which an agent moves in one step, and of that which it sees."""
MOVES: Ints = np.array(
    [(x, y) for y in range(-REACH, REACH + 1) for x in range(-REACH, REACH + 1) if x * x + y * y <= REACH * REACH]
)
"""Where actions 0 to 12 lead, as (x, y), in the engine's order; 6 stays."""
HITS: Ints = np.array([(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1) if (x, y) != (0, 0)])
"""Where actions 13 to 20 hit, as (x, y)."""
N_ACTIONS = len(MOVES) + len(HITS)
_HIT_AT = np.full((3, 3), -1)
_HIT_AT[HITS[:, 0] + 1, HITS[:, 1] + 1] = np.arange(len(MOVES), N_ACTIONS)


@dataclass(frozen=True)
class Scene:
    """Who is where, as (x, y), before a step; the dead are left out."""

    own: Ints
    """[k, 2]: the agents that have to act."""
    foes: Ints
    """[m, 2], of which an agent may know those within ``SIGHT`` only."""
    free: npt.NDArray[np.bool_]
    """[x, y]: fields with neither wall nor agent."""


Opponent = Callable[[Scene, np.random.Generator], Ints]


def random(scene: Scene, rng: np.random.Generator) -> Ints:
    """Any action, all being equally likely."""
    return rng.integers(N_ACTIONS, size=len(scene.own))


def nearest(scene: Scene, rng: np.random.Generator) -> Ints:
    """Hits an adjacent enemy; else moves to the free field nearest to the nearest enemy in sight; else anything.

    Equals are decided by lot, so that nobody is preferred for its number.
    """
    # Squared distances are whole numbers: what is added decides between equal ones only.
    chosen = (_squared(scene.own, scene.foes) + rng.uniform(0, 0.5, len(scene.foes))).argmin(1)
    gap = scene.foes[chosen] - scene.own
    squared = np.square(gap).sum(1)
    hit = _HIT_AT[tuple(np.clip(gap, -1, 1).T + 1)]
    left = _squared(gap, MOVES) + rng.uniform(0, 0.5, (len(gap), len(MOVES)))
    there = np.clip(scene.own[:, None] + MOVES, 0, len(scene.free) - 1)
    possible = scene.free[there[..., 0], there[..., 1]] | ~MOVES.any(1)
    move = np.where(possible, left, np.inf).argmin(1)
    return np.where(squared <= 2, hit, np.where(squared <= SIGHT * SIGHT, move, random(scene, rng)))


def _squared(here: Ints, there: Ints) -> Ints:
    """[k, m]: squared distances. (Coordinate by coordinate, since numpy is slow in sums over short axes.)"""
    x, y = (here[:, None, i] - there[None, :, i] for i in (0, 1))
    squared: Ints = x * x + y * y
    return squared


OPPONENTS: dict[str, Opponent] = {"random": random, "nearest": nearest}
"""The legal values of ``env_args.opponent``."""
