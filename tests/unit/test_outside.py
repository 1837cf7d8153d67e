"""Gymnasium's and PettingZoo's environments by name: how they are found, and what is made of their habits."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Sequence, Tuple

from envs.check import check_env
from envs.external import External
from envs.gymnasium import Gymnasium
from envs.pettingzoo import PettingZoo
from envs.rows.board import Source
from envs.rows.simulators import EXTRAS, Simulator, make

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"


@pytest.fixture(autouse=True)
def _toys_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TESTS))


def settled(cls: Any = Gymnasium, **env_args: Any) -> Any:
    return cls.settle(cls.Config(**env_args))


def band(seed: int = 0, **env_args: Any) -> Simulator:
    """In this very process, since that is quicker."""
    cfg = settled(id="Band-v0", imports="toy_band", **env_args)
    return make(Gymnasium.source(cfg), seed)


def simulated(env: Any, **more: Any) -> Simulator:
    """What a factory of one's own returns."""
    source = Source(factory="toy_factory:env", api="gymnasium", **more)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("envs.rows.gathered.find", lambda path: lambda: env)
        return make(source, 0)


def play(simulator: Simulator, *actions: Any) -> list[Any]:
    simulator.reset()
    return [simulator.step(np.array(action)) for action in actions]


# --- the environments as a whole, in workers --------------------------------------------------------------------------


def test_several_agents_in_workers_keep_the_promises() -> None:
    """Two instances, used in turns: starting processes takes its time."""
    cfg = settled(id="Band-v0", imports=["toy_band"], metrics=["t"])
    envs = [Gymnasium(cfg, 2, "cpu", 0) for _ in range(2)]
    closing = [env.close for env in envs]

    def factory(_: int, seed: int) -> Gymnasium:
        envs.reverse()
        envs[0].seed_rows(seed)
        envs[0].close = lambda: None
        return envs[0]

    try:
        spec = envs[0].spec
        assert [a.n for a in spec.actions] == [3, 2] and spec.obs_dims == (2, 3)
        assert (spec.state_dim, spec.episode_limit, spec.reward) == (5, 4, "team")
        assert envs[0].label() == "gymnasium/Band-v0"
        shown = envs[0].reset()
        assert shown.avail[0].tolist() == [[True, True, True], [True, True, False]]
        assert shown.obs[0, 1].tolist() == [1, 0, 0] and shown.obs[0, 0, 2] == 0
        outcome = envs[0].step(torch.tensor([[2, 0], [2, 1]]))
        assert outcome.reward.tolist() == [7, 18] and outcome.terminated.tolist() == [False, True]
        assert outcome.next.state[:, 2:].tolist() == [[0, 1, 0], [0, 1, 0]]
        assert outcome.info["t"].tolist() == [0, 1]
        check_env(factory, n_envs=2, max_steps=9, episodes=2)
    finally:
        for close in closing:
            close()


# --- ends -------------------------------------------------------------------------------------------------------------


def ends(result: Any) -> tuple[bool, bool]:
    return bool(result.terminated), bool(result.truncated)


def test_an_end_at_the_limit_is_the_limit() -> None:
    *before, last = play(band(), *[(0, 0)] * 4)
    assert [ends(result) for result in before] == [(False, False)] * 3 and ends(last) == (False, True)
    assert all(np.all(avail) for avail in last.view.avail), "bootstrapped through: they still have their choices"
    assert ends(play(band(limit_is_end=True), *[(0, 0)] * 4)[-1]) == (True, False)
    assert ends(play(band(), (0, 0), (2, 1))[-1]) == (True, False), "an earlier end is a true one"
    assert ends(play(band(episode_limit=2), (0, 0), (0, 0))[-1]) == (False, True)


def test_external_has_the_same_habit() -> None:
    for given, said in ((None, (False, True)), (True, (True, False))):
        cfg = settled(External, factory="toy_band:Band", api="gymnasium", limit_is_end=given)
        assert ends(play(make(External.source(cfg), 0), *[(0, 0)] * 4)[-1]) == said
    cfg = settled(External, factory="toy_simulators:Parallel", kwargs={"fatal": True, "max_cycles": 3})
    assert ends(play(make(External.source(cfg), 0), *[(0, 0)] * 3)[-1]) == (True, False)


def test_agents_that_leave_alone() -> None:
    two, three = play(band(kwargs={"each_end": True}, reward="individual"), (1, 0), (1, 1), (1, 0))[1:]
    assert ends(two) == (False, False) and two.reward.tolist() == [1, 6]
    assert [list(map(bool, avail)) for avail in two.view.avail] == [[True] * 3, [True, False]]
    assert three.reward.tolist() == [1, 0] and three.view.obs[1].tolist() == [0, 0, 0]


# --- rewards, masks, infos --------------------------------------------------------------------------------------------


