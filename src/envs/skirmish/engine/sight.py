"""What the agents see and may do, and the global state, as SMAC lays them out."""

from __future__ import annotations

from typing import no_type_check

import warp as wp

from envs.skirmish.engine.ground import can_stand
from envs.skirmish.engine.layout import Battle, Scene


@no_type_check
@wp.func
def distance(p: wp.vec2, q: wp.vec2) -> float:
    """Between centres."""
    return wp.length(q - p)


@no_type_check
@wp.func
def show_targets(s: Scene, b: Battle, i: int, n: int):
    """Whom agent ``n`` may attack: living enemies within range; or heal: agents but healers, in full health too."""
    healer = s.kind[b.kind[i, n]].healing > 0.0
    first = wp.where(healer, 0, s.n_agents)
    last = wp.where(healer, wp.min(s.n_agents, s.n_actions - 6), s.n_units)
    for v in range(first, last):
        if b.hp[i, v] > 0.0 and not (healer and s.kind[b.kind[i, v]].healing > 0.0):
            if distance(b.pos[i, n], b.pos[i, v]) <= s.shoot:
                b.avail[i, n, 6 + v - first] = wp.uint8(1)


@no_type_check
@wp.func
def show_actions(s: Scene, b: Battle, i: int, n: int):
    """The mask of agent ``n``."""
    for a in range(s.n_actions):
        b.avail[i, n, a] = wp.uint8(0)
    if b.hp[i, n] <= 0.0:
        b.avail[i, n, 0] = wp.uint8(1)
        return
    b.avail[i, n, 1] = wp.uint8(1)
    p = b.pos[i, n]
    m = s.move_amount / 2.0
    # int() truncates toward zero, as upstream
    b.avail[i, n, 2] = wp.where(can_stand(s, int(p[0]), int(p[1] + m)), wp.uint8(1), wp.uint8(0))
    b.avail[i, n, 3] = wp.where(can_stand(s, int(p[0]), int(p[1] - m)), wp.uint8(1), wp.uint8(0))
    b.avail[i, n, 4] = wp.where(can_stand(s, int(p[0] + m), int(p[1])), wp.uint8(1), wp.uint8(0))
    b.avail[i, n, 5] = wp.where(can_stand(s, int(p[0] - m), int(p[1])), wp.uint8(1), wp.uint8(0))
    show_targets(s, b, i, n)


@no_type_check
@wp.func
def pathing(s: Scene, x: int, y: int) -> float:
    """SMAC's pathing feature of a cell: 1 outside the map."""
    if x < 0 or y < 0 or x >= s.size or y >= s.size or can_stand(s, x, y):
        return 1.0
    return 0.0


@no_type_check
@wp.func
def show_ground(s: Scene, b: Battle, i: int, n: int, at: int):
    """The eight probes of ``obs_pathing_grid``."""
    x = int(b.pos[i, n][0])
    y = int(b.pos[i, n][1])
    m = int(s.move_amount)
    b.obs[i, n, at] = pathing(s, x, y + 2 * m)
    b.obs[i, n, at + 1] = pathing(s, x, y - 2 * m)
    b.obs[i, n, at + 2] = pathing(s, x + 2 * m, y)
    b.obs[i, n, at + 3] = pathing(s, x - 2 * m, y)
    b.obs[i, n, at + 4] = pathing(s, x + m, y + m)
    b.obs[i, n, at + 5] = pathing(s, x - m, y - m)
    b.obs[i, n, at + 6] = pathing(s, x + m, y - m)
    b.obs[i, n, at + 7] = pathing(s, x - m, y + m)


@no_type_check
@wp.func
def show_body(s: Scene, b: Battle, i: int, n: int, u: int, at: int, health: int, shielded: int) -> int:
    """Health, shield and type of unit ``u`` in the observation of ``n``; returns the place after them."""
    k = s.kind[b.kind[i, u]]
    j = at
    if health > 0:
        b.obs[i, n, j] = b.hp[i, u] / k.hp
        j += 1
        if shielded > 0:
            b.obs[i, n, j] = b.shield[i, u] / k.shield
            j += 1
    if s.bits > 0:
        b.obs[i, n, j + k.code] = 1.0
    return j + s.bits


