"""The battle kernels: one thread plays one battle, from the same source on CPU and CUDA.

Nothing here draws on anything but its own row, and every loop runs in a fixed order, so a row's course depends only
on its state, its generator and its actions. A launch plays the rows from ``first`` on.
"""

from __future__ import annotations

from typing import no_type_check

import warp as wp

from envs.skirmish.engine.combat import bury, decide, give_health, hit, hunt, land
from envs.skirmish.engine.layout import DEAD, WALKING, Battle, Scene, kind_of, row_of, unit_at
from envs.skirmish.engine.motion import advance, separate
from envs.skirmish.engine.orders import obey, scripted_action
from envs.skirmish.engine.score import score, vigour
from envs.skirmish.engine.sight import show_actions, show_obs, show_state, show_visible
from envs.skirmish.engine.spawn import begin, clear, fresh_stream
from envs.skirmish.engine.spotting import lose, lose_the_dead, spot


@no_type_check
@wp.func
def recover(s: Scene, b: Battle, i: int, u: int):
    """Cooldown, shields and health of a living unit after one loop, and whether it got anywhere."""
    k = kind_of(s, b, i, u)
    b.unit[i, u].cooldown = wp.max(b.unit[i, u].cooldown - 1.0, 0.0)
    b.unit[i, u].quiet = b.unit[i, u].quiet + 1.0
    b.unit[i, u].stuck = 0
    if b.unit[i, u].stance == WALKING:
        if wp.length(b.unit[i, u].pos - b.unit[i, u].origin) < s.stuck_below * b.unit[i, u].pace:
            b.unit[i, u].stuck = 1
    if b.unit[i, u].quiet > s.shield_delay:
        b.unit[i, u].shield = wp.min(b.unit[i, u].shield + s.shield_rate, k.shield)
    b.unit[i, u].hp = wp.min(b.unit[i, u].hp + k.regeneration, k.hp)
    b.unit[i, u].energy = wp.min(b.unit[i, u].energy + k.energy_gain, k.energy_max)


@no_type_check
@wp.func
def call_roll(s: Scene, b: Battle, i: int, rng: wp.uint32):
    """Lists the living in a random order, in which is done what cannot be done at once, lest numbers win battles."""
    count = int(0)
    u = int(0)
    while u < s.n_units:
        if b.unit[i, u].hp > 0.0:
            place = wp.randi(rng, 0, count + 1)
            b.roll[i, count] = b.roll[i, place]
            b.roll[i, place] = u
            count += 1
        u += 1
    b.present[i] = count


@no_type_check
@wp.func
def heal_all(s: Scene, b: Battle, i: int):
    """The healers heal."""
    u = int(0)
    while u < s.n_units:
        give_health(s, b, i, u)
        u += 1


@no_type_check
@wp.func
def clash(s: Scene, b: Battle, i: int):
    """All hits of this loop fall together, then the dead explode, then healers heal."""
    place = int(0)
    present = b.present[i]
    while place < present:
        hit(s, b, i, unit_at(b, i, place))
        place += 1
    u = int(0)
    while u < s.n_units:
        land(s, b, i, u)
        u += 1
    bury(s, b, i)
    if s.healers > 0:
        heal_all(s, b, i)


@no_type_check
@wp.func
def walk(s: Scene, b: Battle, i: int, seed: int):
    """Everybody who walks takes a step, all seeing where the others stood before it."""
    u = int(0)
    while u < s.n_units:
        if b.unit[i, u].stance == WALKING:
            b.unit[i, u].dest = advance(s, b, i, u, wp.rand_init(seed, s.n_units + u))
        u += 1
    u = int(0)
    while u < s.n_units:
        if b.unit[i, u].stance == WALKING:
            b.unit[i, u].pos = b.unit[i, u].dest
        u += 1


