"""Two teams that are each other's mirror image and are led alike win equally often: no place in a row is worth more."""

from __future__ import annotations

import math

import pytest
import torch

from envs.skirmish.battle import Skirmish
from envs.skirmish.maps import MAPS
from envs.skirmish.options import Options
from envs.skirmish.scene import Rules

QUICK = ("3m", "2s3z")
SLOW = ("8m", "25m", "MMM", "3s5z", "1c3s5z", "bane_vs_bane")


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_neither_team_has_an_advantage(name: str, n_battles: int = 2000) -> None:
    battle_map = MAPS[name]
    battle = Skirmish(battle_map, Options(), n_battles, torch.device("cpu"), 1, Rules(duel=1))
    battle.reset()
    won, ended = torch.zeros(2, n_battles)
    for _ in range(battle_map.limit):
        battle.step(torch.zeros(n_battles, battle_map.n_agents, dtype=torch.long))
        won += battle.live["won"]
        ended += battle.live["terminated"]
    assert ended.mean() > 0.99, "the teams meet and fight it out"
    survivors = (battle.live["hp"] > 0)[:, battle_map.n_agents :].any(-1)
    wins, losses = int(won.sum()), int((ended.bool() & survivors & ~won.bool()).sum())
    assert abs(wins - losses) < 3.29 * math.sqrt(wins + losses), f"{wins} against {losses}: beyond 99.9 % of fair draws"
