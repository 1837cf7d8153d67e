"""StarCraft II itself as a ``BatchedEnv``: each battle in a game of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from envs.rows.board import Source
from envs.skirmish.maps import BattleMap
from envs.skirmish.options import sizes
from envs.workers import WorkerEnv

HEIGHTS = 9
"""Numbers that ``obs_terrain_height`` adds to an observation."""


@dataclass(frozen=True)
class Game:
    """What is played."""

    name: str
    """Of the environment, in labels."""
    package: str
    """Upstream's."""
    options: dict[str, Any]
    """The arguments of upstream's environment, apart from the seed."""
    map: BattleMap


class GameEnv(WorkerEnv):
    """Battles on StarCraft II, through upstream's package."""

    def __init__(self, game: Game, cfg: Any, n_envs: int, device: torch.device | str, seed: int) -> None:
        """Starts ``n_envs`` games; ``cfg`` is settled, ``seed`` that of all games' seeds."""
        self.game = game
        shown = {"sight_range": cfg.sight_range, "obs_allies": cfg.obs_allies, "sizes": _sizes(game.map, cfg)}
        kwargs = {"package": game.package, "options": game.options, **shown}
        super().__init__(cfg, n_envs, device, seed, source=Source(factory=game.package, api="smac", kwargs=kwargs))

    def label(self) -> str:
        """Environment, engine and map, for instance ``sc2-starcraft2/corridor``."""
        return f"{self.game.name}-starcraft2/{self.game.map.name}"


def _sizes(battle_map: BattleMap, cfg: Any) -> Mapping[str, int | None]:
    """Of what SMAC shows; heights are not known to the simulator, so its own sizes lack them."""
    size, heights = sizes(battle_map, cfg), HEIGHTS * cfg.obs_terrain_height
    obs_as_state = cfg.obs_instead_of_state
    state = size.state + battle_map.n_agents * heights * obs_as_state
    return {"obs": size.obs + heights, "state": state, "unit": None if obs_as_state else size.unit}
