"""The rules of a battle as Warp kernels: one thread plays one battle, from the same source on CPU and CUDA.

Nothing here draws on anything but its own row, and every loop runs in a fixed order, so a row's course depends only
on its state, its generator and its actions. Axes: b battles, u units (allies first, then enemies), n agents, a actions.

``no_type_check`` keeps run-time checkers of annotations away from functions that Warp translates.
"""

from __future__ import annotations

import math
from typing import no_type_check

import warp as wp

STAND = wp.constant(0)
MOVE = wp.constant(1)
ATTACK = wp.constant(2)
"""An agent's order, which persists until the next one."""

IDLE = wp.constant(0)
WALKING = wp.constant(1)
FIGHTING = wp.constant(2)
"""What a unit does with its feet in this game loop: nothing, walk, or stand because its target is in range."""

NEVER = wp.constant(1.0e9)
PI = wp.constant(math.pi)
COS_TURN = wp.constant(math.cos(math.pi / 6))
SIN_TURN = wp.constant(math.sin(math.pi / 6))


@no_type_check
@wp.struct
class Kind:
    """One unit's type in game loops and cells."""

    hp: float
    shield: float
    armour: float
    armoured: int
    damage: float
    bonus: float
    blows: int
    blow_delay: float
    period: float
    reach: float
    wind_up: float
    speed: float
    radius: float
    separation: float
    regeneration: float
    cooldown_scale: float
    code: int
    """Place in the one-hot code of types."""
    sort: int
    """Agents are numbered by type first."""


@no_type_check
@wp.struct
class Scene:
    """What never changes on one map with one set of options."""

    kind: wp.array(dtype=Kind)
    spawn: wp.array(dtype=wp.vec2)
    walk: wp.array2d(dtype=wp.uint8)
    number: wp.array(dtype=wp.int32)
    via: wp.array2d(dtype=wp.int32)
    routed: int
    size: int
    n_agents: int
    n_units: int
    n_actions: int
    bits: int
    ally_shield: int
    enemy_shield: int
    limit: int
    loops: int
    order_from: wp.vec2
    order_to: wp.vec2
    has_order: int
    # options of SMAC
    move_amount: float
    sight: float
    shoot: float
    scripted: int
    scripted_legal: int
    obs_all_health: int
    obs_own_health: int
    obs_last_action: int
    obs_pathing: int
    obs_time: int
    state_last_action: int
    state_time: int
    state_is_obs: int
    sparse: int
    only_positive: int
    death_value: float
    negative_scale: float
    win: float
    defeat: float
    divisor: float
    # rules that may be fitted
    jitter_low: float
    jitter_high: float
    spawn_jitter: float
    slop: float
    scan: float
    help_radius: float
    swap: int
    shield_delay: float
    shield_rate: float
    sweeps: int
    idle_weight: float
    fighting_weight: float
    contact: float
    side_memory: int
    stuck_below: float


@no_type_check
@wp.struct
class Battle:
    """What changes, one row per battle."""

    pos: wp.array2d(dtype=wp.vec2)
    hp: wp.array2d(dtype=float)
    shield: wp.array2d(dtype=float)
    cooldown: wp.array2d(dtype=float)
    quiet: wp.array2d(dtype=float)
    windup: wp.array2d(dtype=float)
    second: wp.array2d(dtype=float)
    second_target: wp.array2d(dtype=wp.int32)
    order: wp.array2d(dtype=wp.int32)
    target: wp.array2d(dtype=wp.int32)
    goal: wp.array2d(dtype=wp.vec2)
    side: wp.array2d(dtype=wp.int32)
    stuck: wp.array2d(dtype=wp.int32)
    script: wp.array2d(dtype=wp.int32)
    last: wp.array2d(dtype=wp.int32)
    time: wp.array(dtype=wp.int32)
    running: wp.array(dtype=wp.int32)
    rng: wp.array2d(dtype=wp.int32)
    # scratch of one step
    before: wp.array2d(dtype=float)
    stance: wp.array2d(dtype=wp.int32)
    dest: wp.array2d(dtype=wp.vec2)
    pace: wp.array2d(dtype=float)
    origin: wp.array2d(dtype=wp.vec2)
    shot: wp.array2d(dtype=wp.int32)
    stale: wp.array(dtype=wp.int32)
    fault: wp.array(dtype=wp.int32)
    # what is shown
    obs: wp.array3d(dtype=float)
    state: wp.array2d(dtype=float)
    avail: wp.array3d(dtype=wp.uint8)
    visible: wp.array3d(dtype=wp.uint8)
    reward: wp.array(dtype=float)
    terminated: wp.array(dtype=wp.uint8)
    truncated: wp.array(dtype=wp.uint8)
    won: wp.array(dtype=float)
    dead_allies: wp.array(dtype=float)
    dead_enemies: wp.array(dtype=float)


