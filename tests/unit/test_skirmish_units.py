"""Every unit type's numbers as they show in battle; the expected ones are the specification's table, by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from envs.skirmish.battle import Skirmish
from envs.skirmish.maps import MAPS, BattleMap, ground
from envs.skirmish.options import Options
from envs.skirmish.scene import Rules

Team = tuple[tuple[str, int], ...]
Place = tuple[float, float]

RADIUS = {
    "marine": 0.375, "marauder": 0.5625, "medivac": 0.75, "stalker": 0.625, "zealot": 0.5, "colossus": 1.0,
    "zergling": 0.375, "hydralisk": 0.625, "baneling": 0.375, "spine_crawler": 0.875,
}  # fmt: skip
STOP, NORTH, SOUTH, EAST = 1, 2, 3, 4


class Arena:
    """Any two teams, put where they are wanted, nobody with an order; one game loop per step.

    ``us`` and ``them`` number their units. A Marine of either team looks on from a far corner, so that no battle ends.
    """

    def __init__(
        self, allies: str | Team, enemies: str | Team, *places: Place, rows: int = 1, terrain: str = "field",
        loops: int = 1, script: bool = False, rules: Rules | None = None,
    ) -> None:  # fmt: skip
        mine, theirs = (((team, 1),) if isinstance(team, str) else team for team in (allies, enemies))
        watch = (("marine", 1),)
        battle_map = BattleMap(
            name="arena", limit=100_000, races="P/P", allies=mine + watch, enemies=theirs + watch, terrain=terrain,
            orders=(),
        )  # fmt: skip
        options = Options(step_mul=loops, heuristic_ai=script)
        self.battle = Skirmish(battle_map, options, rows, torch.device("cpu"), 0, rules)
        self.battle.reset()
        self.live = self.battle.live
        n = battle_map.n_agents
        self.us, self.them = list(range(n - 1)), list(range(n, n + battle_map.n_enemies - 1))
        self.put(n - 1, (1.0, 31.0))
        self.put(self.them[-1] + 1, (31.0, 1.0))
        for u, place in zip(self.us + self.them, places, strict=False):
            self.put(u, place)

    def put(self, u: int, place: Place) -> None:
        """Moves a unit, in all rows."""
        self.live["pos"][:, u] = torch.tensor(place)
        self.battle.refresh()

    def place(self, u: int) -> Place:
        """Where a unit of the first row is."""
        x, y = self.live["pos"][0, u].tolist()
        return x, y

    def total(self, u: int) -> float:
        """Health and shield of a unit of the first row."""
        return float(self.live["hp"][0, u] + self.live["shield"][0, u])

    def run(self, loops: int, *actions: int, each: Callable[[], None] | None = None) -> None:
        """Plays; agents without an action stop. ``each`` is called after every step."""
        live, n = self.live, self.battle.map.n_agents
        self.battle.refresh()
        for _ in range(loops):
            action = torch.tensor([*actions, *[STOP] * (n - len(actions))]).repeat(self.battle.n_envs, 1)
            self.battle.step(torch.where(live["hp"][:, :n] > 0, action, 0))
            if each:
                each()

    def losses(self, u: int, loops: int, *actions: int) -> list[float]:
        """What a unit of the first row loses in each of the next loops."""
        totals = [self.total(u)]
        self.run(loops, *actions, each=lambda: totals.append(self.total(u)))
        return [before - after for before, after in pairwise(totals)]


def facing(shooter: str, victim: str, gap: float = 0.05, **args: int) -> Arena:
    """An enemy ``shooter``, whose target is an agent that stands ``gap`` from edge to edge east of it."""
    arena = Arena(victim, shooter, (10.0 + RADIUS[shooter] + RADIUS[victim] + gap, 16.0), (10.0, 16.0), **args)
    arena.live["target"][:, arena.them[0]] = 0
    return arena


# ---------------------------------------------------------------- damage

VICTIMS = (
    "marine", "marauder", "medivac", "stalker", "zealot", "colossus", "zergling", "hydralisk", "baneling",
    "spine_crawler",
)  # fmt: skip
# of one attack, shields down: (damage + bonus - armour) times hits, but no more than there is
HEALTH_LOST = {
    "marine": (6, 5, 5, 5, 5, 5, 6, 6, 6, 4),
    "marauder": (10, 19, 0, 19, 9, 19, 10, 10, 10, 18),
    "stalker": (10, 13, 13, 13, 9, 13, 10, 10, 10, 12),
    "zealot": (16, 14, 0, 14, 14, 14, 16, 16, 16, 12),
    "colossus": (40, 38, 0, 38, 38, 38, 35, 40, 30, 36),
    "zergling": (5, 4, 0, 4, 4, 4, 5, 5, 5, 3),
    "hydralisk": (12, 11, 11, 11, 11, 11, 12, 12, 12, 10),
    "baneling": (35, 19, 0, 19, 34, 19, 35, 35, 20, 18),
    "spine_crawler": (25, 29, 0, 29, 24, 29, 25, 25, 25, 28),
}


@pytest.mark.parametrize("shooter", HEALTH_LOST)
def test_damage_of_one_attack_on_bare_health(shooter: str) -> None:
    spots = [(3.0 + 7 * (k % 4), 6.0 + 8 * (k // 4)) for k in range(10)]
    beside = [(x + RADIUS[shooter] + RADIUS[name] + 0.05, y) for name, (x, y) in zip(VICTIMS, spots, strict=True)]
    arena = Arena(tuple((name, 1) for name in VICTIMS), ((shooter, 10),), *beside, *spots)
    arena.live["shield"].zero_()
    arena.live["quiet"].zero_()
    for victim, u in enumerate(arena.them):
        arena.live["target"][0, u] = victim
    if not HEALTH_LOST[shooter][2]:  # who cannot shoot into the air looks elsewhere
        arena.live["cooldown"][0, arena.them[2]] = 1e6
        arena.live["target"][0, arena.them[2]] = -1
    before = arena.live["hp"][0, arena.us].clone()
    arena.run(10)
    lost = (before - arena.live["hp"][0, arena.us]).tolist()
    assert lost[:6] == list(HEALTH_LOST[shooter][:6])
    assert lost[6:] == pytest.approx(HEALTH_LOST[shooter][6:], abs=0.18), "Zerg regain 0.17 in ten loops"


@pytest.mark.parametrize(
    ("shooter", "victim", "expected"),
    [
        ("marine", "zealot", 6),
        ("marauder", "zealot", 10),
        ("marauder", "stalker", 20),
        ("stalker", "colossus", 14),
        ("zealot", "stalker", 16),
        ("colossus", "stalker", 40),
        ("zergling", "zealot", 5),
        ("hydralisk", "zealot", 12),
        ("baneling", "zealot", 35),
        ("baneling", "stalker", 20),
        ("spine_crawler", "stalker", 30),
    ],
)
def test_shields_have_no_armour(shooter: str, victim: str, expected: float) -> None:
    arena = facing(shooter, victim)
    full = {"zealot": (100, 50), "stalker": (80, 80), "colossus": (200, 150)}[victim]
    arena.run(10)
    assert (arena.live["hp"][0, 0], arena.live["shield"][0, 0]) == (full[0], full[1] - expected)


@pytest.mark.parametrize(
    ("shooter", "shield", "expected"),
    [
        ("spine_crawler", 4.0, 26 - 1),  # of 30 the shield takes 4
        ("marine", 4.0, 2 - 1),
        ("marine", 4.75, 0.5),  # 1.25 - 1 would be less than the least
        ("zealot", 4.0, (4 - 1) + (8 - 1)),  # the second blow meets no shield
        ("colossus", 25.0, (20 - 5) - 1),  # the first beam meets nothing else
    ],
)
def test_what_a_shield_lets_through_meets_armour_but_hurts_by_half_a_point(
    shooter: str, shield: float, expected: float
) -> None:
    arena = facing(shooter, "stalker")
    arena.live["shield"][0, 0], arena.live["quiet"][0, 0] = shield, 0.0
    arena.run(10)
    assert arena.live["shield"][0, 0] == 0
    assert arena.live["hp"][0, 0].item() == pytest.approx(80 - expected)


def test_units_begin_unhurt_and_idle() -> None:
    table = {  # health, shield, energy
        "marine": (45, 0, 0), "marauder": (125, 0, 0), "medivac": (150, 0, 50), "stalker": (80, 80, 0),
        "zealot": (100, 50, 0), "colossus": (200, 150, 0), "zergling": (35, 0, 0), "hydralisk": (80, 0, 0),
        "baneling": (30, 0, 0), "spine_crawler": (300, 0, 0),
    }  # fmt: skip
    for name, expected in table.items():
        arena = Arena(name, name)
        live = arena.live
        for u in (arena.us[0], arena.them[0]):
            assert (live["hp"][0, u], live["shield"][0, u], live["energy"][0, u]) == expected
            assert (live["cooldown"][0, u], live["target"][0, u]) == (0, -1)


# ---------------------------------------------------------------- times

PERIOD = {
    "marine": 0.8608, "marauder": 1.5, "stalker": 1.44, "zealot": 1.2, "colossus": 2.2, "zergling": 0.696,
    "hydralisk": 0.83, "spine_crawler": 1.6,
}  # fmt: skip


@pytest.mark.parametrize("shooter", PERIOD)
def test_attacks_follow_each_other_by_the_period_less_one_loop_to_plus_two(shooter: str) -> None:
    loops, rows = 16 * PERIOD[shooter], 200
    arena = facing(shooter, "colossus", rows=rows)
    cooldown, fired = [torch.zeros(rows)], []

    def watch() -> None:
        cooldown.append(arena.live["cooldown"][:, arena.them[0]].clone())
        fired.append(cooldown[-1] > cooldown[-2])
        arena.live["hp"][:, 0] = 200.0

    arena.run(math.ceil(3.2 * loops), each=watch)
    waits = torch.cat([times.nonzero().flatten().diff() for times in torch.stack(fired).T]).float()
    assert len(waits) > 1.5 * rows
    assert waits.min() >= loops - 1
    assert waits.max() < loops + 2 + 1, "a wait ends with a whole loop"
    assert waits.max() - waits.min() >= 2, "they are jittered"
    assert waits.mean().item() == pytest.approx(loops + 0.5 + 0.5, abs=0.51)


@pytest.mark.parametrize(
    ("shooter", "expected"), [("marine", 1), ("zealot", 0), ("colossus", 2), ("zergling", 3), ("spine_crawler", 6)]
)
def test_wind_ups_last_whole_loops(shooter: str, expected: int) -> None:
    lost = facing(shooter, "marauder").losses(0, 8)
    assert lost[expected] > 0
    assert sum(lost[:expected]) == 0


@pytest.mark.parametrize("gap", [0.5, 3.0, 5.0])
@pytest.mark.parametrize(("shooter", "wind_up"), [("marauder", 0), ("stalker", 3), ("hydralisk", 4)])
def test_missiles_fly_18_75_cells_a_second(shooter: str, wind_up: int, gap: float) -> None:
    lost = facing(shooter, "marauder", gap - 0.01).losses(0, 20)
    flight = next(t for t, x in enumerate(lost) if x > 0) - wind_up
    nearest, farthest = gap, gap + RADIUS[shooter] + RADIUS["marauder"]  # from edge to edge, from centre to centre
    assert nearest / (18.75 / 16) <= flight <= math.ceil(farthest / (18.75 / 16))


def test_a_missile_lands_though_its_shooter_has_died() -> None:
    arena = facing("marauder", "stalker", 5.0)
    arena.run(1)
    arena.live["hp"][0, arena.them[0]] = 0.0
    arena.run(9)
    assert arena.live["shield"][0, 0] == 80 - 20


def test_a_missile_at_one_who_has_died_hurts_nobody() -> None:
    arena = Arena((("marine", 2),), "marauder", (16.0, 16.0), (16.0, 16.5), (10.0, 16.0))
    arena.run(1)
    assert arena.live["pending_target"][0, arena.them[0]] == 0
    arena.live["hp"][0, 0] = 0.0
    arena.run(9)
    assert arena.live["hp"][0, :2].tolist() == [0, 45]


def test_a_zealots_second_blow_falls_0_28_seconds_after_the_first() -> None:
    lost = facing("zealot", "marauder").losses(0, 12)
    assert {t: x for t, x in enumerate(lost) if x > 0} == {0: 7, 5: 7}, "4.48 loops are over in the fifth"


@pytest.mark.parametrize(("far", "alive", "expected"), [(1.05, True, 14), (1.15, True, 7), (0.05, False, 7)])
def test_a_second_blow_needs_its_target_near_and_its_zealot_alive(far: float, alive: bool, expected: float) -> None:
    arena = facing("zealot", "marauder")
    arena.run(1)
    if not alive:
        arena.live["hp"][0, arena.them[0]] = 0.0

    def hold() -> None:  # lest the Zealot follows
        arena.put(arena.them[0], (10.0, 16.0))
        arena.put(0, (10.0 + 0.5 + 0.5625 + far, 16.0))

    hold()
    arena.run(8, each=hold)
    assert arena.live["hp"][0, 0] == 125 - expected


# ---------------------------------------------------------------- ranges


@pytest.mark.parametrize(
    ("shooter", "victim", "reach"),
    [  # between centres
        ("marine", "marine", 5.75),
        ("stalker", "zealot", 7.125),
        ("zealot", "zealot", 1.1),
        ("zergling", "zealot", 0.975),
        ("zealot", "stalker", 1.225),
        ("hydralisk", "zealot", 6.125),
        ("colossus", "zergling", 7.375),
        ("marauder", "marine", 6.9375),
        ("baneling", "zealot", 1.125),
        ("spine_crawler", "stalker", 8.5),
    ],
)
def test_weapons_reach_from_edge_to_edge(shooter: str, victim: str, reach: float) -> None:
    for extra, in_range in ((-0.01, True), (0.01, False)):
        arena = facing(shooter, victim, reach + extra - RADIUS[shooter] - RADIUS[victim])
        arena.run(1)
        live, u = arena.live, arena.them[0]
        begun = live["windup"][0, u] >= 0 or live["cooldown"][0, u] > 0 or live["hp"][0, u] <= 0
        assert begun == in_range
        assert (arena.place(u)[0] > 10.0) == (not in_range and shooter != "spine_crawler")


@pytest.mark.parametrize(
    ("shooter", "reach", "slop"),
    [
        ("marine", 5, 1),
        ("stalker", 6, 1),
        ("zergling", 0.1, 1),
        ("hydralisk", 5, 1),
        ("colossus", 6, 0),
        ("spine_crawler", 7, 0),
    ],
)
def test_an_attack_that_has_begun_may_reach_a_little_farther(shooter: str, reach: float, slop: float) -> None:
    for extra, strikes in ((slop - 0.05, True), (slop + 0.05, False)):
        arena = facing(shooter, "marauder", reach - 0.1)
        arena.run(1)
        assert arena.live["windup"][0, arena.them[0]] >= 0
        arena.put(0, (10.0 + RADIUS[shooter] + RADIUS["marauder"] + reach + extra, 16.0))
        rest = math.ceil(arena.live["windup"][0, arena.them[0]].item())
        arena.run(rest)
        assert (arena.live["cooldown"][0, arena.them[0]] > 0).item() == strikes, "what misses costs no cooldown"
        arena.run(8 if strikes else 0)
        assert (arena.live["hp"][0, 0] < 125).item() == strikes


# ---------------------------------------------------------------- explosions


def test_an_attacking_baneling_dies_of_it_and_hurts_all_opponents_within_its_radius() -> None:
    for edges, nearby in ((0, 2.2), (1, 2.2 + 0.375)):
        battle = Arena(
            (("zealot", 1), ("marine", 2)), (("baneling", 1), ("marine", 1)),
            (11.0, 16.0), (10.0, 16.0 + nearby - 0.02), (10.0, 16.0 - nearby - 0.02), (10.0, 16.0), (9.0, 16.0),
            rules=Rules(splash_edges=edges),
        )  # fmt: skip
        bane, mate = battle.them
        battle.live["cooldown"][0, mate] = 1e6
        battle.run(1)
        live = battle.live
        assert live["hp"][0, bane] == 0
        assert live["shield"][0, 0] == 50 - 35
        assert live["hp"][0, 1:3].tolist() == [45 - 35, 45], "within, beyond"
        assert live["hp"][0, mate] == 45, "a mate"
        assert live["dead_enemies"][0] == 1


def test_an_attacking_baneling_pays_as_a_kill() -> None:
    """10 for the death and 30 for its health, over the arena's 200 + (10 + 30) + (10 + 45) in twentieths."""
    arena = facing("baneling", "zealot")
    arena.run(1)
    assert arena.live["reward"][0].item() == pytest.approx((10 + 30) / ((200 + 40 + 55) / 20))