@no_type_check
@wp.func
def game_loop(s: Scene, b: Battle, i: int, seed: int):
    """One sixteenth of a second: all decide on the same picture, all hits fall together, then all move."""
    u = int(0)
    while u < s.n_units:
        b.unit[i, u].shot = -1
        b.unit[i, u].stance = DEAD
        if b.unit[i, u].hp > 0.0:
            decide(s, b, i, u, wp.rand_init(seed, u))
        u += 1
    clash(s, b, i)
    walk(s, b, i, seed)
    sweep = int(0)
    while sweep < s.sweeps:
        separate(s, b, i)
        sweep += 1
    u = int(0)
    while u < s.n_units:
        if b.unit[i, u].hp > 0.0:
            recover(s, b, i, u)
        u += 1


@no_type_check
@wp.func
def look_round(s: Scene, b: Battle, i: int, rng: wp.uint32):
    """The agents look for enemies at the beginning: twice, since upstream's reset asks for observations too."""
    e = int(0)
    while e < s.n_units - s.n_agents:
        lose(s, b, i, e)
        e += 1
    seed = wp.randi(rng)
    spot(s, b, i, seed)
    spot(s, b, i, seed)


@no_type_check
@wp.kernel(enable_backward=False)
def start(first: int, s: Scene, b: Battle, which: wp.array(dtype=wp.uint8)):
    """New battles in the rows of ``which``."""
    i = row_of(s, b, first, wp.tid())
    if which[i] == wp.uint8(0):
        return
    clear(b, i)
    begin(s, b, i, fresh_stream(b, i))
    if s.tracked > 0:
        look_round(s, b, i, fresh_stream(b, i))


@no_type_check
@wp.kernel(enable_backward=False)
def check(first: int, s: Scene, b: Battle, action: wp.array2d(dtype=wp.int64)):
    """``fault[0]``: 0, or one more than the number (row * n_agents + agent) of an unavailable action."""
    i = row_of(s, b, first, wp.tid())
    if b.running[i] == 0:
        return
    n = int(0)
    while n < s.n_agents:
        a = int(action[i, n])
        bad = a < 0 or a >= s.n_actions
        if not bad and s.scripted == 0 and s.duel == 0:
            bad = b.avail[i, n, a] == wp.uint8(0)
        if bad:
            wp.atomic_max(b.fault, 0, i * s.n_agents + n + 1)
        n += 1


@no_type_check
@wp.kernel(enable_backward=False)
def play(first: int, s: Scene, b: Battle, action: wp.array2d(dtype=wp.int64)):
    """One agent step of every running battle; nothing at all once an unavailable action has been found (``check``)."""
    if b.fault[0] > 0:
        return
    i = row_of(s, b, first, wp.tid())
    clear(b, i)
    if b.running[i] == 0:
        return
    rng = fresh_stream(b, i)
    n = int(0)
    while n < s.n_agents:
        a = int(action[i, n])
        b.last[i, n] = a
        if s.scripted > 0:
            a = scripted_action(s, b, i, n)
        if b.unit[i, n].hp > 0.0 and s.duel == 0:
            obey(s, b, i, n, a)
        n += 1
    u = int(0)
    while u < s.n_units:
        b.unit[i, u].before = vigour(b, i, u)
        u += 1
    call_roll(s, b, i, fresh_stream(b, i))
    loop = int(0)
    while loop < s.loops:
        if s.hunts_every > 0:
            if (b.time[i] * s.loops + loop) % s.hunts_every == 0:
                hunt(s, b, i)
        game_loop(s, b, i, wp.randi(rng))
        loop += 1
    b.time[i] = b.time[i] + 1
    score(s, b, i)
    if s.tracked > 0:
        lose_the_dead(s, b, i)
        spot(s, b, i, wp.randi(rng))
    b.stale[i] = 1


@no_type_check
@wp.kernel(enable_backward=False)
def show(first: int, s: Scene, b: Battle, everything: int):
    """Observations, state, masks and visibility of the rows that changed; the masks alone unless ``everything``."""
    i = row_of(s, b, first, wp.tid())
    if b.stale[i] == 0:
        return
    n = int(0)
    while n < s.n_agents:
        show_actions(s, b, i, n)
        n += 1
    if everything == 0:
        return
    b.stale[i] = 0
    length = b.obs.shape[2]
    n = int(0)
    while n < s.n_agents:
        show_visible(s, b, i, n)
        show_obs(s, b, i, n, length)
        n += 1
    show_state(s, b, i, b.state.shape[1], length)