# ---------------------------------------------------------------- geometry


@no_type_check
@wp.func
def can_stand(s: Scene, x: int, y: int) -> bool:
    """Whether a cell exists and is walkable."""
    if x < 0 or y < 0 or x >= s.size or y >= s.size:
        return False
    return s.walk[x, y] > wp.uint8(0)


@no_type_check
@wp.func
def is_open(s: Scene, p: wp.vec2) -> bool:
    """Whether a point is walkable."""
    return can_stand(s, int(wp.floor(p[0])), int(wp.floor(p[1])))


@no_type_check
@wp.func
def slide(s: Scene, p: wp.vec2, step: wp.vec2) -> wp.vec2:
    """``p + step``, or what a wall leaves of it along either axis."""
    q = p + step
    if is_open(s, q):
        return q
    q = wp.vec2(p[0] + step[0], p[1])
    if is_open(s, q):
        return q
    q = wp.vec2(p[0], p[1] + step[1])
    if is_open(s, q):
        return q
    return p


@no_type_check
@wp.func
def cell_of(s: Scene, p: wp.vec2) -> int:
    """The cell's number x * size + y."""
    return int(wp.floor(p[0])) * s.size + int(wp.floor(p[1]))


@no_type_check
@wp.func
def waypoint(s: Scene, p: wp.vec2, goal: wp.vec2) -> wp.vec2:
    """Where to head for on the shortest way from ``p`` to ``goal``."""
    if s.routed == 0 or not is_open(s, goal):
        return goal
    v = s.via[s.number[cell_of(s, p)], s.number[cell_of(s, goal)]]
    if v < 0:
        return goal
    return wp.vec2(float(v / s.size) + 0.5, float(v % s.size) + 0.5)


@no_type_check
@wp.func
def gap(s: Scene, b: Battle, i: int, u: int, v: int) -> float:
    """Distance from edge to edge."""
    return wp.length(b.pos[i, u] - b.pos[i, v]) - s.kind[u].radius - s.kind[v].radius


# ---------------------------------------------------------------- choosing targets


@no_type_check
@wp.func
def nearest_ally(s: Scene, b: Battle, i: int, u: int) -> int:
    """The living ally nearest to enemy ``u`` from edge to edge, or -1."""
    best = int(-1)
    least = float(NEVER)
    for v in range(s.n_agents):
        if b.hp[i, v] > 0.0:
            d = gap(s, b, i, u, v)
            if d < least:
                least = d
                best = v
    return best


@no_type_check
@wp.func
def acquire(s: Scene, b: Battle, i: int, u: int):
    """An enemy's choice: keep a target in range, swap to one in range, take the nearest in scan range."""
    if b.windup[i, u] >= 0.0:
        return
    reach = s.kind[u].reach
    old = b.target[i, u]
    if old >= 0:
        if b.hp[i, old] <= 0.0:
            old = int(-1)
        elif s.swap == 0 or gap(s, b, i, u, old) <= reach:
            return
    best = nearest_ally(s, b, i, u)
    if best >= 0:
        d = gap(s, b, i, u, best)
        if d <= reach or (old < 0 and d <= wp.max(reach, s.scan)):
            old = best
    b.target[i, u] = old


@no_type_check
@wp.func
def retaliate(s: Scene, b: Battle, i: int, victim: int, shooter: int):
    """A hit from outside the scan range makes an idle victim, and its idle mates close by, take on the shooter."""
    if victim < s.n_agents or b.target[i, victim] >= 0:
        return
    b.target[i, victim] = shooter
    for v in range(s.n_agents, s.n_units):
        if b.hp[i, v] > 0.0 and b.target[i, v] < 0:
            if wp.length(b.pos[i, v] - b.pos[i, victim]) <= s.help_radius:
                b.target[i, v] = shooter


