"""Map, units, options and rules in the terms of the battle kernels; without torch, for those who start often."""

from __future__ import annotations

import glob
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import warp as wp

from envs.skirmish.engine import kernels, layout
from envs.skirmish.maps import SIZE, AllyBlock, BattleMap, formation, ground, walkable, ways
from envs.skirmish.options import Options, max_reward, shields, sizes
from envs.skirmish.units import LEGS, LOOPS_PER_SECOND, UNITS, UnitKind

SHOOT_RANGE = 6.0
"""SMAC offers an attack up to this distance between centres, whatever the weapon."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The constants of the simulation that are not in the units' statistics. Times in game loops."""

    jitter_low: float = -1.0
    """Every shot's cooldown is longer by a uniform random amount from here ..."""
    jitter_high: float = 2.0
    """... to here."""
    spawn_turn: float = 0.5
    """A team's units take the free places nearest to their point; of equally near ones first the one in this direction
    (degrees from the east, anti-clockwise) ..."""
    spawn_clockwise: bool = False
    """... and then those further round. The game's own order is unknown; much hangs on it."""
    spawn_jitter: float = 0.05
    """Units appear at most this far from their place, on either axis."""
    slop: float = 1.0
    """An attack that has begun hits a target that is out of range by at most this."""
    scan: float = 5.0
    """Enemies look for targets within this range, or their weapon's where that is longer."""
    help_radius: float = 4.0
    """Idle enemies this near to a mate that is hit take on its attacker."""
    swap: int = 1
    """1: an enemy that chases takes on whoever comes into its weapon's range."""
    shield_delay: float = 160.0
    """Shields recover when they have not been hit for this long."""
    shield_rate: float = 2.0 / LOOPS_PER_SECOND
    """Shield points per loop."""
    sweeps: int = 1
    """Rounds of pushing overlapping units apart per loop."""
    idle_weight: float = 0.2
    """How readily an idle unit is pushed, against 1 for a walking one."""
    fighting_weight: float = 0.4
    """The same for one that stands and fights."""
    contact: float = 0.7
    """Cosine of the angle between heading and neighbour below which a walker passes."""
    side_memory: int = 4
    """Loops for which a walker that was blocked keeps to the side that it chose."""
    stuck_below: float = 0.7
    """A walker that got less than this share of its way is in the others' way."""
    splash_edges: int = 0
    """1: explosions and beams hit whose edge they touch; 0: whose centre."""
    patient_range: float = 6.0
    """Enemy healers look for patients within this range."""
    heal_from: float = 5.0
    """Energy that an enemy healer needs to begin."""
    heal_cost: float = 0.33
    """Energy per health point."""
    duel: int = 0
    """1: the agents are led like enemies, whatever their actions; the teams start as mirror images and meet half way,
    which must be a fair fight; for tests."""


_PLACING = ("spawn_turn", "spawn_clockwise")
"""Rules that are done with when the units' places are known."""
UNIT: np.dtype[Any] = np.dtype(layout.Unit.numpy_dtype())  # type: ignore[attr-defined]
"""A unit's record, whose fields stand beside the other arrays by their names."""
FLOATS = ("hp", "shield", "energy", "cooldown", "quiet", "windup", "drive", "pending")
INTS = ("kind", "pending_target", "order", "target", "side", "stuck")
VECTORS = ("pos", "goal", "pending_at", "pending_way")
SPOTTING = ("spotted", "spotter", "watch", "hidden")


