"""Foreign environments, one copy each, behind one face: PyMARL's ``MultiAgentEnv`` and PettingZoo's ``ParallelEnv``.

Imported by worker processes: numpy only, so that a worker starts quickly; gymnasium where a space asks for it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from core.registry import did_you_mean
from envs.rows.board import About, Board, FactoryError, Source

Array = npt.NDArray[Any]
SIMULATORS = {
    "pymarl": "envs.rows.simulators:PyMarl",
    "pettingzoo": "envs.rows.simulators:PettingZoo",
    "gymnasium": "envs.rows.gathered:Gymnasium",
    "magent": "envs.rows.magent:Battle",
    "smac": "envs.rows.smac:Smac",
}
"""Interface -> the ``Simulator`` that adapts it, imported when it is asked for."""
EXTRAS = ("magent2", "lbforaging", "rware", "mpe2", "gymnasium", "pettingzoo")
"""Packages that ``./run.sh install envs`` brings: those of requirements-envs.txt that users ask for by name."""


@dataclass
class View:
    """What one simulator shows, in the caller's own arrays."""

    obs: Sequence[Array] | Array
    """One per agent, or all of them in one array."""
    state: Array
    avail: Sequence[Array] | Array
    """As ``obs``; empty where actions are not numbered."""
    extras: Mapping[str, Array] = field(default_factory=dict)
    """What ``About.extras`` names."""


@dataclass
class Result:
    """What one joint action brought."""

    view: View
    reward: float | Array
    terminated: bool
    truncated: bool
    info: Mapping[str, Any]


class Simulator(ABC):
    """One copy of a foreign environment."""

    about: About

    @abstractmethod
    def seed(self, seed: int) -> None:
        """Makes everything from the next reset on a function of ``seed``."""

    @abstractmethod
    def reset(self) -> View:
        """A new episode."""

    @abstractmethod
    def step(self, action: Array) -> Result:
        """One joint action."""

    @abstractmethod
    def close(self) -> None:
        """Frees what the environment holds."""


def find(path: str, key: str = "factory") -> Callable[..., Any]:
    """The callable that ``package.module:callable`` names; ``key`` is what messages call it.

    Raises:
        FactoryError: there is none, or its module cannot be imported; with the remedy.
    """
    module_name, colon, name = path.partition(":")
    if not colon or not module_name or not name:
        raise FactoryError(f"{key} must look like 'package.module:callable', not '{path}'")
    module = load(module_name, f"{key} '{path}'")
    factory = getattr(module, name, None)
    if not callable(factory):
        public = [n for n in dir(module) if not n.startswith("_") and callable(getattr(module, n))]
        raise FactoryError(f"{key} '{path}': {module_name} has no callable '{name}'; it has: {', '.join(public)}")
    return factory


def load(module_name: str, wanted: str) -> ModuleType:
    """The module; ``wanted`` is what messages say it is needed for.

    Raises:
        FactoryError: it cannot be imported; with the remedy.
    """
    try:
        return importlib.import_module(module_name)
    except Exception as error:
        missing = getattr(error, "name", None)
        remedy = _remedy(missing) if missing else "repair it"
        text = f"{type(error).__name__}: {error}"
        raise FactoryError(f"{wanted}: '{module_name}' cannot be imported ({text}); {remedy}") from error


def _remedy(missing: str) -> str:
    """What to do about a module that is not there."""
    package, _, module = missing.rpartition(".")
    parent = sys.modules.get(package)
    if parent is not None and hasattr(parent, "__path__"):
        names = [found.name for found in pkgutil.iter_modules(parent.__path__)]
        return f"{package} has no module '{module}'.{did_you_mean(module, names)}"
    if missing.partition(".")[0] in EXTRAS:
        return "'./run.sh install envs' installs it"
    return f"install what provides '{missing}', correct the name, or set PYTHONPATH"


def make(source: Source, seed: int) -> Simulator:
    """The simulator that ``source`` describes."""
    for name in source.imports:
        load(name, f"imports '{name}'")
    simulator: Simulator = find(SIMULATORS[source.api])(source, seed)
    return simulator


def write(board: Board, row: int, view: View) -> None:
    """Shows ``view`` in row ``row``, padded with zeros."""
    board.avail[row] = not len(view.avail)
    for shown, there in ((view.obs, board.obs[row]), (view.avail, board.avail[row])):
        _fill(there, shown)
    board.state[row] = view.state
    for name, values in view.extras.items():
        board.extras[name][row] = values


def _fill(there: Array, shown: Sequence[Array] | Array) -> None:
    """Writes one line per agent; in one go where all are in one array."""
    if isinstance(shown, np.ndarray):
        there[:] = shown
        return
    for line, values in zip(there, shown, strict=False):
        line[: len(values)], line[len(values) :] = values, 0


def write_result(board: Board, row: int, result: Result, metrics: tuple[str, ...]) -> None:
    """Shows ``result`` in row ``row``; ``metrics`` are read at an episode's end only.

    Raises:
        FactoryError: the episode ended and its info lacks a metric.
    """
    write(board, row, result.view)
    board.reward[row] = result.reward
    board.ended[row] = result.terminated, result.truncated
    if not (result.terminated or result.truncated):
        return
    for k, name in enumerate(metrics):
        if name not in result.info:
            raise FactoryError(f"the last step's info has no '{name}'; correct env_args.metrics: {sorted(result.info)}")
        board.info[row, k] = float(result.info[name])