def test_a_killed_baneling_explodes_too() -> None:
    arena = Arena((("marine", 2),), (("baneling", 2),), (13.0, 16.0), (10.5, 17.0), (10.0, 16.0), (20.0, 10.0))
    bane = arena.them[0]
    arena.live["cooldown"][0, bane] = 1e6
    arena.live["hp"][0, bane] = 5.0
    lost = arena.losses(1, 2, 6)  # the first Marine shoots it, the second one stands by
    assert lost == [0, 35]
    assert arena.live["hp"][0, 0] == 45, "3 cells away"
    assert arena.live["hp"][0, arena.them].tolist() == [0, 30]


def test_explosions_set_each_other_off_within_a_loop_but_only_across_the_teams() -> None:
    """Of a row of Banelings 1.5 apart, teams alternating, the first attacks; the last is beyond its neighbour."""
    row = [8.0, 8.9, *(8.9 + 1.5 * k for k in range(1, 8)), 8.9 + 1.5 * 7 + 2.25]
    arena = Arena(
        (("baneling", 5),), (("baneling", 5),), *((x, 16.0) for x in row[1::2] + row[::2]), rules=Rules(splash_edges=0)
    )
    arena.live["cooldown"][0] = 1e6
    arena.live["cooldown"][0, arena.them[0]] = 0.0
    arena.live["hp"][0, arena.us + arena.them] = 20.0
    arena.run(1)
    assert (arena.live["hp"][0, arena.us] > 0).tolist() == [False, False, False, False, True]
    assert (arena.live["hp"][0, arena.them] > 0).tolist() == [False] * 5


