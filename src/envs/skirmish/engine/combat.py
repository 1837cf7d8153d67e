"""Choosing targets, fighting, healing and being hit."""

from __future__ import annotations

from typing import no_type_check

import warp as wp

from envs.skirmish.engine.ground import gap
from envs.skirmish.engine.layout import ATTACK, DEAD, FIGHTING, FLIES, IDLE, MOVE, NEVER, STAND, WALKING, Battle, Scene

# ---------------------------------------------------------------- choosing targets


@no_type_check
@wp.func
def are_mates(s: Scene, u: int, v: int) -> bool:
    """Whether two units are of one team."""
    return (u < s.n_agents) == (v < s.n_agents)


@no_type_check
@wp.func
def can_hit(s: Scene, b: Battle, i: int, u: int, v: int) -> bool:
    """Whether the weapon of ``u`` works on units like ``v``."""
    return s.kind[b.kind[i, v]].legs != FLIES or s.kind[b.kind[i, u]].hits_air > 0


@no_type_check
@wp.func
def needs_healing(s: Scene, b: Battle, i: int, v: int) -> bool:
    """Whether ``v`` is alive, of flesh and blood, and hurt."""
    if b.hp[i, v] <= 0.0:
        return False
    k = b.kind[i, v]
    return s.kind[k].biological > 0 and b.hp[i, v] < s.kind[k].hp


@no_type_check
@wp.func
def nearest_foe(s: Scene, b: Battle, i: int, u: int) -> int:
    """The living opponent nearest to ``u`` from edge to edge that it can hit, or -1."""
    best = int(-1)
    least = float(NEVER)
    first = wp.where(u < s.n_agents, s.n_agents, 0)
    last = wp.where(u < s.n_agents, s.n_units, s.n_agents)
    for v in range(first, last):
        if b.hp[i, v] <= 0.0:
            continue
        d = wp.length(b.pos[i, u] - b.pos[i, v]) - s.kind[b.kind[i, v]].radius
        if d < least:
            if can_hit(s, b, i, u, v):
                least = d
                best = v
    return best


@no_type_check
@wp.func
def acquire(s: Scene, b: Battle, i: int, u: int):
    """An enemy's choice: keep a target in range, swap to one in range, take the nearest in scan range.

    A target that it was ordered to attack is kept to the end.
    """
    reach = s.kind[b.kind[i, u]].reach
    old = b.target[i, u]
    if old >= 0:
        if b.hp[i, old] <= 0.0:
            old = int(-1)
            b.windup[i, u] = -1.0
            if b.order[i, u] == ATTACK:
                b.order[i, u] = STAND
        elif b.order[i, u] == ATTACK or b.windup[i, u] >= 0.0 or s.swap == 0 or gap(s, b, i, u, old) <= reach:
            return
    best = nearest_foe(s, b, i, u)
    if best >= 0:
        d = gap(s, b, i, u, best)
        if d <= reach or (old < 0 and (s.hunted > 0 or d <= wp.max(reach, s.scan))):
            old = best
    b.target[i, u] = old


@no_type_check
@wp.func
def is_patient(s: Scene, b: Battle, i: int, u: int, v: int) -> bool:
    """Whether the healer ``u`` of the enemy may choose ``v``."""
    return needs_healing(s, b, i, v) and gap(s, b, i, u, v) <= s.patient_range


@no_type_check
@wp.func
def acquire_patient(s: Scene, b: Battle, i: int, u: int):
    """An enemy healer's choice: keep a patient; else the mate close by with the lowest share of its health.

    Of several with the same share the nearest.
    """
    old = b.target[i, u]
    if old >= 0:
        if needs_healing(s, b, i, old):
            return
    b.target[i, u] = -1
    if b.energy[i, u] < s.heal_from:
        return
    least = float(1.0)
    near = float(NEVER)
    first = wp.where(u < s.n_agents, 0, s.n_agents)
    last = wp.where(u < s.n_agents, s.n_agents, s.n_units)
    for v in range(first, last):
        if is_patient(s, b, i, u, v):
            share = b.hp[i, v] / s.kind[b.kind[i, v]].hp
            d = gap(s, b, i, u, v)
            if share < least or (share == least and d < near):
                least = share
                near = d
                b.target[i, u] = v


@no_type_check
@wp.func
def is_led(s: Scene, u: int) -> bool:
    """Whether a unit looks for targets by itself: the enemies do."""
    return u >= s.n_agents or s.duel > 0