def seed_globals(seed: int) -> None:
    """Many environments draw from the global generators; in a worker these are nobody else's."""
    random.seed(seed)
    np.random.seed(seed)


def _flat(values: Any) -> Array:
    return np.asarray(values, dtype=np.float32).ravel()


class PyMarl(Simulator):
    """PyMARL's ``MultiAgentEnv``: step(actions) -> (reward, terminated, info).

    ``info["episode_limit"]`` marks an end as a time limit (traps T-02 and T-54). ``seed`` is given to the factory where
    it takes one, and to Python's and numpy's global generators; seeding anew builds the environment anew.
    """

    def __init__(self, source: Source, seed: int) -> None:
        self._source, self._factory = source, find(source.factory)
        self._make(seed)
        info = self._env.get_env_info()
        n = int(info["n_agents"])
        self._limit = source.episode_limit or int(info["episode_limit"])
        self.about = About(
            n_actions=(int(info["n_actions"]),) * n,
            bounds=None,
            obs_dims=(int(np.prod(info["obs_shape"])),) * n,
            state_dim=int(np.prod(info["state_shape"])),
            episode_limit=self._limit,
            reward=source.reward,
            metrics=source.metrics,
        )

    def _make(self, seed: int) -> None:
        seed_globals(seed)
        kwargs = dict(self._source.kwargs)
        if "seed" in inspect.signature(self._factory).parameters:
            kwargs["seed"] = seed
        self._env: Any = self._factory(**kwargs)
        self._t = 0

    def seed(self, seed: int) -> None:
        """A new copy of the environment."""
        self.close()
        self._make(seed)

    def reset(self) -> View:
        """A new episode."""
        self._env.reset()
        self._t = 0
        return self._view()

    def step(self, action: Array) -> Result:
        """One joint action."""
        result = self._env.step(action.tolist())
        if len(result) != 3:
            raise FactoryError(f"step returned {len(result)} values, not reward, terminated, info as PyMARL's does")
        reward, over, info = result
        self._t += 1
        limit = bool(info.get("episode_limit", False)) if over else self._t >= self._limit
        return Result(self._view(), reward, bool(over) and not limit, limit, info)

    def _view(self) -> View:
        env = self._env
        avail = [np.asarray(a, dtype=bool) for a in env.get_avail_actions()]
        return View([_flat(o) for o in env.get_obs()], _flat(env.get_state()), avail)

    def close(self) -> None:
        """Closes the environment."""
        self._env.close()


