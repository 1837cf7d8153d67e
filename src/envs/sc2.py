"""SMAC battles: StarCraft II micromanagement, on the game itself or on our own simulator of it."""

from __future__ import annotations

from dataclasses import dataclass

from core.registry import ENVS
from envs.skirmish.env import SkirmishEnv
from envs.skirmish.maps import MAPS, BattleMap, find_map
from envs.skirmish.options import Options


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
        return [name for name in MAPS if not name.endswith("_myopic")]

    @classmethod
    def install(cls) -> str:
        """How to get the game and SMAC."""
        return (
            "install StarCraft II 4.10 for Linux (Blizzard's SC2.4.10.zip) under ~/StarCraftII or where SC2PATH "
            "points, copy SMAC's maps into its folder Maps/SMAC_Maps, and 'pip install "
            "git+https://github.com/oxwhirl/smac.git' (the package called smac on PyPI is another project)"
        )
