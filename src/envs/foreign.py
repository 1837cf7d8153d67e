"""What environments of other people have in common here, whatever their interface."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from envs.rows.board import Source
from envs.workers import WorkerEnv


class ForeignEnv(WorkerEnv):
    """An environment that its users name, each copy in a worker process."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """How it is used; subclasses add where it comes from."""

        kwargs: dict[str, Any] = field(default_factory=dict)
        """Arguments for what makes the environment."""
        episode_limit: int | None = None
        """Steps after which an episode is cut; null: the environment says."""
        reward: Literal["team", "individual"] = "team"
        """The sum of the agents' rewards, or one reward each."""
        metrics: list[str] = field(default_factory=list)
        """Entries of the last step's info that are logged, for instance battle_won."""
        timeout: float = 60.0
        """Seconds that a worker may take for a step or a reset before it counts as hanging."""
        start_timeout: float = 180.0
        """Seconds that a worker may take to make its environment."""

    def __init__(self, cfg: Any, n_envs: int, device: torch.device | str, seed: int) -> None:
        timeouts = {"timeout": cfg.timeout, "start_timeout": cfg.start_timeout}
        super().__init__(cfg, n_envs, device, seed, source=self.source(cfg), **timeouts)

    @classmethod
    @abstractmethod
    def source(cls, cfg: Any) -> Source:
        """How a worker makes its copy."""

    @classmethod
    def described(cls, cfg: Any, factory: str, api: str, **more: Any) -> Source:
        """A ``Source`` with the keys that all have; ``more`` comes before them."""
        common = {"kwargs": dict(cfg.kwargs), "episode_limit": cfg.episode_limit, "reward": cfg.reward}
        return Source(**{"factory": factory, "api": api, "metrics": tuple(cfg.metrics), **common, **more})

    @classmethod
    def settle(cls, cfg: Any) -> Any:
        """Checks the keys that all have."""
        for name in ("episode_limit", "timeout", "start_timeout"):
            value = getattr(cfg, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, not {value}")
        return cfg