# ---------------------------------------------------------------- beams


def line(*bystanders: Place, rules: Rules | None = None, way: Place = (1.0, 0.0)) -> Arena:
    """An enemy Colossus fires in direction ``way`` at a Zealot 6 cells off; Marines stand by, relative to that."""
    (x, y), primary = way, (10.0 + 6 * way[0], 16.0 + 6 * way[1])
    places = [
        (primary[0] + along * x - across * y, primary[1] + along * y + across * x) for along, across in bystanders
    ]
    arena = Arena(
        (("zealot", 1), ("marine", len(bystanders))), (("colossus", 1), ("zealot", 1)), primary, *places, (10.0, 16.0),
        (primary[0] + 0.2, primary[1]), rules=rules,
    )  # fmt: skip
    for u in arena.us + arena.them[1:]:  # nobody is pushed about
        arena.live["cooldown"][0, u] = 1e6
    arena.live["target"][0, arena.them[0]] = 0
    return arena


def hold_still(arena: Arena, loops: int) -> list[list[float]]:
    """Plays with everybody nailed down; the health of the agents but the first after every loop."""
    places, told = arena.live["pos"].clone(), []

    def nail() -> None:
        arena.live["pos"].copy_(places)
        told.append(arena.live["hp"][0, arena.us[1:]].tolist())

    arena.run(loops, each=nail)
    return told


