"""The starcraft2 engine, on our stand-in for the game: equal to SMAC's own code, and honest about lost games.

Needs smac (requirements-sc2.txt); skipped where it is missing.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if not (importlib.util.find_spec("pysc2") and importlib.util.find_spec("smac")):
    pytest.skip("smac is not installed: docs/environments/sc2.md says how", allow_module_level=True)

from core.config import load, merge, resolve, settle
from envs.rows.board import SimulatorLostError, Source
from envs.rows.smac import Smac, tamed
from envs.sc2 import StarCraft2
from fake_sc2 import Fault, install
from run import build

ROOT = Path(__file__).parents[2]
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("3m", {"reward_only_positive": False}),
    ("MMM", {"obs_last_action": True, "obs_pathing_grid": True, "obs_timestep_number": True}),
    ("2s3z", {"heuristic_ai": True, "heuristic_rest": True, "obs_terrain_height": True}),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    return install(tmp_path)


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=lambda x: x if isinstance(x, str) else "")
def test_equal_to_smac_step_by_step(folder: Path, name: str, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    cfg = StarCraft2.settle(StarCraft2.Config(engine="starcraft2", map_name=name, **options))
    sizes = {"obs": 1, "state": 1, "unit": None}
    kwargs = {"package": "smac", "options": StarCraft2.upstream(cfg), "sizes": sizes, "sight_range": 9.0}
    ours = Smac(Source(factory="smac", api="smac", kwargs=kwargs | {"obs_allies": "full"}), 5)
    theirs = tamed("smac").__bases__[-1](map_name=name, seed=5, continuing_episode=True, **options)
    assert ours._env.seed() == theirs.seed() == 5
    try:
        for _ in range(2):
            view, over, steps = ours.reset(), False, 0
            theirs.reset()
            while not over:
                same(view.obs, theirs.get_obs())
                same(view.state, theirs.get_state())
                same(view.avail, theirs.get_avail_actions())
                same(view.extras["visible"], theirs.get_visibility_matrix()[:, : theirs.n_agents])
                action = np.array([rng.choice(np.flatnonzero(row)) for row in np.asarray(view.avail)])
                result, (reward, over, info) = ours.step(action), theirs.step(action.tolist())
                view, steps = result.view, steps + 1
                assert (result.reward, result.terminated or result.truncated) == (reward, over)
                assert result.truncated == info.get("episode_limit", False)
                assert {key: result.info[key] for key in info} == info
            assert steps > 5
    finally:
        ours.close()
        theirs.close()


def same(ours: Any, theirs: Any) -> None:
    """Bit for bit, in single precision."""
    assert np.array_equal(np.asarray(ours, np.float32), np.asarray(theirs, np.float32))


def test_a_broken_connection_is_not_an_end(folder: Path) -> None:
    install(folder, [Fault("drop", at=6)])
    cfg = StarCraft2.settle(StarCraft2.Config(engine="starcraft2", map_name="3m"))
    shown = {"sizes": {"obs": 30, "state": 48, "unit": 4}, "sight_range": 9.0, "obs_allies": "full"}
    kwargs = {"package": "smac", "options": StarCraft2.upstream(cfg), **shown}
    ours = Smac(Source(factory="smac", api="smac", kwargs=kwargs), 5)
    try:
        ours.reset()
        with pytest.raises(SimulatorLostError, match="connection to StarCraft II broke"):
            for _ in range(10):
                ours.step(np.ones(3, dtype=np.int64))
    finally:
        ours.close()


def test_a_run_on_the_game(folder: Path) -> None:
    base = {"env": "sc2", "env_args": {"engine": "auto", "map_name": "8m_vs_9m_myopic"}, "batch_size_run": 2}
    more = {"device": "cpu", "t_max": 20, "test_nepisode": 2, "test_interval": 1000, "log_interval": 1, "batch_size": 2}
    settings = settle(resolve(merge(merge(load(ROOT / "config" / "algs" / "macpf.yaml"), base), more)))
    assert settings["env_args"]["engine"] == "starcraft2" and settings["env_args"]["game_version"] == "4.10"
    run = build(settings)
    try:
        assert run.env.label() == "sc2-starcraft2/8m_vs_9m_myopic" and not run.env.native
        assert (run.env.spec.obs_dims[0], run.env.spec.state_dim, run.env.spec.unit_dim) == (50, 179, 4)
        records = [record for tick in run.train() for record in tick.records]
        batch = run.replay.latest(2)
    finally:
        run.close()
    kinds = {record.kind: record.values for record in records}
    assert {"battle_won", "dead_allies", "dead_enemies", "return"} <= kinds["train"].keys()
    assert "test_battle_won_mean" in kinds["test"]
    assert kinds["perf"]["env_restarts"] == kinds["perf"]["episodes_discarded"] == 0
    first = batch.extras["visible"][:, 0]
    assert first.dtype == torch.bool and not first.diagonal(dim1=1, dim2=2).any() and first.any()
