"""What the agents' actions make their units do, and the script that may act for them."""

from __future__ import annotations

from typing import no_type_check

import warp as wp

from envs.skirmish.engine.combat import can_hit, needs_healing
from envs.skirmish.engine.ground import distance
from envs.skirmish.engine.layout import ATTACK, MOVE, NEVER, STAND, Battle, Scene, kind_of


@no_type_check
@wp.func
def order_move(s: Scene, b: Battle, i: int, n: int, action: int):
    """Actions 2 to 5: walk ``move_amount`` north, south, east or west."""
    step = wp.vec2(0.0, s.move_amount)
    if action == 3:
        step = wp.vec2(0.0, -s.move_amount)
    elif action == 4:
        step = wp.vec2(s.move_amount, 0.0)
    elif action == 5:
        step = wp.vec2(-s.move_amount, 0.0)
    b.unit[i, n].goal = b.unit[i, n].pos + step
    b.unit[i, n].order = MOVE
    b.unit[i, n].target = -1
    b.unit[i, n].windup = -1.0


@no_type_check
@wp.func
def is_healer(s: Scene, b: Battle, i: int, u: int) -> bool:
    """Whether a unit heals and does not fight."""
    return kind_of(s, b, i, u).healing > 0.0


@no_type_check
@wp.func
def order_target(s: Scene, b: Battle, i: int, n: int, target: int):
    """Attack, or heal, ``target``. Repeating it interrupts nothing; the impossible is refused, as by the game."""
    if is_healer(s, b, i, n):
        if not needs_healing(s, b, i, target):
            return
    elif not can_hit(s, b, i, n, target):
        return
    if b.unit[i, n].target != target:
        b.unit[i, n].windup = -1.0
    b.unit[i, n].target = target
    b.unit[i, n].order = ATTACK


@no_type_check
@wp.func
def target_of(s: Scene, b: Battle, i: int, n: int, action: int) -> int:
    """The unit that action 6 + k of agent ``n`` means: enemy k, or agent k for a healer."""
    return action - 6 + wp.where(is_healer(s, b, i, n), 0, s.n_agents)


@no_type_check
@wp.func
def in_range(s: Scene, b: Battle, i: int, n: int, v: int) -> bool:
    """Whether agent ``n`` is offered an attack on ``v``, as far as the distance goes."""
    return distance(b.unit[i, n].pos, b.unit[i, v].pos) <= wp.float64(kind_of(s, b, i, n).shoot)


@no_type_check
@wp.func
def obey(s: Scene, b: Battle, i: int, n: int, action: int):
    """Gives agent ``n`` the order of its action; an attack out of range leaves the last one as it is."""
    if action >= 6:
        target = target_of(s, b, i, n, action)
        if s.scripted > 0 or in_range(s, b, i, n, target):
            order_target(s, b, i, n, target)
    elif action >= 2:
        order_move(s, b, i, n, action)
    elif action == 1:
        b.unit[i, n].target = -1
        b.unit[i, n].order = STAND
        b.unit[i, n].windup = -1.0


@no_type_check
@wp.func
def is_wanted(s: Scene, b: Battle, i: int, n: int, v: int) -> bool:
    """Whether the script of agent ``n`` may choose ``v``: a healer's a patient, others' an enemy.

    Upstream means to keep Marauders from Medivacs, but compares the enemy's type with the agents' own; so they choose
    Medivacs, and the game refuses.
    """
    if is_healer(s, b, i, n):
        return v < s.n_agents and not is_healer(s, b, i, v) and needs_healing(s, b, i, v)
    return v >= s.n_agents and b.unit[i, v].hp > 0.0


@no_type_check
@wp.func
def nearest_wanted(s: Scene, b: Battle, i: int, n: int) -> int:
    """The unit nearest to agent ``n`` by centres that its script may choose, or -1."""
    best = int(-1)
    least = wp.float64(NEVER)
    v = int(0)
    while v < s.n_units:
        if is_wanted(s, b, i, n, v):
            d = distance(b.unit[i, n].pos, b.unit[i, v].pos)
            if d < least:
                least = d
                best = v
        v += 1
    return best


@no_type_check
@wp.func
def towards(p: wp.vec2, q: wp.vec2) -> int:
    """The move from ``p`` along the larger axis to ``q``."""
    dx = wp.float64(q[0]) - wp.float64(p[0])
    dy = wp.float64(q[1]) - wp.float64(p[1])
    if wp.abs(dx) > wp.abs(dy):
        return wp.where(dx > wp.float64(0.0), 4, 5)
    return wp.where(dy > wp.float64(0.0), 2, 3)


@no_type_check
@wp.func
def scripted_action(s: Scene, b: Battle, i: int, n: int) -> int:
    """SMAC's heuristic: attack the nearest enemy (by centres) and stay with it until it dies; healers heal likewise.

    0 where there is nothing to do, which leaves the last order as it is.
    """
    if b.unit[i, n].hp <= 0.0:
        return 0
    target = b.script[i, n]
    if target >= 0:
        if not is_wanted(s, b, i, n, target):
            target = int(-1)
    if target < 0:
        target = nearest_wanted(s, b, i, n)
        b.script[i, n] = target
    if target < 0:
        return 0
    action = 6 + target - wp.where(is_healer(s, b, i, n), 0, s.n_agents)
    if s.scripted_legal > 0 and b.avail[i, n, action] == wp.uint8(0):
        action = towards(b.unit[i, n].pos, b.unit[i, target].pos)
    return action