# ---------------------------------------------------------------- one game loop


@no_type_check
@wp.func
def walk_to(s: Scene, b: Battle, i: int, u: int, goal: wp.vec2, length: float):
    """Notes that ``u`` walks at most ``length`` towards ``goal`` in this loop."""
    b.dest[i, u] = goal
    b.pace[i, u] = wp.min(length, s.kind[u].speed)
    if b.pace[i, u] > 1.0e-4:
        b.stance[i, u] = WALKING


@no_type_check
@wp.func
def fight(s: Scene, b: Battle, i: int, u: int, target: int, draw: float):
    """Chases ``target``, winds up and strikes. ``draw`` in [0, 1) jitters the cooldown after a strike."""
    k = s.kind[u]
    d = gap(s, b, i, u, target)
    strike = bool(False)
    if b.windup[i, u] >= 0.0:
        b.stance[i, u] = FIGHTING
        b.windup[i, u] = b.windup[i, u] - 1.0
        if b.windup[i, u] <= 0.0:
            b.windup[i, u] = -1.0
            strike = d <= k.reach + s.slop
    elif d <= k.reach:
        b.stance[i, u] = FIGHTING
        if b.cooldown[i, u] <= 0.0:
            if k.wind_up <= 0.0:
                strike = True
            else:
                b.windup[i, u] = k.wind_up
    else:
        walk_to(s, b, i, u, b.pos[i, target], d - k.reach + 0.02)
    if strike:
        b.shot[i, u] = target
        # the period counts from the beginning of the attack, whose wind-up took whole loops
        pause = k.period - wp.ceil(k.wind_up) + s.jitter_low + draw * (s.jitter_high - s.jitter_low)
        b.cooldown[i, u] = pause
        if k.blows > 1:
            b.second[i, u] = k.blow_delay
            b.second_target[i, u] = target


@no_type_check
@wp.func
def second_blow(s: Scene, b: Battle, i: int, u: int):
    """The second hit of an attack, where the target is still there."""
    if b.second[i, u] < 0.0:
        return
    b.second[i, u] = b.second[i, u] - 1.0
    if b.second[i, u] > 0.0:
        return
    b.second[i, u] = -1.0
    v = b.second_target[i, u]
    if b.hp[i, v] > 0.0:
        if gap(s, b, i, u, v) <= s.kind[u].reach + s.slop:
            b.shot[i, u] = v


@no_type_check
@wp.func
def decide(s: Scene, b: Battle, i: int, u: int, rng: wp.uint32):
    """What a living unit does in this loop: fight, walk or stand."""
    b.stance[i, u] = IDLE
    b.origin[i, u] = b.pos[i, u]
    b.pace[i, u] = 0.0
    b.shot[i, u] = -1
    if u >= s.n_agents:
        acquire(s, b, i, u)
    target = b.target[i, u]
    if target >= 0:
        if b.hp[i, target] <= 0.0:  # an agent never looks for another target by itself
            target = int(-1)
            b.target[i, u] = -1
            b.order[i, u] = STAND
    if target < 0:
        b.windup[i, u] = -1.0
        if b.order[i, u] == MOVE:
            walk_to(s, b, i, u, b.goal[i, u], wp.length(b.goal[i, u] - b.pos[i, u]))
    else:
        fight(s, b, i, u, target, wp.randf(rng))
    second_blow(s, b, i, u)


@no_type_check
@wp.func
def hurt(s: Scene, b: Battle, i: int, u: int, v: int):
    """One hit: shields first, then armour; at least half a point."""
    k = s.kind[v]
    amount = s.kind[u].damage
    if k.armoured > 0:
        amount = amount + s.kind[u].bonus
    taken = wp.min(b.shield[i, v], amount)
    b.shield[i, v] = b.shield[i, v] - taken
    rest = amount - taken
    if rest > 0.0:
        b.hp[i, v] = b.hp[i, v] - wp.min(rest, wp.max(rest - k.armour, 0.5))
    b.quiet[i, v] = 0.0
    retaliate(s, b, i, v, u)


