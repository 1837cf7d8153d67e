"""What a battle shows, allows and pays, on scenes written by hand; expected numbers are SMAC's formulas by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from envs.sc2 import StarCraft2

FAR = (30.0, 22.0)


def made(name: str, n_envs: int = 1, seed: int = 0, **args: Any) -> StarCraft2:
    env = StarCraft2(StarCraft2.Config(engine="skirmish", map_name=name, **args), n_envs, "cpu", seed)
    env.reset()
    return env


def place(env: StarCraft2, *places: tuple[float, float], row: int = 0) -> None:
    """Puts the units (allies first) there; those not named stay."""
    for u, (x, y) in enumerate(places):
        env.battle.live["pos"][row, u] = torch.tensor([x, y])
    env.battle.refresh()


def pacify(env: StarCraft2) -> None:
    """Units out of action: enemies and agents may shoot only after a very long time, and enemies stand."""
    env.battle.live["cooldown"].fill_(1e6)
    env.battle.live["order"].zero_()


def kill(env: StarCraft2, *units: int, row: int = 0) -> None:
    for u in units:
        env.battle.live["hp"][row, u] = 0.0
    env.battle.refresh()


def stop(env: StarCraft2) -> Tensor:
    """Stop for the living, no-op for the dead."""
    return (env.battle.live["hp"][:, : env.spec.n_agents] > 0).long()


# ---------------------------------------------------------------- observations


def test_observation_of_a_marine() -> None:
    env = made("3m")
    place(env, (10, 16), (13, 12), FAR, (14, 13), (16, 16), (18.9, 16))
    env.battle.live["hp"][0, 3] = 30.0
    env.battle.refresh()
    obs = env._show().obs[0, 0]
    assert obs[:4].tolist() == [1, 1, 1, 1]
    e0, e1, e2 = obs[4:19].view(3, 5)
    assert e0.tolist() == pytest.approx([1, 5 / 9, 4 / 9, -3 / 9, 30 / 45])
    assert e1.tolist() == pytest.approx([1, 6 / 9, 6 / 9, 0, 1])
    assert e2.tolist() == pytest.approx([0, 8.9 / 9, 8.9 / 9, 0, 1], rel=1e-5)
    a1, a2 = obs[19:29].view(2, 5)
    assert a1.tolist() == pytest.approx([1, 5 / 9, 3 / 9, -4 / 9, 1])
    assert a2.tolist() == [0] * 5, "out of sight"
    assert obs[29] == 1.0


def test_sight_is_strict_and_shooting_is_not() -> None:
    env = made("3m")
    place(env, (10, 16), FAR, FAR, (19, 16), (16, 16), (16.01, 16))
    shown = env._show()
    enemies = shown.obs[0, 0, 4:19].view(3, 5)
    assert enemies[0].tolist() == [0] * 5, "at 9 exactly it is not seen"
    assert shown.avail[0, 0, 6:].tolist() == [False, True, False], "at 6 exactly it can be attacked"
    assert enemies[2, 0] == 0
    assert enemies[2, 1] > 0


def test_types_of_allies_and_enemies_are_numbered_in_opposite_order() -> None:
    env = made("2s3z")
    place(env, *((10.0 + u, 15.0) for u in range(5)), *((10.0 + u, 17.0) for u in range(5)))
    obs = env._show().obs[0, 0]
    enemies = obs[4:44].view(5, 8)
    allies = obs[44:76].view(4, 8)
    assert enemies[:, 6:].tolist() == [[0, 1]] * 2 + [[1, 0]] * 3, "Stalkers, then Zealots"
    assert allies[:, 6:].tolist() == [[1, 0]] + [[0, 1]] * 3
    assert obs[76:].tolist() == [1, 1, 1, 0], "own health, shield, Stalker"
    state = env._show().state[0]
    assert state[:35].view(5, 7)[:, 5:].tolist() == [[1, 0]] * 2 + [[0, 1]] * 3
    assert state[35:65].view(5, 6)[:, 4:].tolist() == [[0, 1]] * 2 + [[1, 0]] * 3


# of every group: how many, and its place in the one-hot code
CODES = {
    "MMM": ([(2, 0), (7, 1), (1, 2)], [(2, 0), (7, 1), (1, 2)]),
    "MMM2": ([(2, 0), (7, 1), (1, 2)], [(3, 0), (8, 1), (1, 2)]),
    "3s5z_vs_3s6z": ([(3, 0), (5, 1)], [(3, 1), (6, 0)]),
    "1c3s5z": ([(1, 0), (3, 1), (5, 2)], [(1, 0), (3, 1), (5, 2)]),
    "bane_vs_bane": ([(4, 0), (20, 1)], [(4, 0), (20, 1)]),
}


@pytest.mark.parametrize("name", CODES)
def test_types_in_state_and_observations(name: str) -> None:
    env = made(name)
    n, u = env.spec.n_agents, env.battle.live["hp"].shape[1]
    bits, shield = env.battle.map.bits, int(env.battle.map.races == "P/P")
    place(env, *((10.0 + 0.1 * i, 16.0) for i in range(u)))
    allies, enemies = ([code for count, code in team for _ in range(count)] for team in CODES[name])
    state, obs = env._show().state[0], env._show().obs[0, 0]
    ally, enemy = 4 + shield + bits, 3 + shield + bits
    assert state[: n * ally].view(n, ally)[:, -bits:].argmax(-1).tolist() == allies
    assert state[n * ally : n * ally + (u - n) * enemy].view(-1, enemy)[:, -bits:].argmax(-1).tolist() == enemies
    width = 5 + shield + bits
    assert obs[4 : 4 + (u - n) * width].view(-1, width)[:, -bits:].argmax(-1).tolist() == enemies
    assert obs[4 + (u - n) * width : -1 - shield - bits].view(n - 1, width)[:, -bits:].argmax(-1).tolist() == allies[1:]
    assert obs[-bits:].tolist() == [1] + [0] * (bits - 1)


def test_shields_show_on_the_side_that_has_them() -> None:
    env = made("2s_vs_1sc")
    place(env, (10, 12), (13, 12), (10, 17))
    env.battle.live["hp"][0, 2], env.battle.live["shield"][0, 1] = 75.0, 20.0
    env.battle.refresh()
    obs, state = env._show().obs[0, 0], env._show().state[0]
    assert obs[4:9].tolist() == pytest.approx([1, 5 / 9, 0, 5 / 9, 75 / 300])
    assert obs[9:15].tolist() == pytest.approx([1, 3 / 9, 3 / 9, 0, 1, 20 / 80])
    assert obs[15:].tolist() == [1, 1]
    assert state[10:13].tolist() == pytest.approx([75 / 300, -6 / 32, 1 / 32])
    env = made("2m_vs_1z")
    place(env, (10, 12), (13, 12), (10, 17))
    env.battle.live["shield"][0, 2] = 20.0
    env.battle.refresh()
    obs, state = env._show().obs[0, 0], env._show().state[0]
    assert obs[4:10].tolist() == pytest.approx([1, 5 / 9, 0, 5 / 9, 1, 20 / 50])
    assert obs[10:].tolist() == pytest.approx([1, 3 / 9, 3 / 9, 0, 1, 1])
    assert state[8:12].tolist() == pytest.approx([1, -6 / 32, 1 / 32, 20 / 50])


def test_the_dead_see_nothing_and_can_do_nothing() -> None:
    env = made("2s3z")
    kill(env, 1, 6)
    shown = env._show()
    assert shown.obs[0, 1].abs().sum() == 0
    assert shown.avail[0, 1].nonzero().flatten().tolist() == [0]
    assert not shown.avail[0, [0, 2, 3, 4], 0].any(), "no no-op for the living"
    assert shown.state[0, 7:14].abs().sum() == 0
    assert shown.state[0, 35 + 6 : 35 + 12].abs().sum() == 0
    assert shown.obs[0, 0, 44:52].abs().sum() == 0, "a dead ally is invisible"
    assert not shown.extras["visible"][0, 1].any()
    assert not shown.extras["visible"][0, :, 1].any()


def test_visible_is_symmetric_within_sight_and_false_for_oneself() -> None:
    env = made("3m")
    place(env, (2, 16), (10, 16), (18, 16))
    assert env._show().extras["visible"][0].int().tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    place(env, (2, 16), (11, 16), (18, 16))
    assert env._show().extras["visible"][0, 0].tolist() == [False, False, False], "9 is out of sight"


def test_myopic_agents_see_six_cells_far_and_no_mates() -> None:
    env = made("8m_vs_9m_myopic")
    far = [(2.0, 9.0 + u) for u in range(6)]
    place(env, (10, 16), (11, 16), *far, (15, 16), (16, 16), *((30.0, 10.0 + u) for u in range(7)))
    shown = env._show()
    obs = shown.obs[0, 0]
    enemies = obs[4:49].view(9, 5)
    assert enemies[0].tolist() == pytest.approx([1, 5 / 6, 5 / 6, 0, 1])
    assert enemies[1:].abs().sum() == 0, "at 6 exactly it is not seen ..."
    assert shown.avail[0, 0, 7], "... and can be attacked"
    assert obs[49] == 1, "the own health follows at once"
    assert shown.extras["visible"][0, 0].nonzero().flatten().tolist() == [1]


def test_mates_zeroed_and_dropped() -> None:
    shown = {}
    for block in ("full", "zero", "drop"):
        env = made("2s3z", obs_allies=block, obs_last_action=True)
        env.step(torch.ones(1, 5, dtype=torch.long))
        shown[block] = env._show()
    full, zero, drop = (shown[block].obs[0] for block in ("full", "zero", "drop"))
    before, after = 4 + 5 * 8, 4 + 5 * 8 + 4 * (8 + 11)
    assert full[:, before:after].any(-1).all()
    assert zero[:, before:after].abs().sum() == 0
    for part in (slice(before), slice(after, None)):
        assert torch.equal(full[:, part], zero[:, part])
    assert torch.equal(drop, torch.cat([full[:, :before], full[:, after:]], -1))
    assert torch.equal(shown["drop"].state, shown["full"].state)
    assert torch.equal(shown["drop"].extras["visible"], shown["full"].extras["visible"])


def test_last_actions_and_time() -> None:
    env = made("3m", obs_last_action=True, state_timestep_number=True, obs_timestep_number=True)
    assert env._show().state[0, 21:48].sum() == 0, "none after a reset"
    place(env, (10, 16), (12, 16), (14, 16), FAR, FAR, FAR)
    shown = env.step(torch.tensor([[1, 2, 5]])).next
    assert shown.state[0, 21:48].view(3, 9).argmax(-1).tolist() == [1, 2, 5]
    assert shown.state[0, 48] == pytest.approx(1 / 60)
    assert shown.obs[0, 0, 19 + 5 : 19 + 14].tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert shown.obs[0, 0, -3:].tolist() == pytest.approx([1, 0, 1 / 60])


def test_pathing_probes() -> None:
    env = made("3m", obs_pathing_grid=True)
    place(env, (1.5, 21.5))
    # N, S, E, W at 4; NE, SW, SE, NW at 2: the strip is y 8 to 23, outside the map counts as 1
    assert env._show().obs[0, 0, 4:12].tolist() == [0, 1, 1, 1, 1, 1, 1, 1]


# ---------------------------------------------------------------- state


def test_state_of_marines() -> None:
    env = made("3m")
    place(env, (10, 18), FAR, FAR, (20, 12))
    env.battle.live["cooldown"][0, 0] = 7.5
    env.battle.live["hp"][0, 3] = 9.0
    env.battle.refresh()
    state = env._show().state[0]
    assert state[:4].tolist() == pytest.approx([1, 7.5 / 15, -6 / 32, 2 / 32])
    assert state[12:15].tolist() == pytest.approx([9 / 45, 4 / 32, -4 / 32])


@pytest.mark.parametrize(
    ("name", "scales"),
    [
        ("3m", [15] * 3),
        ("2s3z", [35] * 2 + [22] * 3),
        ("1c3s5z", [24] + [35] * 3 + [22] * 5),
        ("MMM2", [25] * 2 + [15] * 7),
        ("2c_vs_64zg", [24] * 2),
        ("2s_vs_1sc", [35] * 2),
        ("6h_vs_8z", [10] * 6),
        ("bane_vs_bane", [1] * 4 + [11] * 20),
    ],
)
def test_cooldowns_are_divided_by_smacs_own_table(name: str, scales: list[int]) -> None:
    env = made(name)
    assert env.spec.unit_dim
    env.battle.live["cooldown"].fill_(11.0)
    env.battle.refresh()
    allies = env._show().state[0, : env.spec.n_agents * env.spec.unit_dim].view(env.spec.n_agents, -1)
    assert allies[: len(scales), 1].tolist() == pytest.approx([11 / scale for scale in scales])


def test_shares_of_shields_and_energy() -> None:
    env = made("1c3s5z")
    env.battle.live["shield"][0, :9] = 15.0
    env.battle.refresh()
    assert env._show().state[0, :72].view(9, 8)[[0, 1, 4], 4].tolist() == pytest.approx([15 / 150, 15 / 80, 15 / 50])
    env = made("MMM")
    assert env._show().state[0, 9 * 7 + 1] == 50 / 200, "a fresh Medivac's energy"
    env.battle.live["cooldown"].fill_(7.0)
    env.battle.live["energy"][0, 9] = 120.0
    env.battle.refresh()
    assert env._show().state[0, 9 * 7 + 1].item() == pytest.approx(120 / 200), "no cooldown, though enemies' never show"


def test_observations_instead_of_state() -> None:
    env = made("3m", obs_instead_of_state=True)
    shown = env._show()
    assert torch.equal(shown.state, shown.obs.flatten(1))


# ---------------------------------------------------------------- masks


def test_moves_look_one_cell_ahead() -> None:
    env = made("3m")  # the strip is y 8 to 23 inclusive
    place(env, (0.9, 23.1), (5, 8.9), (31.2, 10))
    avail = env._show().avail[0, :, 2:6].tolist()
    assert avail[0] == [False, True, True, True], "int(-0.1) is 0: truncation toward zero, as upstream"
    assert avail[1] == [True, False, True, True]
    assert avail[2] == [True, True, False, True]
    place(env, (5, 22.9))
    assert env._show().avail[0, 0, 2], "23.9 is still in the last row"


def test_the_cell_ahead_is_found_in_double_precision() -> None:
    env = made("corridor")  # in its row 27 the wall ends at 17
    just_below = 16 - 2.0**-20
    assert torch.tensor(just_below) < 16
    assert torch.tensor(just_below) + 1 == 17, "in single precision"
    place(env, (just_below, 27.5), (16.1, 27.5))
    assert env._show().avail[0, :2, 4].tolist() == [False, True]


def test_medivacs_are_offered_agents_to_heal() -> None:
    env = made("MMM2")  # agents: Marauders 0 and 1, Marines 2 to 8, Medivac 9
    agents = [(2.0, 9.0 + u) for u in range(10)]
    agents[0], agents[2], agents[3], agents[9] = (15, 16), (20, 22), (20, 22.1), (20, 16)
    place(env, *agents, *((20.0, 15.0),) * 12)
    env.battle.live["hp"][0, 2] = 1.0
    env.battle.refresh()
    shown = env._show()
    assert shown.avail[0, 9, 6:].nonzero().flatten().tolist() == [0, 2], "in full health too; itself never; no enemy"
    first = shown.obs[0, 9, 4 : 4 + 12 * 8].view(12, 8)[:, 0]
    assert first.tolist() == [1, 0, 1] + [0] * 9, "the enemies' blocks begin with the heal actions of the same number"
    assert shown.avail[0, 0, 6:].all(), "a Marauder is offered Medivacs, too"
    env.battle.live["kind"][0, 0] = env.battle.live["kind"][0, 9]
    kill(env, 2)
    assert not env._show().avail[0, 9, 6:].any(), "neither the other Medivac nor the dead"


def test_unavailable_action_is_refused_and_changes_nothing() -> None:
    env = made("3m", n_envs=2)
    before = env.state_dict()
    with pytest.raises(ValueError, match="row 1, agent 2: action 6 is not available; available are"):
        env.step(torch.tensor([[1, 1, 1], [1, 1, 6]]))
    for wrong in (0, -1, 9):
        with pytest.raises(ValueError, match="row 0, agent 0"):
            env.step(torch.tensor([[wrong, 1, 1], [1, 1, 1]]))
    assert all(torch.equal(before[k], v) for k, v in env.state_dict().items())
    env.step(torch.ones(2, 3, dtype=torch.long))


def test_where_looking_is_dear_battles_stand_still_until_somebody_looks() -> None:
    env = made("3m", n_envs=2)
    env.battle.look_every = 3
    env.step(torch.ones(2, 3, dtype=torch.long))
    before = {k: env.battle.live[k].clone() for k in ("hp", "pos", "time", "cooldown")}
    env.battle.step(torch.tensor([[1, 1, 1], [1, 1, 6]]))
    with pytest.raises(ValueError, match="row 1, agent 2: one of its last 3 actions"):
        env.battle.step(torch.ones(2, 3, dtype=torch.long))
    assert all(torch.equal(before[k], env.battle.live[k]) for k in before)
    for _ in range(3):
        env.battle.step(torch.ones(2, 3, dtype=torch.long))
    assert env.battle.live["time"].tolist() == [4, 4]


# ---------------------------------------------------------------- rewards and ends


def duel(**args: Any) -> StarCraft2:
    """One marine next to a nearly dead one; everybody else far away and peaceful."""
    env = made("3m", **args)
    place(env, (10, 16), (2, 10), (2, 22), (14, 16), (30, 10), (30, 22))
    pacify(env)
    env.battle.live["cooldown"][0, 0] = 0.0
    env.battle.live["hp"][0, 3] = 6.0
    env.battle.refresh()
    return env


def test_kill_pays_its_damage_and_ten() -> None:
    outcome = duel().step(torch.tensor([[6, 1, 1]]))
    assert outcome.reward.item() == pytest.approx((6 + 10) / 18.25)
    assert outcome.info["dead_enemies"].item() == 1
    assert not outcome.terminated.item()


def test_killing_a_full_marine_pays_3_0137() -> None:
    env = made("3m")
    total = 0.0
    place(env, (10, 16), (2, 10), (2, 22), (14, 16), (30, 10), (30, 22))
    pacify(env)
    env.battle.live["cooldown"][0, 0] = 0.0
    for _ in range(30):
        alive = env._show().avail[0, 0, 6]
        total += env.step(torch.tensor([[6 if alive else 1, 1, 1]])).reward.item()
    assert total == pytest.approx(3.0137, abs=1e-4)


def test_win_pays_10_9589_and_ends() -> None:
    env = duel()
    kill(env, 4, 5)
    outcome = env.step(torch.tensor([[6, 1, 1]]))
    assert outcome.reward.item() == pytest.approx((6 + 10) / 18.25 + 10.9589, abs=1e-4)
    assert (outcome.terminated.item(), outcome.truncated.item()) == (True, False)
    assert outcome.info["battle_won"].item() == 1
    again = env.step(torch.zeros(1, 3, dtype=torch.long))
    assert (again.reward.item(), again.terminated.item(), again.truncated.item()) == (0, False, False)
    assert torch.equal(again.next.obs, outcome.next.obs)


def test_a_full_win_sums_to_20() -> None:
    env = made("3m", n_envs=64, heuristic_ai=True)
    total, won = torch.zeros(64), torch.zeros(64)
    for _ in range(60):
        outcome = env.step(torch.zeros(64, 3, dtype=torch.long))
        total += outcome.reward
        won += outcome.info["battle_won"]
    assert won.sum() > 0
    assert total[won > 0].sub(20).abs().max() < 1e-4
    assert total[won == 0].max() < 20 - 10.9589


def test_defeat_and_sparse_and_unscaled_rewards() -> None:
    for args, expected in (
        ({}, 0.0),
        ({"reward_defeat": -73.0}, -4.0),
        ({"reward_sparse": True}, -1 / 18.25),
        ({"reward_sparse": True, "reward_scale": False}, -1.0),
        ({"reward_only_positive": False, "reward_scale": False}, -0.5 * (6 + 10)),
    ):
        env = duel(**args)
        kill(env, 1, 2)
        env.battle.live["hp"][0, 0], env.battle.live["hp"][0, 3] = 6.0, 45.0
        env.battle.live["cooldown"][0, 0], env.battle.live["cooldown"][0, 3] = 1e6, 0.0
        outcome = env.step(torch.tensor([[1, 0, 0]]))
        assert outcome.reward.item() == pytest.approx(expected), args
        assert (outcome.terminated.item(), outcome.info["battle_won"].item()) == (True, 0)
        assert outcome.info["dead_allies"].item() == 3


def test_both_dead_is_neither_win_nor_bonus() -> None:
    env = duel()
    kill(env, 1, 2, 4, 5)
    env.battle.live["hp"][0, 0] = env.battle.live["hp"][0, 3] = 6.0
    env.battle.live["cooldown"][0, 3] = 0.0
    outcome = env.step(torch.tensor([[6, 0, 0]]))
    assert outcome.terminated.item()
    assert outcome.info["battle_won"].item() == 0
    assert outcome.reward.item() == pytest.approx(16 / 18.25), "both shots fell in the same loop"


@pytest.mark.parametrize(
    ("allies", "enemies", "end"),
    [
        ([9], range(10), -1),
        ([0], [9], 1),
        ([0], [2, 9], 0),
        ([0], [2], 0),
        ([0, 9], [], 1),
        ([9], [9], -1),
        ([9], [], -1),
        ([], [9], -1),
        ([], [], -1),
    ],
    ids=lambda x: "-".join(map(str, x)) or "none" if not isinstance(x, int) else ("defeat", "open", "win")[x + 1],
)
def test_medivacs_alone_hold_no_field(allies: list[int], enemies: list[int], end: int) -> None:
    env = made("MMM", reward_defeat=-73.0, reward_win=500.0)
    pacify(env)
    kill(env, *(u for u in range(10) if u not in allies), *(10 + e for e in range(10) if e not in enemies))
    place(env, *((2.0, 9.0 + u) for u in range(10)), *((30.0, 9.0 + u) for u in range(10)))
    outcome = env.step(stop(env))
    assert (outcome.terminated.item(), outcome.info["battle_won"].item()) == (end != 0, end == 1)
    assert outcome.reward.item() == pytest.approx((-73, 0, 500)[end + 1] / ((1015 + 300) / 20))
    assert not outcome.truncated.item()
    assert outcome.info["dead_enemies"].item() == 10 - len(enemies)


def test_enemy_shield_regeneration_pays_by_the_absolute_value() -> None:
    env = made("3s_vs_3z")
    place(env, (2, 2), (2, 10), (2, 30), (30, 2), (30, 10), (30, 30))
    pacify(env)
    env.battle.live["shield"][0, 3:] = 10.0
    outcome = env.step(torch.ones(1, 3, dtype=torch.long))
    assert outcome.reward.item() == pytest.approx(3 * 1.0 / (680 / 20)), "8 loops of 2 per second: 1 each"
    env = made("3s_vs_3z", reward_only_positive=False)
    place(env, (2, 2), (2, 10), (2, 30), (30, 2), (30, 10), (30, 30))
    pacify(env)
    env.battle.live["shield"][0, 3:] = 10.0
    assert env.step(torch.ones(1, 3, dtype=torch.long)).reward.item() == pytest.approx(-3 / 34)


def test_time_limit_truncates() -> None:
    env = made("3m", continuing_episode=True)
    place(env, (2, 10), (2, 16), (2, 22), (30, 10), (30, 16), (30, 22))
    pacify(env)
    for t in range(60):
        outcome = env.step(torch.ones(1, 3, dtype=torch.long))
        assert outcome.truncated.item() == outcome.info["episode_limit"].item() == (t == 59)
        assert not outcome.terminated.item()
        assert outcome.reward.item() == 0


def test_a_win_in_the_last_step_is_no_truncation() -> None:
    env = duel()
    kill(env, 4, 5)
    env.battle.live["time"][0] = 59
    outcome = env.step(torch.tensor([[6, 1, 1]]))
    assert (outcome.terminated.item(), outcome.truncated.item()) == (True, False)


def test_stats_count_all_rows_and_survive_a_resumption() -> None:
    env = made("3m", n_envs=4)
    assert env.get_stats() == dict.fromkeys(env.get_stats(), 0), "no battle yet, no division by zero"
    pacify(env)
    kill(env, 3, 4, 5, row=0)
    kill(env, 0, 1, 2, row=1)
    env.battle.live["time"][2] = 59
    env.step(stop(env))
    counted = {"battles_won": 1, "battles_game": 3, "battles_draw": 1, "win_rate": 1 / 3, "timeouts": 1, "restarts": 0}
    assert env.get_stats() == counted
    env.step(stop(env))
    assert env.get_stats() == counted, "ended battles end only once"
    env.reset(torch.tensor([True, False, False, True]))
    assert env.get_stats() == counted, "a battle that is given up does not count"
    resumed = made("3m", n_envs=4, seed=1)
    resumed.load_state_dict(env.state_dict())
    kill(resumed, 3, 4, 5, row=3)
    resumed.step(stop(resumed))
    assert (resumed.get_stats()["battles_game"], resumed.get_stats()["battles_won"]) == (4, 2)


# ---------------------------------------------------------------- dynamics


def test_a_move_covers_a_steps_distance_and_stops_at_its_point() -> None:
    env = made("3m")
    place(env, (10, 16), (2, 10), (2, 22), (30, 9), (30, 10), (30, 22))
    pacify(env)
    pos = env.battle.live["pos"]
    env.step(torch.tensor([[4, 1, 1]]))
    assert pos[0, 0].tolist() == pytest.approx([11.125, 16]), "2.25 a second for half a second"
    env = made("3m", step_mul=40)
    place(env, (10, 16), (2, 10), (2, 22), (30, 9), (30, 10), (30, 22))
    pacify(env)
    env.step(torch.tensor([[2, 1, 1]]))
    assert env.battle.live["pos"][0, 0].tolist() == pytest.approx([10, 18]), "2 cells north, no further"


def test_stop_interrupts_a_move() -> None:
    env = made("3m")
    place(env, (10, 16), (2, 10), (2, 22), (30, 9), (30, 10), (30, 22))
    pacify(env)
    env.step(torch.tensor([[4, 1, 1]]))
    env.step(torch.tensor([[1, 1, 1]]))
    assert env.battle.live["pos"][0, 0].tolist() == pytest.approx([11.125, 16])


def test_armour_and_shields() -> None:
    env = made("3s_vs_3z")  # Stalkers do 10 to a Zealot, whose armour of 1 counts on health only
    place(env, (10, 16), (2, 2), (2, 30), (15, 16), (30, 2), (30, 30))
    pacify(env)
    env.battle.live["cooldown"][0, 0] = 0.0
    env.battle.live["shield"][0, 3] = 4.0
    env.battle.live["quiet"][0, 3] = 0.0
    outcome = env.step(torch.tensor([[6, 1, 1]]))
    assert env.battle.live["shield"][0, 3] == 0
    assert env.battle.live["hp"][0, 3].item() == pytest.approx(100 - (6 - 1))
    assert outcome.reward.item() == pytest.approx((4 + 5) / 34)


def test_a_zealot_strikes_twice_and_bonus_damage_hits_armoured_units() -> None:
    env = made("3s_vs_3z")
    place(env, (10, 16), (2, 2), (2, 30), (11.1, 16), (30, 2), (30, 30))
    pacify(env)
    env.battle.live["cooldown"][0, 3] = 0.0
    env.step(torch.ones(1, 3, dtype=torch.long))
    assert env.battle.live["shield"][0, 0].item() == pytest.approx(80 - 16), "the second blow 0.28 s after the first"
    assert env.battle.live["cooldown"][0, 3].item() == pytest.approx(19.2 - 8, abs=2.1)
    env = made("2s3z")
    place(env, (10, 16), (2, 10), (2, 12), (2, 14), (2, 18), (14, 16), (30, 10), (30, 12), (30, 18), (30, 20))
    pacify(env)
    env.battle.live["cooldown"][0, 0] = 0.0
    env.step(torch.tensor([[6, 1, 1, 1, 1]]))
    assert env.battle.live["shield"][0, 5].item() == pytest.approx(80 - 14), "Stalker against Stalker: 10 + 4"


def test_agents_never_choose_targets_by_themselves() -> None:
    env = made("3m", step_mul=200)
    place(env, (10, 16), (2, 10), (2, 22), (14, 16), (14, 17), (30, 22))
    pacify(env)
    env.battle.live["cooldown"][0, 0] = 0.0
    env.battle.live["hp"][0, 3] = 1.0
    env.step(torch.tensor([[6, 1, 1]]))
    assert env.battle.live["hp"][0, 3:].tolist() == [0, 45, 45]


def test_an_attack_out_of_weapon_range_walks_up() -> None:
    env = made("corridor", step_mul=160)
    live = env.battle.live
    place(env, (20, 20), *(((14.0 + u, 21.5)) for u in range(5)), (25.5, 20))
    kill(env, *range(7, 30))
    pacify(env)
    live["cooldown"][0, 0] = 0.0
    assert env._show().avail[0, 0, 6]
    env.step(torch.tensor([[6, 1, 1, 1, 1, 1]]))
    assert live["hp"][0, 6] == 0


def test_enemies_march_and_take_the_nearest_within_their_scan_range() -> None:
    env = made("3s_vs_3z")
    place(env, (2, 2), (2, 30), (16, 21.5), (23, 16), (28, 16), (31, 30))
    env.step(torch.ones(1, 3, dtype=torch.long))
    assert env.battle.live["target"][0, 3].item() == -1, "farther than 5 from edge to edge"
    for _ in range(4):
        env.step(torch.ones(1, 3, dtype=torch.long))
    assert env.battle.live["target"][0, 3].item() == 2
    assert env.battle.live["pos"][0, 3, 0] < 22


def test_a_hit_from_afar_alarms_the_mates() -> None:
    env = made("3s_vs_3z", heuristic_ai=True)  # scripted agents shoot from their weapon's range, 5.875 here
    place(env, (10, 16), (2, 2), (2, 30), (17, 16), (20, 16), (28, 16))
    env.battle.live["order"].zero_()
    env.step(torch.tensor([[1, 1, 1]]))
    assert env.battle.live["shield"][0, 3] == 50, "the missile is still in the air"
    env.step(torch.tensor([[1, 1, 1]]))
    assert env.battle.live["shield"][0, 3] == 40
    assert env.battle.live["target"][0, 3:].tolist() == [0, 0, -1], "8 away is no mate close by"


def test_walls_stop_and_let_slide() -> None:
    env = made("3m", step_mul=64)
    place(env, (10, 22.5), (2, 10), (2, 22), (30, 9), (30, 10), (30, 22))
    pacify(env)
    env.step(torch.tensor([[2, 1, 1]]))
    x, y = env.battle.live["pos"][0, 0].tolist()
    assert x == pytest.approx(10)
    assert 23 <= y < 24


def test_overlapping_units_part() -> None:
    env = made("3m")
    place(env, (10, 16), (10.2, 16), (10.1, 16.2), (30, 9), (30, 10), (30, 22))
    pacify(env)
    for _ in range(5):
        env.step(torch.ones(1, 3, dtype=torch.long))
    pos = env.battle.live["pos"][0, :3]
    assert torch.cdist(pos, pos)[~torch.eye(3, dtype=torch.bool)].min() > 0.74


def test_zerglings_find_the_way_through_the_choke() -> None:
    env = made("corridor")
    kill(env, 1, 2, 3, 4, 5)
    place(env, (29.5, 17.5))  # out of the way
    for _ in range(50):
        env.step(torch.tensor([[1, 0, 0, 0, 0, 0]]))
    assert env.battle.live["hp"][0, 0] == 100
    away = (env.battle.live["pos"][0, 6:] - torch.tensor([4.47, 4.33])).norm(dim=-1)
    assert away.max() < 5, "all 24 are in the far chamber, 33 cells away, after 25 seconds"


# ---------------------------------------------------------------- rows, seeds, scripts


def test_start_places_jitter_and_agents_are_numbered_by_type_then_place() -> None:
    env = made("2s3z", n_envs=200)
    pos = env.battle.live["pos"]
    assert (pos.std(0) > 0).all()
    x = pos[:, :5, 0]
    assert (x[:, 0] <= x[:, 1]).all()
    assert (x[:, 2] <= x[:, 3]).all()
    assert (x[:, 3] <= x[:, 4]).all()
    assert pos[:, :5].mean((0, 1)).tolist() == pytest.approx([9, 16], abs=0.7)
    assert pos[:, 5:].mean((0, 1)).tolist() == pytest.approx([23, 16], abs=0.7)


def test_order_point_between_two_is_drawn_per_episode() -> None:
    env = made("2m_vs_1z", n_envs=500)
    goal = env.battle.live["goal"][:, 2]
    assert (goal[:, 1] == 12).all()
    assert goal[:, 0].min() < 13.5
    assert goal[:, 0].max() > 18.5
    assert goal[:, 0].mean().item() == pytest.approx(16, abs=0.4)


def test_scripted_agents_stick_to_their_target_and_rest_within_the_mask() -> None:
    env = made("3m", heuristic_ai=True, step_mul=1)
    place(env, (10, 16), (2, 10), (2, 22), (20, 16), (21, 16), (30, 22))
    env.step(torch.ones(1, 3, dtype=torch.long))
    assert env.battle.live["target"][0, 0].item() == 3
    place(env, (10, 16), (2, 10), (2, 22), (20, 16), (12, 16), (30, 22))
    env.step(torch.ones(1, 3, dtype=torch.long))
    assert env.battle.live["target"][0, 0].item() == 3, "a nearer one does not tempt it"
    env = made("3m", heuristic_ai=True, heuristic_rest=True)
    place(env, (10, 16), (2, 10), (2, 22), (20, 17), (30, 10), (30, 22))
    env.battle.live["order"][0, 3:] = 0
    env.step(torch.ones(1, 3, dtype=torch.long))
    assert env.battle.live["pos"][0, 0].tolist() == pytest.approx([11.125, 16]), "east, along the larger axis"


def test_resetting_one_row_leaves_the_others() -> None:
    env = made("3s5z", n_envs=3)
    env.step(torch.ones(3, 8, dtype=torch.long))
    before = env.state_dict()
    shown = env._show()
    env.reset(torch.tensor([False, True, False]))
    after = env.state_dict()
    for name, x in before.items():
        assert torch.equal(x[[0, 2]], after[name][[0, 2]]), name
    assert after["time"].tolist() == [1, 0, 1]
    assert torch.equal(env._show().obs[[0, 2]], shown.obs[[0, 2]])


def test_picture() -> None:
    env = made("3m")
    place(env, (10.5, 16.5))
    text = env.battle.picture(0).splitlines()
    assert len(text) == 1 + 32 + 2
    assert text[1 + 31 - 16][10] == "A"
    assert text[1] == "#" * 32
