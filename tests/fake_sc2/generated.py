"""SMACv2 on the stand-in, where the client creates and kills the units: ``python -m fake_sc2.generated zerg``."""

from __future__ import annotations

import json
import sys

import numpy as np

from fake_sc2.lockstep import choose

AGENTS, ENEMIES = 5, 6
TEAMS = {
    "terran": (["marine", "marauder", "medivac"], ["medivac"]),
    "protoss": (["stalker", "zealot", "colossus"], []),
    "zerg": (["zergling", "hydralisk", "baneling"], ["baneling"]),
}
"""Types, and those that must not be alone."""


def main(race: str, episodes: int = 3) -> None:
    """Prints one line of JSON per episode: how many units there were, their types, and how it ended."""
    from smacv2.env import StarCraftCapabilityEnvWrapper

    types, exceptions = TEAMS[race]
    team = {"dist_type": "weighted_teams", "unit_types": types, "weights": [0.45, 0.45, 0.1], "observe": True}
    places = {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": 32, "map_y": 32}
    config = {"n_units": AGENTS, "n_enemies": ENEMIES, "start_positions": places}
    config["team_gen"] = team | {"exception_unit_types": exceptions}
    env = StarCraftCapabilityEnvWrapper(capability_config=config, map_name=f"10gen_{race}", seed=1)
    rng = np.random.default_rng(1)
    for _ in range(episodes):
        env.reset()
        teams = [list(env.env.agents.values()), list(env.env.enemies.values())]
        unhurt = all(unit.health == unit.health_max for team in teams for unit in team)
        over = False
        while not over:
            _, over, info = env.step(choose(np.array(env.get_avail_actions()), rng))
        sys.stdout.write(json.dumps(info | {"sizes": [len(team) for team in teams], "unhurt": unhurt}) + "\n")
    env.close()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