@no_type_check
@wp.func
def takes_on(s: Scene, b: Battle, i: int, u: int, foe: int):
    """An idle unit that looks for targets by itself, and can hit ``foe``, makes it its target."""
    if b.hp[i, u] <= 0.0 or b.target[i, u] >= 0:
        return
    if s.kind[b.kind[i, u]].healing <= 0.0 and can_hit(s, b, i, u, foe):
        b.target[i, u] = foe


@no_type_check
@wp.func
def retaliate(s: Scene, b: Battle, i: int, victim: int, shooter: int):
    """A hit from outside the scan range makes an idle victim, and its idle mates close by, take on the shooter."""
    if not is_led(s, victim) or b.target[i, victim] >= 0:
        return
    takes_on(s, b, i, victim, shooter)
    first = wp.where(victim < s.n_agents, 0, s.n_agents)
    last = wp.where(victim < s.n_agents, s.n_agents, s.n_units)
    for v in range(first, last):
        if wp.length(b.pos[i, v] - b.pos[i, victim]) <= s.help_radius:
            takes_on(s, b, i, v, shooter)


@no_type_check
@wp.func
def closest_foe(s: Scene, b: Battle, i: int, u: int) -> int:
    """The living opponent nearest to ``u`` by centres, whether it can hit it or not; -1 if there is none."""
    best = int(-1)
    least = float(NEVER)
    first = wp.where(u < s.n_agents, s.n_agents, 0)
    last = wp.where(u < s.n_agents, s.n_units, s.n_agents)
    for v in range(first, last):
        if b.hp[i, v] > 0.0:
            d = wp.length(b.pos[i, u] - b.pos[i, v])
            if d < least:
                least = d
                best = v
    return best


@no_type_check
@wp.func
def waits(s: Scene, b: Battle, i: int, u: int) -> bool:
    """Whether ``u`` has a weapon and nothing to do, of those that look for targets by themselves."""
    return is_led(s, u) and b.hp[i, u] > 0.0 and b.target[i, u] < 0 and s.kind[b.kind[i, u]].healing <= 0.0


@no_type_check
@wp.func
def hunt(s: Scene, b: Battle, i: int):
    """The map orders those who wait to attack the closest opponent; who cannot hit that one goes on waiting."""
    for u in range(s.n_units):
        if waits(s, b, i, u):
            v = closest_foe(s, b, i, u)
            if v >= 0 and can_hit(s, b, i, u, wp.max(v, 0)):
                b.target[i, u] = v
                b.order[i, u] = ATTACK


# ---------------------------------------------------------------- acting


@no_type_check
@wp.func
def walk_to(s: Scene, b: Battle, i: int, u: int, goal: wp.vec2, length: float):
    """Notes that ``u`` walks at most ``length`` towards ``goal`` in this loop."""
    k = b.kind[i, u]
    pace = s.kind[k].speed
    if s.kind[k].acceleration > 0.0:
        pace = wp.min(pace, b.drive[i, u] + s.kind[k].acceleration)
        b.drive[i, u] = pace
    b.dest[i, u] = goal
    b.pace[i, u] = wp.min(length, pace)
    if b.pace[i, u] > 1.0e-4:
        b.stance[i, u] = WALKING


@no_type_check
@wp.func
def strike(s: Scene, b: Battle, i: int, u: int, target: int, draw: float):
    """An attack takes effect, or sets out to. ``draw`` in [0, 1) jitters the cooldown."""
    k = s.kind[b.kind[i, u]]
    # the period counts from the beginning of the attack, whose wind-up took whole loops
    b.cooldown[i, u] = k.period - wp.ceil(k.wind_up) + s.jitter_low + draw * (s.jitter_high - s.jitter_low)
    b.pending_target[i, u] = target
    way = b.pos[i, target] - b.pos[i, u]
    far = wp.length(way)
    if k.missile > 0.0:
        b.pending[i, u] = wp.ceil((far - k.radius) / k.missile)
        return
    b.shot[i, u] = target
    if k.beam > 0.0:
        b.pending[i, u] = k.beam_delay
        b.pending_at[i, u] = b.pos[i, target]
        b.pending_way[i, u] = way / wp.max(far, 1.0e-6)
    elif k.blow_delay > 0.0:
        b.pending[i, u] = k.blow_delay