@pytest.mark.parametrize("way", [(1.0, 0.0), (0.0, -1.0), (0.6, 0.8)])
def test_both_beams_hit_the_line_across_the_fire_four_loops_after_the_target(way: Place) -> None:
    """The line: 1.25 to both sides, 0.15 wide to all, plus the Marines' own 0.375: along <= 0.525, across <= 1.775."""
    inside = [(0.0, 1.75), (0.0, -1.75), (0.5, 1.0), (-0.5, -1.0)]
    outside = [(0.0, 1.8), (0.0, -1.8), (0.55, 0.5), (-0.55, 0.0)]
    arena = line(*inside, *outside, way=way, rules=Rules(splash_edges=1))
    told = hold_still(arena, 12)
    assert arena.live["shield"][0, 0] == 50 - 40
    assert told[5] == [45] * 8, "two loops of winding up, then four"
    assert told[6] == [5] * 4 + [45] * 4
    assert told[11] == told[6], "no beam hits twice"
    assert arena.total(arena.them[1]) == 150, "beside the target, but a mate"


def test_the_line_by_centres() -> None:
    arena = line((0.0, 1.38), (0.14, 0.5), (0.0, -1.42), (0.16, -0.5), rules=Rules(splash_edges=0))
    assert hold_still(arena, 12)[-1] == [5, 5, 45, 45]


