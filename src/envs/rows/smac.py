"""StarCraft II itself, through the packages smac and smacv2.

Imported by worker processes: numpy only; upstream's packages where a game is started.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from envs.rows.board import About, FactoryError, SimulatorLostError, Source
from envs.rows.ports import Ports
from envs.rows.simulators import Array, Result, Simulator, View, seed_globals
from envs.rows.smac_view import Eyes

METRICS = ("battle_won", "dead_allies", "dead_enemies", "episode_limit")
"""Upstream's info; the last one only where it is asked for."""
SLOW_PROTOBUF = "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"


class Smac(Simulator):
    """One game. ``source.kwargs``: ``package`` (smac or smacv2), upstream's ``options``, the ``sizes`` of what is
    shown, and ``sight_range`` and ``obs_allies``, which are options of ours (of smac only).

    The game is started with the simulator, so that starting has a deadline of its own and is throttled. Where
    upstream hides a crash (it starts the game again and calls the episode terminated), this raises.
    """

    def __init__(self, source: Source, seed: int) -> None:
        self._source, options = source, source.kwargs["options"]
        self._start(seed)
        env, size = self._env, dict(source.kwargs["sizes"])
        if self._eyes is None:
            size |= {"obs": int(env.get_obs_size()), "state": int(env.get_state_size())}
        n = int(env.n_agents)
        self.about = About(
            n_actions=(int(env.n_actions),) * n,
            bounds=None,
            obs_dims=(size["obs"],) * n,
            state_dim=size["state"],
            episode_limit=int(env.episode_limit),
            reward="team",
            metrics=METRICS[: 3 + bool(options["continuing_episode"])],
            extras=(("visible", (n, n)),),
            unit_dim=size["unit"],
        )

    def _start(self, seed: int) -> None:
        """Starts a game; upstream's random numbers, and the game's own, follow from ``seed``."""
        seed_globals(seed)
        kwargs, package = self._source.kwargs, self._source.kwargs["package"]
        options = {**kwargs["options"], "seed": seed, "continuing_episode": True}  # which only tells of time limits
        if package == "smacv2":
            _seed_draws(seed)
            self._outer, self._env = _drawing(options)
        else:
            self._outer = self._env = tamed(package)(**options)
        self._eyes = Eyes(self._env, kwargs["sight_range"], kwargs["obs_allies"]) if package == "smac" else None
        self._env.eyes = self._eyes
        self._fresh = False
        try:
            self._env.start_game()
        except Exception as error:  # pysc2 raises all sorts; whatever it is, another start may do better
            raise SimulatorLostError(f"StarCraft II could not be started: {type(error).__name__}: {error}") from error

    def seed(self, seed: int) -> None:
        """A new game: the seed is given to StarCraft II where one is created."""
        self.close()
        self._start(seed)

    def reset(self) -> View:
        """A new battle."""
        if not self._fresh:  # two resets in a row upset upstream's next battles
            self._env.leave_battle()
            self._outer.reset()
            self._fresh = True
        return self._view()

    def step(self, action: Array) -> Result:
        """One joint action."""
        self._fresh = False
        reward, over, info = self._env.step(action.tolist())
        if over and not info:
            raise SimulatorLostError("StarCraft II was lost, and the package calls that the end of the battle")
        cut = over and bool(info.get("episode_limit", False))
        return Result(self._view(), float(reward), over and not cut, cut, {"episode_limit": cut, **info})

    def _view(self) -> View:
        env = self._env
        if self._eyes is None:
            avail = np.array(env.get_avail_actions(), dtype=bool)
            extras = {"visible": _who_sees_whom(env)}
            return View(np.array(env.get_obs(), dtype=np.float32), env.get_state(), avail, extras)
        self._eyes.look()
        return View(self._eyes.obs(), self._eyes.state(), self._eyes.avail, {"visible": self._eyes.visible})

    def close(self) -> None:
        """Ends the game."""
        self._env.close()


@cache
def tamed(package: str) -> Any:
    """Upstream's environment class, which raises where upstream hides that a game was lost.

    Raises:
        FactoryError: the package cannot be imported.
    """
    base = _upstream(package, "env.starcraft2.starcraft2").StarCraft2Env
    return type("Tamed", (_Fast if package == "smac" else _Honest, base), {})


def _upstream(package: str, module: str) -> Any:
    _choose_protobuf()
    try:
        found = importlib.import_module(f"{package}.{module}")
        # pysc2 would pick a port that another game may be about to take.
        importlib.import_module("pysc2.lib.sc_process").portpicker = _ports()  # type: ignore[attr-defined]
    except Exception as error:
        text = f"{package} cannot be imported ({type(error).__name__}: {error})"
        raise FactoryError(f"{text}; docs/environments/sc2.md says how it is installed") from error
    return found


