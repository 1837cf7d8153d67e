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
        limit_is_end: bool = True
        """False: an end reported at the very step limit is the time limit's (not for pymarl)."""

    @classmethod
    def source(cls, cfg: Any) -> Source:
        """The callable."""
        return cls.described(cfg, cfg.factory, cfg.api, limit_is_end=cfg.limit_is_end)

    @classmethod
    def settle(cls, cfg: Any) -> Any:
        """Looks the callable up, so that a missing package is said before anything starts."""
        find(cfg.factory)
        if cfg.api == "pymarl" and cfg.reward == "individual":
            raise ValueError("reward: individual needs api: pettingzoo or gymnasium; pymarl's have one team reward")
        if cfg.api == "pymarl" and not cfg.limit_is_end:
            raise ValueError("limit_is_end: false is not for api: pymarl, which marks limits by info['episode_limit']")
        return super().settle(cfg)

    def label(self) -> str:
        """The callable, for instance ``external/mpe2.simple_spread_v3.parallel_env``."""
        return f"external/{self.cfg.factory.replace(':', '.')}"