def test_the_line_stays_where_it_was_drawn_and_its_target_is_not_hit_again() -> None:
    arena = line((0.0, 1.0), (4.0, 0.0))
    hold_still(arena, 4)
    arena.put(0, (20.0, 16.0))  # the target walks off, to another bystander
    assert hold_still(arena, 5)[-1] == [5, 45]
    assert arena.live["shield"][0, 0] == 10
    arena = line((0.0, 1.0), (4.0, 0.0))
    hold_still(arena, 4)
    arena.put(1, (20.0, 16.5))  # one bystander leaves and another comes
    arena.put(2, (16.1, 15.5))
    assert hold_still(arena, 5)[-1] == [45, 5]


# ---------------------------------------------------------------- healing

MEDICS = (("medivac", 1), ("marine", 1))


def test_a_medivac_heals_9_a_second_for_a_third_of_energy_each_and_gains_some() -> None:
    arena = Arena(MEDICS, "zealot", (10.0, 16.0), (13.0, 16.0), (28.0, 28.0))
    arena.live["hp"][0, 1] = 20.0
    arena.run(16, 7)  # heal agent 1, for a second
    assert arena.live["hp"][0, 1].item() == pytest.approx(20 + 9)
    assert arena.live["energy"][0, 0].item() == pytest.approx(50 - 9 * 0.33 + 0.5625)
    assert arena.place(0) == (10.0, 16.0), "within range it hovers"


def test_energy_grows_to_200_and_no_further() -> None:
    arena = Arena(MEDICS, "zealot", (10.0, 16.0), (13.0, 16.0), (28.0, 28.0), loops=160)
    arena.run(1)
    assert arena.live["energy"][0, 0].item() == pytest.approx(50 + 5.625, abs=1e-3)
    arena.live["energy"][0, 0] = 199.0
    arena.run(1)
    assert arena.live["energy"][0, 0] == 200


def test_who_has_no_energy_heals_only_with_what_it_gains() -> None:
    arena = Arena(MEDICS, "zealot", (10.0, 16.0), (13.0, 16.0), (28.0, 28.0), loops=160)
    arena.live["hp"][0, 1], arena.live["energy"][0, 0] = 20.0, 0.33
    arena.run(1, 7)
    spent = 0.33 + 5.625 - arena.live["energy"][0, 0].item()
    assert arena.live["hp"][0, 1].item() == pytest.approx(20 + spent / 0.33, abs=1e-3)
    assert 20 + 17 <= arena.live["hp"][0, 1] <= 20 + 1 + 5.625 / 0.33


def test_healing_ends_with_full_health_and_the_order_with_it() -> None:
    arena = Arena(MEDICS, "zealot", (10.0, 16.0), (13.0, 16.0), (28.0, 28.0))
    arena.live["hp"][0, 1] = 44.0  # 0.5625 a loop: full with the second
    arena.run(1, 7)
    assert arena.live["hp"][0, 1] == 44.5625
    arena.run(1, 7)
    assert arena.live["hp"][0, 1] == 45
    assert arena.live["energy"][0, 0].item() == pytest.approx(50 - 0.33 + 2 * 0.5625 / 16)
    arena.run(1, 7)
    assert (arena.live["target"][0, 0], arena.live["order"][0, 0]) == (-1, 0)


@pytest.mark.parametrize("patient", ["marine", "stalker"])
def test_an_order_to_heal_the_unhurt_or_machines_is_refused_and_the_last_order_goes_on(patient: str) -> None:
    arena = Arena((("medivac", 1), (patient, 1)), "zealot", (10.0, 16.0), (13.0, 16.0), (28.0, 28.0))
    if patient == "stalker":
        arena.live["hp"][0, 1] = 10.0
    arena.run(1, NORTH)
    arena.run(12, 7)
    flown = sum(2.3125 / 256 * k for k in range(1, 14))
    assert arena.place(0) == pytest.approx((10.0, 16.0 + flown), abs=1e-4)
    assert arena.live["hp"][0, 1] == (10 if patient == "stalker" else 45)


def test_healing_reaches_4_from_edge_to_edge() -> None:
    for gap, hovers in ((3.99, True), (4.01, False)):
        arena = Arena(MEDICS, "zealot", (10.0, 16.0), (10.0 + 0.75 + 0.375 + gap, 16.0), (28.0, 28.0))
        arena.live["hp"][0, 1] = 20.0
        arena.run(1, 7)
        assert (arena.live["hp"][0, 1] > 20).item() == hovers
        assert (arena.place(0)[0] == 10.0) == hovers
        arena.run(3, 7)
        assert arena.live["hp"][0, 1] > 20, "it follows its patient"


def test_the_dead_are_not_healed() -> None:
    """A Zealot's two blows kill a Marine of 9 although it is healed by half a point in each of the loops between."""
    arena = Arena((("medivac", 1), ("marine", 1)), "zealot", (10.0, 17.5), (10.95, 16.0), (10.0, 16.0))
    arena.live["hp"][0, 1] = 9.0
    arena.run(6, 7)
    assert arena.live["hp"][0, 1] == 0
    arena.run(3)
    assert arena.live["hp"][0, 1] == 0