class PettingZoo(Simulator):
    """PettingZoo's ``ParallelEnv``; an agent that has left sees zeros and can only choose action 0.

    The episode ends when no agent is left: truncated if the last step truncated one of them, else terminated.
    """

    def __init__(self, source: Source, seed: int) -> None:
        self._source = source
        self._env: Any = self._build(source)
        self._agents: list[Any] = list(self._env.possible_agents)
        self._limit = self._find_limit()
        self._obs_spaces = [_observed(self._env.observation_space(agent)) for agent in self._agents]
        self._act_spaces = [self._env.action_space(agent) for agent in self._agents]
        self._obs_dims = tuple(_size(space) for space in self._obs_spaces)
        self._numbered = _all_numbered(self._act_spaces)
        self.seed(seed)
        state = self.reset().state
        self.seed(seed)
        self.about = About(
            n_actions=tuple(int(s.n) if self._numbered else int(np.prod(s.shape)) for s in self._act_spaces),
            bounds=None if self._numbered else tuple(_bounds(space) for space in self._act_spaces),
            obs_dims=self._obs_dims,
            state_dim=len(state),
            episode_limit=self._limit,
            reward=source.reward,
            metrics=source.metrics,
        )

    def _build(self, source: Source) -> Any:
        env = find(source.factory)(**source.kwargs)
        if not hasattr(env, "possible_agents"):
            raise FactoryError(
                f"'{source.factory}' returns no PettingZoo ParallelEnv (it has no possible_agents); a factory of your "
                "own can make one of an AECEnv with pettingzoo.utils.conversions.aec_to_parallel"
            )
        return env

    def _find_limit(self) -> int:
        if self._source.episode_limit:
            return self._source.episode_limit
        names = ("episode_limit", "max_cycles", "max_steps", "_max_episode_steps")
        for holder, name in product((self._env, getattr(self._env, "unwrapped", None)), names):
            if isinstance(limit := getattr(holder, name, None), int):
                return limit
        raise FactoryError(f"'{self._source.factory}' does not say how long an episode is; set env_args.episode_limit")

    def seed(self, seed: int) -> None:
        """Takes effect at the next reset."""
        seed_globals(seed)
        self._seed: int | None = seed

    def reset(self) -> View:
        """A new episode."""
        obs, infos = self._env.reset(seed=self._seed)
        self._seed = None
        self._t = 0
        self._alive = set(obs)
        return self._view(obs, infos)

    def step(self, action: Array) -> Result:
        """One joint action; those of agents that have left are dropped."""
        present = set(self._env.agents)
        actions = {a: self._decode(i, action[i]) for i, a in enumerate(self._agents) if a in present}
        obs, rewards, terminations, truncations, infos = self._env.step(actions)
        self._t += 1
        terminated = {a for a in present if terminations.get(a)}
        cut = {a for a in present - terminated if truncations.get(a)}
        left = present - terminated - cut
        over = not left
        if over and not cut and self._t >= self._limit and not self._source.limit_is_end:
            cut = terminated
        # A cut episode's last state is bootstrapped through: there, those who were cut still have their choices.
        self._alive = left or cut
        truncated = bool(cut) if over else self._t >= self._limit
        view = self._view(obs, infos)
        each = np.array([rewards.get(a, 0.0) for a in self._agents], dtype=np.float32)
        reward = each if self._source.reward == "individual" else float(each.sum())
        # What is not about one agent is told by all of them: the first one's word is taken.
        info = {k: v for a in reversed(self._agents) for k, v in infos.get(a, {}).items()}
        return Result(view, reward, over and not truncated, truncated, info)

    def _decode(self, i: int, action: Any) -> Any:
        space = self._act_spaces[i]
        if self._numbered:
            return int(action) + int(getattr(space, "start", 0))
        low, high = _bounds(space)
        part = (action[: int(np.prod(space.shape))].reshape(space.shape) - low) / (high - low)
        return np.clip(space.low + part * (space.high - space.low), space.low, space.high).astype(space.dtype)

    def _view(self, obs: Mapping[Any, Any], infos: Mapping[Any, Any]) -> View:
        seen = [self._observe(i, obs[a]) if a in obs else np.zeros(d, np.float32)
                for i, (a, d) in enumerate(zip(self._agents, self._obs_dims, strict=True))]  # fmt: skip
        avail = [self._mask(i, a, obs, infos) for i, a in enumerate(self._agents)] if self._numbered else []
        return View(seen, self._state(seen), avail)

    def _observe(self, i: int, obs: Any) -> Array:
        obs = obs["observation"] if isinstance(obs, Mapping) and "observation" in obs else obs
        space = self._obs_spaces[i]
        return _flat(obs) if _kind(space) in PLAIN else _flat(_utils(space).flatten(space, obs))

    def _mask(self, i: int, agent: Any, obs: Mapping[Any, Any], infos: Mapping[Any, Any]) -> Array:
        n = int(self._act_spaces[i].n)
        if agent not in self._alive or agent not in obs:
            return np.arange(n) == 0
        for holder in (obs[agent], infos.get(agent)):
            if isinstance(holder, Mapping) and "action_mask" in holder:
                return np.asarray(holder["action_mask"], dtype=bool)
        return np.ones(n, dtype=bool)

    def _state(self, seen: list[Array]) -> Array:
        try:
            tell = getattr(self._env, "state", None)
            return np.concatenate(seen) if tell is None else _flat(tell())
        except NotImplementedError:
            return np.concatenate(seen)

    def close(self) -> None:
        """Closes the environment."""
        self._env.close()


PLAIN = ("Box", "MultiBinary")
"""Spaces whose values are arrays of numbers as they are."""


def _kind(space: Any) -> str:
    """The name of a space's class, so that gymnasium need not be imported."""
    return type(space).__name__


def _observed(space: Any) -> Any:
    """The part of an observation space that is observed: a mask beside it is not."""
    return space["observation"] if _kind(space) == "Dict" and "observation" in space.spaces else space


def _utils(space: Any) -> ModuleType:
    """What makes one array of a structured space's values: the ``utils`` beside the space's class."""
    return importlib.import_module(f"{type(space).__module__.rpartition('.')[0]}.utils")


def _size(space: Any) -> int:
    """Numbers in an observation: one-hot for Discrete, side by side for Tuple and Dict."""
    if _kind(space) in PLAIN:
        return int(np.prod(space.shape))
    if not getattr(space, "is_np_flattenable", False):
        raise FactoryError(f"observations must have a fixed size, unlike {space}; wrap the environment to encode them")
    return int(_utils(space).flatdim(space))


def _all_numbered(spaces: list[Any]) -> bool:
    kinds = {_kind(space) for space in spaces}
    if kinds not in ({"Discrete"}, {"Box"}):
        found = ", ".join(sorted(kinds))
        raise FactoryError(
            f"all agents' actions must be Discrete, or all Box, not {found}; wrap the environment to number the choices"
        )
    return kinds == {"Discrete"}


def _bounds(space: Any) -> tuple[float, float]:
    """One interval for all dimensions: the space's own where they agree, else -1 to 1, stretched in ``step``."""
    low, high = np.unique(space.low), np.unique(space.high)
    if not np.isfinite(low).all() or not np.isfinite(high).all():
        raise FactoryError(f"actions must be bounded, not {space}; wrap the environment to clip them")
    return (float(low[0]), float(high[0])) if len(low) == len(high) == 1 else (-1.0, 1.0)
