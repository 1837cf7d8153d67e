"""Any environment with PettingZoo's parallel, Gymnasium's or PyMARL's interface, each copy in a worker process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from core.registry import ENVS
from envs.foreign import ForeignEnv
from envs.rows.board import Source
from envs.rows.simulators import find


@ENVS.register
class External(ForeignEnv):
    """What ``factory`` returns, as a ``BatchedEnv``."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ForeignEnv.Config):
        """Where the environment comes from."""

        factory: str
        """``package.module:callable`` that makes one environment."""
        api: Literal["pettingzoo", "gymnasium", "pymarl"] = "pettingzoo"
        """What it makes: PettingZoo's ``ParallelEnv``, Gymnasium's ``Env`` or PyMARL's ``MultiAgentEnv``."""
        limit_is_end: bool | None = None
        """Whether an end reported at the very step limit is a true one; null: not with gymnasium (pymarl tells)."""

    @classmethod
    def source(cls, cfg: Any) -> Source:
        """The callable."""
        limit_is_end = cfg.api != "gymnasium" if cfg.limit_is_end is None else cfg.limit_is_end
        return cls.described(cfg, cfg.factory, cfg.api, limit_is_end=limit_is_end)

    @classmethod
    def settle(cls, cfg: Any) -> Any:
        """Looks the callable up, so that a missing package is said before anything starts."""
        find(cfg.factory)
        if cfg.api == "pymarl" and cfg.reward == "individual":
            raise ValueError("reward: individual needs api: pettingzoo or gymnasium; pymarl's have one team reward")
        if cfg.api == "pymarl" and cfg.limit_is_end is not None:
            raise ValueError("limit_is_end is not for api: pymarl, whose info['episode_limit'] tells; leave it null")
        return super().settle(cfg)

    def label(self) -> str:
        """The callable, for instance ``external/mpe2.simple_spread_v3.parallel_env``."""
        return f"external/{self.cfg.factory.replace(':', '.')}"