def enemy_medivac(*patients: tuple[str, float, Place], energy: float = 50.0) -> Arena:
    """An enemy Medivac at (16, 16) among mates, each with its type, health and place."""
    team = (("medivac", 1), *((name, 1) for name, _, _ in patients))
    arena = Arena("marine", team, (2.0, 2.0), (16.0, 16.0), *(place for _, _, place in patients))
    for u, (_, health, _) in zip(arena.them[1:], patients, strict=True):
        arena.live["hp"][0, u] = health
    arena.live["energy"][0, arena.them[0]] = energy
    return arena


def test_an_enemy_medivac_heals_the_lowest_share_of_health_within_6() -> None:
    patients = (
        ("marine", 22.5, (13.0, 16.0)),  # half
        ("marauder", 50.0, (16.0, 20.0)),  # two fifths
        ("stalker", 1.0, (17.0, 16.0)),  # a machine
        ("marine", 1.0, (16.0 + 0.75 + 0.375 + 6.02, 16.0)),  # too far
    )
    arena = enemy_medivac(*patients)
    arena.run(2)
    assert arena.live["target"][0, arena.them[0]] == arena.them[2]
    assert arena.live["hp"][0, arena.them[2]] == 50 + 2 * 0.5625
    arena.put(arena.them[4], (22.5, 16.0))
    arena.run(2)
    assert arena.live["target"][0, arena.them[0]] == arena.them[2], "it stays with its patient"
    arena.live["hp"][0, arena.them[2]] = 125.0
    arena.run(2)
    assert arena.live["target"][0, arena.them[0]] == arena.them[4]


def test_an_enemy_medivac_of_equally_hurt_mates_takes_the_nearest() -> None:
    arena = enemy_medivac(
        ("marine", 20.0, (12.0, 16.0)), ("marine", 20.0, (18.0, 16.0)), ("marine", 20.0, (16.0, 20.0))
    )
    arena.run(1)
    assert arena.live["target"][0, arena.them[0]] == arena.them[2]


@pytest.mark.parametrize(("energy", "heals"), [(4.9, False), (5.0, True)])
def test_an_enemy_medivac_begins_with_5_energy(energy: float, heals: bool) -> None:
    arena = enemy_medivac(("marine", 20.0, (13.0, 16.0)), energy=energy)
    arena.run(1)
    assert (arena.live["hp"][0, arena.them[1]] > 20).item() == heals
    arena.run(16)  # it gains 0.56 meanwhile
    assert arena.live["hp"][0, arena.them[1]] > 20


# ---------------------------------------------------------------- flight


def test_a_medivac_gathers_speed_by_2_3125_a_second_up_to_2_75() -> None:
    arena = Arena(MEDICS, "zealot", (4.0, 16.0), (4.0, 20.0), (28.0, 28.0))
    xs = [4.0]
    for _ in range(5):  # ordered 2 cells east time and again
        arena.run(8, EAST, each=lambda: xs.append(arena.place(0)[0]))
    speeds = [(b - a) * 16 for a, b in pairwise(xs)]
    assert speeds == pytest.approx([min(2.75, 2.3125 / 16 * k) for k in range(1, 41)], abs=1e-3)
    arena.run(1)
    assert arena.place(0)[0] == xs[-1], "it stops at once"
    arena.run(1, EAST)
    assert (arena.place(0)[0] - xs[-1]) * 16 == pytest.approx(2.3125 / 16, abs=1e-3), "and starts from rest"


def test_a_medivac_flies_over_what_nobody_can_walk_on() -> None:
    arena = Arena(MEDICS, "medivac", (5.0, 8.0), (20.0, 28.5), (24.0, 28.5), terrain="corridor", script=True, loops=5)
    arena.live["hp"][0, 1] = 1.0
    grid, below = ground("corridor"), set()
    arena.run(34, each=lambda: below.add(int(grid[tuple(map(int, arena.place(0)))])))
    assert below == {0, 1}
    assert math.dist(arena.place(0), (20.0, 28.5)) == pytest.approx(4 + 0.75 + 0.375, abs=0.03)


def test_medivacs_push_each_other_but_not_off_the_map() -> None:
    pair = Arena((("medivac", 2), ("marine", 1)), "zealot", (0.05, 31.9), (0.1, 31.95), (9.0, 9.0), (28.0, 2.0))
    pair.run(20)
    assert all(0 <= v < 32 for u in (0, 1) for v in pair.place(u))
    assert math.dist(pair.place(0), pair.place(1)) > 1.4


@pytest.mark.parametrize("grounded", ["marauder", "zealot", "zergling", "colossus", "baneling"])
def test_who_cannot_shoot_into_the_air_neither_chooses_nor_obeys_to(grounded: str) -> None:
    arena = Arena((("medivac", 1), ("marine", 1)), grounded, (11.5, 16.0), (28.0, 28.0), (10.0, 16.0))
    arena.run(30)
    assert arena.live["target"][0, arena.them[0]] == -1
    assert arena.live["hp"][0, [0, arena.them[0]]].tolist() == [150, arena.battle.map.kinds(((grounded, 1),))[0].hp]
    arena = Arena(grounded, (("medivac", 1), ("marine", 1)), (10.0, 16.0), (12.0, 16.0), (28.0, 28.0))
    arena.run(1, NORTH)
    arena.run(8, 6)
    assert arena.live["hp"][0, arena.them[0]] == 150
    assert arena.place(0)[0] == 10.0
    assert arena.place(0)[1] > 17.0, "the last order goes on"


