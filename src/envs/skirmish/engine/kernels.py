"""The battle kernels: one thread plays one battle, from the same source on CPU and CUDA.

Nothing here draws on anything but its own row, and every loop runs in a fixed order, so a row's course depends only
on its state, its generator and its actions. A launch plays the rows from ``first`` on.
"""

from __future__ import annotations

from typing import no_type_check

import warp as wp

from envs.skirmish.engine.combat import bury, decide, give_health, hit, hunt, land
from envs.skirmish.engine.layout import DEAD, WALKING, Battle, Scene
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
    k = s.kind[b.kind[i, u]]
    b.cooldown[i, u] = wp.max(b.cooldown[i, u] - 1.0, 0.0)
    b.quiet[i, u] = b.quiet[i, u] + 1.0
    b.stuck[i, u] = 0
    if b.stance[i, u] == WALKING:
        if wp.length(b.pos[i, u] - b.origin[i, u]) < s.stuck_below * b.pace[i, u]:
            b.stuck[i, u] = 1
    if b.quiet[i, u] > s.shield_delay:
        b.shield[i, u] = wp.min(b.shield[i, u] + s.shield_rate, k.shield)
    b.hp[i, u] = wp.min(b.hp[i, u] + k.regeneration, k.hp)
    b.energy[i, u] = wp.min(b.energy[i, u] + k.energy_gain, k.energy_max)


@no_type_check
@wp.func
def call_roll(s: Scene, b: Battle, i: int, rng: wp.uint32):
    """Lists the living in a random order, in which is done what cannot be done at once, lest numbers win battles."""
    count = int(0)
    for u in range(s.n_units):
        if b.hp[i, u] > 0.0:
            place = wp.randi(rng, 0, count + 1)
            b.roll[i, count] = b.roll[i, place]
            b.roll[i, place] = u
            count += 1
    b.present[i] = count


@no_type_check
@wp.func
def clash(s: Scene, b: Battle, i: int):
    """All hits of this loop fall together, then the dead explode, then healers heal."""
    for place in range(b.present[i]):
        hit(s, b, i, b.roll[i, place])
    for u in range(s.n_units):
        land(s, b, i, u)
    bury(s, b, i)
    for u in range(s.n_units):
        give_health(s, b, i, u)


@no_type_check
@wp.func
def walk(s: Scene, b: Battle, i: int, seed: int):
    """Everybody who walks takes a step, all seeing where the others stood before it."""
    for u in range(s.n_units):
        if b.stance[i, u] == WALKING:
            b.dest[i, u] = advance(s, b, i, u, wp.rand_init(seed, s.n_units + u))
    for u in range(s.n_units):
        if b.stance[i, u] == WALKING:
            b.pos[i, u] = b.dest[i, u]


@no_type_check
@wp.func
def game_loop(s: Scene, b: Battle, i: int, seed: int):
    """One sixteenth of a second: all decide on the same picture, all hits fall together, then all move."""
    for u in range(s.n_units):
        b.shot[i, u] = -1
        b.stance[i, u] = DEAD
        if b.hp[i, u] > 0.0:
            decide(s, b, i, u, wp.rand_init(seed, u))
    clash(s, b, i)
    walk(s, b, i, seed)
    for _sweep in range(s.sweeps):
        separate(s, b, i)
    for u in range(s.n_units):
        if b.hp[i, u] > 0.0:
            recover(s, b, i, u)


@no_type_check
@wp.func
def look_round(s: Scene, b: Battle, i: int, rng: wp.uint32):
    """The agents look for enemies at the beginning: twice, since upstream's reset asks for observations too."""
    for e in range(s.n_units - s.n_agents):
        lose(s, b, i, e)
    seed = wp.randi(rng)
    spot(s, b, i, seed)
    spot(s, b, i, seed)


@no_type_check
@wp.kernel(enable_backward=False)
def start(first: int, s: Scene, b: Battle, which: wp.array(dtype=wp.uint8)):
    """New battles in the rows of ``which``."""
    i = first + wp.tid()
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
    i = first + wp.tid()
    if b.running[i] == 0:
        return
    for n in range(s.n_agents):
        a = int(action[i, n])
        bad = a < 0 or a >= s.n_actions
        if not bad and s.scripted == 0 and s.duel == 0:
            bad = b.avail[i, n, a] == wp.uint8(0)
        if bad:
            wp.atomic_max(b.fault, 0, i * s.n_agents + n + 1)


@no_type_check
@wp.kernel(enable_backward=False)
def play(first: int, s: Scene, b: Battle, action: wp.array2d(dtype=wp.int64)):
    """One agent step of every running battle."""
    i = first + wp.tid()
    clear(b, i)
    if b.running[i] == 0:
        return
    rng = fresh_stream(b, i)
    for n in range(s.n_agents):
        a = int(action[i, n])
        b.last[i, n] = a
        if s.scripted > 0:
            a = scripted_action(s, b, i, n)
        if b.hp[i, n] > 0.0 and s.duel == 0:
            obey(s, b, i, n, a)
    for u in range(s.n_units):
        b.before[i, u] = vigour(b, i, u)
    call_roll(s, b, i, fresh_stream(b, i))
    for loop in range(s.loops):
        if s.hunts_every > 0:
            if (b.time[i] * s.loops + loop) % s.hunts_every == 0:
                hunt(s, b, i)
        game_loop(s, b, i, wp.randi(rng))
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
    i = first + wp.tid()
    if b.stale[i] == 0:
        return
    for n in range(s.n_agents):
        show_actions(s, b, i, n)
    if everything == 0:
        return
    b.stale[i] = 0
    length = b.obs.shape[2]
    for n in range(s.n_agents):
        show_visible(s, b, i, n)
        show_obs(s, b, i, n, length)
    show_state(s, b, i, b.state.shape[1], length)