@no_type_check
@wp.func
def blocks(s: Scene, b: Battle, i: int, u: int, v: int) -> bool:
    """Whether walker ``u`` goes round ``v``: a fighter, an opponent, somebody stuck. Idle mates are pushed aside."""
    if b.hp[i, v] <= 0.0 or v == b.target[i, u]:
        return False
    if b.stance[i, v] == WALKING:
        return b.stuck[i, v] > 0
    same = (u < s.n_agents) == (v < s.n_agents)
    return not same or b.stance[i, v] == FIGHTING


@no_type_check
@wp.func
def headings_into(direction: wp.vec2, n: wp.vec2, into: float) -> int:
    """Bit k: ``direction``, turned left by k times 30 degrees, has a component of more than ``into`` along ``n``."""
    mask = int(0)
    d = direction
    for k in range(12):
        if wp.dot(d, n) > into:
            mask = mask | (1 << k)
        d = wp.vec2(COS_TURN * d[0] - SIN_TURN * d[1], SIN_TURN * d[0] + COS_TURN * d[1])
    return mask


@no_type_check
@wp.func
def blocked_by(s: Scene, b: Battle, i: int, u: int, v: int, direction: wp.vec2) -> int:
    """The headings (see ``blocked_headings``) in which ``u`` walks into ``v``, if ``v`` stands in contact."""
    n = b.pos[i, v] - b.pos[i, u]
    room = s.kind[u].separation + s.kind[v].separation + 0.1
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
    for v in range(s.n_units):
        if v != u:
            mask = mask | blocked_by(s, b, i, u, v, direction)
    return mask


@no_type_check
@wp.func
def first_free(mask: int, side: int) -> int:
    """The smallest turn to ``side`` (1 left, -1 right) that is free: 1 to 5 times 30 degrees, or 6 for none."""
    for k in range(1, 6):
        if (mask & (1 << ((12 + side * k) % 12))) == 0:
            return k
    return 6


@no_type_check
@wp.func
def steer(s: Scene, b: Battle, i: int, u: int, direction: wp.vec2) -> wp.vec2:
    """``direction``, or the smallest turn of it past those who stand in the way.

    ``side`` is remembered (its size counts the loops until it is forgotten), lest a walker sways in front of a gap.
    """
    mask = blocked_headings(s, b, i, u, direction)
    memory = b.side[i, u]
    side = wp.where(memory > 0, 1, wp.where(memory < 0, -1, 0))
    if (mask & 1) == 0:
        b.side[i, u] = memory - side
        return direction
    if side == 0:
        left = first_free(mask, 1)
        right = first_free(mask, -1)
        side = wp.where(left < right or (left == right and u % 2 == 0), 1, -1)
    turn = first_free(mask, side)
    if turn == 6:
        side = -side
        turn = first_free(mask, side)
    b.side[i, u] = side * s.side_memory
    if turn == 6:
        return wp.vec2(0.0, 0.0)
    angle = float(side * turn) * (PI / 6.0)
    c = wp.cos(angle)
    w = wp.sin(angle)
    return wp.vec2(c * direction[0] - w * direction[1], w * direction[0] + c * direction[1])


@no_type_check
@wp.func
def advance(s: Scene, b: Battle, i: int, u: int):
    """Walks one loop's step: round corners by the map's ways, round standing units by steering, along walls."""
    p = b.pos[i, u]
    heading = waypoint(s, p, b.dest[i, u]) - p
    far = wp.length(heading)
    if far < 1.0e-6:
        return
    pace = wp.min(b.pace[i, u], far)
    q = slide(s, p, pace * steer(s, b, i, u, heading / far))
    if s.routed > 0 and wp.length(q - p) < 0.25 * pace:
        centre = wp.vec2(wp.floor(p[0]) + 0.5, wp.floor(p[1]) + 0.5) - p
        q = slide(s, p, centre * wp.min(1.0, pace / wp.max(wp.length(centre), 1.0e-6)))
    b.pos[i, u] = q