@pytest.mark.parametrize("able", ["marine", "stalker", "hydralisk"])
def test_who_can_shoot_into_the_air_does(able: str) -> None:
    arena = Arena((("medivac", 1), ("marine", 1)), able, (12.0, 16.0), (28.0, 28.0), (10.0, 16.0))
    arena.run(30)
    assert arena.live["target"][0, arena.them[0]] == 0
    assert arena.live["hp"][0, 0] < 150


def test_flyers_neither_block_nor_push_walkers() -> None:
    arena = Arena((("medivac", 1), ("zealot", 1)), "zealot", (12.0, 16.0), (11.0, 16.0), (28.0, 28.0))
    arena.run(8, STOP, EAST)
    assert arena.place(0) == (12.0, 16.0)
    assert arena.place(1) == pytest.approx((12.125, 16.0))


# ---------------------------------------------------------------- walking

SPEED = {
    "marine": 1.125, "marauder": 1.125, "stalker": 1.47655, "zealot": 1.125, "colossus": 1.125, "zergling": 1.47655,
    "hydralisk": 1.125, "baneling": 1.25, "spine_crawler": 0.0,
}  # fmt: skip


@pytest.mark.parametrize("name", SPEED)
def test_speeds_of_a_step(name: str) -> None:
    arena = Arena(name, "marine", (10.0, 16.0), (28.0, 28.0), loops=8)
    arena.run(1, EAST)
    assert arena.place(0) == pytest.approx((10.0 + SPEED[name], 16.0), abs=1e-4)


@pytest.mark.parametrize("name", ["colossus", "zealot"])
def test_walkers_go_round_a_cliff_and_climbers_over_it(name: str) -> None:
    """Ordered from the plateau to its foot: rows 12 and 13 are the cliff's face, but for both ends."""
    arena = Arena("marine", name, (2.0, 2.0), (16.0, 15.0), terrain="plateau", loops=8)
    arena.live["order"][0, arena.them[0]] = 1
    arena.live["goal"][0, arena.them[0]] = torch.tensor([16.0, 10.0])
    way = []
    arena.run(40, each=lambda: way.append(arena.place(arena.them[0])))
    on_its_face = [x for x, y in way if 12 <= y < 14 and 4 <= x < 28]
    assert bool(on_its_face) == (name == "colossus")
    steps = next(t for t, place in enumerate(way, 1) if math.dist(place, (16.0, 10.0)) < 0.01)
    assert steps == 5 if name == "colossus" else steps > 20, "5 cells straight, or 24 and more round a ramp"


def test_colossi_walk_over_small_units_but_not_through_each_other() -> None:
    arena = Arena((("colossus", 1), ("zealot", 1)), "marine", (10.0, 16.0), (11.0, 16.0), (28.0, 28.0))
    arena.run(16, EAST)
    assert arena.place(0) == pytest.approx((12.25, 16.0))
    assert arena.place(1) == (11.0, 16.0)
    pair = Arena((("colossus", 2),), "marine", (10.0, 16.0), (10.5, 16.2), (28.0, 28.0))
    pair.run(20)
    assert math.dist(pair.place(0), pair.place(1)) == pytest.approx(1.5, abs=0.02)


def test_nobody_pushes_or_moves_a_spine_crawler() -> None:
    arena = Arena((("zealot", 4),), "spine_crawler", (15.5, 16), (16.5, 16), (16, 15.5), (16, 16.4), (16.0, 16.0))
    arena.live["cooldown"][0, arena.them[0]] = 1e6
    arena.run(20)
    assert arena.place(arena.them[0]) == (16.0, 16.0)
    for u in arena.us:
        assert math.dist(arena.place(u), (16.0, 16.0)) > 0.875 + 0.375 - 0.02
    arena.put(0, (26.0, 16.0))  # beyond its range, and it cannot follow
    for u in arena.us[1:]:
        arena.put(u, (1.0 + u, 5.0))
    arena.live["target"][0, arena.them[0]] = 0
    arena.run(20)
    assert arena.place(arena.them[0]) == (16.0, 16.0)


@pytest.mark.parametrize("terrain", ["field", "octagon"])
def test_who_is_walled_in_by_units_stays_where_it_is(terrain: str) -> None:
    ring = [(16.3 + 0.8 * math.cos(k * math.pi / 3), 16.3 + 0.8 * math.sin(k * math.pi / 3)) for k in range(6)]
    arena = Arena("zealot", (("zealot", 6),), (16.3, 16.3), *ring, terrain=terrain)
    arena.live["cooldown"][0, arena.them] = 1e6
    arena.live["target"][0, arena.them] = 0
    arena.run(10, EAST)
    assert arena.place(0) == pytest.approx((16.3, 16.3), abs=0.02)


# ---------------------------------------------------------------- regeneration


def test_zerg_regain_health_and_nobody_else() -> None:
    for name, expected in (("zergling", 0.2734), ("hydralisk", 0.2734), ("baneling", 0.2734), ("spine_crawler", 0.2734),
                           ("marine", 0), ("marauder", 0), ("zealot", 0), ("colossus", 0), ("medivac", 0)):  # fmt: skip
        arena = Arena(((name, 1), ("marine", 1)), "marine", (10.0, 16.0), (2.0, 16.0), (28.0, 28.0), loops=16)
        arena.live["hp"][0, 0] = 10.0
        arena.run(4)
        assert arena.live["hp"][0, 0].item() == pytest.approx(10 + 4 * expected, abs=1e-4), name


