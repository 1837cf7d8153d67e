"""What the agents see and may do, and the global state, as SMAC lays them out.

Upstream reckons with the game's single-precision numbers in double precision. So is done here wherever it shows: in
distances, in what is near enough, and in the cell that a move looks at.
"""

from __future__ import annotations

from typing import no_type_check

import warp as wp

from envs.skirmish.engine.ground import can_stand, distance, inside
from envs.skirmish.engine.layout import DROP, FULL, Battle, Scene, kind_of
from envs.skirmish.engine.orders import in_range, is_healer
from envs.skirmish.engine.spotting import is_hidden

# ---------------------------------------------------------------- actions


@no_type_check
@wp.func
def can_walk(s: Scene, p: wp.vec2, east: int, north: int) -> wp.uint8:
    """Whether the cell half a move away is walkable; its numbers are truncated toward zero, as upstream."""
    m = wp.float64(s.move_amount) / wp.float64(2.0)
    x = int(wp.float64(p[0]) + wp.float64(east) * m)
    y = int(wp.float64(p[1]) + wp.float64(north) * m)
    return wp.where(can_stand(s, x, y), wp.uint8(1), wp.uint8(0))


@no_type_check
@wp.func
def target_in(s: Scene, b: Battle, i: int, n: int, k: int) -> int:
    """Whom action 6 + k of agent ``n`` is for, -1 for nobody.

    A living enemy; or, of a healer, a living agent that is none, in full health too.
    """
    healer = is_healer(s, b, i, n)
    if k >= wp.where(healer, s.n_agents, s.n_units - s.n_agents):
        return -1
    v = k + wp.where(healer, 0, s.n_agents)
    if b.unit[i, v].hp <= 0.0 or (healer and is_healer(s, b, i, v)):
        return -1
    return v


@no_type_check
@wp.func
def can_target(s: Scene, b: Battle, i: int, n: int, k: int) -> bool:
    """Whether action 6 + k of agent ``n`` has a target within range."""
    v = target_in(s, b, i, n, k)
    return v >= 0 and in_range(s, b, i, n, wp.max(v, 0))


@no_type_check
@wp.func
def show_targets(s: Scene, b: Battle, i: int, n: int):
    """Whom agent ``n`` may attack or heal; without ``action_mask`` those out of range too."""
    k = int(0)
    while k < s.n_actions - 6:
        if can_target(s, b, i, n, k) or (s.action_mask == 0 and target_in(s, b, i, n, k) >= 0):
            b.avail[i, n, 6 + k] = wp.uint8(1)
        k += 1


@no_type_check
@wp.func
def show_actions(s: Scene, b: Battle, i: int, n: int):
    """The mask of agent ``n``."""
    a = int(0)
    while a < s.n_actions:
        b.avail[i, n, a] = wp.uint8(0)
        a += 1
    if b.unit[i, n].hp <= 0.0:
        b.avail[i, n, 0] = wp.uint8(1)
        return
    p = b.unit[i, n].pos
    b.avail[i, n, 1] = wp.uint8(1)
    b.avail[i, n, 2] = can_walk(s, p, 0, 1)
    b.avail[i, n, 3] = can_walk(s, p, 0, -1)
    b.avail[i, n, 4] = can_walk(s, p, 1, 0)
    b.avail[i, n, 5] = can_walk(s, p, -1, 0)
    show_targets(s, b, i, n)


# ---------------------------------------------------------------- observations


@no_type_check
@wp.func
def sees(s: Scene, b: Battle, i: int, n: int, u: int) -> bool:
    """Whether unit ``u`` is alive and within the sight of agent ``n``, or nothing is out of sight."""
    near = distance(b.unit[i, n].pos, b.unit[i, u].pos) < wp.float64(kind_of(s, b, i, n).sight)
    return b.unit[i, u].hp > 0.0 and (near or s.fully_observable > 0)