@no_type_check
@wp.func
def weight(s: Scene, stance: int) -> float:
    """How readily a unit is pushed."""
    if stance == WALKING:
        return 1.0
    if stance == FIGHTING:
        return s.fighting_weight
    return s.idle_weight


@no_type_check
@wp.func
def push_apart(s: Scene, b: Battle, i: int, u: int, v: int):
    """Pushes two units apart, if they overlap: walkers more than standers, nobody into walls."""
    room = s.kind[u].separation + s.kind[v].separation
    n = b.pos[i, v] - b.pos[i, u]
    far = wp.dot(n, n)
    if far < room * room:
        far = wp.sqrt(far)
        if far > 1.0e-4:
            n = n / far
        else:
            n = wp.vec2(wp.cos(float(u + v)), wp.sin(float(u + v)))
        wu = weight(s, b.stance[i, u])
        share = wu / (wu + weight(s, b.stance[i, v]))
        push = room - far
        b.pos[i, u] = slide(s, b.pos[i, u], -(push * share) * n)
        b.pos[i, v] = slide(s, b.pos[i, v], (push * (1.0 - share)) * n)


@no_type_check
@wp.func
def push_others(s: Scene, b: Battle, i: int, u: int):
    """Pushes ``u`` and the living units with a higher number apart."""
    for v in range(u + 1, s.n_units):
        if b.hp[i, v] > 0.0:
            push_apart(s, b, i, u, v)


@no_type_check
@wp.func
def separate(s: Scene, b: Battle, i: int):
    """Pushes overlapping units apart."""
    for u in range(s.n_units):
        if b.hp[i, u] > 0.0:
            push_others(s, b, i, u)


@no_type_check
@wp.func
def recover(s: Scene, b: Battle, i: int, u: int):
    """Cooldown, shields and health of a living unit after one loop, and whether it got anywhere."""
    k = s.kind[u]
    b.cooldown[i, u] = wp.max(b.cooldown[i, u] - 1.0, 0.0)
    b.quiet[i, u] = b.quiet[i, u] + 1.0
    b.stuck[i, u] = 0
    if b.stance[i, u] == WALKING:
        if wp.length(b.pos[i, u] - b.origin[i, u]) < s.stuck_below * b.pace[i, u]:
            b.stuck[i, u] = 1
    if b.quiet[i, u] > s.shield_delay:
        b.shield[i, u] = wp.min(b.shield[i, u] + s.shield_rate, k.shield)
    b.hp[i, u] = wp.min(b.hp[i, u] + k.regeneration, k.hp)


@no_type_check
@wp.func
def game_loop(s: Scene, b: Battle, i: int, seed: int):
    """One sixteenth of a second: all decide on the same picture, all hits fall together, then all move."""
    for u in range(s.n_units):
        b.shot[i, u] = -1
        if b.hp[i, u] > 0.0:
            decide(s, b, i, u, wp.rand_init(seed, u))
    for u in range(s.n_units):
        if b.shot[i, u] >= 0:
            hurt(s, b, i, u, b.shot[i, u])
    for u in range(s.n_units):
        b.hp[i, u] = wp.max(b.hp[i, u], 0.0)
    for u in range(s.n_units):
        if b.hp[i, u] > 0.0 and b.stance[i, u] == WALKING:
            advance(s, b, i, u)
    for _sweep in range(s.sweeps):
        separate(s, b, i)
    for u in range(s.n_units):
        if b.hp[i, u] > 0.0:
            recover(s, b, i, u)


# ---------------------------------------------------------------- orders


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
    b.goal[i, n] = b.pos[i, n] + step
    b.order[i, n] = MOVE
    b.target[i, n] = -1
    b.windup[i, n] = -1.0


@no_type_check
@wp.func
def obey(s: Scene, b: Battle, i: int, n: int, action: int):
    """Gives agent ``n`` the order of its action. Repeating an attack does not interrupt it."""
    if action >= 6:
        target = s.n_agents + action - 6
        if b.target[i, n] != target:
            b.windup[i, n] = -1.0
        b.target[i, n] = target
        b.order[i, n] = ATTACK
    elif action >= 2:
        order_move(s, b, i, n, action)
    else:
        b.target[i, n] = -1
        b.order[i, n] = STAND
        b.windup[i, n] = -1.0


