"""What environments show of themselves: everything where its state has it, and every one of them can be drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from core.picture import WALL, Frame
from core.registry import ENVS
from envs.base import BatchedEnv
from envs.check import Actor
from envs.mtq import LEVELS, payoff

CONFIGS = Path(__file__).parents[2] / "config" / "envs"
MORE: dict[str, dict[str, Any]] = {
    "sc2": {"map_name": "3m", "engine": "skirmish"},
    "smacv2": {"engine": "skirmish"},
    "matrix_game": {"preset": "climbing", "payoff": None},
}
"""What configurations leave open, or leave to the machine."""
UNSEEN = {"external", "gymnasium", "pettingzoo", "magent_battle"}
"""Environments of somebody else, each copy in a process of its own: there is nothing to see."""
NAMES = sorted({yaml.safe_load(path.read_text())["env"] for path in CONFIGS.glob("*.yaml")})
SEEN = sorted(set(NAMES) - UNSEEN)
PARTICLES = ("simple_spread", "coverage", "formation", "line", "aggregation")
ROWS = 3


def made(name: str, **more: Any) -> Any:
    """Three rows, reset."""
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    cls = ENVS[config["env"]]
    env_args = config.get("env_args", {}) | MORE.get(name, {}) | more
    env = cls(cls.settle(cls.Config(**env_args)), ROWS, "cpu", 5)
    env.reset()
    return env


def played(name: str, steps: int, **more: Any) -> Any:
    """The same after random actions."""
    env = made(name, **more)
    actor, shown = Actor(env.spec, 3), env.reset()
    for _ in range(steps):
        shown = env.step(actor.act(shown)).next
    return env


def push(env: BatchedEnv, *actions: Any) -> None:
    """The same joint action in every row."""
    env.step(torch.tensor([actions] * env.n_envs))


def by_entity(x: Tensor, row: int) -> list[list[float]]:
    """[2, e, b] as one place per entity."""
    return x[:, :, row].t().tolist()


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_everything_can_be_drawn(name: str):
    if name in UNSEEN:
        with pytest.raises(NotImplementedError, match="nothing to show"):
            object.__new__(ENVS[name]).render(0)
        return
    env = played(name, 1)
    picture = env.render(1, width=120)
    assert picture.dtype == np.uint8 and picture.shape[1:] == (120, 3) and 20 < picture.shape[0] < 400
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 3, "there is something to see"


@pytest.mark.parametrize("name", SEEN)
def test_stage_and_frame_speak_of_the_same_things(name: str):
    env = made(name)
    for row in range(ROWS):
        stage, frame = env.stage(row), env.frame(row)
        assert all(len(getattr(frame, field)) == len(stage.entities) for field in vars(frame))
        assert [entity.agent for entity in stage.entities if entity.agent is not None] == [*range(env.spec.n_agents)]
        for entity in stage.entities:
            action = None if entity.agent is None else env.spec.actions[entity.agent]
            assert len(entity.actions) in (0, action.n if action and action.discrete else 0)
            assert len(entity.pushes) in (0, action.n if action else 0)
        places = frame.position[frame.alive]
        assert ((places > stage.low) & (places < stage.high)).all(), "all of it is in the picture at first"


@pytest.mark.parametrize("name", SEEN)
def test_old_frames_stay_as_they_were(name: str):
    env = made(name)
    frames = [env.frame(row) for row in range(ROWS)]
    before = [{field: np.array(value) for field, value in vars(frame).items()} for frame in frames]
    actor, shown = Actor(env.spec, 3), env.reset()
    moved = False
    for _ in range(min(3, env.spec.episode_limit)):
        shown = env.step(actor.act(shown)).next
        moved |= any(differs(frame, env.frame(row)) for row, frame in enumerate(frames))
    env.reset()
    assert moved, "the newer frames are others"
    for frame, values in zip(frames, before, strict=True):
        assert all(np.array_equal(getattr(frame, field), value) for field, value in values.items())


def differs(one: Frame, other: Frame) -> bool:
    return not all(np.array_equal(value, getattr(other, field)) for field, value in vars(one).items())


# --- particles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["discrete", "continuous"])
@pytest.mark.parametrize("name", PARTICLES)
def test_particles_are_where_they_are(name: str, action: str):
    env = played(name, 4, action=action, n_agents=4)
    stage, now = env.stage(2), env.frame(2)
    expected = by_entity(env.pos, 2) + by_entity(env.landmarks, 2)
    if hasattr(env, "targets"):
        expected += by_entity(env.targets(), 2)
    assert now.position.tolist() == expected
    kinds = {"agent": 4, "landmark": env.scene.n_landmarks} | ({"target": 4} if hasattr(env, "targets") else {})
    assert {kind: sum(entity.kind == kind for entity in stage.entities) for kind in stage.kinds} == kinds
    assert all((entity.team is None) == (entity.kind != "agent") for entity in stage.entities)
    env.step(Actor(env.spec, 0).act(env.reset()))
    assert now.position.tolist() == expected, "a copy"
    assert now.position.tolist() != env.frame(2).position.tolist()


def test_rings_are_what_counts_as_near():
    """An agent just inside of every ring of a target is a success, and just outside is none."""
    for name, ring in (("coverage", "target"), ("line", "target"), ("aggregation", "landmark")):
        env = made(name, n_agents=2)
        for share, success in ((0.99, 1.0), (1.01, 0.0)):
            env.reset()
            stage = env.stage(0)
            u = next(u for u, entity in enumerate(stage.entities) if entity.kind == ring)
            places = np.array([frame.position[-2:] for frame in map(env.frame, range(ROWS))])
            places[..., 0] += share * stage.entities[u].radius
            env.pos.copy_(torch.tensor(places[:, [0, 1] if ring == "target" else [1, 1]]).permute(2, 1, 0))
            outcome = env.step(torch.zeros(ROWS, 2, 2) if not env.spec.discrete else torch.zeros(ROWS, 2).long())
            assert outcome.info["success"].tolist() == [success] * ROWS, (name, share)


@pytest.mark.parametrize("name", PARTICLES)
def test_arrows_point_where_agents_are_pushed(name: str):
    env = made(name, action="discrete", n_agents=5)
    env.pos.copy_(torch.arange(5.0)[:, None].expand(2, -1, ROWS))
    before = env.frame(0).position[:5]
    push(env, 0, 1, 2, 3, 4)
    moved, arrows = env.frame(0).position[:5] - before, np.array(env.stage(0).entities[0].pushes)
    np.testing.assert_allclose(moved, 0.2 * arrows, atol=1e-6)
    assert env.stage(0).entities[0].actions == ("stay", "right", "left", "up", "down")
    assert arrows.tolist() == [[0, 0], [0.25, 0], [-0.25, 0], [0, 0.25], [0, -0.25]]


def test_arrows_of_boxes_add_up():
    env = made("aggregation", n_agents=1)
    before = env.frame(0).position[0]
    push(env, [0.5, -1.0])
    arrows = np.array(env.stage(0).entities[0].pushes)
    np.testing.assert_allclose(env.frame(0).position[0] - before, 0.2 * np.array([0.5, -1.0]) @ arrows, atol=1e-6)
    assert env.stage(0).entities[0].actions == ()


# --- the others -------------------------------------------------------------------------------------------------------


def test_hallway_shows_chains_of_their_lengths():
    env = made("hallway", lengths=[3, 5, 1])
    env._position = torch.tensor([[3, 1, 1], [0, 5, 0], [2, 4, 1]])
    stage, now = env.stage(1), env.frame(1)
    assert now.position.tolist() == [[0, 4], [5, 2], [0, 0], [0, 4], [0, 2], [0, 0]]
    assert [entity.kind for entity in stage.entities] == ["agent"] * 3 + ["goal"] * 3
    width, height = stage.high[0] - stage.low[0], stage.high[1] - stage.low[1]
    assert stage.ground.shape == (width, height), "cells of side 1"
    free = {tuple(cell) for cell in (np.argwhere(stage.ground != WALL) + 0.5 + stage.low).tolist()}
    assert free == {(x, y) for y, m in ((4, 3), (2, 5), (0, 1)) for x in range(m + 1)}


def test_hallways_arrows_point_where_agents_go():
    env = made("hallway", lengths=[4, 4, 4])
    env._position[:] = 2
    before = env.frame(0).position[:3]
    push(env, 0, 1, 2)
    moved, entity = env.frame(0).position[:3] - before, env.stage(0).entities[0]
    assert np.sign(moved).tolist() == np.sign(entity.pushes).tolist() == [[0, 0], [-1, 0], [1, 0]]
    assert entity.actions == ("stay", "left", "right")


def test_mill_shows_its_speed():
    env = made("mill", n_agents=4, gain=5.0)
    push(env, [1.0], [1.0], [0.5], [-1.0])
    stage, now = env.stage(0), env.frame(0)
    where = dict(zip((entity.name for entity in stage.entities), now.position.tolist(), strict=True))
    assert where["speed"][0] == pytest.approx(7.5)
    assert [where[name][0] for name in ("at rest", "fast", "winning")] == [0, 30, 100]
    assert stage.entities[4].team == 1
    for entity, (x, y) in zip(stage.entities[:4], now.position[:4].tolist(), strict=True):
        ((dx, dy),) = entity.pushes
        assert x * dx + y * dy == pytest.approx(0, abs=1e-3), "along the rim"
        assert x * dy - y * dx < 0, "clockwise"


def test_mtq_shows_the_joint_action():
    env = made("mtq")
    assert not env.frame(0).alive[2], "nothing is chosen yet"
    env.step(torch.tensor([[[3.0], [-7.0]], [[1.0], [2.0]], [[0.0], [0.0]]]))
    first, second, joint = env.frame(0).position[:3].tolist()
    assert env.frame(0).alive.all() and joint == [first[0], second[1]] == [3, -7]
    env.step(torch.zeros(ROWS, 2, 1))
    assert env.frame(0).position[2].tolist() == [3, -7], "what comes after the end is ignored"
    env.reset(torch.tensor([True, False, False]))
    assert not env.frame(0).alive[2] and env.frame(1).position[2].tolist() == [1, 2]
    env.load_state_dict(env.state_dict())
    assert not env.frame(1).alive[2]


@pytest.mark.parametrize(("level", "turn"), [(k, turn) for k in range(len(LEVELS)) for turn in (0.3, 2.0, 4.4)])
def test_mtqs_rings_are_lines_of_equal_payoff(level: int, turn: float):
    """But for the tops, whose rings are marks around a point."""
    env = made("mtq")
    entity, (x, y) = env.stage(0).entities[3 + level], env.frame(0).position[3 + level].tolist()
    radius = entity.radius if entity.radius > 0.5 else 0.0
    there = torch.tensor([[x + radius * np.cos(turn), y + radius * np.sin(turn)]], dtype=torch.float32)
    hill, worth = entity.name.split(", payoff ")
    assert payoff(there).item() == pytest.approx(float(worth), abs=1e-4)
    assert (hill == "narrow hill") == (x > 0)


def test_matrix_games_of_two_are_tables():
    env = made("matrix_game", preset=None, payoff=[[1, 2, -30], [4, 5.5, 6]])
    stage = env.stage(0)
    assert [entity.mark for entity in stage.entities] == ["0", "1", "1", "2", "-30", "4", "5.5", "6"]
    assert (env.frame(0).target == -1).all()
    env.step(torch.tensor([[1, 2], [0, 1], [0, 0]]))
    now = env.frame(0)
    assert now.target[:2].tolist() == [7, 7] and stage.entities[7].mark == "6"
    x, y = now.position[7]
    assert now.position[0, 1] == y and now.position[1, 0] == x, "level with its row, above its column"
    assert [stage.entities[t].mark for t in (env.frame(1).target[0], env.frame(2).target[1])] == ["2", "1"]
    env.reset(torch.tensor([True, False, False]))
    assert (env.frame(0).target == -1).all() and env.frame(1).target[0] == 3


def test_other_matrix_games_say_why_not():
    env = made("matrix_game", preset="dop14")
    for look in (env.stage, env.frame, env.render):
        with pytest.raises(NotImplementedError, match=r"only two agents have a table of payoffs, and there are 3"):
            look(0)
