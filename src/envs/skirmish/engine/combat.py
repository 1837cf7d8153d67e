"""Choosing targets, fighting, healing and being hit."""

from __future__ import annotations

from typing import no_type_check

import warp as wp

from envs.skirmish.engine.ground import gap
from envs.skirmish.engine.layout import (
    ATTACK,
    DEAD,
    FIGHTING,
    FLIES,
    IDLE,
    MOVE,
    NEVER,
    STAND,
    WALKING,
    Battle,
    Scene,
    assume_natural,
    kind_of,
)

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
    return kind_of(s, b, i, v).legs != FLIES or kind_of(s, b, i, u).hits_air > 0


@no_type_check
@wp.func
def needs_healing(s: Scene, b: Battle, i: int, v: int) -> bool:
    """Whether ``v`` is alive, of flesh and blood, and hurt."""
    if b.unit[i, v].hp <= 0.0:
        return False
    k = kind_of(s, b, i, v)
    return k.biological > 0 and b.unit[i, v].hp < k.hp


@no_type_check
@wp.func
def distance_to(s: Scene, b: Battle, i: int, u: int, v: int) -> float:
    """From the centre of ``u`` to the edge of ``v``; never near if ``v`` is dead."""
    if b.unit[i, v].hp <= 0.0:
        return NEVER
    return wp.length(b.unit[i, u].pos - b.unit[i, v].pos) - kind_of(s, b, i, v).radius


@no_type_check
@wp.func
def nearest_foe(s: Scene, b: Battle, i: int, u: int) -> int:
    """The living opponent nearest to ``u`` from edge to edge that it can hit, or -1."""
    best = int(-1)
    least = float(NEVER)
    v = int(wp.where(u < s.n_agents, s.n_agents, 0))
    last = wp.where(u < s.n_agents, s.n_units, s.n_agents)
    while v < last:
        d = distance_to(s, b, i, u, v)
        if d < least:
            if can_hit(s, b, i, u, v):
                least = d
                best = v
        v += 1
    return best


@no_type_check
@wp.func
def acquire(s: Scene, b: Battle, i: int, u: int):
    """An enemy's choice: keep a target in range, swap to one in range, take the nearest in scan range.

    A target that it was ordered to attack is kept to the end.
    """
    reach = kind_of(s, b, i, u).reach
    old = b.unit[i, u].target
    if old >= 0:
        if b.unit[i, old].hp <= 0.0:
            old = int(-1)
            b.unit[i, u].windup = -1.0
            if b.unit[i, u].order == ATTACK:
                b.unit[i, u].order = STAND
        elif b.unit[i, u].order == ATTACK or b.unit[i, u].windup >= 0.0 or s.swap == 0 or gap(s, b, i, u, old) <= reach:
            return
    best = nearest_foe(s, b, i, u)
    if best >= 0:
        d = gap(s, b, i, u, best)
        if d <= reach or (old < 0 and (s.hunted > 0 or d <= wp.max(reach, s.scan))):
            old = best
    b.unit[i, u].target = old


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
    old = b.unit[i, u].target
    if old >= 0:
        if needs_healing(s, b, i, old):
            return
    b.unit[i, u].target = -1
    if b.unit[i, u].energy < s.heal_from:
        return
    least = float(1.0)
    near = float(NEVER)
    first = wp.where(u < s.n_agents, 0, s.n_agents)
    last = wp.where(u < s.n_agents, s.n_agents, s.n_units)
    v = int(first)
    while v < last:
        if is_patient(s, b, i, u, v):
            share = b.unit[i, v].hp / kind_of(s, b, i, v).hp
            d = gap(s, b, i, u, v)
            if share < least or (share == least and d < near):
                least = share
                near = d
                b.unit[i, u].target = v
        v += 1


@no_type_check
@wp.func
def is_led(s: Scene, u: int) -> bool:
    """Whether a unit looks for targets by itself: the enemies do."""
    return u >= s.n_agents or s.duel > 0


@no_type_check
@wp.func
def takes_on(s: Scene, b: Battle, i: int, u: int, foe: int):
    """An idle unit that looks for targets by itself, and can hit ``foe``, makes it its target."""
    if b.unit[i, u].hp <= 0.0 or b.unit[i, u].target >= 0:
        return
    if kind_of(s, b, i, u).healing <= 0.0 and can_hit(s, b, i, u, foe):
        b.unit[i, u].target = foe