@no_type_check
@wp.func
def fight(s: Scene, b: Battle, i: int, u: int, target: int, draw: float):
    """Chases ``target``, winds up and strikes."""
    k = b.kind[i, u]
    reach = s.kind[k].reach
    d = gap(s, b, i, u, target)
    if b.windup[i, u] >= 0.0:
        b.stance[i, u] = FIGHTING
        b.windup[i, u] = b.windup[i, u] - 1.0
        if b.windup[i, u] <= 0.0:
            b.windup[i, u] = -1.0
            if d <= reach + s.slop * s.kind[k].slop:
                strike(s, b, i, u, target, draw)
    elif d <= reach:
        b.stance[i, u] = FIGHTING
        if b.cooldown[i, u] <= 0.0:
            if s.kind[k].wind_up <= 0.0:
                strike(s, b, i, u, target, draw)
            else:
                b.windup[i, u] = s.kind[k].wind_up
    else:
        walk_to(s, b, i, u, b.pos[i, target], d - reach + 0.02)


@no_type_check
@wp.func
def heal(s: Scene, b: Battle, i: int, u: int, patient: int):
    """Follows ``patient`` and, within range, notes to heal it in this loop."""
    d = gap(s, b, i, u, patient)
    reach = s.kind[b.kind[i, u]].reach
    if d > reach:
        walk_to(s, b, i, u, b.pos[i, patient], d - reach + 0.02)
        return
    b.stance[i, u] = FIGHTING
    if b.energy[i, u] > 0.0:
        b.shot[i, u] = patient


@no_type_check
@wp.func
def keep_target(s: Scene, b: Battle, i: int, u: int) -> int:
    """The target of ``u``, given up when it is dead or has been healed. Agents choose no other by themselves."""
    target = b.target[i, u]
    if target >= 0:
        gone = b.hp[i, target] <= 0.0
        if are_mates(s, u, target):
            gone = not needs_healing(s, b, i, target)
        if gone:
            target = int(-1)
            b.target[i, u] = -1
            b.order[i, u] = STAND
    return target


@no_type_check
@wp.func
def decide(s: Scene, b: Battle, i: int, u: int, rng: wp.uint32):
    """What a living unit does in this loop: fight, heal, walk or stand."""
    b.stance[i, u] = IDLE
    b.origin[i, u] = b.pos[i, u]
    b.pace[i, u] = 0.0
    healer = s.kind[b.kind[i, u]].healing > 0.0
    if is_led(s, u):
        if healer:
            acquire_patient(s, b, i, u)
        else:
            acquire(s, b, i, u)
    target = keep_target(s, b, i, u)
    if target < 0:
        b.windup[i, u] = -1.0
        if b.order[i, u] == MOVE:
            walk_to(s, b, i, u, b.goal[i, u], wp.length(b.goal[i, u] - b.pos[i, u]))
    elif healer:
        heal(s, b, i, u, target)
    else:
        fight(s, b, i, u, target, wp.randf(rng))
    if b.stance[i, u] != WALKING:
        b.drive[i, u] = 0.0


# ---------------------------------------------------------------- effects


@no_type_check
@wp.func
def hurt(s: Scene, b: Battle, i: int, u: int, v: int):
    """One hit of the weapon of ``u`` on ``v``: shields first, then armour; at least half a point."""
    w = b.kind[i, u]
    k = b.kind[i, v]
    amount = s.kind[w].damage
    if s.kind[k].armoured > 0:
        amount = amount + s.kind[w].bonus
    if s.kind[k].light > 0:
        amount = amount + s.kind[w].light_bonus
    taken = wp.min(b.shield[i, v], amount)
    b.shield[i, v] = b.shield[i, v] - taken
    rest = amount - taken
    if rest > 0.0:
        b.hp[i, v] = b.hp[i, v] - wp.min(rest, wp.max(rest - s.kind[k].armour, 0.5))
    b.quiet[i, v] = 0.0
    retaliate(s, b, i, v, u)


@no_type_check
@wp.func
def hurt_often(s: Scene, b: Battle, i: int, u: int, v: int):
    """All hits of an attack that fall at once."""
    blows = s.kind[b.kind[i, u]].blows
    if s.kind[b.kind[i, u]].blow_delay > 0.0:
        blows = int(1)
    for _blow in range(blows):
        hurt(s, b, i, u, v)


