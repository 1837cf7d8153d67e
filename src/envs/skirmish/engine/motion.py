"""Walking: round corners, past those who stand in the way, and apart."""

from __future__ import annotations

import math
from typing import no_type_check

import warp as wp

from envs.skirmish.engine.ground import slide, waypoint
from envs.skirmish.engine.layout import FIGHTING, WALKING, WALKS, Battle, Scene, kind_of, unit_at

PI = wp.constant(math.pi)
COS_TURN = wp.constant(math.cos(math.pi / 6))
SIN_TURN = wp.constant(math.sin(math.pi / 6))


@no_type_check
@wp.func
def blocks(s: Scene, b: Battle, i: int, u: int, v: int) -> bool:
    """Whether walker ``u`` goes round ``v``: a fighter, an opponent, somebody stuck. Idle mates are pushed aside."""
    if b.unit[i, v].hp <= 0.0 or v == b.unit[i, u].target:
        return False
    if kind_of(s, b, i, v).legs != kind_of(s, b, i, u).legs:
        return False
    if b.unit[i, v].stance == WALKING:
        return b.unit[i, v].stuck > 0
    same = (u < s.n_agents) == (v < s.n_agents)
    return not same or b.unit[i, v].stance == FIGHTING


@no_type_check
@wp.func
def headings_into(direction: wp.vec2, n: wp.vec2, into: float) -> int:
    """Bit k: ``direction``, turned left by k times 30 degrees, has a component of more than ``into`` along ``n``."""
    mask = int(0)
    d = direction
    k = int(0)
    while k < 12:
        if wp.dot(d, n) > into:
            mask = mask | (1 << k)
        d = wp.vec2(COS_TURN * d[0] - SIN_TURN * d[1], SIN_TURN * d[0] + COS_TURN * d[1])
        k += 1
    return mask


@no_type_check
@wp.func
def blocked_by(s: Scene, b: Battle, i: int, u: int, v: int, direction: wp.vec2) -> int:
    """The headings (see ``blocked_headings``) in which ``u`` walks into ``v``, if ``v`` stands in contact."""
    n = b.unit[i, v].pos - b.unit[i, u].pos
    room = kind_of(s, b, i, u).separation + kind_of(s, b, i, v).separation + 0.1
    far = wp.dot(n, n)
    if far < room * room and far > 1.0e-8:
        if blocks(s, b, i, u, v):
            return headings_into(direction, n, s.contact * wp.sqrt(far))
    return 0


@no_type_check
@wp.func
def blocked_headings(s: Scene, b: Battle, i: int, u: int, direction: wp.vec2) -> int:
    """Bit k: ``direction``, turned left by k times 30 degrees, leads into somebody who stands in contact."""
    mask = int(0)
    v = int(0)
    while v < s.n_units:
        if v != u:
            mask = mask | blocked_by(s, b, i, u, v, direction)
        v += 1
    return mask


@no_type_check
@wp.func
def first_free(mask: int, side: int) -> int:
    """The smallest turn to ``side`` (1 left, -1 right) that is free: 1 to 5 times 30 degrees, or 6 for none."""
    k = int(1)
    while k < 6:
        if (mask & (1 << ((12 + side * k) % 12))) == 0:
            return k
        k += 1
    return 6


@no_type_check
@wp.func
def steer(s: Scene, b: Battle, i: int, u: int, direction: wp.vec2, rng: wp.uint32) -> wp.vec2:
    """``direction``, or the smallest turn of it past those who stand in the way.

    ``side`` is remembered (its size counts the loops until it is forgotten), lest a walker sways in front of a gap.
    """
    mask = blocked_headings(s, b, i, u, direction)
    memory = b.unit[i, u].side
    side = wp.where(memory > 0, 1, wp.where(memory < 0, -1, 0))
    if (mask & 1) == 0:
        b.unit[i, u].side = memory - side
        return direction
    if side == 0:
        left = first_free(mask, 1)
        right = first_free(mask, -1)
        side = wp.where(left < right or (left == right and wp.randf(rng) < 0.5), 1, -1)
    turn = first_free(mask, side)
    if turn == 6:
        side = -side
        turn = first_free(mask, side)
    b.unit[i, u].side = side * s.side_memory
    if turn == 6:
        return wp.vec2(0.0, 0.0)
    angle = float(side * turn) * (PI / 6.0)
    c = wp.cos(angle)
    w = wp.sin(angle)
    return wp.vec2(c * direction[0] - w * direction[1], w * direction[0] + c * direction[1])


