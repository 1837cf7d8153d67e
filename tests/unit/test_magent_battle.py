"""MAgent2's battle: who starts where, how scripted opponents play, and that it is battle_v4 where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from envs.check import check_env
from envs.magent_battle import MagentBattle
from envs.rows.board import Source
from envs.rows.magent import METRICS, Battle, Rules, blocks, settled_map
from envs.rows.opponents import HITS, MOVES, N_ACTIONS, OPPONENTS, Opponent, Scene, nearest, random
from envs.rows.simulators import make

INSTALLED = importlib.util.find_spec("magent2") is not None
with_magent = pytest.mark.skipif(not INSTALLED, reason="magent2 is not installed: ./run.sh install envs")
STAY = 6

# --- where teams start ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("team_size", "map_size"), [(12, 20), (64, 40), (81, 45), (256, 80), (1, 12)])
def test_the_map_grows_with_the_teams(team_size: int, map_size: int) -> None:
    assert settled_map(team_size, None) == map_size
    assert settled_map(team_size, map_size + 7) == map_size + 7


@pytest.mark.parametrize("team_size", [*range(1, 40), 63, 64, 100, 256, 625])
def test_everybody_has_a_place(team_size: int) -> None:
    smallest = next(size for size in range(12, 200) if fits(team_size, size))
    for size in {smallest, smallest + 1, settled_map(team_size, None)}:
        red, blue = blocks(team_size, size)
        places = {tuple(place) for place in (*red, *blue)}
        assert len(places) == 2 * team_size
        assert all(0 < x < size - 1 and 0 < y < size - 1 for x, y in places)
        assert red[:, 0].max() < size // 2 - 3 < size // 2 + 3 <= blue[:, 0].min()
        assert (red[:, 0] == red[:, 0].max()).sum() >= (red[:, 0] == red[:, 0].min()).sum()
        assert (blue[:, 0] == blue[:, 0].min()).sum() >= (blue[:, 0] == blue[:, 0].max()).sum()


def fits(team_size: int, size: int) -> bool:
    try:
        return settled_map(team_size, size) == size
    except ValueError:
        return False


# --- opponents --------------------------------------------------------------------------------------------------------


def scene(own: list[tuple[int, int]], foes: list[tuple[int, int]], size: int = 20) -> Scene:
    free = np.zeros((size, size), dtype=bool)
    free[1:-1, 1:-1] = True
    for x, y in (*own, *foes):
        free[x, y] = False
    return Scene(np.array(own), np.array(foes), free)


def chosen(opponent: Opponent, where: Scene, times: int = 200) -> list[set[int]]:
    """What each agent chooses, again and again."""
    rng = np.random.default_rng(0)
    return [set(column.tolist()) for column in np.stack([opponent(where, rng) for _ in range(times)]).T]


def test_random_chooses_anything() -> None:
    assert chosen(random, scene([(3, 3), (5, 5)], [(9, 9)]), 1000) == [set(range(N_ACTIONS))] * 2


@pytest.mark.parametrize("hit", range(8))
def test_nearest_hits_its_neighbour(hit: int) -> None:
    x, y = HITS[hit] + 10
    far = (10 - 2 * HITS[hit][0], 10 - 2 * HITS[hit][1])
    assert chosen(nearest, scene([(10, 10)], [far, (x, y)])) == [{13 + hit}]


def test_nearest_hits_either_of_two() -> None:
    assert chosen(nearest, scene([(10, 10)], [(11, 10), (9, 10)])) == [{13 + 4, 13 + 3}]


def test_nearest_approaches_whom_it_sees() -> None:
    where = scene([(10, 10), (1, 18)], [(10, 16), (17, 10)])
    # Agent 0 sees (10, 16), six fields away, and takes the two fields towards it; agent 1 sees nobody.
    assert chosen(nearest, where, 1000) == [{int(np.flatnonzero((MOVES == (0, 2)).all(1))[0])}, set(range(N_ACTIONS))]


def test_nearest_goes_round_what_is_in_its_way() -> None:
    ahead = scene([(10, 10), (12, 10)], [(15, 10)])
    moves = {tuple(MOVES[a]) for a in chosen(nearest, ahead)[0]}
    # (12, 10) is taken; of the free fields (11, 9), (11, 10) and (11, 11), that in the middle is nearest to (15, 10).
    assert moves == {(1, 0)}
    enclosed = [(x, y) for x in range(8, 13) for y in range(8, 13)]
    assert chosen(nearest, scene(enclosed, [(16, 10)]))[enclosed.index((10, 10))] == {STAY}


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env_args", "says"),
    [
        ({"opponent": "nearst"}, "unknown opponent 'nearst'. Did you mean 'nearest'"),
        ({"team_size": 64, "map_size": 20}, "64 agents per side need a map_size of at least 28, not 20"),
        ({"map_size": 11}, "at least 16, not 11"),
        ({"team_size": 0}, "team_size must be positive, not 0"),
        ({"max_cycles": -1}, "max_cycles must be positive, not -1"),
    ],
)
def test_mistakes_are_said(env_args: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(ValueError, match=says):
        MagentBattle.settle(MagentBattle.Config(**env_args))


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the Python package magent2: '\./run\.sh install envs' installs it"):
        MagentBattle.settle(MagentBattle.Config())


def test_the_record_says_which_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert MagentBattle.settle(MagentBattle.Config(team_size=64)).map_size == 40


# --- the engine -------------------------------------------------------------------------------------------------------


def battle(seed: int = 0, **rules: Any) -> Battle:
    settled = Rules(**rules)
    settled = replace(settled, map_size=settled_map(settled.team_size, settled.map_size))
    simulator = make(Source(factory="magent2:GridWorld", api="magent", kwargs={"rules": settled}), seed)
    assert isinstance(simulator, Battle)
    return simulator


def stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPPONENTS, "random", lambda where, rng: np.full(len(where.own), STAY))


def place(simulator: Battle, red: list[tuple[int, int]], blue: list[tuple[int, int]]) -> Any:
    """A new episode with these beginnings."""
    simulator._starts = (np.array(red), np.array(blue))
    return simulator.reset()


@with_magent
@pytest.mark.parametrize(("map_size", "team_size"), [(12, 2), (16, 6), (30, 30), (45, 81), (64, 144)])
def test_it_starts_as_battle_v4_does(map_size: int, team_size: int) -> None:
    from magent2.environments import battle_v4

    theirs = battle_v4.parallel_env(map_size=map_size)
    theirs.reset(seed=0)
    ours = blocks(team_size, map_size)
    for team, places in zip(theirs.unwrapped.env.get_handles(), ours, strict=True):
        assert np.array_equal(theirs.unwrapped.env.get_pos(team), places)


@with_magent
@pytest.mark.parametrize("map_size", [16, 30])
def test_it_plays_as_battle_v4_does(map_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With equal actions and the engine's randomness: observations, rewards, deaths, metrics."""
    from magent2.environments import battle_v4

    team = {16: 6, 30: 30}[map_size]
    theirs = battle_v4.parallel_env(map_size=map_size)
    rng, plan = np.random.default_rng(1), np.zeros(2 * team, dtype=int)
    alive: list[str] = []
    monkeypatch.setitem(
        OPPONENTS, "random", lambda *_: plan[[team + i for i in range(team) if f"blue_{i}" in alive]]
    )  # fmt: skip
    ours = battle(team_size=team, map_size=map_size, reward="individual", state="none")
    ours.seed(5)
    ours._grid.set_seed(7)
    theirs.reset(seed=7)
    # It counts its teams before it makes them, so that blue would repeat red's actions in the first step.
    theirs.unwrapped.team_sizes = [team, team]
    view, dead = ours.reset(), 0
    for _ in range(400):
        alive[:] = theirs.agents
        plan[:] = fighting(theirs, rng)
        names = [f"{colour}_{i}" for colour in ("red", "blue") for i in range(team)]
        obs, rewards, *_ = theirs.step({a: int(plan[i]) for i, a in enumerate(names) if a in alive})
        result = ours.step(plan[:team])
        view = result.view
        assert result.reward == pytest.approx([rewards.get(a, 0.0) for a in names[:team]])
        if result.terminated:
            break
        living = [i for i in range(team) if f"red_{i}" in theirs.agents]
        dead = team - len(living)
        assert result.info["allies_alive"] == len(living)
        assert result.info["enemies_alive"] == sum(a.startswith("blue") for a in theirs.agents)
        assert np.array_equal(view.obs[living], np.stack([obs[f"red_{i}"].ravel() for i in living]))
        gone = np.setdiff1d(np.arange(team), living)
        assert not view.obs[gone].any() and view.avail[gone].sum() == dead and view.avail[:, 0].all()
    assert dead and result.terminated and not theirs.agents, "both are at an end, and somebody has died before it"


