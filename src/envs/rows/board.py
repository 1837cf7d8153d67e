"""What simulators and the main process share: the sizes of an environment, and arrays over one piece of memory.

Imported by worker processes: numpy only, so that a worker starts quickly and stays small.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


class FactoryError(ValueError):
    """An environment that cannot be used here, and what to do about it."""


class SimulatorLostError(RuntimeError):
    """A simulator's own process crashed or hangs. It has to be started anew; nothing is known of its episode's end."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """How a worker makes its simulator."""

    factory: str
    """``package.module:callable``; called in the worker."""
    api: str
    """The interface of what the callable returns: a key of ``simulators.SIMULATORS``."""
    imports: tuple[str, ...] = ()
    """Modules that are imported first, for instance because they register environments."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the callable."""
    episode_limit: int | None = None
    """Steps after which an episode is cut; None: the simulator knows."""
    reward: str = "team"
    """``team`` or ``individual``."""
    metrics: tuple[str, ...] = ()
    """Entries of the simulator's info that are logged."""
    limit_is_end: bool = True
    """Whether an end that the simulator reports at its very step limit is a true one; else it counts as a cut."""


@dataclass(frozen=True, kw_only=True)
class About:
    """The sizes of a simulator; every worker must report the same."""

    n_actions: tuple[int, ...]
    """Per agent: numbered actions, or dimensions of the box."""
    bounds: tuple[tuple[float, float], ...] | None
    """Per agent: low and high of the box; None where actions are numbered."""
    obs_dims: tuple[int, ...]
    state_dim: int
    episode_limit: int
    reward: str
    metrics: tuple[str, ...]
    extras: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Further booleans that it shows: names and shapes."""
    unit_dim: int | None = None
    """See ``EnvSpec``."""


class Board:
    """The arrays of all rows; a worker writes its own row, the main process writes the actions."""

    def __init__(self, about: About, n_rows: int, fd: int) -> None:
        """``fd`` is a file of at least ``size(about, n_rows)`` bytes."""
        memory = mmap.mmap(fd, self.size(about, n_rows))
        offset = 0
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, shape, kind in self._fields(about):
            arrays[name] = np.ndarray((n_rows, *shape), kind, memory, offset)
            offset += _aligned(arrays[name].nbytes)
        self.extras = {name: arrays.pop(f"extras.{name}") for name, _ in about.extras}
        vars(self).update(arrays)

    obs: npt.NDArray[np.float32]
    state: npt.NDArray[np.float32]
    avail: npt.NDArray[np.bool_]
    reward: npt.NDArray[np.float32]
    ended: npt.NDArray[np.bool_]
    """Terminated, truncated."""
    info: npt.NDArray[np.float32]
    action: npt.NDArray[Any]
    extras: dict[str, npt.NDArray[np.bool_]]

    def clear(self, row: int) -> None:
        """Shows nothing in row ``row``, neither an end nor an empty mask: its simulator is gone."""
        for array in (self.obs, self.state, self.reward, self.ended, self.info, *self.extras.values()):
            array[row] = 0
        self.avail[row] = True

    @classmethod
    def size(cls, about: About, n_rows: int) -> int:
        """Bytes that ``n_rows`` rows need."""
        shapes = cls._fields(about)
        return sum(_aligned(n_rows * int(np.prod(shape)) * np.dtype(kind).itemsize) for _, shape, kind in shapes)

    @staticmethod
    def _fields(about: About) -> list[tuple[str, tuple[int, ...], str]]:
        n, a = len(about.n_actions), max(about.n_actions)
        return [
            ("obs", (n, max(about.obs_dims)), "f4"),
            ("state", (about.state_dim,), "f4"),
            ("avail", (n, a), "?"),
            ("reward", (n,) if about.reward == "individual" else (), "f4"),
            ("ended", (2,), "?"),
            ("info", (len(about.metrics),), "f4"),
            ("action", (n,) if about.bounds is None else (n, a), "i8" if about.bounds is None else "f4"),
            *((f"extras.{name}", shape, "?") for name, shape in about.extras),
        ]


def _aligned(n_bytes: int) -> int:
    """Whole cache lines, so that no two arrays share one."""
    return -(-max(n_bytes, 1) // 64) * 64