@no_type_check
@wp.func
def retaliate(s: Scene, b: Battle, i: int, victim: int, shooter: int):
    """A hit from outside the scan range makes an idle victim, and its idle mates close by, take on the shooter."""
    if not is_led(s, victim) or b.unit[i, victim].target >= 0:
        return
    takes_on(s, b, i, victim, shooter)
    first = wp.where(victim < s.n_agents, 0, s.n_agents)
    last = wp.where(victim < s.n_agents, s.n_agents, s.n_units)
    v = int(first)
    while v < last:
        if wp.length(b.unit[i, v].pos - b.unit[i, victim].pos) <= s.help_radius:
            takes_on(s, b, i, v, shooter)
        v += 1


@no_type_check
@wp.func
def closest_foe(s: Scene, b: Battle, i: int, u: int) -> int:
    """The living opponent nearest to ``u`` by centres, whether it can hit it or not; -1 if there is none."""
    best = int(-1)
    least = float(NEVER)
    first = wp.where(u < s.n_agents, s.n_agents, 0)
    last = wp.where(u < s.n_agents, s.n_units, s.n_agents)
    v = int(first)
    while v < last:
        if b.unit[i, v].hp > 0.0:
            d = wp.length(b.unit[i, u].pos - b.unit[i, v].pos)
            if d < least:
                least = d
                best = v
        v += 1
    return best


@no_type_check
@wp.func
def waits(s: Scene, b: Battle, i: int, u: int) -> bool:
    """Whether ``u`` has a weapon and nothing to do, of those that look for targets by themselves."""
    return is_led(s, u) and b.unit[i, u].hp > 0.0 and b.unit[i, u].target < 0 and kind_of(s, b, i, u).healing <= 0.0


@no_type_check
@wp.func
def hunt(s: Scene, b: Battle, i: int):
    """The map orders those who wait to attack the closest opponent; who cannot hit that one goes on waiting."""
    u = int(0)
    while u < s.n_units:
        if waits(s, b, i, u):
            v = closest_foe(s, b, i, u)
            if v >= 0 and can_hit(s, b, i, u, wp.max(v, 0)):
                b.unit[i, u].target = v
                b.unit[i, u].order = ATTACK
        u += 1


# ---------------------------------------------------------------- acting


@no_type_check
@wp.func
def walk_to(s: Scene, b: Battle, i: int, u: int, goal: wp.vec2, length: float):
    """Notes that ``u`` walks at most ``length`` towards ``goal`` in this loop."""
    k = kind_of(s, b, i, u)
    pace = k.speed
    if k.acceleration > 0.0:
        pace = wp.min(pace, b.unit[i, u].drive + k.acceleration)
        b.unit[i, u].drive = pace
    b.unit[i, u].dest = goal
    b.unit[i, u].pace = wp.min(length, pace)
    if b.unit[i, u].pace > 1.0e-4:
        b.unit[i, u].stance = WALKING


@no_type_check
@wp.func
def strike(s: Scene, b: Battle, i: int, u: int, target: int, draw: float):
    """An attack takes effect, or sets out to. ``draw`` in [0, 1) jitters the cooldown."""
    k = kind_of(s, b, i, u)
    # the period counts from the beginning of the attack, whose wind-up took whole loops
    b.unit[i, u].cooldown = k.period - wp.ceil(k.wind_up) + s.jitter_low + draw * (s.jitter_high - s.jitter_low)
    b.unit[i, u].pending_target = target
    way = b.unit[i, target].pos - b.unit[i, u].pos
    far = wp.length(way)
    if k.missile > 0.0:
        b.unit[i, u].pending = wp.ceil((far - k.radius) / k.missile)
        return
    b.unit[i, u].shot = target
    if k.beam > 0.0:
        b.unit[i, u].pending = k.beam_delay
        b.unit[i, u].pending_at = b.unit[i, target].pos
        b.unit[i, u].pending_way = way / wp.max(far, 1.0e-6)
    elif k.blow_delay > 0.0:
        b.unit[i, u].pending = k.blow_delay


