"""MAgent2's battle_v4 with 12 to 256 agents per side, each copy in a worker process."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from core.registry import ENVS, did_you_mean
from envs.fleet import Care
from envs.rows.board import FactoryError, Source
from envs.rows.magent import Rules, settled_map
from envs.rows.opponents import OPPONENTS
from envs.workers import WorkerEnv


@ENVS.register
class MagentBattle(WorkerEnv):
    """We are the red team; the blue one is played by ``opponent``."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Rules, Care):
        """The battle's rules, and how its processes are looked after."""

    def __init__(self, cfg: Any, n_envs: int, device: torch.device | str, seed: int) -> None:
        rules = Rules(**{key.name: getattr(cfg, key.name) for key in fields(Rules)})
        source = Source(factory="magent2:GridWorld", api="magent", kwargs={"rules": rules})
        super().__init__(cfg, n_envs, device, seed, source=source)

    @classmethod
    def settle(cls, cfg: Any) -> Any:
        """Decides the size of the map, and looks for magent2 (without importing it, which would set thread counts)."""
        problems = cfg.care_problems()
        values = {name: getattr(cfg, name) for name in ("team_size", "max_cycles")}
        problems += [f"{name} must be positive, not {value}" for name, value in values.items() if value <= 0]
        if problems:
            raise ValueError("; ".join(problems))
        if cfg.opponent not in OPPONENTS:
            raise ValueError(f"unknown opponent '{cfg.opponent}'.{did_you_mean(cfg.opponent, OPPONENTS)}")
        if importlib.util.find_spec("magent2") is None:
            raise FactoryError("magent_battle needs the Python package magent2: './run.sh install envs' installs it")
        return replace(cfg, map_size=settled_map(cfg.team_size, cfg.map_size))

    def label(self) -> str:
        """Numbers and opponent, for instance ``magent_battle/12v12-random``."""
        return f"magent_battle/{self.cfg.team_size}v{self.cfg.team_size}-{self.cfg.opponent}"
