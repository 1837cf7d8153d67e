"""What all environments on the skirmish engine have in common."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from core.specs import ActionSpec, EnvSpec, Outcome, TimeStep
from envs.base import BatchedEnv
from envs.skirmish.maps import BattleMap
from envs.skirmish.options import sizes


class SkirmishEnv(BatchedEnv):
    """Battles on one map, on our own simulator of StarCraft II."""

    def __init__(self, cfg: Any, battle_map: BattleMap, n_envs: int, device: torch.device | str, seed: int) -> None:
        """``cfg`` is settled. Compiles the simulator's kernels when first reset."""
        super().__init__(cfg, n_envs, device, seed)
        from envs.skirmish.battle import Skirmish  # imports Warp, which nobody else should wait for

        size = sizes(battle_map, cfg)
        agents = battle_map.n_agents
        self.spec = EnvSpec(
            actions=(ActionSpec(size.n_actions),) * agents,
            obs_dims=(size.obs,) * agents,
            state_dim=size.state,
            episode_limit=battle_map.limit,
            extras={"visible": (agents, agents)},
            metrics=("battle_won", "dead_allies", "dead_enemies"),
            unit_dim=None if cfg.obs_instead_of_state else size.unit,
        )
        self.battle = Skirmish(battle_map, cfg, n_envs, self.device, seed)

    def reset(self, which: Bool[Tensor, " b"] | None = None) -> TimeStep:
        """New battles, drawn from each row's generator."""
        self.battle.reset(which)
        return self._show()

    def step(self, action: Int[Tensor, "b n"]) -> Outcome:
        """``step_mul`` game loops of every running battle."""
        self.battle.step(action)
        live = self.battle.live
        return Outcome(
            next=self._show(),
            reward=live["reward"].clone(),
            terminated=live["terminated"].bool(),
            truncated=live["truncated"].bool(),
            info={
                "battle_won": live["won"].clone(),
                "dead_allies": live["dead_allies"].clone(),
                "dead_enemies": live["dead_enemies"].clone(),
            },
        )

    def _show(self) -> TimeStep:
        """Copies of what the kernels wrote."""
        live = self.battle.live
        return TimeStep(
            obs=live["obs"].clone(),
            state=live["state"].clone(),
            avail=live["avail"].bool(),
            extras={"visible": live["visible"].bool()},
        )

    def seed_rows(self, seed: int) -> None:
        """Restarts every row's generator; running battles go on as they are."""
        self.battle.seed_rows(seed)

    def render(self, row: int) -> str:
        """The battlefield of one row as text."""
        return self.battle.picture(row)

    def state_dict(self) -> dict[str, Any]:
        """Units, orders, clocks and generators of every row."""
        return dict(self.battle.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self.battle.load_state_dict(state)