def test_rewards() -> None:
    assert play(band(), (1, 1))[0].reward == 7
    assert play(band(reward="individual"), (1, 1))[0].reward.tolist() == [1, 6]
    assert play(band(kwargs={"one_reward": True}), (1, 1))[0].reward == 7
    with pytest.raises(ValueError, match="has one reward for all agents; set env_args"):
        play(band(kwargs={"one_reward": True}, reward="individual"), (1, 1))


def test_masks_and_infos() -> None:
    (masked,) = play(band(kwargs={"masked": True}), (0, 0))
    assert [list(map(bool, avail)) for avail in masked.view.avail] == [[True, False, True], [True, True]]
    (each,) = play(band(kwargs={"each_info": True}), (0, 0))
    assert each.info["t"] == 1, "the first agent's word is taken"


def test_same_seed_same_episode() -> None:
    one, two, other = (band(seed) for seed in (3, 3, 4))
    first, again, unlike = (simulator.reset().state.tolist() for simulator in (one, two, other))
    assert first == again != unlike
    one.seed(4)
    assert one.reset().state.tolist() == unlike
    assert one.reset().state.tolist() != unlike, "the next episode is another one"


# --- one agent, structured spaces -------------------------------------------------------------------------------------


def test_one_agent() -> None:
    simulator = make(Gymnasium.source(settled(id="CartPole-v1")), 0)
    about = simulator.about
    assert (about.n_actions, about.obs_dims, about.state_dim, about.episode_limit) == ((2,), (4,), 4, 500)
    steps = play(simulator, *[(1,)] * 6)
    assert [result.reward for result in steps] == [1] * 6
    short = make(Gymnasium.source(settled(id="CartPole-v1", kwargs={"max_episode_steps": 3})), 0)
    assert ends(play(short, *[(1,)] * 3)[-1]) == (False, True) and short.about.episode_limit == 3


class Shaped(gym.Env):
    """Does nothing; its spaces are given."""

    episode_limit = 2

    def __init__(self, obs: Any, action: Any) -> None:
        self.observation_space, self.action_space = obs, action
        obs.seed(0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple:
        assert self.action_space.contains(action), action
        return self.observation_space.sample(), 0.0, False, False, {}


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (MultiDiscrete([2, 3]), 5),
        (Tuple((Discrete(4), Box(0, 1, (2, 2)))), 8),
        (Dict({"a": Discrete(2), "b": Box(0, 1, (3,))}), 5),
        (Dict({"observation": Box(0, 1, (3,)), "action_mask": Box(0, 1, (2,), np.int8)}), 3),
    ],
)
def test_structured_observations_become_numbers(space: Any, size: int) -> None:
    simulator = simulated(Shaped(space, Discrete(2)))
    assert simulator.about.obs_dims == (size,) and len(simulator.reset().obs[0]) == size


def test_boxes() -> None:
    simulator = simulated(Shaped(Tuple((Discrete(2),) * 2), Tuple((Box(-2, 2, (1,)), Box(-2, 2, (2,))))))
    assert simulator.about.bounds == ((-2, 2), (-2, 2)) and simulator.about.n_actions == (1, 2)
    simulator.reset()
    simulator.step(np.array([[2.0, 9.0], [-2.0, 2.0]]))  # beyond agent 0's one dimension is padding


