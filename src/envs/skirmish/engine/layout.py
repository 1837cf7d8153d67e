"""What a battle consists of, in the terms of its Warp kernels. Axes: b battles, u units (allies first, then enemies).

``no_type_check`` keeps run-time checkers of annotations away from what Warp translates.
"""

from __future__ import annotations

from typing import no_type_check

import warp as wp

STAND = wp.constant(0)
MOVE = wp.constant(1)
ATTACK = wp.constant(2)
"""A unit's order, which persists until the next one."""

DEAD = wp.constant(-1)
IDLE = wp.constant(0)
WALKING = wp.constant(1)
FIGHTING = wp.constant(2)
"""What a unit does with its feet in this game loop: nothing, walk, or stand because its target is in range."""

WALKS = wp.constant(0)
CLIMBS = wp.constant(1)
FLIES = wp.constant(2)
"""How a unit gets about, numbered as in the table of units."""

DROP = wp.constant(0)
ZERO = wp.constant(1)
FULL = wp.constant(2)
"""What observations have of the other agents."""

NEVER = wp.constant(1.0e9)


@no_type_check
@wp.struct
class Kind:
    """One unit's type in game loops and cells."""

    hp: float
    shield: float
    armour: float
    regeneration: float
    armoured: int
    light: int
    biological: int
    damage: float
    bonus: float
    light_bonus: float
    blows: int
    blow_delay: float
    period: float
    reach: float
    slop: float
    wind_up: float
    missile: float
    hits_air: int
    burst: float
    beam: float
    beam_width: float
    beam_delay: float
    healing: float
    energy: float
    energy_max: float
    energy_gain: float
    legs: int
    speed: float
    acceleration: float
    radius: float
    separation: float
    cooldown_scale: float
    sight: float
    """Within which an agent of this type sees."""
    shoot: float
    """Within which it is offered its attacks, from centre to centre."""
    code: int
    """Place in the one-hot code of types."""


@no_type_check
@wp.struct
class Scene:
    """What never changes on one map with one set of options."""

    kind: wp.array(dtype=Kind)
    team: wp.array(dtype=wp.int32)
    """The kind of every unit at the beginning."""
    spawn: wp.array(dtype=wp.vec2)
    walk: wp.array2d(dtype=wp.uint8)
    """1 where everybody can stand, 2 where only climbers can, 0 elsewhere."""
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
    hunted: int
    """1: enemies know where all agents are."""
    hunts_every: int
    """Loops between orders to idle enemies to attack the closest agent; 0: there are none."""
    drawn: int
    """1: teams and places are drawn for every battle, by what follows."""
    n_types: int
    """The table of kinds has so many of the agents, then as many of the enemies."""
    cumulative: wp.array(dtype=float)
    """Probability of a type and all before it."""
    excepted: wp.array(dtype=wp.int32)
    """1 for types of which no whole team may consist."""
    reflected: float
    """Probability of mirrored places; negative: nothing but the types is drawn."""
    area: wp.vec2
    medics: int
    """1: a team of which only healers are left has lost."""
    # options of SMAC
    move_amount: float
    scripted: int
    scripted_legal: int
    obs_all_health: int
    obs_own_health: int
    obs_last_action: int
    obs_allies: int
    obs_mate_types: int
    obs_own_pos: int
    fully_observable: int
    action_mask: int
    tracked: int
    """1: it is kept who has spotted whom."""
    hides_lower: int
    prob_obs_enemy: float
    obs_pathing: int
    obs_time: int
    state_last_action: int
    state_time: int
    state_is_obs: int
    sparse: int
    only_positive: int
    clipped: int
    """1: a reward that would be negative is 0, else its absolute value."""
    death_value: wp.float64
    negative_scale: wp.float64
    win: wp.float64
    defeat: wp.float64
    divisor: wp.float64
    widest: float
    """The square of the distance from which on no two units touch."""
    healers: int
    """1: there are some."""
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
    splash_edges: int
    patient_range: float
    heal_from: float
    heal_cost: float
    duel: int


