"""A new battle."""

from __future__ import annotations

from typing import no_type_check

import warp as wp

from envs.skirmish.engine.combat import is_led
from envs.skirmish.engine.draw import draw_battle
from envs.skirmish.engine.ground import slide
from envs.skirmish.engine.layout import IDLE, MOVE, STAND, Battle, Scene
from envs.skirmish.engine.motion import push_apart

ROUNDS = wp.constant(32)
"""Of pushing drawn units apart before a battle begins."""


@no_type_check
@wp.func
def sort_agents(s: Scene, b: Battle, i: int):
    """Agents of one type are numbered by x, then y (an insertion sort of their places)."""
    for n in range(1, s.n_agents):
        j = int(n)
        while j > 0:
            p = b.pos[i, j - 1]
            q = b.pos[i, j]
            ordered = p[0] < q[0] or (p[0] == q[0] and p[1] <= q[1])
            if b.kind[i, j - 1] != b.kind[i, j] or ordered:
                j = int(0)
            else:
                b.pos[i, j - 1] = q
                b.pos[i, j] = p
                j -= 1


@no_type_check
@wp.func
def line_up(s: Scene, b: Battle, i: int):
    """Units that appear on top of each other come to stand side by side, as the game places them.

    Pairs come in the units' order, so that mirrored teams stay mirrored.
    """
    for u in range(s.n_units):
        b.stance[i, u] = IDLE
    for _round in range(ROUNDS):
        for u in range(s.n_units):
            for v in range(u + 1, s.n_units):
                push_apart(s, b, i, u, v)


@no_type_check
@wp.func
def begin(s: Scene, b: Battle, i: int, rng: wp.uint32):
    """A new battle in row ``i``."""
    r = s.spawn_jitter
    share = wp.randf(rng)
    goal = s.order_from + share * (s.order_to - s.order_from)
    if s.drawn > 0:
        draw_battle(s, b, i, wp.randi(rng))
    for u in range(s.n_units):
        dx = r * (2.0 * wp.randf(rng) - 1.0)
        dy = r * (2.0 * wp.randf(rng) - 1.0)
        if s.drawn == 0:
            b.kind[i, u] = s.team[u]
            b.pos[i, u] = slide(s, s.kind[s.team[u]].legs, s.spawn[u], wp.vec2(dx, dy))
        k = b.kind[i, u]
        b.hp[i, u] = s.kind[k].hp
        b.shield[i, u] = s.kind[k].shield
        b.energy[i, u] = s.kind[k].energy
        b.cooldown[i, u] = 0.0
        b.quiet[i, u] = s.shield_delay
        b.windup[i, u] = -1.0
        b.drive[i, u] = 0.0
        b.pending[i, u] = -1.0
        b.pending_target[i, u] = -1
        b.side[i, u] = 0
        b.stuck[i, u] = 0
        b.target[i, u] = -1
        b.goal[i, u] = goal
        b.order[i, u] = STAND
        if is_led(s, u) and s.has_order > 0:
            b.order[i, u] = MOVE
    for n in range(s.n_agents):
        b.script[i, n] = -1
        b.last[i, n] = -1
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
