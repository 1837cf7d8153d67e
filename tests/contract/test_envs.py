"""Every environment that has a configuration keeps the promises of ``BatchedEnv``.

That ``check_env`` catches each way of breaking them is shown in ``tests/unit/test_env_check.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from core.registry import ENVS
from envs.base import BatchedEnv
from envs.check import Actor, check_env

CONFIGS = Path(__file__).parents[2] / "config" / "envs"
# Whose rows are processes, which start slowly: test_workers.py, test_outside.py and test_magent_battle.py under
# tests/unit hold them to the same promises with two instances each.
FOREIGN = {"external", "gymnasium", "pettingzoo", "magent_battle"}
NAMES = sorted({file.stem for file in CONFIGS.glob("*.yaml")} - FOREIGN)
SMALL: dict[str, dict[str, Any]] = {"sc2": {"map_name": "3m"}}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "simple_spread": [{"action": "continuous"}, {"n_agents": 1}, {"n_agents": 4, "landmark_range": 0.8}],
    "coverage": [{"action": "continuous", "n_agents": 2}, {"summed": True}],
    "formation": [{"action": "continuous", "n_agents": 1}, {"n_agents": 7}],
    "line": [{"action": "continuous", "n_agents": 2}],
    "aggregation": [{"action": "discrete", "reach": 3.0}, {"n_agents": 1}],
    "mill": [{"n_agents": 3, "gain": 20.0}],
}
MATRIX_GAMES = ("qplex33a", "four", "xor", "dop14", "penalty")


def made(name: str, n_envs: int, seed: int, **more: Any) -> BatchedEnv:
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    cls = ENVS[config["env"]]
    env_args = config.get("env_args", {}) | SMALL.get(name, {}) | more
    return cls(cls.settle(cls.Config(**env_args)), n_envs, "cpu", seed)


@pytest.mark.parametrize("name", NAMES)
def test_keeps_the_promises(name: str) -> None:
    check_env(lambda n, seed: made(name, n, seed), max_steps=30 if name in VARIANTS else 64)


@pytest.mark.parametrize(("name", "more"), [(name, more) for name, many in VARIANTS.items() for more in many])
def test_variants_keep_the_promises(name: str, more: dict[str, Any]) -> None:
    limit = {} if name == "mill" else {"episode_limit": 4}
    check_env(lambda n, seed: made(name, n, seed, **limit, **more), episodes=3, max_steps=10)


@pytest.mark.parametrize("preset", MATRIX_GAMES)
def test_matrix_games_keep_the_promises(preset: str) -> None:
    check_env(lambda n, seed: made("matrix_game", n, seed, preset=preset, episode_length=2), max_steps=8)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_same_episode_on_every_device(name: str) -> None:
    """Ends and masks are equal and numbers close, since a row's randomness does not depend on the device."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    cls = ENVS[config["env"]]
    cfg = cls.settle(cls.Config(**config.get("env_args", {}) | SMALL.get(name, {})))
    here, there = (cls(cfg, 64, device, 3) for device in ("cpu", "cuda"))
    actor, shown, shown2 = Actor(here.spec, 0), here.reset(), there.reset()
    for _ in range(15):
        assert torch.equal(shown.avail, shown2.avail.cpu())
        torch.testing.assert_close(shown2.obs.cpu(), shown.obs, rtol=1e-4, atol=1e-5)
        action = actor.act(shown)
        outcome, outcome2 = here.step(action), there.step(action.cuda())
        torch.testing.assert_close(outcome2.reward.cpu(), outcome.reward, rtol=1e-4, atol=1e-5)
        assert torch.equal(outcome.terminated, outcome2.terminated.cpu())
        over = outcome.terminated | outcome.truncated
        shown, shown2 = here.reset(over), there.reset(over.cuda())
