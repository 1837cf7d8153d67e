"""Every algorithm of ``config/algs`` in every native world of ``config/envs``: it learns there, or says why not."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from core.config import ConfigError, Settings, load, merge, resolve
from run import Session, build

CONFIG = Path(__file__).parents[2] / "config"
ALGORITHMS = sorted(path.stem for path in (CONFIG / "algs").glob("*.yaml"))
SKIRMISH = {"engine": "skirmish", "map_name": "3m"}
WORLDS: dict[str, dict[str, Any]] = {
    "aggregation": {},
    "coverage": {},
    "formation": {"action": "continuous"},
    "hallway": {},
    "line": {},
    "matrix_game": {},
    "mill": {},
    "mtq": {},
    "multi_goal": {},
    "rover_tower": {"reward": "team"},
    "rover_tower:individual": {"n_pairs": 2},
    "sc2": SKIRMISH,
    "simple_spread": {},
    "treasure_collection": {"reward": "team", "episode_limit": 20},
    "treasure_collection:individual": {"n_collectors": 3, "n_banks": 1, "episode_limit": 20},
}
"""By file name (before a colon), with the arguments that keep them small."""
SMALL = {
    "seed": 5,
    "t_max": 10**6,
    "batch_size_run": 2,
    "batch_size": 2,
    "buffer_size": 8,
    "burn_in": 0,
    "on_policy_batch": 2,
    "epochs": 1,
    "test_nepisode": 0,
    "updates_per_collect": 1,
    "updates_per_step": None,
}


def settings(name: str, world: str) -> Settings:
    """The two files together, small; of SMALL only what the components know."""
    files = merge(load(CONFIG / "envs" / f"{world.partition(':')[0]}.yaml"), load(CONFIG / "algs" / f"{name}.yaml"))
    config = merge(files, {"env_args": WORLDS[world]})
    known = resolve(config)
    return resolve(merge(config, {key: value for key, value in SMALL.items() if key in known}))


def learn(session: Session, updates: int) -> None:
    for _ in range(updates):
        ready = False
        while not ready:
            session.replay.add(session.runner.collect(t_env=0, mode=session.controller.explore_mode).episodes)
            ready = session.learner.ready(session.replay)
        for metric, value in session.learner.update(session.replay, 0).items():
            assert torch.isfinite(value).all(), metric


def test_every_native_environment_is_listed() -> None:
    files = {path.stem for path in (CONFIG / "envs").glob("*.yaml")}
    listed = {world.partition(":")[0] for world in WORLDS}
    foreign = {"external", "gymnasium", "pettingzoo", "magent_battle"}
    assert files - listed == foreign | {"smacv2"}, "worker processes; the same engine as sc2"


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_it_learns_there_and_goes_on_exactly_or_says_why_not(name: str, world: str) -> None:
    chosen = settings(name, world)
    try:
        one = build(chosen)
    except ConfigError as error:
        assert f"does not fit environment '{world.partition(':')[0]}'" in str(error)
        return
    learn(one, 1)
    two = build(chosen)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    for session in (one, two):
        learn(session, 1)
    for (where, a), b in zip(one.learner.named_parameters(), two.learner.parameters(), strict=True):
        assert torch.equal(a, b), where
