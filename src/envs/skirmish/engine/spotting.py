"""Who has spotted which enemy: SMACv2's extended partial observability.

The first agent that comes to see an enemy is told of it; every other agent will be able to see it with a certain
probability only, until that first agent or the enemy dies.
"""

from __future__ import annotations

from typing import no_type_check

import warp as wp

from envs.skirmish.engine.ground import distance
from envs.skirmish.engine.layout import Battle, Scene, kind_of


@no_type_check
@wp.func
def lose(s: Scene, b: Battle, i: int, e: int):
    """Nobody has spotted enemy ``e`` any more."""
    b.spotter[i, e] = -1
    n = int(0)
    while n < s.n_agents:
        b.spotted[i, e, n] = wp.uint8(0)
        n += 1


@no_type_check
@wp.func
def lose_the_dead(s: Scene, b: Battle, i: int):
    """Dead enemies are spotted no more, nor are those that a dead agent spotted first."""
    e = int(0)
    while e < s.n_units - s.n_agents:
        first = b.spotter[i, e]
        if b.unit[i, s.n_agents + e].hp <= 0.0:
            lose(s, b, i, e)
        elif first >= 0:
            if b.unit[i, first].hp <= 0.0:
                lose(s, b, i, e)
        e += 1


@no_type_check
@wp.func
def tell(s: Scene, b: Battle, i: int, e: int, n: int, rng: wp.uint32):
    """Agent ``n`` is the first to spot enemy ``e``; a draw for each of the others."""
    b.spotter[i, e] = n
    m = int(0)
    while m < s.n_agents:
        if m == n or wp.randf(rng) < s.prob_obs_enemy:
            b.spotted[i, e, m] = wp.uint8(1)
        m += 1


@no_type_check
@wp.func
def look(s: Scene, b: Battle, i: int, n: int, seed: int):
    """Agent ``n`` looks for enemies, where dead ones lie too; notes below which number all are hidden from it."""
    sight = wp.float64(kind_of(s, b, i, n).sight)
    hidden = int(0)
    e = int(0)
    while e < s.n_units - s.n_agents:
        if b.spotter[i, e] < 0:
            if distance(b.unit[i, n].pos, b.unit[i, s.n_agents + e].pos) < sight:
                tell(s, b, i, e, n, wp.rand_init(seed, 1 + e))
        if b.spotted[i, e, n] == wp.uint8(0):
            hidden = e + 1
        e += 1
    b.hidden[i, n] = hidden


@no_type_check
@wp.func
def spot(s: Scene, b: Battle, i: int, seed: int):
    """All living agents look for enemies, in an order that is drawn (upstream's too)."""
    rng = wp.rand_init(seed, 0)
    n = int(0)
    while n < s.n_agents:
        other = wp.randi(rng, 0, n + 1)
        b.watch[i, n] = b.watch[i, other]
        b.watch[i, other] = n
        n += 1
    turn = int(0)
    while turn < s.n_agents:
        n = b.watch[i, turn]
        if b.unit[i, n].hp > 0.0:
            look(s, b, i, n, seed)
        turn += 1


@no_type_check
@wp.func
def is_hidden(s: Scene, b: Battle, i: int, n: int, e: int) -> bool:
    """Whether agent ``n`` cannot see enemy ``e``, however near.

    Upstream's code hides all enemies of lower numbers together with one that is hidden; that can be switched off.
    """
    if s.tracked == 0:
        return False
    if s.hides_lower > 0:
        return e < b.hidden[i, n]
    return b.spotted[i, e, n] == wp.uint8(0)