@cache
def _ports() -> Ports:
    return Ports()


def _choose_protobuf() -> None:
    """Messages generated long ago can be read by protobuf's slow implementation only; it must be chosen at import."""
    found = importlib.util.find_spec("s2clientprotocol")
    folders = [Path(folder) for folder in (found.submodule_search_locations or []) if found] if found else []
    texts = [file.read_text() for folder in folders if (file := folder / "common_pb2.py").is_file()]
    if texts and "AddSerializedFile" not in texts[0]:
        os.environ.setdefault(SLOW_PROTOBUF, "python")


class _Honest:
    """Comes before upstream's class among the bases."""

    eyes: Eyes | None
    _unused_game = False

    def start_game(self) -> None:
        """Launches the game, which the first reset then finds running."""
        self._launch()
        self._unused_game = True

    def _launch(self) -> None:
        if self._unused_game:
            self._unused_game = False
            return
        super()._launch()  # type: ignore[misc]

    def leave_battle(self: Any) -> None:
        """Lets a reset before the first battle has ended restart the map as later ones do, and not launch a game."""
        if not self._unused_game:
            self._episode_count = max(1, self._episode_count)

    def full_restart(self) -> None:
        """Upstream's answer to a broken connection; it would then report an end of the battle."""
        raise SimulatorLostError("the connection to StarCraft II broke: it crashed, or refused a request")


class _Fast(_Honest):
    """Upstream's loops of SMAC's first version over units and requests, with equal results."""

    def get_obs(self) -> list[Array]:
        """Of now."""
        assert self.eyes is not None
        self.eyes.look()
        return list(self.eyes.obs())

    def get_state(self) -> Array:
        """Of the last look."""
        assert self.eyes is not None
        return self.eyes.state()

    def get_avail_agent_actions(self, agent_id: int) -> Array:
        """Of the last look."""
        assert self.eyes is not None
        return self.eyes.avail[agent_id]

    def update_units(self: Any) -> int | None:
        """Takes over an observation; the battle's result, or None: 1 won, -1 lost, 0 neither."""
        units = {unit.tag: unit for unit in self._obs.observation.raw_data.units}
        self.previous_ally_units, self.previous_enemy_units = _past(self.agents), _past(self.enemies)
        allies, enemies = _renew(self.agents, units), _renew(self.enemies, units)
        if (allies == 0 and enemies > 0) or self.only_medivac_left(ally=True):
            return -1
        if (allies > 0 and enemies == 0) or self.only_medivac_left(ally=False):
            return 1
        return 0 if allies == 0 and enemies == 0 else None


def _past(team: Mapping[int, Any]) -> dict[int, Any]:
    """What rewards need to know of units as they were."""
    return {i: SimpleNamespace(health=unit.health, shield=unit.shield) for i, unit in team.items()}


def _renew(team: dict[int, Any], units: Mapping[int, Any]) -> int:
    """Replaces a team's units by what is seen of them now; how many are alive."""
    alive = 0
    for i, unit in team.items():
        if unit.tag in units:
            team[i] = units[unit.tag]
            alive += 1
        else:
            unit.health = 0
    return alive


def _drawing(options: Mapping[str, Any]) -> tuple[Any, Any]:
    """SMACv2's wrapper, which draws teams and places, and the environment in it."""
    wrapper = _upstream("smacv2", "env.starcraft2.wrapper")
    wrapper.StarCraft2Env = tamed("smacv2")
    outer = wrapper.StarCraftCapabilityEnvWrapper(**options)
    return outer, outer.env


def _seed_draws(seed: int) -> None:
    """Upstream's distributions make themselves unseeded generators: each gets a seed of its own."""
    children = np.random.SeedSequence(seed)
    draws = _upstream("smacv2", "env.starcraft2.distributions")
    draws.default_rng = lambda: np.random.default_rng(children.spawn(1)[0])


def _who_sees_whom(env: Any) -> Array:
    """[n, n] which living agents an agent sees, by its own sight; not itself."""
    units = [env.get_unit_by_id(i) for i in range(env.n_agents)]
    alive = [unit.health > 0 for unit in units]
    seen, sees_all = np.zeros((env.n_agents, env.n_agents), dtype=bool), env.fully_observable
    for i, unit in enumerate(units):
        for j, other in enumerate(units):
            near = sees_all or env.distance(unit.pos.x, unit.pos.y, other.pos.x, other.pos.y) < env.unit_sight_range(i)
            seen[i, j] = i != j and alive[i] and alive[j] and near
    return seen