# --- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "says"),
    [
        (object(), "returns no Gymnasium Env .it has no observation_space"),
        (Shaped(Box(0, 1, (2,)), Tuple((Discrete(2),) * 2)), "needs as many observation spaces.*wrap the environment"),
        (Shaped(Discrete(2), MultiDiscrete([2, 2])), "must be Discrete, or all Box, not MultiDiscrete; wrap"),
        (Shaped(Discrete(2), Box(-np.inf, np.inf, (2,))), "actions must be bounded.*wrap the environment"),
        (Shaped(Sequence(Discrete(2)), Discrete(2)), "observations must have a fixed size, unlike Sequence.*; wrap"),
    ],
)
def test_what_cannot_be_adapted_is_said(env: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        simulated(env)


def test_the_older_interface_is_named() -> None:
    with pytest.raises(ValueError, match=r"step of 'toy_band:Band' does not return 5 values.*the older Gym"):
        cfg = settled(External, factory="toy_band:Band", api="gymnasium", kwargs={"values": 4})
        play(make(External.source(cfg), 0), (0, 0))


@pytest.mark.parametrize(
    ("cls", "env_args", "says"),
    [
        (Gymnasium, {"id": "CartPol-v1"}, "id 'CartPol-v1' is not known.*Did you mean 'CartPole-v1'.*env_args.imports"),
        (Gymnasium, {"id": "CartPole-v1", "imports": "no_such"}, "imports 'no_such'.*install what provides 'no_such'"),
        (Gymnasium, {"id": "no_such:CartPole-v1"}, "id 'no_such:CartPole-v1'.*install what provides 'no_such'"),
        (Gymnasium, {"id": "CartPole-v1", "episode_limit": 0}, "episode_limit must be positive, not 0"),
        (PettingZoo, {"id": "toy_simulatrs"}, "install what provides 'toy_simulatrs'"),
        (PettingZoo, {"id": "envs.rows.bord"}, "envs.rows has no module 'bord'. Did you mean 'board'"),
        (PettingZoo, {"id": "toy_envs"}, "no parallel_env; name a module that has one"),
        (PettingZoo, {"id": "toy_simulators:Paralel"}, "id 'toy_simulators:Paralel'.*it has: .*Parallel"),
        (External, {"factory": "toy_simulators:Marl", "api": "pymarl", "limit_is_end": False}, "leave it null"),
    ],
)
def test_mistakes_are_said_before_anything_starts(cls: Any, env_args: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        settled(cls, **env_args)


@pytest.mark.parametrize("name", EXTRAS)
def test_missing_extras_tell_how_to_get_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(module: str) -> Any:
        raise ModuleNotFoundError(f"No module named '{module}'", name=module)

    monkeypatch.setattr("envs.rows.simulators.importlib.import_module", absent)
    monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    with pytest.raises(ValueError, match=r"'\./run\.sh install envs' installs it"):
        settled(PettingZoo, id=f"{name}.some_v1")


def test_extras_are_those_of_the_requirements() -> None:
    pins = {path: dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / path).read_text(), re.MULTILINE))
            for path in ("requirements.txt", "requirements-envs.txt", "requirements-dev.txt")}  # fmt: skip
    assert set(EXTRAS) <= set(pins["requirements-envs.txt"])
    shared = pins["requirements-envs.txt"].keys() & (pins["requirements.txt"] | pins["requirements-dev.txt"]).keys()
    assert all(pins["requirements-envs.txt"][name] == pins["requirements-dev.txt"][name] for name in shared)


# --- pettingzoo by name -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["toy_simulators", "toy_simulators:Parallel"])
def test_pettingzoo_by_module_or_callable(name: str) -> None:
    cfg = settled(PettingZoo, id=name, kwargs={"max_cycles": 2}, reward="individual")
    simulator = make(PettingZoo.source(cfg), 0)
    assert simulator.about.n_actions == (3, 2) and simulator.about.episode_limit == 2
    assert play(simulator, (2, 1))[0].reward.tolist() == [2, 0.5]


# --- the packages themselves, where they are installed ----------------------------------------------------------------


def needs(package: str) -> Callable[..., Any]:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed: ./run.sh install envs")


def random_play(simulator: Simulator, episodes: int) -> list[tuple[bool, bool, int, float]]:
    """How each episode ended, after how many steps, and with what return."""
    rng, ended = np.random.default_rng(0), []
    for _ in range(episodes):
        simulator.reset()
        steps, total = 0, 0.0
        over = False
        while not over:
            result = simulator.step(rng.integers(simulator.about.n_actions))
            steps, total, over = steps + 1, total + float(np.sum(result.reward)), result.terminated or result.truncated
        ended.append((result.terminated, result.truncated, steps, total))
    return ended


@needs("lbforaging")
def test_foraging() -> None:
    cfg = settled(id="Foraging-5x5-2p-1f-v3", imports="lbforaging", reward="individual")
    simulator = make(Gymnasium.source(cfg), 0)
    assert (simulator.about.n_actions, simulator.about.obs_dims) == ((6, 6), (9, 9))
    ended = random_play(simulator, 30)
    assert {e[:2] for e in ended} == {(True, False), (False, True)}
    for terminated, truncated, steps, total in ended:
        # All food is worth 1 together: who has it all is at the end, who has not is at the limit.
        assert terminated == (total == pytest.approx(1)) and truncated == (steps == 50 and total == 0)


@needs("rware")
def test_warehouse() -> None:
    simulator = make(Gymnasium.source(settled(id="rware-tiny-2ag-v2", imports="rware")), 0)
    assert (simulator.about.n_actions, simulator.about.obs_dims) == ((5, 5), (71, 71))
    assert [e[:3] for e in random_play(simulator, 2)] == [(False, True, 500)] * 2


@needs("mpe2")
def test_particles() -> None:
    for continuous in (False, True):
        cfg = settled(PettingZoo, id="mpe2.simple_spread_v3", kwargs={"continuous_actions": continuous})
        about = make(PettingZoo.source(cfg), 0).about
        assert about.n_actions == (5, 5, 5) and about.obs_dims == (18,) * 3 and about.episode_limit == 25
        assert (about.bounds is None) != continuous