@no_type_check
@wp.func
def show_other(s: Scene, b: Battle, i: int, n: int, u: int, at: int, first: float, shielded: int):
    """What agent ``n`` sees of unit ``u``, if it is alive and in sight."""
    if b.hp[i, u] <= 0.0:
        return
    p = b.pos[i, n]
    q = b.pos[i, u]
    d = distance(p, q)
    if d >= s.sight:
        return
    b.obs[i, n, at] = first
    b.obs[i, n, at + 1] = d / s.sight
    b.obs[i, n, at + 2] = (q[0] - p[0]) / s.sight
    b.obs[i, n, at + 3] = (q[1] - p[1]) / s.sight
    j = show_body(s, b, i, n, u, at + 4, s.obs_all_health, shielded)
    if u < s.n_agents:
        b.visible[i, n, u] = wp.uint8(1)
        if s.obs_last_action > 0 and b.last[i, u] >= 0:
            b.obs[i, n, j + b.last[i, u]] = 1.0


@no_type_check
@wp.func
def show_obs(s: Scene, b: Battle, i: int, n: int, length: int):
    """The observation of agent ``n``; zeros for the dead (but for the time, as upstream)."""
    for j in range(length):
        b.obs[i, n, j] = 0.0
    for v in range(s.n_agents):
        b.visible[i, n, v] = wp.uint8(0)
    if s.obs_time > 0:
        b.obs[i, n, length - 1] = float(b.time[i]) / float(s.limit)
    if b.hp[i, n] <= 0.0:
        return
    for a in range(4):
        b.obs[i, n, a] = float(b.avail[i, n, 2 + a])
    j = int(4)
    if s.obs_pathing > 0:
        show_ground(s, b, i, n, 4)
        j += 8
    width = 4 + s.bits + s.obs_all_health * (1 + s.enemy_shield)
    for v in range(s.n_agents, s.n_units):
        show_other(s, b, i, n, v, j, float(b.avail[i, n, 6 + v - s.n_agents]), s.enemy_shield)
        j += width
    width = 4 + s.bits + s.obs_all_health * (1 + s.ally_shield) + s.obs_last_action * s.n_actions
    for v in range(s.n_agents):
        if v != n:
            show_other(s, b, i, n, v, j, 1.0, s.ally_shield)
            j += width
    show_body(s, b, i, n, n, j, s.obs_own_health, s.ally_shield)


@no_type_check
@wp.func
def show_unit(s: Scene, b: Battle, i: int, u: int, at: int) -> int:
    """One unit's block of the state; returns the place after it. Only allies show their cooldown."""
    k = s.kind[b.kind[i, u]]
    shielded = s.enemy_shield
    j = at + 1
    if u < s.n_agents:
        shielded = s.ally_shield
        j += 1
    width = j - at + 2 + shielded + s.bits
    if b.hp[i, u] > 0.0:
        b.state[i, at] = b.hp[i, u] / k.hp
        if u < s.n_agents:
            b.state[i, at + 1] = wp.where(k.healing > 0.0, b.energy[i, u], b.cooldown[i, u]) / k.cooldown_scale
        half = 0.5 * float(s.size)
        b.state[i, j] = (b.pos[i, u][0] - half) / float(s.size)
        b.state[i, j + 1] = (b.pos[i, u][1] - half) / float(s.size)
        if shielded > 0:
            b.state[i, j + 2] = b.shield[i, u] / k.shield
        if s.bits > 0:
            b.state[i, at + width - s.bits + k.code] = 1.0
    return at + width


@no_type_check
@wp.func
def show_state(s: Scene, b: Battle, i: int, length: int, obs_length: int):
    """The global state."""
    for j in range(length):
        b.state[i, j] = 0.0
    at = int(0)
    if s.state_is_obs > 0:
        for n in range(s.n_agents):
            for j in range(obs_length):
                b.state[i, at] = b.obs[i, n, j]
                at += 1
        return
    for u in range(s.n_units):
        at = show_unit(s, b, i, u, at)
    if s.state_last_action > 0:
        for n in range(s.n_agents):
            if b.last[i, n] >= 0:
                b.state[i, at + b.last[i, n]] = 1.0
            at += s.n_actions
    if s.state_time > 0:
        b.state[i, at] = float(b.time[i]) / float(s.limit)
