"""A new battle."""

from __future__ import annotations

from typing import no_type_check

import warp as wp

from envs.skirmish.engine.combat import is_led
from envs.skirmish.engine.draw import draw_battle
from envs.skirmish.engine.ground import slide
from envs.skirmish.engine.layout import IDLE, MOVE, STAND, Battle, Scene, kind_of
from envs.skirmish.engine.motion import push_apart

ROUNDS = wp.constant(32)
"""Of pushing drawn units apart before a battle begins."""


@no_type_check
@wp.func
def sort_agents(s: Scene, b: Battle, i: int):
    """Agents of one type are numbered by x, then y (an insertion sort of their places)."""
    n = int(1)
    while n < s.n_agents:
        j = int(n)
        while j > 0:
            p = b.unit[i, j - 1].pos
            q = b.unit[i, j].pos
            ordered = p[0] < q[0] or (p[0] == q[0] and p[1] <= q[1])
            if b.unit[i, j - 1].kind != b.unit[i, j].kind or ordered:
                j = int(0)
            else:
                b.unit[i, j - 1].pos = q
                b.unit[i, j].pos = p
                j -= 1
        n += 1


@no_type_check
@wp.func
def line_up(s: Scene, b: Battle, i: int):
    """Units that appear on top of each other come to stand side by side, as the game places them.

    Pairs come in the units' order, so that mirrored teams stay mirrored.
    """
    u = int(0)
    while u < s.n_units:
        b.unit[i, u].stance = IDLE
        u += 1
    round = int(0)
    while round < ROUNDS:
        u = int(0)
        while u < s.n_units:
            v = int(u + 1)
            while v < s.n_units:
                push_apart(s, b, i, u, v)
                v += 1
            u += 1
        round += 1


@no_type_check
@wp.func
def begin(s: Scene, b: Battle, i: int, rng: wp.uint32):
    """A new battle in row ``i``."""
    r = s.spawn_jitter
    share = wp.randf(rng)
    goal = s.order_from + share * (s.order_to - s.order_from)
    if s.drawn > 0:
        draw_battle(s, b, i, wp.randi(rng))
    u = int(0)
    while u < s.n_units:
        dx = r * (2.0 * wp.randf(rng) - 1.0)
        dy = r * (2.0 * wp.randf(rng) - 1.0)
        if s.drawn == 0:
            b.unit[i, u].kind = s.team[u]
            b.unit[i, u].pos = slide(s, s.kind[s.team[u]].legs, s.spawn[u], wp.vec2(dx, dy))
        k = kind_of(s, b, i, u)
        b.unit[i, u].hp = k.hp
        b.unit[i, u].shield = k.shield
        b.unit[i, u].energy = k.energy
        b.unit[i, u].cooldown = 0.0
        b.unit[i, u].quiet = s.shield_delay
        b.unit[i, u].windup = -1.0
        b.unit[i, u].drive = 0.0
        b.unit[i, u].pending = -1.0
        b.unit[i, u].pending_target = -1
        b.unit[i, u].side = 0
        b.unit[i, u].stuck = 0
        b.unit[i, u].target = -1
        b.unit[i, u].goal = goal
        b.unit[i, u].order = STAND
        if is_led(s, u) and s.has_order > 0:
            b.unit[i, u].order = MOVE
        u += 1
    n = int(0)
    while n < s.n_agents:
        b.script[i, n] = -1
        b.last[i, n] = -1
        n += 1
    if s.drawn > 0:
        line_up(s, b, i)
    sort_agents(s, b, i)
    b.time[i] = 0
    b.running[i] = 1
    b.stale[i] = 1
    b.dead_allies[i] = 0.0
    b.dead_enemies[i] = 0.0


@no_type_check
@wp.func
def clear(b: Battle, i: int):
    """No outcome."""
    b.reward[i] = 0.0
    b.won[i] = 0.0
    b.terminated[i] = wp.uint8(0)
    b.truncated[i] = wp.uint8(0)


@no_type_check
@wp.func
def fresh_stream(b: Battle, i: int) -> wp.uint32:
    """The row's next generator: its seed and a counter make every call's draws reproducible."""
    b.rng[i, 1] = b.rng[i, 1] + 1
    return wp.rand_init(b.rng[i, 0], b.rng[i, 1])
