"""Teams and places drawn for one battle, distributed as in SMACv2."""

from __future__ import annotations

import math
from typing import no_type_check

import warp as wp

from envs.skirmish.engine.layout import Battle, Scene, kind_of

GOLDEN = wp.constant(math.pi * (3.0 - math.sqrt(5.0)))
"""Turned by this from one to the next, points fill a disc evenly."""
SPREAD = wp.constant(math.sqrt(2.0 * math.sqrt(3.0) / math.pi))
"""Distance of the k-th of them from the centre, over the root of k and the radius of what stands there."""
CLOSEST = wp.constant(2.0)
"""Surrounding enemies come at most this near to the centre, on either axis. Upstream keeps opponents apart, since the
game places units badly that appear on top of them."""
BUFFER = wp.constant(1.0)
"""Mirrored units are at least this far from the middle, for the same reason."""
EDGE = wp.constant(0.01)
"""Nobody appears nearer to the map's border."""


@no_type_check
@wp.func
def pick(s: Scene, share: float) -> int:
    """The type into whose part of [0, 1) ``share`` falls."""
    k = int(0)
    while k < s.n_types - 1 and share >= s.cumulative[k]:
        k += 1
    return k


@no_type_check
@wp.func
def draw_team(s: Scene, b: Battle, i: int, first: int, last: int, kinds: int, rng: wp.uint32):
    """Types for the units from ``first`` to before ``last``, again if all are exceptions.

    ``kinds`` is the team's first place in the table of kinds.
    """
    again = bool(first < last)
    while again:
        u = int(first)
        while u < last:
            k = pick(s, wp.randf(rng))
            b.unit[i, u].kind = kinds + k
            if s.excepted[k] == 0:
                again = bool(False)
            u += 1


@no_type_check
@wp.func
def draw_teams(s: Scene, b: Battle, i: int, seed: int):
    """Agents of drawn types; the same for the enemies, and extra draws where they are more."""
    draw_team(s, b, i, 0, s.n_agents, 0, wp.rand_init(seed, 0))
    shared = wp.min(s.n_agents, s.n_units - s.n_agents)
    n = int(0)
    while n < shared:
        b.unit[i, s.n_agents + n].kind = s.n_types + b.unit[i, n].kind
        n += 1
    draw_team(s, b, i, s.n_agents + shared, s.n_units, s.n_types, wp.rand_init(seed, 1))


@no_type_check
@wp.func
def draw_mirrored(s: Scene, b: Battle, i: int, rng: wp.uint32):
    """Agents anywhere in the left half, enemies where their mirror images are; extra enemies in the right half."""
    half = 0.5 * s.area[0]
    u = int(0)
    while u < s.n_units:
        x = wp.randf(rng)
        y = s.area[1] * wp.randf(rng)
        if u < s.n_agents:
            b.unit[i, u].pos = wp.vec2((half - BUFFER) * x, y)
        elif u < 2 * s.n_agents:
            twin = b.unit[i, u - s.n_agents].pos
            b.unit[i, u].pos = wp.vec2(s.area[0] - twin[0], twin[1])
        else:
            b.unit[i, u].pos = wp.vec2(half * (1.0 + x), y)
        u += 1


@no_type_check
@wp.func
def draw_group(s: Scene, diagonal: int, share: float) -> wp.vec2:
    """A place on one of the four diagonals, ``share`` of the way from its corner towards the centre."""
    east = wp.where(diagonal < 2, 0.0, 1.0)
    north = wp.where(diagonal == 1 or diagonal == 2, 1.0, 0.0)
    corner = wp.vec2(east * s.area[0], north * s.area[1])
    inner = 0.5 * s.area + CLOSEST * wp.vec2(2.0 * east - 1.0, 2.0 * north - 1.0)
    return share * inner + (1.0 - share) * corner


@no_type_check
@wp.func
def draw_surrounded(s: Scene, b: Battle, i: int, rng: wp.uint32):
    """All agents at the centre; one to four groups of enemies, each on a diagonal of its own.

    Each enemy falls into any group equally likely; groups are filled in the enemies' order.
    """
    u = int(0)
    while u < s.n_agents:
        b.unit[i, u].pos = 0.5 * s.area
        u += 1
    n_groups = wp.randi(rng, 1, 5)
    sizes = wp.vec4i(0, 0, 0, 0)
    v = int(s.n_agents)
    while v < s.n_units:
        g = wp.randi(rng, 0, n_groups)
        sizes[g] = sizes[g] + 1
        v += 1
    diagonals = wp.vec4i(0, 1, 2, 3)
    u = int(s.n_agents)
    g = int(0)
    while g < n_groups:
        other = wp.randi(rng, g, 4)
        diagonal = diagonals[other]
        diagonals[other] = diagonals[g]
        p = draw_group(s, diagonal, wp.randf(rng))
        member = int(0)
        while member < sizes[g]:
            b.unit[i, u].pos = p
            u += 1
            member += 1
        g += 1


@no_type_check
@wp.func
def draw_places(s: Scene, b: Battle, i: int, rng: wp.uint32):
    """Places by the kind of start that the row draws; the two points where none are drawn."""
    if s.reflected < 0.0:
        u = int(0)
        while u < s.n_units:
            b.unit[i, u].pos = s.spawn[wp.where(u < s.n_agents, 0, 1)]
            u += 1
    elif wp.randf(rng) < s.reflected:
        draw_mirrored(s, b, i, rng)
    else:
        draw_surrounded(s, b, i, rng)


@no_type_check
@wp.func
def beside(s: Scene, b: Battle, i: int, u: int) -> wp.vec2:
    """A place for ``u`` round the point on which it and others were created, the first of them in the middle."""
    p = b.unit[i, u].origin
    legs = kind_of(s, b, i, u).legs
    before = int(0)
    v = int(0)
    while v < u:
        if b.unit[i, v].origin == p and kind_of(s, b, i, v).legs == legs:
            before += 1
        v += 1
    far = SPREAD * kind_of(s, b, i, u).separation * wp.sqrt(float(before))
    angle = GOLDEN * float(before)
    last = float(s.size) - EDGE
    return wp.vec2(
        wp.clamp(p[0] + far * wp.cos(angle), EDGE, last),
        wp.clamp(p[1] + far * wp.sin(angle), EDGE, last),
    )


@no_type_check
@wp.func
def sort_kinds(s: Scene, b: Battle, i: int):
    """Agents by type, in the order of StarCraft's type numbers (an insertion sort that keeps the order otherwise)."""
    n = int(1)
    while n < s.n_agents:
        j = int(n)
        while j > 0:
            k = b.unit[i, j].kind
            p = b.unit[i, j].pos
            if b.unit[i, j - 1].kind <= k:
                j = int(0)
            else:
                b.unit[i, j].kind = b.unit[i, j - 1].kind
                b.unit[i, j].pos = b.unit[i, j - 1].pos
                b.unit[i, j - 1].kind = k
                b.unit[i, j - 1].pos = p
                j -= 1
        n += 1


@no_type_check
@wp.func
def draw_battle(s: Scene, b: Battle, i: int, seed: int):
    """Kinds and places of all units."""
    draw_teams(s, b, i, seed)
    draw_places(s, b, i, wp.rand_init(seed, 2))
    u = int(0)
    while u < s.n_units:
        b.unit[i, u].origin = b.unit[i, u].pos
        u += 1
    u = int(0)
    while u < s.n_units:
        b.unit[i, u].pos = beside(s, b, i, u)
        u += 1
    sort_kinds(s, b, i)