@no_type_check
@wp.func
def fight(s: Scene, b: Battle, i: int, u: int, target: int, draw: float):
    """Chases ``target``, winds up and strikes."""
    k = kind_of(s, b, i, u)
    reach = k.reach
    d = gap(s, b, i, u, target)
    if b.unit[i, u].windup >= 0.0:
        b.unit[i, u].stance = FIGHTING
        b.unit[i, u].windup = b.unit[i, u].windup - 1.0
        if b.unit[i, u].windup <= 0.0:
            b.unit[i, u].windup = -1.0
            if d <= reach + s.slop * k.slop:
                strike(s, b, i, u, target, draw)
    elif d <= reach:
        b.unit[i, u].stance = FIGHTING
        if b.unit[i, u].cooldown <= 0.0:
            if k.wind_up <= 0.0:
                strike(s, b, i, u, target, draw)
            else:
                b.unit[i, u].windup = k.wind_up
    else:
        walk_to(s, b, i, u, b.unit[i, target].pos, d - reach + 0.02)


@no_type_check
@wp.func
def heal(s: Scene, b: Battle, i: int, u: int, patient: int):
    """Follows ``patient`` and, within range, notes to heal it in this loop."""
    d = gap(s, b, i, u, patient)
    reach = kind_of(s, b, i, u).reach
    if d > reach:
        walk_to(s, b, i, u, b.unit[i, patient].pos, d - reach + 0.02)
        return
    b.unit[i, u].stance = FIGHTING
    if b.unit[i, u].energy > 0.0:
        b.unit[i, u].shot = patient


@no_type_check
@wp.func
def keep_target(s: Scene, b: Battle, i: int, u: int) -> int:
    """The target of ``u``, given up when it is dead or has been healed. Agents choose no other by themselves."""
    target = b.unit[i, u].target
    if target >= 0:
        gone = b.unit[i, target].hp <= 0.0
        if are_mates(s, u, target):
            gone = not needs_healing(s, b, i, target)
        if gone:
            target = int(-1)
            b.unit[i, u].target = -1
            b.unit[i, u].order = STAND
    return target


@no_type_check
@wp.func
def decide(s: Scene, b: Battle, i: int, u: int, rng: wp.uint32):
    """What a living unit does in this loop: fight, heal, walk or stand."""
    b.unit[i, u].stance = IDLE
    b.unit[i, u].origin = b.unit[i, u].pos
    b.unit[i, u].pace = 0.0
    healer = kind_of(s, b, i, u).healing > 0.0
    if is_led(s, u):
        if healer:
            acquire_patient(s, b, i, u)
        else:
            acquire(s, b, i, u)
    target = keep_target(s, b, i, u)
    if target < 0:
        b.unit[i, u].windup = -1.0
        if b.unit[i, u].order == MOVE:
            walk_to(s, b, i, u, b.unit[i, u].goal, wp.length(b.unit[i, u].goal - b.unit[i, u].pos))
    elif healer:
        heal(s, b, i, u, target)
    else:
        fight(s, b, i, u, target, wp.randf(rng))
    if b.unit[i, u].stance != WALKING:
        b.unit[i, u].drive = 0.0


# ---------------------------------------------------------------- effects


@no_type_check
@wp.func
def hurt(s: Scene, b: Battle, i: int, u: int, v: int):
    """One hit of the weapon of ``u`` on ``v``: shields first, then armour; at least half a point."""
    w = kind_of(s, b, i, u)
    k = kind_of(s, b, i, v)
    amount = w.damage
    if k.armoured > 0:
        amount = amount + w.bonus
    if k.light > 0:
        amount = amount + w.light_bonus
    taken = wp.min(b.unit[i, v].shield, amount)
    b.unit[i, v].shield = b.unit[i, v].shield - taken
    rest = amount - taken
    if rest > 0.0:
        b.unit[i, v].hp = b.unit[i, v].hp - wp.min(rest, wp.max(rest - k.armour, 0.5))
    b.unit[i, v].quiet = 0.0
    retaliate(s, b, i, v, u)


@no_type_check
@wp.func
def hurt_often(s: Scene, b: Battle, i: int, u: int, v: int):
    """All hits of an attack that fall at once."""
    blows = kind_of(s, b, i, u).blows
    if kind_of(s, b, i, u).blow_delay > 0.0:
        blows = int(1)
    blow = int(0)
    while blow < blows:
        hurt(s, b, i, u, v)
        blow += 1


@no_type_check
@wp.func
def hit(s: Scene, b: Battle, i: int, u: int):
    """What ``u`` shot at in this loop is hit; who attacks by exploding dies of it."""
    k = kind_of(s, b, i, u)
    if b.unit[i, u].shot < 0 or k.healing > 0.0:
        return
    if k.burst > 0.0:
        b.unit[i, u].hp = 0.0
    else:
        hurt_often(s, b, i, u, b.unit[i, u].shot)


