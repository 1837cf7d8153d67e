"""Where units can stand and how they get from one place to another."""

from __future__ import annotations

from typing import no_type_check

import warp as wp

from envs.skirmish.engine.layout import FLIES, WALKS, Battle, Scene, kind_of


@no_type_check
@wp.func
def inside(s: Scene, x: int, y: int) -> bool:
    """Whether a cell exists."""
    return x >= 0 and y >= 0 and x < s.size and y < s.size


@no_type_check
@wp.func
def can_stand(s: Scene, x: int, y: int) -> bool:
    """Whether a cell exists and is walkable."""
    return inside(s, x, y) and s.walk[x, y] == wp.uint8(1)


@no_type_check
@wp.func
def is_open(s: Scene, legs: int, p: wp.vec2) -> bool:
    """Whether a unit that gets about by ``legs`` can be at a point."""
    x = int(wp.floor(p[0]))
    y = int(wp.floor(p[1]))
    if not inside(s, x, y):
        return False
    if legs == WALKS:
        return s.walk[x, y] == wp.uint8(1)
    return legs == FLIES or s.walk[x, y] > wp.uint8(0)


@no_type_check
@wp.func
def slide(s: Scene, legs: int, p: wp.vec2, step: wp.vec2) -> wp.vec2:
    """``p + step``, or what a wall leaves of it along either axis."""
    q = p + step
    if is_open(s, legs, q):
        return q
    q = wp.vec2(p[0] + step[0], p[1])
    if is_open(s, legs, q):
        return q
    q = wp.vec2(p[0], p[1] + step[1])
    if is_open(s, legs, q):
        return q
    return p


@no_type_check
@wp.func
def number_of(s: Scene, p: wp.vec2) -> int:
    """The number of the walkable cell at, or nearest to, ``p``."""
    x = wp.clamp(int(wp.floor(p[0])), 0, s.size - 1)
    y = wp.clamp(int(wp.floor(p[1])), 0, s.size - 1)
    return s.number[x * s.size + y]


@no_type_check
@wp.func
def waypoint(s: Scene, p: wp.vec2, goal: wp.vec2) -> wp.vec2:
    """Where a walker heads for on the shortest way from ``p`` to ``goal``."""
    v = s.via[number_of(s, p), number_of(s, goal)]
    if v < 0:
        return goal
    return wp.vec2(float(v / s.size) + 0.5, float(v % s.size) + 0.5)


@no_type_check
@wp.func
def distance(p: wp.vec2, q: wp.vec2) -> wp.float64:
    """Between centres."""
    dx = wp.float64(q[0]) - wp.float64(p[0])
    dy = wp.float64(q[1]) - wp.float64(p[1])
    return wp.sqrt(dx * dx + dy * dy)


@no_type_check
@wp.func
def gap(s: Scene, b: Battle, i: int, u: int, v: int) -> float:
    """Distance from edge to edge."""
    return wp.length(b.unit[i, u].pos - b.unit[i, v].pos) - kind_of(s, b, i, u).radius - kind_of(s, b, i, v).radius
