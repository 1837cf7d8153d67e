"""SMAC's options under their own names, and the sizes that follow from them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

from envs.skirmish.maps import AllyBlock, BattleMap

FIRST_ATTACK = 6
"""Actions: 0 no-op, 1 stop, 2-5 north south east west, 6+k attack enemy k."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a SMAC battle shows and pays; names and defaults are upstream's."""

    step_mul: int = 8
    """Game loops (sixteenths of a second) per step."""
    move_amount: float = 2.0
    """Length of the walk that a move action orders."""
    sight_range: float | None = None
    """Radius of what an agent sees (not an option upstream); null: the map's own."""
    obs_allies: AllyBlock | None = None
    """The part of observations that tells of the other agents: ``full``, ``zero`` (its size is kept) or ``drop`` (not
    an option upstream); null: the map's own."""
    heuristic_ai: bool = False
    """The agents' actions are ignored; each attacks the nearest enemy until it is dead."""
    heuristic_rest: bool = False
    """With ``heuristic_ai``: only available actions; out of range the agent moves along the larger axis."""
    obs_all_health: bool = True
    """Observations tell the health of all units in sight (implies ``obs_own_health``)."""
    obs_own_health: bool = True
    """Observations tell the agent's own health."""
    obs_last_action: bool = False
    """Observations tell the last actions of the allies in sight."""
    obs_pathing_grid: bool = False
    """Observations tell whether eight cells around the agent are walkable."""
    obs_timestep_number: bool = False
    """Observations end with the share of the time limit that is gone (and have one zero more, as upstream)."""
    obs_instead_of_state: bool = False
    """The state is all observations, one after the other."""
    state_last_action: bool = True
    """The state has all agents' last actions."""
    state_timestep_number: bool = False
    """The state ends with the share of the time limit that is gone."""
    reward_sparse: bool = False
    """1 for a win, -1 for a defeat, nothing else."""
    reward_only_positive: bool = True
    """Rewards count only the enemy's losses (as an absolute value: the enemy's regeneration pays too)."""
    reward_death_value: float = 10.0
    """For every killed enemy (and, negatively, ally)."""
    reward_win: float = 200.0
    """For a win."""
    reward_defeat: float = 0.0
    """For a defeat."""
    reward_negative_scale: float = 0.5
    """Weight of own losses where ``reward_only_positive`` is off."""
    reward_scale: bool = True
    """Rewards are divided so that a win without enemy regeneration sums to ``reward_scale_rate``."""
    reward_scale_rate: float = 20.0
    """See ``reward_scale``."""

    # what only SMACv2 has
    fully_observable: bool = field(default=False, init=False)
    obs_own_pos: bool = field(default=False, init=False)
    use_unit_ranges: bool = field(default=False, init=False)
    min_attack_range: float = field(default=2.0, init=False)
    prob_obs_enemy: float = field(default=1.0, init=False)
    hides_lower_enemies: bool = field(default=False, init=False)
    action_mask: bool = field(default=True, init=False)
    reward_clipped: bool = field(default=False, init=False)
    """``reward_only_positive`` clips at 0 instead of taking the absolute value."""
    obs_spare: int = field(default=1, init=False)
    """Zeros that come with ``obs_timestep_number``."""

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        values = {name: getattr(self, name) for name in _POSITIVE}
        found = [f"{name} must be above 0, not {x}" for name, x in values.items() if x is not None and x <= 0]
        if self.heuristic_rest and not self.heuristic_ai:
            found.append("heuristic_rest needs heuristic_ai")
        if self.obs_pathing_grid and not float(self.move_amount).is_integer():
            found.append(f"obs_pathing_grid needs a whole move_amount, not {self.move_amount}")
        return found

    @property
    def own_health(self) -> bool:
        """Upstream lets ``obs_all_health`` overrule ``obs_own_health``."""
        return self.obs_all_health or self.obs_own_health

    @property
    def tracked(self) -> bool:
        """Whether it matters who has spotted which enemy."""
        return self.prob_obs_enemy < 1.0 or self.hides_lower_enemies


