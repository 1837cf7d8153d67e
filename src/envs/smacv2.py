"""SMACv2 battles: StarCraft II micromanagement with teams and places drawn for every battle."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, ClassVar

from core.registry import ENVS
from envs.skirmish.draws import RACES, generated
from envs.skirmish.env import SkirmishEnv
from envs.skirmish.maps import BattleMap
from envs.skirmish.options import OptionsV2


@ENVS.register
class SMACv2(SkirmishEnv):
    """SMACv2's maps, draws, observations, states, masks and rewards (Ellis et al. 2023).

    ``skirmish`` plays them on our own simulator. Its numbers are not SMACv2 results; ``label`` keeps them apart.
    """

    game = "SMACv2"
    package = "smacv2"
    refused: ClassVar[dict[str, str]] = {
        "conic_fov": "agents look all round; cones of sight are not built",
        "num_fov_actions": "agents look all round; cones of sight are not built",
        "obs_starcraft": "observations without StarCraft in them would be empty",
        "kill_unit_step_mul": "it belongs to capability_config.health, which is not built",
    }

    @dataclass(frozen=True, kw_only=True)
    class Config(OptionsV2, SkirmishEnv.Config):
        """The legal ``env_args``: SMACv2's own, and the engine."""

        map_name: str = "10gen_terran"
        """10gen_terran, 10gen_protoss or 10gen_zerg."""
        capability_config: dict[str, Any] = field(default_factory=dict)
        """SMACv2's: ``n_units``, ``n_enemies``, ``team_gen`` and ``start_positions``. Without ``team_gen`` the map's
        published types and weights, without ``start_positions`` two fixed points."""
        conic_fov: bool = False
        """Agents see only a cone, which they turn."""
        num_fov_actions: int = 12
        """Directions of that cone."""
        obs_starcraft: bool = True
        """Observations tell anything but the time."""
        kill_unit_step_mul: int = 2
        """Game loops for killing units below their drawn health."""

        def problems(self) -> list[str]:
            """What is wrong with the values."""
            found = super().problems()
            if self.use_unit_ranges and self.sight_range is not None:
                found.append("use_unit_ranges gives every type its own sight: leave out sight_range")
            return found

    @classmethod
    def battle_map(cls, cfg: Config) -> BattleMap:
        """SMACv2's map of that name, with teams and places drawn as ``capability_config`` says."""
        return generated(cfg.map_name, cfg.capability_config)

    @classmethod
    def map_files(cls) -> list[str]:
        """The game's maps that it is played on."""
        return ["32x32_flat"]

    @classmethod
    def unknown(cls, cfg: Config) -> list[str]:
        """Options of ours that SMACv2's code does not have."""
        own, told = cls.battle_map(cfg), ("sight_range", "obs_allies")
        changed = [name for name in told if getattr(cfg, name) not in (None, getattr(own, name))]
        changed += [] if cfg.hides_lower_enemies else ["hides_lower_enemies"]
        return [f"the game through upstream's code cannot honour {name}: it has no such option" for name in changed]

    @classmethod
    def map_file(cls, cfg: Config) -> str:  # noqa: ARG003 - all maps are drawn on one
        """The map on which all battles are drawn."""
        return "32x32_flat"

    @classmethod
    def upstream(cls, cfg: Config) -> dict[str, Any]:
        """SMACv2's arguments, with the types and weights that we take from the map where they are left out."""
        race = RACES[cfg.map_name]
        team = {
            "dist_type": "weighted_teams",
            "unit_types": list(race.codes),
            "weights": [race.weights[name] for name in race.codes],
            "exception_unit_types": list(race.exceptions),
            "observe": True,
        }
        config = deepcopy(cfg.capability_config)
        if "unit_types" in config.get("team_gen", {}):
            team["exception_unit_types"] = []
        config["team_gen"] = team | config.get("team_gen", {})
        return super().upstream(cfg) | {"capability_config": config}

    def get_env_info(self) -> dict[str, Any]:
        """Upstream's description of the environment, with the number of an agent's own capabilities: its type's."""
        return super().get_env_info() | {"cap_shape": self.battle.map.bits}
