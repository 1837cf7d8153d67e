"""PettingZoo's parallel environments by name, each copy in a worker process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from core.registry import ENVS
from envs.foreign import ForeignEnv
from envs.rows.board import FactoryError, Source
from envs.rows.simulators import find, load


@ENVS.register
class PettingZoo(ForeignEnv):
    """``env_args.id=mpe2.simple_spread_v3``: the ``parallel_env`` of that module, as a ``BatchedEnv``."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ForeignEnv.Config):
        """Which environment."""

        id: str
        """A module that has ``parallel_env``, or ``package.module:callable``."""

    @classmethod
    def source(cls, cfg: Any) -> Source:
        """The module's ``parallel_env``, or the callable."""
        return cls.described(cfg, cfg.id if ":" in cfg.id else f"{cfg.id}:parallel_env", "pettingzoo")

    @classmethod
    def settle(cls, cfg: Any) -> Any:
        """Looks the environment up, so that a wrong name or a missing package is said before anything starts."""
        if ":" in cfg.id:
            find(cfg.id, "id")
        elif not hasattr(module := load(cfg.id, f"id '{cfg.id}'"), "parallel_env"):
            turns = "agents take turns in it (it has env only), and " if hasattr(module, "env") else ""
            raise FactoryError(
                f"id '{cfg.id}': {turns}the module has no parallel_env; name a module that has one, such as "
                "mpe2.simple_spread_v3, or a callable that returns a ParallelEnv as 'package.module:callable'"
            )
        return super().settle(cfg)

    def label(self) -> str:
        """The name, for instance ``pettingzoo/mpe2.simple_spread_v3``."""
        return f"pettingzoo/{self.cfg.id.replace(':', '.')}"
