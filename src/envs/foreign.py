"""What environments of other people have in common here, whatever their interface."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from envs.fleet import Care
from envs.rows.board import Source
from envs.workers import WorkerEnv


class ForeignEnv(WorkerEnv):
    """An environment that its users name, each copy in a worker process."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Care):
        """How it is used; subclasses add where it comes from."""

        kwargs: dict[str, Any] = field(default_factory=dict)
        """Arguments for what makes the environment."""
        episode_limit: int | None = None
        """Steps after which an episode is cut; null: the environment says."""
        reward: Literal["team", "individual"] = "team"
        """The sum of the agents' rewards, or one reward each."""
        metrics: list[str] = field(default_factory=list)
        """Entries of the last step's info that are logged, for instance battle_won."""

    def __init__(self, cfg: Any, n_envs: int, device: torch.device | str, seed: int) -> None:
        super().__init__(cfg, n_envs, device, seed, source=self.source(cfg))

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
        problems = cfg.care_problems()
        if cfg.episode_limit is not None and cfg.episode_limit <= 0:
            problems.append(f"episode_limit must be positive, not {cfg.episode_limit}")
        if problems:
            raise ValueError("; ".join(problems))
        return cfg