@dataclass(frozen=True)
class Setting:
    """What battles are fought with and by."""

    map: BattleMap
    options: Options
    """With no choice left to the map (``options.complete``)."""
    rules: Rules

    def arrays(self, n_envs: int) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and type of every array of ``layout.Battle`` but the units' records."""
        b, n = n_envs, self.map.n_agents
        u, size = n + self.map.n_enemies, sizes(self.map, self.options)
        real: dict[str, tuple[int, ...]] = {"obs": (b, n, size.obs), "state": (b, size.state)}
        real |= {name: (b,) for name in ("reward", "won", "dead_allies", "dead_enemies")}
        whole: dict[str, tuple[int, ...]] = {
            "roll": (b, u),
            "script": (b, n),
            "last": (b, n),
            "time": (b,),
            "running": (b,),
            "rng": (b, 2),
            "tally": (b, 3),
            "stale": (b,),
            "present": (b,),
        }
        e, a = (self.map.n_enemies, n) if self.options.tracked else (1, 1)
        whole |= {"spotter": (b, e), "watch": (b, a), "hidden": (b, a)}
        flags: dict[str, tuple[int, ...]] = {
            "spotted": (b, e, a),
            "avail": (b, n, size.n_actions),
            "visible": (b, n, n),
            "terminated": (b,),
            "truncated": (b,),
        }
        shapes = ((real, "float32"), (whole | {"fault": (1,)}, "int32"), (flags, "uint8"))
        return {name: (shape, kind) for group, kind in shapes for name, shape in group.items()}

    def scene(self, device: Any) -> Any:
        """Map, units, options and rules in the kernels' terms."""
        scene, grid, routes = layout.Scene(), ground(self.map.terrain), ways(self.map.terrain)
        table, team = self._kinds()
        scene.kind = wp.array(table, dtype=layout.Kind, device=device)
        scene.team = wp.array(team, dtype=wp.int32, device=device)
        spawn, orders = self._places()
        scene.spawn = wp.array(spawn.astype(np.float32), dtype=wp.vec2, device=device)
        scene.order_from, scene.order_to = wp.vec2(*orders[0]), wp.vec2(*orders[-1])
        scene.walk = wp.array(grid, dtype=wp.uint8, device=device)
        scene.routed = int(routes is not None)
        number, via = routes or (np.zeros(SIZE * SIZE, dtype=np.int32), np.zeros((1, 1), dtype=np.int32))
        scene.number = wp.array(number, dtype=wp.int32, device=device)
        scene.via = wp.array(via, dtype=wp.int32, device=device)
        for name, value in (self.numbers() | self._draw(device)).items():
            setattr(scene, name, value)
        return scene

    def _draw(self, device: Any) -> dict[str, Any]:
        """How teams and places are drawn."""
        draw = self.map.draw
        if draw is None:
            nothing = {"cumulative": float, "excepted": wp.int32}
            arrays: dict[str, Any] = {name: wp.zeros(1, dtype=dtype, device=device) for name, dtype in nothing.items()}
            return arrays | {"drawn": 0, "n_types": 0, "reflected": 0.0, "area": wp.vec2(0.0, 0.0)}
        excepted = [name in draw.exceptions for name in draw.types]
        return {
            "drawn": 1,
            "n_types": len(draw.types),
            "cumulative": wp.array(np.cumsum(draw.weights), dtype=float, device=device),
            "excepted": wp.array(excepted, dtype=wp.int32, device=device),
            "reflected": -1.0 if draw.reflected is None else draw.reflected,
            "area": wp.vec2(*draw.area),
        }

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """[u, 2] where the units appear, and [points, 2] of the order of those that are led."""
        m, rules, grid = self.map, self.rules, walkable(self.map.terrain)
        orders = np.array(m.orders or m.ally_points)
        if m.draw is not None:
            return np.array([*m.ally_points, *m.enemy_points]), orders
        allies = formation(m.allies, m.ally_points, grid, rules.spawn_turn, rules.spawn_clockwise)
        if rules.duel:
            apart = np.abs(np.subtract(m.ally_points[0], m.enemy_points[0]))
            axis = np.eye(2)[apart.argmax()]
            return np.concatenate([allies, allies + axis * (SIZE - 2 * allies)]), orders + axis * (SIZE / 2 - orders)
        enemies = formation(m.enemies, m.enemy_points, grid, rules.spawn_turn, rules.spawn_clockwise)
        return np.concatenate([allies, enemies]), orders

    def numbers(self) -> dict[str, float]:
        """The plain numbers of a scene."""
        o, m = self.options, self.map
        ally_shield, enemy_shield = shields(m)
        rules = {name: value for name, value in vars(self.rules).items() if name not in _PLACING}
        kinds = [UNITS[name] for name, _ in m.allies + m.enemies]
        widest = 2 * max(kind.separation for kind in kinds)
        return rules | {
            "widest": widest**2,
            "healers": int(any(kind.healing > 0 for kind in kinds)),
            "size": SIZE, "n_agents": m.n_agents, "n_units": m.n_agents + m.n_enemies,
            "n_actions": sizes(m, o).n_actions, "bits": m.bits, "ally_shield": ally_shield,
            "enemy_shield": enemy_shield, "hunted": int(m.hunted), "hunts_every": m.hunts_every,
            "medics": int("medivac" in dict(m.allies)), "has_order": int(bool(m.orders)),
            "limit": m.limit, "loops": o.step_mul, "move_amount": o.move_amount,
            "scripted": int(o.heuristic_ai),
            "scripted_legal": int(o.heuristic_rest), "obs_all_health": int(o.obs_all_health),
            "obs_own_health": int(o.own_health), "obs_last_action": int(o.obs_last_action),
            "obs_allies": get_args(AllyBlock).index(o.obs_allies),
            "obs_mate_types": int(m.draw is None or m.draw.observed), "obs_own_pos": int(o.obs_own_pos),
            "fully_observable": int(o.fully_observable), "action_mask": int(o.action_mask),
            "tracked": int(o.tracked), "hides_lower": int(o.hides_lower_enemies),
            "prob_obs_enemy": o.prob_obs_enemy, "clipped": int(o.reward_clipped),
            "obs_pathing": int(o.obs_pathing_grid), "obs_time": int(o.obs_timestep_number),
            "state_last_action": int(o.state_last_action), "state_time": int(o.state_timestep_number),
            "state_is_obs": int(o.obs_instead_of_state), "sparse": int(o.reward_sparse),
            "only_positive": int(o.reward_only_positive), "death_value": o.reward_death_value,
            "negative_scale": o.reward_negative_scale, "win": 1.0 if o.reward_sparse else o.reward_win,
            "defeat": -1.0 if o.reward_sparse else o.reward_defeat,
            "divisor": max_reward(m, o) / o.reward_scale_rate if o.reward_scale else 1.0,
        }  # fmt: skip

    def _kinds(self) -> tuple[np.ndarray, list[int]]:
        """One record per type and team, times in loops; and the record of every unit."""
        m = self.map
        codes = [list(m.ally_codes) or [name for name, _ in m.allies], list(m.enemy_codes)]
        types = [(side, name, count) for side, team in enumerate((m.allies, m.enemies)) for name, count in team]
        record_type: Any = layout.Kind.numpy_dtype()  # type: ignore[attr-defined]
        records = np.zeros(len(types), dtype=record_type)
        for row, (side, name, _) in enumerate(types):
            code = codes[side].index(name) if name in codes[side] else 0
            for field, value in (in_loops(UNITS[name]) | {"code": code} | self._ranges(UNITS[name])).items():
                records[field][row] = value
        return records, [i for i, (_, _, count) in enumerate(types) for _ in range(count)]

    def _ranges(self, kind: UnitKind) -> dict[str, float | None]:
        """How far an agent of a type sees and is offered attacks."""
        o = self.options
        if o.use_unit_ranges:
            return {"sight": kind.sight, "shoot": max(kind.shoot, o.min_attack_range)}
        return {"sight": o.sight_range, "shoot": SHOOT_RANGE}


