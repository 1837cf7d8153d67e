"""What mpe2's particle environments have in common with ours, and what not; where mpe2 is installed.

mpe2 is maintained and widely used, but not numerically the original. Each difference is asserted, so that a release
that removes one is noticed.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from core.registry import ENVS
from envs.particles.world import ParticleEnv

mpe2 = pytest.importorskip("mpe2")

NAMES = {"simple_spread": "simple_spread_v3", "formation": "simple_formation_v1", "line": "simple_line_v1"}
THEIRS = torch.tensor([0, 2, 1, 4, 3])
"""mpe2's number of our action: with numbers instead of one-hots, left comes before right and down before up."""


def pair(name: str, seed: int) -> tuple[ParticleEnv, Any, Any]:
    """Our environment, mpe2's at the same places, and its world."""
    module: ModuleType = __import__(f"mpe2.{NAMES[name]}", fromlist=["parallel_env"])
    theirs = module.parallel_env(N=3, max_cycles=25)
    theirs.reset(seed=seed)
    world = theirs.unwrapped.world
    cls = ENVS[name]
    ours = cls(cls.Config(n_agents=3), 1, "cpu", 0)
    ours.reset()
    follow(ours, world)
    return ours, theirs, world


def follow(ours: ParticleEnv, world: Any) -> None:
    """Puts our bodies where theirs are."""
    ours.pos[..., 0] = torch.from_numpy(np.stack([x.state.p_pos for x in world.agents], 1))
    ours.vel[..., 0] = torch.from_numpy(np.stack([x.state.p_vel for x in world.agents], 1))
    ours.landmarks[..., 0] = torch.from_numpy(np.stack([x.state.p_pos for x in world.landmarks], 1))


def positions(world: Any) -> torch.Tensor:
    return torch.tensor(np.stack([x.state.p_pos for x in world.agents], 1), dtype=torch.float32)


def velocities(world: Any) -> torch.Tensor:
    return torch.tensor(np.stack([x.state.p_vel for x in world.agents], 1), dtype=torch.float32)


@pytest.mark.parametrize("name", NAMES)
def test_one_trajectory(name: str) -> None:
    """Same forces and velocities, same observations of same places; but their positions lag one velocity behind."""
    rng = torch.Generator().manual_seed(0)
    ours, theirs, world = pair(name, seed=1)
    for agent in world.agents:
        agent.state.p_pos = 0.1 * agent.state.p_pos  # near enough to collide
    for _ in range(24):
        follow(ours, world)
        before, old = positions(world), velocities(world)
        action = torch.randint(5, (1, 3), generator=rng)
        seen, *_ = theirs.step(dict(zip(theirs.agents, THEIRS[action[0]].tolist(), strict=True)))
        ours.step(action)
        new = velocities(world)
        assert torch.allclose(ours.vel[..., 0], new, atol=1e-4)
        assert torch.allclose(positions(world), before + 0.1 * old, atol=1e-5)
        assert torch.allclose(ours.pos[..., 0], before + 0.1 * new, atol=1e-5)
        follow(ours, world)
        shown = ours.reset(torch.tensor([False])).obs[0]
        assert torch.allclose(shown, torch.tensor(np.stack(list(seen.values()))), atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_rewards_of_spread(seed: int) -> None:
    """Theirs: half the coverage plus half one's own collisions, of which touching oneself is none."""
    ours, theirs, world = pair("simple_spread", seed)
    for agent in world.agents[: 2 * (seed % 2)]:
        agent.state.p_pos = 0.1 * agent.state.p_pos  # every other scene has a collision
    follow(ours, world)
    scenario = theirs.unwrapped.scenario
    coverage = scenario.global_reward(world)
    collisions = [-scenario.reward(agent, world) for agent in world.agents]
    assert sum(collisions) == 2 * (seed % 2)
    assert ours.judge().reward.item() == pytest.approx(3 * coverage - sum(collisions) - 3, abs=1e-4)


def test_mixture_of_rewards_of_spread() -> None:
    _, theirs, world = pair("simple_spread", 0)
    _, rewards, *_ = theirs.step(dict.fromkeys(theirs.agents, 0))
    scenario = theirs.unwrapped.scenario
    mixed = [0.5 * scenario.global_reward(world) + 0.5 * scenario.reward(agent, world) for agent in world.agents]
    assert list(rewards.values()) == pytest.approx(mixed)


@pytest.mark.parametrize("name", ["formation", "line"])
def test_rewards_of_targets_are_equal(name: str) -> None:
    for seed in range(8):
        ours, theirs, world = pair(name, seed)
        assert ours.judge().reward.item() == pytest.approx(theirs.unwrapped.scenario.global_reward(world), abs=1e-5)


@pytest.mark.parametrize("name", ["formation", "line"])
def test_success_ends_only_ours(name: str) -> None:
    ours, theirs, world = pair(name, 0)
    for body, place in zip(world.agents, ours.targets()[..., 0].T.tolist(), strict=True):
        body.state.p_pos, body.state.p_vel = np.array(place), np.zeros(2)
    for _ in range(3):  # the formation turns with its first agent, so this is repeated until it stands
        follow(ours, world)
        for body, place in zip(world.agents, ours.targets()[..., 0].T.tolist(), strict=True):
            body.state.p_pos = np.array(place)
    follow(ours, world)
    assert ours.step(torch.zeros(1, 3, dtype=torch.int64)).terminated.all()
    _, _, terminated, truncated, _ = theirs.step(dict.fromkeys(theirs.agents, 0))
    assert not any(terminated.values()) and not any(truncated.values())