@no_type_check
@wp.func
def nearest_enemy(s: Scene, b: Battle, i: int, n: int) -> int:
    """The living enemy nearest to agent ``n`` by centres, or -1."""
    best = int(-1)
    least = float(NEVER)
    for v in range(s.n_agents, s.n_units):
        if b.hp[i, v] > 0.0:
            d = wp.length(b.pos[i, v] - b.pos[i, n])
            if d < least:
                least = d
                best = v
    return best


@no_type_check
@wp.func
def scripted_action(s: Scene, b: Battle, i: int, n: int) -> int:
    """SMAC's heuristic: attack the nearest enemy (by centres) and stay with it until it dies."""
    if b.hp[i, n] <= 0.0:
        return 0
    target = b.script[i, n]
    if target >= 0:
        if b.hp[i, target] <= 0.0:
            target = int(-1)
    if target < 0:
        target = nearest_enemy(s, b, i, n)
        b.script[i, n] = target
    if target < 0:
        return 1
    action = 6 + target - s.n_agents
    if s.scripted_legal > 0 and b.avail[i, n, action] == wp.uint8(0):
        way = b.pos[i, target] - b.pos[i, n]
        if wp.abs(way[0]) > wp.abs(way[1]):
            action = wp.where(way[0] > 0.0, 4, 5)
        else:
            action = wp.where(way[1] > 0.0, 2, 3)
    return action


# ---------------------------------------------------------------- results


@no_type_check
@wp.func
def ended(s: Scene, b: Battle, i: int, allies: int, enemies: int):
    """Marks the end of the battle, if it is one: win, defeat, both dead, or the time limit."""
    b.won[i] = 0.0
    over = allies == 0 or enemies == 0
    if over:
        b.terminated[i] = wp.uint8(1)
        b.running[i] = 0
        if allies > 0:
            b.won[i] = 1.0
    elif b.time[i] >= s.limit:
        b.truncated[i] = wp.uint8(1)
        b.running[i] = 0


@no_type_check
@wp.func
def score(s: Scene, b: Battle, i: int):
    """Reward, end and counts of one step, by SMAC's rules."""
    inflicted = float(0.0)
    suffered = float(0.0)
    allies = int(0)
    enemies = int(0)
    for u in range(s.n_units):
        alive = b.hp[i, u] > 0.0
        loss = b.before[i, u]
        if alive:
            loss = loss - b.hp[i, u] - b.shield[i, u]
        elif b.before[i, u] > 0.0:
            loss = loss + s.death_value
        if u < s.n_agents:
            allies += wp.where(alive, 1, 0)
            suffered += loss
        else:
            enemies += wp.where(alive, 1, 0)
            inflicted += loss
    b.dead_allies[i] = float(s.n_agents - allies)
    b.dead_enemies[i] = float(s.n_units - s.n_agents - enemies)
    ended(s, b, i, allies, enemies)
    reward = inflicted - s.negative_scale * suffered
    if s.only_positive > 0:
        reward = wp.abs(inflicted)  # the absolute value makes enemy regeneration pay, as upstream
    bonus = float(0.0)
    if b.won[i] > 0.0:
        bonus = s.win
    elif allies == 0 and enemies > 0:
        bonus = s.defeat
    if s.sparse > 0:
        reward = 0.0
    b.reward[i] = (reward + bonus) / s.divisor


# ---------------------------------------------------------------- what the agents see


@no_type_check
@wp.func
def distance(p: wp.vec2, q: wp.vec2) -> float:
    """Between centres."""
    return wp.length(q - p)


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
    for v in range(s.n_agents, s.n_units):
        if b.hp[i, v] > 0.0:
            if distance(p, b.pos[i, v]) <= s.shoot:
                b.avail[i, n, 6 + v - s.n_agents] = wp.uint8(1)


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
    k = s.kind[u]
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
    k = s.kind[u]
    shielded = s.enemy_shield
    j = at + 1
    if u < s.n_agents:
        shielded = s.ally_shield
        j += 1
    width = j - at + 2 + shielded + s.bits
    if b.hp[i, u] > 0.0:
        b.state[i, at] = b.hp[i, u] / k.hp
        if u < s.n_agents:
            b.state[i, at + 1] = b.cooldown[i, u] / k.cooldown_scale
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


