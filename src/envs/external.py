"""Any environment with PettingZoo's parallel or PyMARL's interface, each copy in a worker process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from core.registry import ENVS
from envs.rows.board import Source
from envs.rows.simulators import find
from envs.workers import WorkerEnv


@ENVS.register
class External(WorkerEnv):
    """What ``factory`` returns, as a ``BatchedEnv``."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Where the environment comes from, and how it is used."""

        factory: str
        """``package.module:callable`` that makes one environment."""
        api: Literal["pettingzoo", "pymarl"] = "pettingzoo"
        """The interface of what it makes: PettingZoo's ``ParallelEnv`` or PyMARL's ``MultiAgentEnv``."""
        kwargs: dict[str, Any] = field(default_factory=dict)
        """Arguments for the callable."""
        episode_limit: int | None = None
        """Steps after which an episode is cut; null: the environment says."""
        reward: Literal["team", "individual"] = "team"
        """The sum of the agents' rewards, or one reward each (PettingZoo only)."""
        metrics: list[str] = field(default_factory=list)
        """Entries of the last step's info that are logged, for instance battle_won."""
        timeout: float = 60.0
        """Seconds that a worker may take for a step or a reset before it counts as hanging."""
        start_timeout: float = 180.0
        """Seconds that a worker may take to make its environment."""

    def __init__(self, cfg: Config, n_envs: int, device: torch.device | str, seed: int) -> None:
        source = Source(
            factory=cfg.factory,
            api=cfg.api,
            kwargs=dict(cfg.kwargs),
            episode_limit=cfg.episode_limit,
            reward=cfg.reward,
            metrics=tuple(cfg.metrics),
        )
        timeouts = {"timeout": cfg.timeout, "start_timeout": cfg.start_timeout}
        super().__init__(cfg, n_envs, device, seed, source=source, **timeouts)

    @classmethod
    def settle(cls, cfg: Any) -> Any:
        """Looks the callable up, so that a missing package is said before anything starts."""
        find(cfg.factory)
        if cfg.api == "pymarl" and cfg.reward == "individual":
            raise ValueError("reward: individual needs api: pettingzoo; a pymarl environment has one team reward")
        for name in ("episode_limit", "timeout", "start_timeout"):
            value = getattr(cfg, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, not {value}")
        return cfg

    def label(self) -> str:
        """The callable, for instance ``external/mpe2.simple_spread_v3.parallel_env``."""
        return f"external/{self.cfg.factory.replace(':', '.')}"
