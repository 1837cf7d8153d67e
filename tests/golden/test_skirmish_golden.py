"""SMAC's golden numbers, and how often scripted agents win: a change of the simulator's rules must be meant."""

from __future__ import annotations

import pytest
import torch

from envs.sc2 import StarCraft2


def test_smacs_published_numbers() -> None:
    """3m: a full Marine's kill 55 / 18.25, the win 200 / 18.25; the starting scene's first numbers."""
    env = StarCraft2(StarCraft2.Config(engine="skirmish", map_name="3m"), 1, "cpu", 0)
    shown = env.reset()
    assert env.battle._numbers()["divisor"] == pytest.approx(18.25)
    assert shown.avail[0, 0].tolist() == [False, True, True, True, True, True, False, False, False]
    assert shown.state[0, 21:].sum() == 0


# SMAC's paper, as recalled in the specification: 2s3z .90, 3s5z .42, 5m_vs_6m 0, corridor 0, 3s_vs_5z 0
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("3m", 0.5, 1.0),
        ("2s3z", 0.75, 1.0),
        ("3s5z", 0.2, 0.65),
        ("5m_vs_6m", 0.0, 0.15),
        ("3s_vs_5z", 0.0, 0.05),
        ("corridor", 0.0, 0.15),
    ],
)
def test_scripted_agents_win_about_as_often_as_on_the_game(name: str, low: float, high: float) -> None:
    config = StarCraft2.Config(engine="skirmish", map_name=name, heuristic_ai=True)
    env = StarCraft2(config, 200, "cpu", 7)
    env.reset()
    won = torch.zeros(200)
    for _ in range(env.spec.episode_limit):
        won += env.step(torch.zeros(200, env.spec.n_agents, dtype=torch.long)).info["battle_won"]
    assert low <= won.mean() <= high