def fighting(env: Any, rng: np.random.Generator) -> np.ndarray:
    """Actions by which somebody is hurt: both teams by ``nearest``, for all, the dead included."""
    grid, size = env.unwrapped.env, env.unwrapped.map_size
    handles = grid.get_handles()
    places = [grid.get_pos(team) for team in handles]
    ids = [grid.get_agent_id(team) for team in handles]
    actions = np.zeros(2 * (len(env.possible_agents) // 2), dtype=int)
    for me in (0, 1):
        where = scene(list(map(tuple, places[me])), list(map(tuple, places[1 - me])), size)
        actions[ids[me]] = nearest(where, rng)
    return actions


@with_magent
def test_every_action_does_what_the_tables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_still(monkeypatch)
    simulator = battle(team_size=1, map_size=20)
    for action in range(N_ACTIONS):
        target = (10, 10) + (HITS[action - 13] if action > 12 else (5, 5))
        place(simulator, [(10, 10)], [tuple(target)])
        result = simulator.step(np.array([action]))
        where = simulator._grid.get_pos(simulator._red)[0] - 10
        assert where.tolist() == (MOVES[action].tolist() if action < 13 else [0, 0])
        assert result.reward == pytest.approx([-0.005 + (0.1 if action > 12 else 0)])


@with_magent
def test_rewards_are_those_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_still(monkeypatch)
    own = {"step_reward": -1.0, "attack_penalty": -2.0, "attack_opponent_reward": 8.0, "kill_reward": 32.0}
    for team in ("individual", "team"):
        simulator = battle(team_size=2, map_size=20, reward=team, **own)
        place(simulator, [(10, 10), (3, 3)], [(11, 10), (17, 17)])
        results = [simulator.step(np.array([13 + 4, STAY])) for _ in range(6)]
        each = np.array([result.reward for result in results]).reshape(6, -1).sum(1)
        # 10 hit points and 0.1 back per step: the sixth hit of 2 kills, and the killer is paid for it, not for a hit.
        assert each[:5] == pytest.approx([8 - 2 - 1 - 1] * 5) and results[5].info["kills"] == 1
        assert each[5] == pytest.approx(32 - 2 - 1 - 1)


@with_magent
def test_ends_and_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_still(monkeypatch)
    simulator = battle(team_size=1, map_size=20, max_cycles=6)
    place(simulator, [(10, 10)], [(11, 10)])
    results = [simulator.step(np.array([13 + 4])) for _ in range(6)]
    assert [(r.terminated, r.truncated) for r in results] == [(False, False)] * 5 + [(True, False)], "no cut at an end"
    assert tuple(results[-1].info) == METRICS and list(results[-1].info.values()) == [True, 1, 0, 1]
    place(simulator, [(5, 5)], [(11, 10)])
    last = [simulator.step(np.array([STAY])) for _ in range(6)][-1]
    assert (last.terminated, last.truncated) == (False, True)
    assert list(last.info.values()) == [False, 1, 1, 0], "as many on both sides: not won"


@with_magent
def test_a_lost_battle(monkeypatch: pytest.MonkeyPatch) -> None:
    simulator = battle(team_size=1, map_size=20, opponent="nearest", minimap_mode=True, state="minimap")
    place(simulator, [(10, 10)], [(11, 10)])
    results = [simulator.step(np.array([STAY])) for _ in range(6)]
    last = results[-1]
    assert last.terminated and list(last.info.values()) == [False, 0, 1, 0] and last.reward == pytest.approx([-0.1])
    assert not last.view.obs.any() and last.view.avail.tolist() == [[True] + [False] * 20]
    assert np.isfinite(last.view.state).all()


@with_magent
def test_minimaps_stay_finite_when_the_others_are_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_still(monkeypatch)
    simulator = battle(team_size=1, map_size=20, minimap_mode=True)
    view = place(simulator, [(10, 5)], [(11, 5)])
    assert view.obs.shape == (1, 13 * 13 * 7 + 2) and view.obs[0, -2:].tolist() == [0.5, 0.25]
    last = [simulator.step(np.array([13 + 4])) for _ in range(6)][-1]
    assert last.terminated and np.isfinite(last.view.obs).all()


@with_magent
def test_states(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_still(monkeypatch)
    simulator = battle(team_size=2, map_size=20, state="minimap")
    assert simulator.about.state_dim == 2 * (100 + 1)
    place(simulator, [(2, 4), (3, 5)], [(4, 5), (18, 1)])
    state = simulator.step(np.array([STAY, 13 + 4])).view.state
    red, blue = state[:101], state[101:]
    assert red[1 * 10 + 2] == pytest.approx(2 / 4) and red[:100].sum() == pytest.approx(2 / 4) and red[100] == 1
    assert blue[2 * 10 + 2] == pytest.approx(0.81 / 4) and blue[9 * 10] == pytest.approx(1 / 4) and blue[100] == 1
    everywhere = battle(team_size=2, map_size=20, state="map")
    view = place(everywhere, [(2, 4), (3, 5)], [(4, 5), (18, 1)])
    assert np.flatnonzero(view.state).tolist() == [2 * 20 + 4, 3 * 20 + 5, 400 + 4 * 20 + 5, 400 + 18 * 20 + 1]
    assert battle(team_size=2, state="none").reset().state.tolist() == [0]


def recorded(simulator: Battle, steps: int = 60) -> list[Any]:
    rng = np.random.default_rng(0)
    seen = [simulator.reset()]
    for _ in range(steps):
        result = simulator.step(rng.integers(N_ACTIONS, size=len(simulator.about.n_actions)))
        seen.append(simulator.reset() if result.terminated or result.truncated else result.view)
    return [view.obs.tobytes() + view.state.tobytes() for view in seen]


@with_magent
@pytest.mark.parametrize("opponent", sorted(OPPONENTS))
def test_same_seed_same_episode(opponent: str) -> None:
    first = recorded(battle(3, opponent=opponent, max_cycles=25))
    again = battle(9, opponent=opponent, max_cycles=25)
    recorded(again)
    again.seed(3)
    assert recorded(again) == first
    assert recorded(battle(4, opponent=opponent, max_cycles=25)) != first


@with_magent
def test_the_order_of_attacks_comes_from_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hits kill each other's owner first, as the engine's lot has it; nothing else is random here."""
    monkeypatch.setitem(OPPONENTS, "random", lambda where, rng: np.full(len(where.own), 13 + 3))
    winners = []
    for seed in range(20):
        simulator = battle(seed, team_size=1, map_size=20)
        place(simulator, [(10, 10)], [(11, 10)])
        last = [simulator.step(np.array([13 + 4])) for _ in range(6)][-1]
        assert last.terminated
        winners.append(bool(last.info["battle_won"]))
    assert set(winners) == {True, False}
    simulator.seed(0)
    place(simulator, [(10, 10)], [(11, 10)])
    assert [simulator.step(np.array([13 + 4])) for _ in range(6)][-1].info["battle_won"] == winners[0]


@with_magent
@pytest.mark.slow
def test_keeps_the_promises() -> None:
    """Two instances, used in turns: starting processes takes its time."""
    cfg = MagentBattle.settle(MagentBattle.Config(team_size=5, max_cycles=30, opponent="nearest"))
    envs = [MagentBattle(cfg, 2, "cpu", 0) for _ in range(2)]
    closing: list[Callable[[], None]] = [env.close for env in envs]

    def factory(_: int, seed: int) -> MagentBattle:
        envs.reverse()
        envs[0].seed_rows(seed)
        envs[0].close = lambda: None
        return envs[0]

    try:
        spec = envs[0].spec
        assert (spec.n_agents, spec.n_actions, spec.obs_dim, spec.episode_limit) == (5, 21, 845, 30)
        assert spec.reward == "individual" and envs[0].reset().obs.dtype == torch.float32
        check_env(factory, n_envs=2, max_steps=70, episodes=2)
    finally:
        for close in closing:
            close()
