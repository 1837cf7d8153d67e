"""Rewards and ends by SMAC's rules; like upstream in double precision."""

from __future__ import annotations

from typing import no_type_check

import warp as wp

from envs.skirmish.engine.layout import Battle, Scene, kind_of


@no_type_check
@wp.func
def vigour(b: Battle, i: int, u: int) -> wp.float64:
    """Health and shield; 0 of the dead."""
    if b.unit[i, u].hp <= 0.0:
        return wp.float64(0.0)
    return wp.float64(b.unit[i, u].hp) + wp.float64(b.unit[i, u].shield)


@no_type_check
@wp.func
def fighters(s: Scene, b: Battle, i: int, first: int, last: int) -> int:
    """The living units of a team that keep it in the battle; healers alone do not, where ``medics`` says so."""
    count = int(0)
    u = int(first)
    while u < last:
        if b.unit[i, u].hp > 0.0:
            if s.medics == 0 or kind_of(s, b, i, u).healing <= 0.0:
                count += 1
        u += 1
    return count


@no_type_check
@wp.func
def verdict(s: Scene, b: Battle, i: int, enemies: int) -> int:
    """1 a win, -1 a defeat, 2 everybody dead, 0 none of them yet. Upstream asks for a defeat first."""
    ours = fighters(s, b, i, 0, s.n_agents)
    theirs = fighters(s, b, i, s.n_agents, s.n_units)
    if ours == 0:
        return wp.where(enemies > 0 or s.medics > 0, -1, 2)
    return wp.where(theirs == 0, 1, 0)


@no_type_check
@wp.func
def ended(s: Scene, b: Battle, i: int, result: int):
    """Marks and counts the end of the battle, if it is one: win, defeat, both dead, or the time limit."""
    won = wp.where(result == 1, 1, 0)
    cut = wp.where(result == 0 and b.time[i] >= s.limit, 1, 0)
    if result == 0 and cut == 0:
        return
    b.won[i] = float(won)
    b.terminated[i] = wp.uint8(1 - cut)
    b.truncated[i] = wp.uint8(cut)
    b.running[i] = 0
    b.tally[i, 0] = b.tally[i, 0] + 1
    b.tally[i, 1] = b.tally[i, 1] + won
    b.tally[i, 2] = b.tally[i, 2] + cut


@no_type_check
@wp.func
def score(s: Scene, b: Battle, i: int):
    """Reward, end and counts of one step, by SMAC's rules."""
    inflicted = wp.float64(0.0)
    suffered = wp.float64(0.0)
    allies = int(0)
    enemies = int(0)
    u = int(0)
    while u < s.n_units:
        alive = b.unit[i, u].hp > 0.0
        loss = b.unit[i, u].before - vigour(b, i, u)
        if b.unit[i, u].before > wp.float64(0.0) and not alive:
            loss = loss + s.death_value
        if u < s.n_agents:
            allies += wp.where(alive, 1, 0)
            suffered += loss
        else:
            enemies += wp.where(alive, 1, 0)
            inflicted += loss
        u += 1
    b.dead_allies[i] = float(s.n_agents - allies)
    b.dead_enemies[i] = float(s.n_units - s.n_agents - enemies)
    result = verdict(s, b, i, enemies)
    ended(s, b, i, result)
    reward = inflicted - s.negative_scale * suffered
    if s.only_positive > 0:
        # SMAC's absolute value makes enemy regeneration pay
        reward = wp.where(s.clipped > 0, wp.max(inflicted, wp.float64(0.0)), wp.abs(inflicted))
    bonus = wp.float64(0.0)
    if result == 1:
        bonus = s.win
    elif result == -1:
        bonus = s.defeat
    if s.sparse > 0:
        reward = wp.float64(0.0)
    b.reward[i] = float((reward + bonus) / s.divisor)
