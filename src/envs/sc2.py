"""SMAC battles: StarCraft II micromanagement, on the game itself or on our own simulator of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from core.registry import ENVS
from envs.skirmish.env import SkirmishEnv
from envs.skirmish.maps import MAPS, BattleMap, find_map
from envs.skirmish.options import Options

MYOPIC = "_myopic"
"""How the names of MACPF's maps end."""


@ENVS.register
class StarCraft2(SkirmishEnv):
    """SMAC's maps, observations, states, masks and rewards (Samvelyan et al. 2019).

    ``skirmish`` plays them on our own simulator. Its numbers are not SMAC results; ``label`` keeps them apart.
    """

    game = "SMAC"
    package = "smac"

    @dataclass(frozen=True, kw_only=True)
    class Config(Options, SkirmishEnv.Config):
        """The legal ``env_args``: SMAC's own, and the engine."""

        map_name: str = "8m"
        """One of SMAC's maps, or of MACPF's two myopic ones."""

    @classmethod
    def battle_map(cls, cfg: Config) -> BattleMap:
        """SMAC's map of that name."""
        return find_map(cfg.map_name)

    @classmethod
    def map_files(cls) -> list[str]:
        """The game's maps that it is played on; the myopic ones are played on those of the ordinary names."""
        return [name for name in MAPS if not name.endswith(MYOPIC)]

    @classmethod
    def map_file(cls, cfg: Config) -> str:
        """SMAC's own map: the myopic ones differ in what is shown only."""
        return cfg.map_name.removesuffix(MYOPIC)

    @classmethod
    def upstream(cls, cfg: Config) -> dict[str, Any]:
        """SMAC's arguments."""
        return super().upstream(cfg) | {"map_name": cls.map_file(cfg)}