@no_type_check
@wp.func
def show_visible(s: Scene, b: Battle, i: int, n: int):
    """Which other agents the living agent ``n`` sees."""
    v = int(0)
    while v < s.n_agents:
        b.visible[i, n, v] = wp.uint8(0)
        if v != n and b.unit[i, n].hp > 0.0 and sees(s, b, i, n, v):
            b.visible[i, n, v] = wp.uint8(1)
        v += 1


@no_type_check
@wp.func
def pathing(s: Scene, x: int, y: int) -> float:
    """SMAC's pathing feature of a cell: 1 outside the map."""
    return wp.where(can_stand(s, x, y) or not inside(s, x, y), 1.0, 0.0)


@no_type_check
@wp.func
def show_ground(s: Scene, b: Battle, i: int, n: int, at: int) -> int:
    """The eight probes of ``obs_pathing_grid``; returns the place after them, as all that follow."""
    x = int(b.unit[i, n].pos[0])
    y = int(b.unit[i, n].pos[1])
    m = int(s.move_amount)
    b.obs[i, n, at] = pathing(s, x, y + 2 * m)
    b.obs[i, n, at + 1] = pathing(s, x, y - 2 * m)
    b.obs[i, n, at + 2] = pathing(s, x + 2 * m, y)
    b.obs[i, n, at + 3] = pathing(s, x - 2 * m, y)
    b.obs[i, n, at + 4] = pathing(s, x + m, y + m)
    b.obs[i, n, at + 5] = pathing(s, x - m, y - m)
    b.obs[i, n, at + 6] = pathing(s, x + m, y - m)
    b.obs[i, n, at + 7] = pathing(s, x - m, y + m)
    return at + 8


@no_type_check
@wp.func
def show_place(s: Scene, b: Battle, i: int, n: int, u: int, at: int, first: float) -> int:
    """``first``, and how far and where unit ``u`` is from agent ``n``, in sight ranges."""
    p = b.unit[i, n].pos
    q = b.unit[i, u].pos
    sight = wp.float64(kind_of(s, b, i, n).sight)
    b.obs[i, n, at] = first
    b.obs[i, n, at + 1] = float(distance(p, q) / sight)
    b.obs[i, n, at + 2] = float((wp.float64(q[0]) - wp.float64(p[0])) / sight)
    b.obs[i, n, at + 3] = float((wp.float64(q[1]) - wp.float64(p[1])) / sight)
    return at + 4


@no_type_check
@wp.func
def show_body(s: Scene, b: Battle, i: int, n: int, u: int, at: int, health: int, shielded: int) -> int:
    """Health, shield, place (only its own) and type of unit ``u`` in the observation of agent ``n``."""
    k = kind_of(s, b, i, u)
    j = at
    if health > 0:
        b.obs[i, n, j] = b.unit[i, u].hp / k.hp
        j += 1
        if shielded > 0:
            b.obs[i, n, j] = b.unit[i, u].shield / k.shield
            j += 1
    if u == n and s.obs_own_pos > 0:
        b.obs[i, n, j] = b.unit[i, n].pos[0] / float(s.size)
        b.obs[i, n, j + 1] = b.unit[i, n].pos[1] / float(s.size)
        j += 2
    if s.bits > 0 and (u == n or u >= s.n_agents or s.obs_mate_types > 0):
        b.obs[i, n, j + k.code] = 1.0
    return j + s.bits


@no_type_check
@wp.func
def show_enemies(s: Scene, b: Battle, i: int, n: int, at: int) -> int:
    """What agent ``n`` sees of the enemies."""
    width = 4 + s.bits + s.obs_all_health * (1 + s.enemy_shield)
    e = int(0)
    while e < s.n_units - s.n_agents:
        u = s.n_agents + e
        if sees(s, b, i, n, u) and not is_hidden(s, b, i, n, e):
            first = wp.where(can_target(s, b, i, n, e), 1.0, 0.0)
            j = show_place(s, b, i, n, u, at + e * width, first)
            show_body(s, b, i, n, u, j, s.obs_all_health, s.enemy_shield)
        e += 1
    return at + (s.n_units - s.n_agents) * width