@no_type_check
@wp.func
def advance(s: Scene, b: Battle, i: int, u: int, rng: wp.uint32) -> wp.vec2:
    """Walks one loop's step: round corners by the map's ways, round standing units by steering, along walls."""
    p = b.unit[i, u].pos
    legs = kind_of(s, b, i, u).legs
    goal = b.unit[i, u].dest
    if legs == WALKS and s.routed > 0:
        goal = waypoint(s, p, goal)
    heading = goal - p
    far = wp.length(heading)
    if far < 1.0e-6:
        return p
    step = wp.min(b.unit[i, u].pace, far) * steer(s, b, i, u, heading / far, rng)
    pace = wp.length(step)
    if pace <= 0.0:
        return p
    q = slide(s, legs, p, step)
    if legs == WALKS and s.routed > 0 and wp.length(q - p) < 0.25 * pace:
        centre = wp.vec2(wp.floor(p[0]) + 0.5, wp.floor(p[1]) + 0.5) - p
        q = slide(s, legs, p, centre * wp.min(1.0, pace / wp.max(wp.length(centre), 1.0e-6)))
    return q


@no_type_check
@wp.func
def weight(s: Scene, b: Battle, i: int, u: int) -> float:
    """How readily a unit is pushed; structures are not."""
    if kind_of(s, b, i, u).speed <= 0.0:
        return 0.0
    stance = b.unit[i, u].stance
    if stance == WALKING:
        return 1.0
    if stance == FIGHTING:
        return s.fighting_weight
    return s.idle_weight


@no_type_check
@wp.func
def push_apart(s: Scene, b: Battle, i: int, u: int, v: int):
    """Pushes two units apart, if they overlap: walkers more than standers, nobody into walls."""
    k = kind_of(s, b, i, u)
    w = kind_of(s, b, i, v)
    room = k.separation + w.separation
    n = b.unit[i, v].pos - b.unit[i, u].pos
    far = wp.dot(n, n)
    if far < room * room and k.legs == w.legs:
        far = wp.sqrt(far)
        if far > 1.0e-4:
            n = n / far
        else:
            n = wp.vec2(wp.cos(float(u + v)), wp.sin(float(u + v)))
        wu = weight(s, b, i, u)
        share = wu / wp.max(wu + weight(s, b, i, v), 1.0e-6)
        push = room - far
        b.unit[i, u].pos = slide(s, k.legs, b.unit[i, u].pos, -(push * share) * n)
        b.unit[i, v].pos = slide(s, w.legs, b.unit[i, v].pos, (push * (1.0 - share)) * n)


@no_type_check
@wp.func
def push_others(s: Scene, b: Battle, i: int, place: int):
    """Pushes the unit at ``place`` of the roll and the living units after it apart."""
    u = unit_at(b, i, place)
    later = int(place + 1)
    present = b.present[i]
    while later < present:
        v = unit_at(b, i, later)
        n = b.unit[i, v].pos - b.unit[i, u].pos
        if wp.dot(n, n) < s.widest:
            if b.unit[i, v].hp > 0.0:
                push_apart(s, b, i, u, v)
        later += 1


@no_type_check
@wp.func
def separate(s: Scene, b: Battle, i: int):
    """Pushes overlapping units apart, pair by pair."""
    place = int(0)
    present = b.present[i]
    while place < present:
        if b.unit[i, unit_at(b, i, place)].hp > 0.0:
            push_others(s, b, i, place)
        place += 1