@no_type_check
@wp.func
def give_health(s: Scene, b: Battle, i: int, u: int):
    """The healer ``u`` heals its patient, if both have lived through this loop's hits."""
    v = b.unit[i, u].shot
    k = kind_of(s, b, i, u)
    if v < 0 or k.healing <= 0.0 or b.unit[i, u].hp <= 0.0:
        return
    if b.unit[i, v].hp <= 0.0:
        return
    given = wp.min(k.healing, kind_of(s, b, i, v).hp - b.unit[i, v].hp)
    given = wp.min(given, b.unit[i, u].energy / s.heal_cost)
    b.unit[i, v].hp = b.unit[i, v].hp + given
    b.unit[i, u].energy = b.unit[i, u].energy - given * s.heal_cost


@no_type_check
@wp.func
def sweep(s: Scene, b: Battle, i: int, u: int):
    """The beams of ``u`` reach the bystanders on their line."""
    k = kind_of(s, b, i, u)
    way = b.unit[i, u].pending_way
    across = wp.vec2(-way[1], way[0])
    first = wp.where(u < s.n_agents, s.n_agents, 0)
    last = wp.where(u < s.n_agents, s.n_units, s.n_agents)
    v = int(first)
    while v < last:
        if b.unit[i, v].hp > 0.0 and v != b.unit[i, u].pending_target and can_hit(s, b, i, u, v):
            off = b.unit[i, v].pos - b.unit[i, u].pending_at
            along = wp.dot(off, across)
            along = along - wp.clamp(along, -k.beam, k.beam)
            deep = wp.dot(off, way)
            room = k.beam_width + float(s.splash_edges) * kind_of(s, b, i, v).radius
            if along * along + deep * deep <= room * room:
                hurt_often(s, b, i, u, v)
        v += 1


@no_type_check
@wp.func
def land(s: Scene, b: Battle, i: int, u: int):
    """An attack's further effect, when its time has come: a second blow, a missile, a beam's sweep."""
    if b.unit[i, u].pending < 0.0:
        return
    if b.unit[i, u].pending > 0.0:
        b.unit[i, u].pending = wp.max(b.unit[i, u].pending - 1.0, 0.0)
        return
    b.unit[i, u].pending = -1.0
    k = kind_of(s, b, i, u)
    v = b.unit[i, u].pending_target
    assume_natural(v)
    if k.beam > 0.0:
        sweep(s, b, i, u)
    elif b.unit[i, v].hp > 0.0:
        if k.missile > 0.0:
            hurt_often(s, b, i, u, v)
        elif b.unit[i, u].stance != DEAD and gap(s, b, i, u, v) <= k.reach + s.slop * k.slop:
            hurt(s, b, i, u, v)


@no_type_check
@wp.func
def explode(s: Scene, b: Battle, i: int, u: int):
    """The dying ``u`` hurts all opponents around it."""
    burst = kind_of(s, b, i, u).burst
    first = wp.where(u < s.n_agents, s.n_agents, 0)
    last = wp.where(u < s.n_agents, s.n_units, s.n_agents)
    v = int(first)
    while v < last:
        room = burst + float(s.splash_edges) * kind_of(s, b, i, v).radius
        if b.unit[i, v].hp > 0.0 and wp.length(b.unit[i, v].pos - b.unit[i, u].pos) <= room:
            if can_hit(s, b, i, u, v):
                hurt(s, b, i, u, v)
        v += 1


@no_type_check
@wp.func
def falls(s: Scene, b: Battle, i: int, u: int) -> bool:
    """Marks ``u`` as dead if it died in this loop; whether it explodes."""
    if b.unit[i, u].hp > 0.0 or b.unit[i, u].stance == DEAD:
        return False
    b.unit[i, u].hp = 0.0
    b.unit[i, u].shield = 0.0
    b.unit[i, u].stance = DEAD
    return kind_of(s, b, i, u).burst > 0.0


@no_type_check
@wp.func
def bury(s: Scene, b: Battle, i: int):
    """Those who died in this loop explode, if they are of that kind, which may kill more of them."""
    more = bool(True)
    while more:
        more = bool(False)
        u = int(0)
        while u < s.n_units:
            if falls(s, b, i, u):
                explode(s, b, i, u)
                more = bool(True)
            u += 1
