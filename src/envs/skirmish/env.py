"""What the environments on StarCraft II's micromanagement maps share: engines, common options, battles."""

from __future__ import annotations

import sys
from abc import abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from core.picture import Frame, Stage
from core.specs import ActionSpec, EnvSpec, Outcome, TimeStep
from envs import installed
from envs.base import BatchedEnv
from envs.fleet import Care
from envs.skirmish.maps import BattleMap
from envs.skirmish.options import complete, features, sizes

_REFUSED = {
    "obs_terrain_height": "the maps' heights are not known to it",
    "game_version": "no StarCraft II is run",
    "replay_dir": "it writes no StarCraft II replays",
    "replay_prefix": "it writes no StarCraft II replays",
    "window_size_x": "it opens no window",
    "window_size_y": "it opens no window",
    "seed": "the run's own seed seeds every row",
    "debug": "it has no debug log; see render(row)",
}
"""Options of upstream that only their default fits on skirmish, with the reason."""

_REFUSED_BY_GAME = {
    "replay_dir": "a run saves no StarCraft II replays",
    "replay_prefix": "a run saves no StarCraft II replays",
    "seed": "the run's own seed seeds every game",
}
"""The same on the game."""

OURS = ("sight_range", "obs_allies", "hides_lower_enemies")
"""Options that upstream does not have."""

_INFO = {
    "battle_won": "won",
    "dead_allies": "dead_allies",
    "dead_enemies": "dead_enemies",
    "episode_limit": "truncated",
}
"""Upstream's info, by the tensors' names; the last only with ``continuing_episode``."""


INSTALL = "To use it, start './run.sh install sc2' and './install_sc2.sh' (PyPI's package smac is another project)"
"""How to get the game and upstream's packages."""