@no_type_check
@wp.func
def hit(s: Scene, b: Battle, i: int, u: int):
    """What ``u`` shot at in this loop is hit; who attacks by exploding dies of it."""
    k = b.kind[i, u]
    if b.shot[i, u] < 0 or s.kind[k].healing > 0.0:
        return
    if s.kind[k].burst > 0.0:
        b.hp[i, u] = 0.0
    else:
        hurt_often(s, b, i, u, b.shot[i, u])


@no_type_check
@wp.func
def give_health(s: Scene, b: Battle, i: int, u: int):
    """The healer ``u`` heals its patient, if both have lived through this loop's hits."""
    v = b.shot[i, u]
    k = b.kind[i, u]
    if v < 0 or s.kind[k].healing <= 0.0 or b.hp[i, u] <= 0.0:
        return
    if b.hp[i, v] <= 0.0:
        return
    given = wp.min(s.kind[k].healing, s.kind[b.kind[i, v]].hp - b.hp[i, v])
    given = wp.min(given, b.energy[i, u] / s.heal_cost)
    b.hp[i, v] = b.hp[i, v] + given
    b.energy[i, u] = b.energy[i, u] - given * s.heal_cost


@no_type_check
@wp.func
def sweep(s: Scene, b: Battle, i: int, u: int):
    """The beams of ``u`` reach the bystanders on their line."""
    k = b.kind[i, u]
    way = b.pending_way[i, u]
    across = wp.vec2(-way[1], way[0])
    first = wp.where(u < s.n_agents, s.n_agents, 0)
    last = wp.where(u < s.n_agents, s.n_units, s.n_agents)
    for v in range(first, last):
        if b.hp[i, v] <= 0.0 or v == b.pending_target[i, u] or not can_hit(s, b, i, u, v):
            continue
        off = b.pos[i, v] - b.pending_at[i, u]
        along = wp.dot(off, across)
        along = along - wp.clamp(along, -s.kind[k].beam, s.kind[k].beam)
        deep = wp.dot(off, way)
        room = s.kind[k].beam_width + float(s.splash_edges) * s.kind[b.kind[i, v]].radius
        if along * along + deep * deep <= room * room:
            hurt_often(s, b, i, u, v)


@no_type_check
@wp.func
def land(s: Scene, b: Battle, i: int, u: int):
    """An attack's further effect, when its time has come: a second blow, a missile, a beam's sweep."""
    if b.pending[i, u] < 0.0:
        return
    if b.pending[i, u] > 0.0:
        b.pending[i, u] = wp.max(b.pending[i, u] - 1.0, 0.0)
        return
    b.pending[i, u] = -1.0
    k = b.kind[i, u]
    v = b.pending_target[i, u]
    if s.kind[k].beam > 0.0:
        sweep(s, b, i, u)
    elif b.hp[i, v] > 0.0:
        if s.kind[k].missile > 0.0:
            hurt_often(s, b, i, u, v)
        elif b.stance[i, u] != DEAD and gap(s, b, i, u, v) <= s.kind[k].reach + s.slop * s.kind[k].slop:
            hurt(s, b, i, u, v)


@no_type_check
@wp.func
def explode(s: Scene, b: Battle, i: int, u: int):
    """The dying ``u`` hurts all opponents around it."""
    burst = s.kind[b.kind[i, u]].burst
    first = wp.where(u < s.n_agents, s.n_agents, 0)
    last = wp.where(u < s.n_agents, s.n_units, s.n_agents)
    for v in range(first, last):
        room = burst + float(s.splash_edges) * s.kind[b.kind[i, v]].radius
        if b.hp[i, v] > 0.0 and wp.length(b.pos[i, v] - b.pos[i, u]) <= room:
            if can_hit(s, b, i, u, v):
                hurt(s, b, i, u, v)


@no_type_check
@wp.func
def bury(s: Scene, b: Battle, i: int):
    """Those who died in this loop explode, if they are of that kind, which may kill more of them."""
    more = bool(True)
    while more:
        more = bool(False)
        for u in range(s.n_units):
            if b.hp[i, u] > 0.0 or b.stance[i, u] == DEAD:
                continue
            b.hp[i, u] = 0.0
            b.shield[i, u] = 0.0
            b.stance[i, u] = DEAD
            if s.kind[b.kind[i, u]].burst > 0.0:
                explode(s, b, i, u)
                more = bool(True)