def in_loops(kind: UnitKind) -> dict[str, float]:
    """The numbers of a unit type with times in game loops."""
    values = {name: float(value) for name, value in vars(kind).items() if not isinstance(value, str)}
    values |= {name: values[name] * LOOPS_PER_SECOND for name in _TIMES}
    values |= {name: values[name] / LOOPS_PER_SECOND for name in _RATES}
    values["acceleration"] /= LOOPS_PER_SECOND**2
    return values | {"legs": LEGS.index(kind.legs)}


_TIMES = ("period", "wind_up", "blow_delay", "beam_delay")
_RATES = ("speed", "regeneration", "missile", "healing", "energy_gain")


@contextmanager
def without_missing_driver() -> Iterator[None]:
    """Takes Warp's warning of a missing CUDA driver, and nothing else, off stderr where there is no NVIDIA device."""
    if sys.stderr is None or glob.glob("/dev/nvidia*") or os.path.exists("/dev/dxg"):
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)  # Warp's library writes there directly
    with tempfile.TemporaryFile() as heard:
        os.dup2(heard.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            heard.seek(0)
            os.write(2, b"".join(line for line in heard if b"load the NVIDIA CUDA driver" not in line))


def start_warp() -> None:
    """Makes Warp ready, quietly where there is no GPU."""
    wp.config.log_level = max(wp.config.log_level, wp.LOG_WARNING)
    with without_missing_driver():
        wp.init()


def announce_compilation(device: Any) -> None:
    """Tells on stderr that the kernels are about to be compiled, where Warp's cache does not have them."""
    module = wp.get_module(kernels.__name__)
    block = 1 if device.is_cpu else module.options["block_dim"]
    folder = os.path.join(str(wp.config.kernel_cache_dir), module.get_module_identifier(block))
    if not os.path.isdir(folder):
        sys.stderr.write("skirmish: compiling the battle kernels for this machine (once; some seconds)\n")
