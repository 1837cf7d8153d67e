"""Gymnasium's environments by id, of one agent or of several, each copy in a worker process."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from core.registry import ENVS, did_you_mean
from envs.foreign import ForeignEnv
from envs.rows.board import FactoryError, Source
from envs.rows.simulators import load


@ENVS.register
class Gymnasium(ForeignEnv):
    """What ``gymnasium.make(id)`` returns, as a ``BatchedEnv``."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ForeignEnv.Config):
        """Which environment."""

        id: str
        """As in ``gymnasium.make``, for instance Foraging-8x8-2p-3f-v3."""
        imports: str | list[str] = ""
        """Packages that register environments when they are imported, for instance lbforaging."""
        limit_is_end: bool = False
        """True: an end reported at the very step limit is a true one, as in games of one step; false: the limit's."""

    @classmethod
    def source(cls, cfg: Any) -> Source:
        """``gymnasium.make`` without its checker, which takes lists of rewards for mistakes."""
        kwargs = {"disable_env_checker": True, **cfg.kwargs, "id": cfg.id}
        more = {"kwargs": kwargs, "imports": _listed(cfg.imports), "limit_is_end": cfg.limit_is_end}
        return cls.described(cfg, "gymnasium:make", "gymnasium", **more)

    @classmethod
    def settle(cls, cfg: Any) -> Any:
        """Looks the id up, so that a wrong one or a missing package is said before anything starts."""
        gym = load("gymnasium", "env: gymnasium")
        for name in _listed(cfg.imports):
            load(name, f"imports '{name}'")
        module, _, name = cfg.id.rpartition(":")
        if module:
            load(module, f"id '{cfg.id}'")
        if name not in gym.registry and not any(known.rpartition("-v")[0] == name for known in gym.registry):
            raise FactoryError(
                f"id '{cfg.id}' is not known to gymnasium.{did_you_mean(name, gym.registry)} "
                "If a package registers it, name that package, for instance env_args.imports=lbforaging"
            )
        return super().settle(cfg)

    def label(self) -> str:
        """The id, for instance ``gymnasium/Foraging-8x8-2p-3f-v3``."""
        return f"gymnasium/{re.sub('[:/]', '.', self.cfg.id)}"


def _listed(imports: str | list[str]) -> tuple[str, ...]:
    return (imports,) if isinstance(imports, str) and imports else tuple(imports)
