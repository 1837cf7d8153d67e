"""StarCraft II itself as a ``BatchedEnv``: each battle in a game of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from envs.rows.board import Source
from envs.skirmish.maps import BattleMap
from envs.skirmish.options import sizes
from envs.workers import WorkerEnv

HEIGHTS = 9
"""Numbers that ``obs_terrain_height`` adds to an observation."""


class Kind(Protocol):
    """What the environments on StarCraft II's maps tell of themselves."""

    package: str

    def battle_map(self, cfg: Any) -> BattleMap:
        """The map."""

    def upstream(self, cfg: Any) -> dict[str, Any]:
        """The arguments of upstream's environment."""


class GameEnv(WorkerEnv):
    """Battles on StarCraft II, through upstream's package."""

    def __init__(self, kind: Kind, name: str, cfg: Any, n_envs: int, device: torch.device | str, seed: int) -> None:
        """Starts the games.

        Args:
            kind: the environment's class.
            name: what it is called in labels.
            cfg: settled.
            n_envs: games.
            device: of the tensors that are shown.
            seed: of all games' seeds.
        """
        self.map, self._name = kind.battle_map(cfg), name
        shown = {"sight_range": cfg.sight_range, "obs_allies": cfg.obs_allies, "sizes": _sizes(self.map, cfg)}
        kwargs = {"package": kind.package, "options": kind.upstream(cfg), **shown}
        super().__init__(cfg, n_envs, device, seed, source=Source(factory=kind.package, api="smac", kwargs=kwargs))

    def label(self) -> str:
        """Environment, engine and map, for instance ``sc2-starcraft2/corridor``."""
        return f"{self._name}-starcraft2/{self.map.name}"


def _sizes(battle_map: BattleMap, cfg: Any) -> Mapping[str, int | None]:
    """Of what SMAC shows; heights are not known to the simulator, so its own sizes lack them."""
    size, heights = sizes(battle_map, cfg), HEIGHTS * cfg.obs_terrain_height
    obs_as_state = cfg.obs_instead_of_state
    state = size.state + battle_map.n_agents * heights * obs_as_state
    return {"obs": size.obs + heights, "state": state, "unit": None if obs_as_state else size.unit}