@pytest.mark.parametrize(("loops", "expected"), [(160, 0), (161, 1 / 8), (176, 2), (161 + 16 * 30, 35)])
def test_shields_recover_2_a_second_after_10_seconds_without_a_hit(loops: int, expected: float) -> None:
    arena = facing("baneling", "zealot", loops=loops)
    arena.run(1)  # the hit falls in the first of the loops; the next 159 give nothing back
    assert arena.live["shield"][0, 0].item() == pytest.approx(50 - 35 + expected)
    assert arena.live["hp"][0, 0] == 100


# ---------------------------------------------------------------- whole maps


def alone(name: str, n_envs: int, hidden: Place | None) -> Skirmish:
    """A map with one agent left, hidden in a wall, or all of them where they are."""
    battle = Skirmish(MAPS[name], Options(), n_envs, torch.device("cpu"), 3)
    battle.reset()
    if hidden:
        battle.live["hp"][:, 1 : battle.map.n_agents] = 0.0
        battle.live["pos"][:, 0] = torch.tensor(hidden)
        battle.refresh()
    return battle


def stand(battle: Skirmish) -> Tensor:
    """Stop for the living agents, no-op for the dead."""
    return (battle.live["hp"][:, : battle.map.n_agents] > 0).long()


@pytest.mark.parametrize(
    ("name", "points"),
    [  # of every unit in turn: allies, then enemies
        ("bane_vs_bane", [(16, 8)] * 4 + [(16, 11)] * 20 + [(16, 24)] * 4 + [(16, 21)] * 20),
        ("2m_vs_1z", [(13, 12), (19, 12), (16, 19)]),
        ("2s_vs_1sc", [(11.12, 10.34), (16.98, 10.37), (13.92, 20.04)]),
        ("2c_vs_64zg", [(16, 16)] * 2 + [(16, 9)] * 64),
        ("6h_vs_8z", [(14.6, 9.49)] * 6 + [(14.41, 16.76)] * 8),
    ],
)
def test_teams_appear_around_their_points(name: str, points: list[Place]) -> None:
    battle = Skirmish(MAPS[name], Options(), 1, torch.device("cpu"), 3)
    battle.reset()
    away = (battle.live["pos"][0] - torch.tensor(points)).norm(dim=-1)
    crowd = {"2m_vs_1z": 0.08, "2s_vs_1sc": 0.08, "2c_vs_64zg": 6.0}.get(name, 2.6)  # the first ones only jitter
    assert away.max() < crowd


def test_zerglings_come_round_both_ramps_and_up_to_the_colossi() -> None:
    battle = alone("2c_vs_64zg", 2, None)
    first, west, east = battle.map.n_agents, torch.zeros(2, 64).bool(), torch.zeros(2, 64).bool()
    battle.step(stand(battle))
    assert (battle.live["target"][:, first:] >= 0).all(), "they know where to go from the beginning"
    for _ in range(60):
        battle.step(stand(battle))
        x, y = battle.live["pos"][:, first:].unbind(-1)
        low = (y >= 12) & (y < 14)
        assert not (low & (x >= 4) & (x < 28)).any(), "nobody climbs the cliff"
        west |= low & (x < 4)
        east |= low & (x >= 28)
    assert (west.sum(-1) > 8).all()
    assert (east.sum(-1) > 8).all()
    assert battle.live["terminated"].sum() + (battle.live["running"] == 0).sum() >= 2, "both Colossi are dead"


@pytest.mark.parametrize(
    ("name", "hidden", "steps"), [("so_many_baneling", (1.0, 30.0), 60), ("corridor", (1.0, 30.0), 60)]
)
def test_enemies_march_through_the_terrain_to_the_far_point_and_none_is_stuck(
    name: str, hidden: Place, steps: int
) -> None:
    battle = alone(name, 4, hidden)
    for _ in range(steps):
        battle.step(stand(battle))
    away = (battle.live["pos"][:, battle.map.n_agents :] - torch.tensor(MAPS[name].orders[0])).norm(dim=-1)
    assert away.max() < 4.5, "a crowd of them has a radius of some 3 cells"


# ---------------------------------------------------------------- SMAC's scripts


def test_the_script_of_a_medivac_heals_the_nearest_hurt_agent_and_stays_with_it() -> None:
    team = (("medivac", 2), ("marine", 3))
    arena = Arena(team, "zealot", (10, 16), (10.5, 16), (15, 16), (10, 19), (10, 17), (28, 28), script=True)
    arena.live["hp"][0, :4] = torch.tensor([10.0, 10.0, 40.0, 44.5])
    seen = []
    arena.run(4, each=lambda: seen.append(arena.live["script"][0, 0].item()))
    assert seen == [3, 2, 2, 2], "no Medivac, none unhurt; healed in the first loop, so the next one"
    arena.live["hp"][0, 3] = 1.0
    arena.run(2)
    assert arena.live["script"][0, 0] == 2, "a nearer one does not tempt it"


def test_the_script_of_a_marauder_never_hurts_a_medivac() -> None:
    arena = Arena("marauder", (("medivac", 1), ("zealot", 1)), (10, 16), (12, 16), (14, 16), script=True)
    arena.live["cooldown"][0, arena.them[1]] = 1e6
    arena.run(40)
    assert arena.live["hp"][0, arena.them[0]] == 150