@no_type_check
@wp.func
def show_allies(s: Scene, b: Battle, i: int, n: int, at: int) -> int:
    """What agent ``n`` sees of the other agents, as far as ``obs_allies`` lets it."""
    if s.obs_allies == DROP:
        return at
    width = 4 + s.bits + s.obs_all_health * (1 + s.ally_shield) + s.obs_last_action * s.n_actions
    u = int(0)
    while u < s.n_agents:
        if s.obs_allies == FULL and b.visible[i, n, u] > wp.uint8(0):
            j = at + wp.where(u > n, u - 1, u) * width
            j = show_place(s, b, i, n, u, j, 1.0)
            j = show_body(s, b, i, n, u, j, s.obs_all_health, s.ally_shield)
            if s.obs_last_action > 0 and b.last[i, u] >= 0:
                b.obs[i, n, j + b.last[i, u]] = 1.0
        u += 1
    return at + (s.n_agents - 1) * width


@no_type_check
@wp.func
def show_obs(s: Scene, b: Battle, i: int, n: int, length: int):
    """The observation of agent ``n``; zeros for the dead (but for the time, as upstream)."""
    j = int(0)
    while j < length:
        b.obs[i, n, j] = 0.0
        j += 1
    if s.obs_time > 0:  # SMAC reserves one more place, which stays zero
        b.obs[i, n, length - 1] = float(b.time[i]) / float(s.limit)
    if b.unit[i, n].hp <= 0.0:
        return
    a = int(0)
    while a < 4:
        b.obs[i, n, a] = float(b.avail[i, n, 2 + a])
        a += 1
    at = int(4)
    if s.obs_pathing > 0:
        at = show_ground(s, b, i, n, at)
    at = show_enemies(s, b, i, n, at)
    at = show_allies(s, b, i, n, at)
    show_body(s, b, i, n, n, at, s.obs_own_health, s.ally_shield)


# ---------------------------------------------------------------- state


@no_type_check
@wp.func
def show_unit(s: Scene, b: Battle, i: int, u: int, at: int) -> int:
    """One unit's block of the state; returns the place after it. Only allies show their cooldown."""
    k = kind_of(s, b, i, u)
    shielded = s.enemy_shield
    j = at + 1
    if u < s.n_agents:
        shielded = s.ally_shield
        j += 1
    width = j - at + 2 + shielded + s.bits
    if b.unit[i, u].hp > 0.0:
        b.state[i, at] = b.unit[i, u].hp / k.hp
        if u < s.n_agents:
            b.state[i, at + 1] = (
                wp.where(k.healing > 0.0, b.unit[i, u].energy, b.unit[i, u].cooldown) / k.cooldown_scale
            )
        half = 0.5 * float(s.size)
        b.state[i, j] = (b.unit[i, u].pos[0] - half) / float(s.size)
        b.state[i, j + 1] = (b.unit[i, u].pos[1] - half) / float(s.size)
        if shielded > 0:
            b.state[i, j + 2] = b.unit[i, u].shield / k.shield
        if s.bits > 0:
            b.state[i, at + width - s.bits + k.code] = 1.0
    return at + width


@no_type_check
@wp.func
def show_state(s: Scene, b: Battle, i: int, length: int, obs_length: int):
    """The global state."""
    j = int(0)
    while j < length:
        b.state[i, j] = 0.0
        j += 1
    at = int(0)
    if s.state_is_obs > 0:
        n = int(0)
        while n < s.n_agents:
            j = int(0)
            while j < obs_length:
                b.state[i, at] = b.obs[i, n, j]
                at += 1
                j += 1
            n += 1
        return
    u = int(0)
    while u < s.n_units:
        at = show_unit(s, b, i, u, at)
        u += 1
    if s.state_last_action > 0:
        n = int(0)
        while n < s.n_agents:
            if b.last[i, n] >= 0:
                b.state[i, at + b.last[i, n]] = 1.0
            at += s.n_actions
            n += 1
    if s.state_time > 0:
        b.state[i, at] = float(b.time[i]) / float(s.limit)