class SkirmishEnv(BatchedEnv):
    """StarCraft II micromanagement, on the game itself or on our own simulator of it."""

    game: ClassVar[str]
    """What it is called in messages, for instance SMAC."""
    package: ClassVar[str]
    """Upstream's Python package."""
    refused: ClassVar[dict[str, str]] = {}
    """Further options that only their default fits on skirmish, with the reason."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Care, BatchedEnv.Config):
        """The legal ``env_args`` that say nothing about what a battle shows and pays. ``Care``'s are for the game."""

        engine: Literal["auto", "starcraft2", "skirmish"] = "auto"
        """The game, our simulator, or the game where it is found and usable."""
        difficulty: str = "7"
        """Of the built-in AI, 1 to 9 or A. The maps never start that AI, so it hardly matters there; it does nothing on
        skirmish."""
        game_version: str | None = None
        """Which StarCraft II; null: 4.10."""
        seed: int | None = None
        """Upstream's own seed; runs are seeded by the run's."""
        continuing_episode: bool = False
        """``episode_limit`` is among the metrics, as upstream. Time limits are told from true ends in any case."""
        obs_terrain_height: bool = False
        """Observations tell the heights around the agent."""
        replay_dir: str = ""
        """Where StarCraft II saves replays."""
        replay_prefix: str = ""
        """Their names' beginning."""
        window_size_x: int = 1920
        """Width of StarCraft II's window."""
        window_size_y: int = 1200
        """Its height."""
        debug: bool = False
        """Upstream's debug log."""
        recycle_episodes: int | None = 5000
        """Battles after which a game is replaced by a new one, against leaks; null: never."""
        recycle_gib: float | None = 8.0
        """GiB of memory (resident, game and Python together) at which it is replaced; null: never."""

    @classmethod
    def build(cls, cfg: Any, n_envs: int, device: torch.device | str, seed: int) -> BatchedEnv:
        """On the engine that ``cfg`` decides for."""
        settled = cls.settle(cfg)
        if settled.engine == "skirmish":
            return cls(settled, n_envs, device, seed)
        from envs.game import Game, GameEnv  # not needed where battles are simulated

        name, battle_map = cls.__module__.rpartition(".")[2], cls.battle_map(settled)
        return GameEnv(Game(name, cls.package, cls.upstream(settled), battle_map), settled, n_envs, device, seed)

    def __init__(self, cfg: Config, n_envs: int, device: torch.device | str, seed: int) -> None:
        """Compiles the simulator's kernels when first reset."""
        settled = self.settle(cfg)
        super().__init__(settled, n_envs, device, seed)
        from envs.skirmish.battle import Skirmish  # imports Warp, which nobody else should wait for

        battle_map = self.battle_map(settled)
        size = sizes(battle_map, settled)
        agents = battle_map.n_agents
        self.spec = EnvSpec(
            actions=(ActionSpec(size.n_actions),) * agents,
            obs_dims=(size.obs,) * agents,
            state_dim=size.state,
            episode_limit=battle_map.limit,
            extras={"visible": (agents, agents)},
            metrics=tuple(_INFO)[: 3 + settled.continuing_episode],
            unit_dim=None if settled.obs_instead_of_state else size.unit,
        )
        self.battle = Skirmish(battle_map, settled, n_envs, self.device, seed)

    @classmethod
    @abstractmethod
    def battle_map(cls, cfg: Any) -> BattleMap:
        """The map that ``cfg`` asks for.

        Raises:
            ValueError: there is none.
        """

    @classmethod
    @abstractmethod
    def map_files(cls) -> list[str]:
        """The names of all of StarCraft II's maps that it can be played on, without their endings."""

    @classmethod
    def settle(cls, cfg: Any) -> Any:
        """Decides the engine, takes from the map what the options leave to it, and checks all of it."""
        problems = cfg.problems() + cfg.care_problems()
        try:
            cfg = complete(cfg, cls.battle_map(cfg))
        except ValueError as error:
            problems.append(str(error))
        if cfg.difficulty not in tuple("123456789A"):
            problems.append(f"difficulty must be one of 1 to 9 or A, not '{cfg.difficulty}'")
        absent = installed.missing(cls.package, cls.map_file(cfg), cfg.game_version)
        if cfg.engine == "starcraft2" and absent:
            raise ValueError(f"env_args.engine=starcraft2: {' and '.join(absent)}. {INSTALL}; "
                             "or choose env_args.engine=skirmish")  # fmt: skip
        if cfg.engine == "starcraft2" or (cfg.engine == "auto" and not absent):
            cfg = replace(cfg, engine="starcraft2", game_version=cfg.game_version or installed.DEFAULT_VERSION)
            problems += _defaults_only(cfg, _REFUSED_BY_GAME, "the game through upstream's code") + cls.unknown(cfg)
        else:
            problems += _defaults_only(cfg, _REFUSED | cls.refused, "the skirmish engine")
        if problems:
            raise ValueError("; ".join(problems))
        if cfg.engine == "auto":
            sys.stderr.write(skirmish_warning(cls.game, absent) + "\n")
        return cfg if cfg.engine == "starcraft2" else replace(cfg, engine="skirmish")

    @classmethod
    def unknown(cls, cfg: Any) -> list[str]:  # noqa: ARG003
        """What of ``cfg`` upstream has no option for, and we cannot do in its place."""
        return []

    @classmethod
    def map_file(cls, cfg: Any) -> str:
        """The name of StarCraft II's map, without its ending."""
        return str(cfg.map_name)

    @classmethod
    def upstream(cls, cfg: Any) -> dict[str, Any]:
        """The arguments of upstream's environment that ``cfg`` asks for, apart from the seed."""
        refused = {*_REFUSED_BY_GAME, *OURS, *(key.name for key in fields(Care)), "engine"}
        return {key.name: getattr(cfg, key.name) for key in fields(cls.Config) if key.init and key.name not in refused}

    def reset(self, which: Bool[Tensor, " b"] | None = None) -> TimeStep:
        """New battles; a new draw of what the map leaves to chance, from each row's generator."""
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
            info={name: live[_INFO[name]].to(torch.float32, copy=True) for name in self.spec.metrics},
        )

    def _show(self) -> TimeStep:
        """Copies of what the kernels wrote."""
        shown = self.battle.copies("obs", "state", "avail", "visible")
        visible = {"visible": shown.pop("visible")}
        return TimeStep(**shown, extras=visible)

    def seed_rows(self, seed: int) -> None:
        """Restarts every row's generator; running battles go on as they are."""
        self.battle.seed_rows(seed)

    def label(self) -> str:
        """Environment, engine and map, for instance ``sc2-skirmish/corridor``."""
        return f"{super().label()}-{self.cfg.engine}/{self.battle.map.name}"

    def get_stats(self) -> dict[str, int | float]:
        """Upstream's counts of battles, of all rows since the beginning (of the run, where it was resumed)."""
        games, won, timeouts = self.battle.live["tally"].sum(0).tolist()
        return {
            "battles_won": won,
            "battles_game": games,
            "battles_draw": timeouts,
            "win_rate": won / games if games else 0.0,
            "timeouts": timeouts,
            "restarts": 0,
        }

    def get_env_info(self) -> dict[str, Any]:
        """Upstream's description of the environment."""
        agent_features, enemy_features = features(self.battle.map)
        return {
            "state_shape": self.spec.state_dim,
            "obs_shape": self.spec.obs_dim,
            "n_actions": self.spec.n_actions,
            "n_agents": self.spec.n_agents,
            "episode_limit": self.spec.episode_limit,
            "agent_features": agent_features,
            "enemy_features": enemy_features,
        }

    def state_dict(self) -> dict[str, Any]:
        """Units, orders, clocks, generators and tallies of every row."""
        return dict(self.battle.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self.battle.load_state_dict(state)

    def stage(self, row: int) -> Stage:
        """The map and its units."""
        from envs.skirmish import view

        return view.stage(self.battle, row)

    def frame(self, row: int) -> Frame:
        """The units now. ``battle.picture(row)`` is the same as text."""
        from envs.skirmish import view

        return view.frame(self.battle, row)


def _defaults_only(cfg: Any, refused: dict[str, str], who: str) -> list[str]:
    """Complaints about options of ``refused`` that are not their default."""
    kept = {key.name: key.default for key in fields(cfg)}
    return [f"{who} cannot honour {name}: {why}" for name, why in refused.items() if getattr(cfg, name) != kept[name]]


def skirmish_warning(game: str, reasons: list[str]) -> str:
    """A box that says that battles are simulated, and why."""
    lines = [
        "NOT STARCRAFT II: these battles run on Cofactor's own simulator, skirmish.",
        f"Its win rates are not {game} results and must not be published as such.",
        *(f"- {reason}" for reason in reasons),
        "env_args.engine=skirmish says the same without this warning.",
    ]
    width = max(map(len, lines))
    edge = "!" * (width + 6)
    return "\n".join([edge, *(f"!! {line:<{width}} !!" for line in lines), edge])