@no_type_check
@wp.struct
class Unit:
    """One unit in its battle: its state, and the scratch of one step.

    A record is two lines of a cache; what all ask about all others lies in the first.
    """

    before: wp.float64
    """Health and shield at the beginning of the step; 0 of the dead."""
    pos: wp.vec2
    hp: float
    kind: int
    stance: int
    target: int
    stuck: int
    order: int
    side: int
    windup: float
    pace: float
    shot: int
    cooldown: float
    drive: float
    """Speed of a unit that has to gather it."""
    dest: wp.vec2
    origin: wp.vec2
    goal: wp.vec2
    shield: float
    quiet: float
    energy: float
    pending: float
    """Loops until an attack has its further effect (second blow, missile, beam); negative: there is none."""
    pending_at: wp.vec2
    """Where the target of a beam was."""
    pending_way: wp.vec2
    """From where to there, of length 1."""
    pending_target: int


@no_type_check
@wp.struct
class Battle:
    """What changes, one row per battle."""

    unit: wp.array2d(dtype=Unit)
    script: wp.array2d(dtype=wp.int32)
    last: wp.array2d(dtype=wp.int32)
    spotted: wp.array3d(dtype=wp.uint8)
    """[b, enemies, agents]: 1 for whom an enemy can be seen by."""
    spotter: wp.array2d(dtype=wp.int32)
    """[b, enemies]: the agent that spotted it first, -1 for nobody."""
    watch: wp.array2d(dtype=wp.int32)
    """[b, agents]: in which order they last looked."""
    hidden: wp.array2d(dtype=wp.int32)
    """[b, agents]: enemies with a lower number are hidden from an agent."""
    time: wp.array(dtype=wp.int32)
    running: wp.array(dtype=wp.int32)
    rng: wp.array2d(dtype=wp.int32)
    tally: wp.array2d(dtype=wp.int32)
    """How many battles were ended, won and cut by the time limit."""
    # scratch of one step
    roll: wp.array2d(dtype=wp.int32)
    """Those alive at the beginning of the step, in this step's order; ``present`` of them."""
    present: wp.array(dtype=wp.int32)
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


# What follows tells the compiler what it cannot see. Warp counts negative indices from the end and lets arrays have
# gaps, which costs more than the access itself. And of a loop over a ``range`` the compiler loses the step, as Warp
# writes it, so loops are written with ``while`` here.


@no_type_check
@wp.func_native("__builtin_assume(k >= 0);")
def assume_natural(k: int):
    """``k`` is not negative."""
    ...


@no_type_check
@wp.func_native("""
    __builtin_assume(b.unit.strides[1] == (int)sizeof(*b.unit.data));
    __builtin_assume(s.kind.strides[0] == (int)sizeof(*s.kind.data));
    __builtin_assume(s.walk.strides[1] == 1);
    __builtin_assume(b.roll.strides[1] == 4);
    __builtin_assume(b.last.strides[1] == 4);
    __builtin_assume(b.avail.strides[2] == 1);
    __builtin_assume(b.visible.strides[2] == 1);
    __builtin_assume(b.obs.strides[2] == 4);
    __builtin_assume(b.state.strides[1] == 4);
""")
def assume_dense(s: Scene, b: Battle):
    """The last axes of these arrays have no gaps."""
    ...


@no_type_check
@wp.func
def kind_of(s: Scene, b: Battle, i: int, u: int) -> Kind:
    """The type of unit ``u``."""
    k = b.unit[i, u].kind
    assume_natural(k)
    return s.kind[k]


@no_type_check
@wp.func
def unit_at(b: Battle, i: int, place: int) -> int:
    """The unit at ``place`` of the roll."""
    u = b.roll[i, place]
    assume_natural(u)
    return u


@no_type_check
@wp.func
def row_of(s: Scene, b: Battle, first: int, thread: int) -> int:
    """The row that a thread plays."""
    i = first + thread
    assume_natural(i)
    assume_dense(s, b)
    return i