@dataclass(frozen=True, kw_only=True)
class OptionsV2(Options):
    """What a SMACv2 battle shows and pays; names and defaults are upstream's."""

    fully_observable: bool = False
    """Observations tell of all living units, however far (SMACv2's own, for debugging)."""
    obs_own_pos: bool = False
    """Observations tell the agent's own place."""
    use_unit_ranges: bool = False
    """Every type of unit has its own sight and its own range of attacks."""
    min_attack_range: float = 2.0
    """With ``use_unit_ranges``: attacks are offered from at least so far, by types with shorter weapons too."""
    prob_obs_enemy: float = 1.0
    """Probability for an agent to be able to see an enemy that another agent was the first to spot."""
    hides_lower_enemies: bool = True
    """An enemy that is hidden from an agent, or was spotted by nobody yet, hides all enemies with lower numbers from it
    too. Upstream's code does that (issue 50 there); false: it hides itself only (not an option upstream)."""
    action_mask: bool = True
    """Only attacks within range are offered; false: all living targets', which do nothing out of range."""
    reward_clipped: bool = field(default=True, init=False)
    obs_spare: int = field(default=0, init=False)

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        found = super().problems()
        if not 0.0 <= self.prob_obs_enemy <= 1.0:
            found.append(f"prob_obs_enemy must be from 0 to 1, not {self.prob_obs_enemy}")
        if self.min_attack_range < 0.0:
            found.append(f"min_attack_range must not be negative, not {self.min_attack_range}")
        return found


_POSITIVE = ("step_mul", "move_amount", "sight_range", "reward_scale_rate")
_AnyOptions = TypeVar("_AnyOptions", bound=Options)


def complete(options: _AnyOptions, battle_map: BattleMap) -> _AnyOptions:
    """``options`` with the map's own values where they leave the choice to it."""
    names = ("obs_allies",) if options.use_unit_ranges else ("sight_range", "obs_allies")
    return replace(options, **{name: getattr(battle_map, name) for name in names if getattr(options, name) is None})


class Sizes(NamedTuple):
    """Lengths of what the agents see."""

    n_actions: int
    obs: int
    state: int
    unit: int
    """One ally's block at the beginning of the state."""


def sizes(battle_map: BattleMap, options: Options) -> Sizes:
    """The lengths that ``options`` give on ``battle_map``."""
    options = complete(options, battle_map)
    agents, enemies, bits = battle_map.n_agents, battle_map.n_enemies, battle_map.bits
    ally_shield, enemy_shield = shields(battle_map)
    n_actions = FIRST_ATTACK + (max(agents, enemies) if "medivac" in dict(battle_map.allies) else enemies)
    ally = 4 + bits + options.obs_all_health * (1 + ally_shield) + options.obs_last_action * n_actions
    enemy = 4 + bits + options.obs_all_health * (1 + enemy_shield)
    own = bits + options.own_health * (1 + ally_shield) + 2 * options.obs_own_pos
    own += (1 + options.obs_spare) * options.obs_timestep_number
    allies = 0 if options.obs_allies == "drop" else (agents - 1) * ally
    obs = 4 + 8 * options.obs_pathing_grid + enemies * enemy + allies + own
    unit = 4 + ally_shield + bits
    state = agents * unit + enemies * (3 + enemy_shield + bits)
    state += options.state_last_action * agents * n_actions + options.state_timestep_number
    return Sizes(n_actions, obs, agents * obs if options.obs_instead_of_state else state, unit)


def features(battle_map: BattleMap) -> tuple[list[str], list[str]]:
    """Upstream's names of the numbers that the state has of every ally and of every enemy."""
    ally, enemy = (["shield"] * shield for shield in shields(battle_map))
    types = [f"type_{bit}" for bit in range(battle_map.bits)]
    return ["health", "energy/cooldown", "rel_x", "rel_y", *ally, *types], ["health", "rel_x", "rel_y", *enemy, *types]


def shields(battle_map: BattleMap) -> tuple[int, int]:
    """1 for a team (allies, enemies) of Protoss, whose units show a shield."""
    ally, enemy = battle_map.races.split("/")
    return int(ally == "P"), int(enemy == "P")


def max_reward(battle_map: BattleMap, options: Options) -> float:
    """The unscaled sum of rewards of a win without regeneration."""
    return options.reward_win + battle_map.n_enemies * options.reward_death_value + battle_map.enemy_health