# ---------------------------------------------------------------- starting


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
            if s.kind[j - 1].sort != s.kind[j].sort or ordered:
                j = int(0)
            else:
                b.pos[i, j - 1] = q
                b.pos[i, j] = p
                j -= 1


@no_type_check
@wp.func
def begin(s: Scene, b: Battle, i: int, rng: wp.uint32):
    """A new battle in row ``i``."""
    r = s.spawn_jitter
    share = wp.randf(rng)
    goal = s.order_from + share * (s.order_to - s.order_from)
    for u in range(s.n_units):
        dx = r * (2.0 * wp.randf(rng) - 1.0)
        dy = r * (2.0 * wp.randf(rng) - 1.0)
        b.pos[i, u] = slide(s, s.spawn[u], wp.vec2(dx, dy))
        b.hp[i, u] = s.kind[u].hp
        b.shield[i, u] = s.kind[u].shield
        b.cooldown[i, u] = 0.0
        b.quiet[i, u] = s.shield_delay
        b.windup[i, u] = -1.0
        b.second[i, u] = -1.0
        b.second_target[i, u] = -1
        b.side[i, u] = 0
        b.stuck[i, u] = 0
        b.target[i, u] = -1
        b.goal[i, u] = goal
        b.order[i, u] = STAND
        if u >= s.n_agents and s.has_order > 0:
            b.order[i, u] = MOVE
    for n in range(s.n_agents):
        b.goal[i, n] = b.pos[i, n]
        b.script[i, n] = -1
        b.last[i, n] = -1
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


# ---------------------------------------------------------------- kernels


@no_type_check
@wp.kernel(enable_backward=False)
def start(s: Scene, b: Battle, which: wp.array(dtype=wp.uint8)):
    """New battles in the rows of ``which``."""
    i = wp.tid()
    if which[i] == wp.uint8(0):
        return
    clear(b, i)
    begin(s, b, i, fresh_stream(b, i))


@no_type_check
@wp.kernel(enable_backward=False)
def check(s: Scene, b: Battle, action: wp.array2d(dtype=wp.int64)):
    """``fault[0]``: 0, or one more than the number (row * n_agents + agent) of an unavailable action."""
    i = wp.tid()
    if b.running[i] == 0:
        return
    for n in range(s.n_agents):
        a = int(action[i, n])
        bad = a < 0 or a >= s.n_actions
        if not bad and s.scripted == 0:
            bad = b.avail[i, n, a] == wp.uint8(0)
        if bad:
            wp.atomic_max(b.fault, 0, i * s.n_agents + n + 1)


@no_type_check
@wp.kernel(enable_backward=False)
def play(s: Scene, b: Battle, action: wp.array2d(dtype=wp.int64)):
    """One agent step of every running battle."""
    i = wp.tid()
    clear(b, i)
    if b.running[i] == 0:
        return
    rng = fresh_stream(b, i)
    for n in range(s.n_agents):
        a = int(action[i, n])
        b.last[i, n] = a
        if s.scripted > 0:
            a = scripted_action(s, b, i, n)
        if b.hp[i, n] > 0.0:
            obey(s, b, i, n, a)
    for u in range(s.n_units):
        b.before[i, u] = 0.0
        if b.hp[i, u] > 0.0:
            b.before[i, u] = b.hp[i, u] + b.shield[i, u]
    for _loop in range(s.loops):
        game_loop(s, b, i, wp.randi(rng))
    b.time[i] = b.time[i] + 1
    score(s, b, i)
    b.stale[i] = 1


@no_type_check
@wp.kernel(enable_backward=False)
def show(s: Scene, b: Battle):
    """Observations, state, masks and visibility of the rows that changed."""
    i = wp.tid()
    if b.stale[i] == 0:
        return
    b.stale[i] = 0
    length = b.obs.shape[2]
    for n in range(s.n_agents):
        show_actions(s, b, i, n)
        show_obs(s, b, i, n, length)
    show_state(s, b, i, b.state.shape[1], length)
