"""Pictures: what is drawn where, and that nothing is drawn which is not there."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ImageColor

from core.drawing import BARS, CELLS, TROUGH, VOID, draw
from core.picture import CLIFF, NOBODY, TEAMS, WALL, Entity, Frame, Stage, emblem
from core.registry import ENVS

WIDTH = 200
"""Of the pictures of a stage 10 wide and 5 high: 20 pixels per unit of length."""
Picture = np.ndarray


def thing(**fields: Any) -> Entity:
    return Entity(**({"name": "thing", "kind": "thing", "mark": "", "team": 0, "radius": 1.0} | fields))


def stage(*entities: Entity, **fields: Any) -> Stage:
    world = {"title": "test", "teams": ("we", "they"), "low": (0.0, 0.0), "high": (10.0, 5.0)}
    return Stage(**(world | {"entities": entities} | fields))


def frame(*positions: tuple[float, float], **known: Any) -> Frame:
    return Frame.of(np.array(positions, dtype=np.float32), **known)


def rgb(colour: str) -> tuple[int, ...]:
    return ImageColor.getrgb(colour)[:3]


def at(picture: Picture, x: float, y: float) -> tuple[int, ...]:
    """The colour of a place of the world."""
    return tuple(picture[round((5 - y) * 20), round(x * 20)].tolist())


def area(picture: Picture, colour: str) -> int:
    """Pixels of exactly this colour."""
    return int((picture == rgb(colour)).all(-1).sum())


# --- discs ------------------------------------------------------------------------------------------------------------


def test_a_disc_is_where_its_entity_is_and_as_large():
    picture = draw(stage(thing()), frame((2.5, 1.0)), width=WIDTH)
    blue, floor = rgb(TEAMS[0].light), rgb(CELLS[0])
    assert picture.shape == (100, WIDTH, 3) and picture.dtype == np.uint8
    for dx, dy in ((0, 0), (0.8, 0), (-0.8, 0), (0, 0.8), (0, -0.8), (0.6, 0.6)):
        assert at(picture, 2.5 + dx, 1.0 + dy) == blue
    for dx, dy in ((1.15, 0), (-1.15, 0), (0, 1.15), (0.85, 0.85)):
        assert at(picture, 2.5 + dx, 1.0 + dy) == floor
    drawn = WIDTH * 100 - area(picture, CELLS[0])
    assert drawn == pytest.approx(np.pi * 20**2, rel=0.08), "with the blended edge"


def test_long_marks_stay_inside():
    for mark in ("8", "-1", "-30", "10.4"):
        picture = draw(stage(thing(mark=mark, radius=2.0)), frame((5, 2.5)), width=WIDTH)
        y, x = np.argwhere((picture == 255).all(-1)).T
        assert len(x) > 20, f"{mark} is seen"
        assert np.hypot(x - 100, y - 50).max() < 40, f"{mark} stays inside"


def test_every_team_has_its_colour_and_landmarks_are_rings():
    world = stage(thing(team=1), thing(team=None), thing(team=0))
    picture = draw(world, frame((2, 2), (5, 2), (8, 2)), width=WIDTH)
    assert at(picture, 2, 2) == rgb(TEAMS[1].light)
    assert at(picture, 8, 2) == rgb(TEAMS[0].light)
    grey, floor = np.array(rgb(NOBODY.light)), np.array(rgb(CELLS[0]))
    assert at(picture, 5, 2) == pytest.approx(tuple(floor + 60 / 255 * (grey - floor)), abs=2)


def test_the_dead_are_not_drawn():
    one, two = frame((2, 2), alive=np.array([True])), frame((2, 2), (7, 2), alive=np.array([True, False]))
    hurt = thing(health=10.0, sight=3.0)
    both = draw(stage(hurt, hurt), two, width=WIDTH, ranges=(1,))
    assert np.array_equal(both, draw(stage(hurt), one, width=WIDTH))


def test_what_is_small_stays_on_top():
    world = stage(thing(radius=0.3), thing(team=1, radius=1.5))
    picture = draw(world, frame((5, 2.5), (5, 2.5)), width=WIDTH)
    assert at(picture, 5, 2.5) == rgb(TEAMS[0].light) and at(picture, 6, 2.5) == rgb(TEAMS[1].light)


def test_of_equals_what_is_nobodys_lies_below():
    for teams in ((None, 0), (0, None)):
        picture = draw(stage(*(thing(team=team) for team in teams)), frame((5, 2.5), (5, 2.5)), width=WIDTH)
        assert at(picture, 5, 2.5) == rgb(TEAMS[0].light)


def test_kinds_differ_by_their_emblems():
    world = stage(thing(kind="a"), thing(kind="b"), thing(kind="c"))
    picture = draw(world, frame((1.5, 2), (4.5, 2), (7.5, 2)), width=WIDTH)
    discs = [picture[40:80, x - 20 : x + 20] for x in (30, 90, 150)]
    assert all(not np.array_equal(one, other) for one, other in combinations(discs, 2))
    assert emblem(0) == ()
    half = 0.7071
    assert emblem(1) == ((half, half), (-half, half), (-half, -half), (half, -half))
    assert emblem(6) == emblem(0), "after the sixth they begin again"


def test_marks_are_written_and_change_the_picture():
    plain, marked = (draw(stage(thing(mark=mark)), frame((5, 2)), width=WIDTH) for mark in ("", "7"))
    changed = np.argwhere((plain != marked).any(-1))
    assert len(changed) > 20
    assert np.abs(changed - [60, 100]).max() < 20, "inside the disc"


# --- bars, ranges, targets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_bars_are_as_long_as_what_is_left(share: float):
    hurt, values = thing(radius=2.0, health=40.0, shield=8.0), {"shield": np.array([8.0], dtype=np.float32)}
    picture = draw(
        stage(hurt), frame((5, 2.5), health=np.array([40.0 * share], dtype=np.float32), **values), width=WIDTH
    )
    lengths = {name: (picture == rgb(BARS[name])).all(-1).sum(1).max() for name in ("health", "shield")}
    assert lengths["shield"] == pytest.approx(0.9 * 80, abs=2), "full: nine tenths of the disc"
    assert lengths["health"] == pytest.approx(share * lengths["shield"], abs=1)


def test_only_what_something_has_gets_a_bar():
    colours = (*BARS.values(), TROUGH)
    none = draw(stage(thing()), frame((5, 2)), width=WIDTH)
    assert not any(area(none, colour) for colour in colours)
    energy = draw(stage(thing(energy=9.0)), frame((5, 2), energy=np.array([9.0], dtype=np.float32)), width=WIDTH)
    assert area(energy, BARS["energy"]) and not area(energy, BARS["health"])


def test_ranges_are_drawn_on_demand():
    seer = thing(radius=0.5, sight=2.0, reach=1.0)
    world, now = stage(seer, seer), frame((3, 2.5), (8, 2.5))
    plain, ranges = draw(world, now, width=WIDTH), draw(world, now, width=WIDTH, ranges=[0])
    changed = np.argwhere((plain != ranges).any(-1))
    away = np.hypot(changed[:, 1] + 0.5 - 60, changed[:, 0] + 0.5 - 50) / 20
    assert away.max() == pytest.approx(2.0, abs=0.1), "no further than it sees, and nothing around the other"
    assert at(ranges, 3, 4.0) != at(plain, 3, 4.0), "the field of view is tinted"
    ring = np.abs(away - 1.5) < 0.06
    dark = [ranges[y, x].sum() for (y, x), on in zip(changed.tolist(), ring, strict=True) if on]
    assert min(dark) < ranges[40, 60 + 35].sum() - 150, "the weapon's circle, from the edge of the disc"


def test_lines_lead_to_living_targets():
    world = stage(thing(radius=0.5), thing(radius=0.5, team=1))
    places, target = ((2, 2.5), (8, 2.5)), np.array([1, -1])
    plain = draw(world, frame(*places), width=WIDTH)
    assert at(plain, 5, 2.5) == rgb(CELLS[0])
    assert at(draw(world, frame(*places, target=target), width=WIDTH), 5, 2.5) != rgb(CELLS[0])
    fallen = frame(*places, target=target, alive=np.array([True, False]))
    assert at(draw(world, fallen, width=WIDTH), 5, 2.5) == rgb(CELLS[0])


# --- stages -----------------------------------------------------------------------------------------------------------


def test_walls_and_cliffs_lie_where_their_cells_are():
    ground = np.zeros((10, 5), dtype=np.uint8)
    ground[0, 0], ground[9, 4] = WALL, CLIFF
    picture = draw(stage(ground=ground), Frame.of(np.zeros((0, 2), dtype=np.float32)), width=WIDTH)
    assert at(picture, 0.5, 0.5) == rgb(VOID), "the lower left"
    assert at(picture, 9.5, 4.5) == rgb(CELLS[CLIFF]), "the upper right"
    assert at(picture, 0.5, 4.5) == at(picture, 9.5, 0.5) == at(picture, 1.5, 0.5) == rgb(CELLS[0])


def test_impossible_stages_are_refused():
    with pytest.raises(ValueError, match="test has no area"):
        stage(high=(0.0, 5.0))
    with pytest.raises(ValueError, match=r"2 teams, none of which is that of \['stray'\]"):
        stage(thing(name="stray", team=2))
    with pytest.raises(ValueError, match=r"other numbers of aims than of actions: \['odd'\]"):
        stage(thing(name="odd", actions=("stay", "go"), aims=(-1,)))
    with pytest.raises(ValueError, match=r"other numbers of pushes than of actions: \['odd'\]"):
        stage(thing(name="odd", actions=("stay", "go"), pushes=((0.0, 1.0),)))
    assert stage(thing(pushes=((0.0, 1.0),))), "a box's numbers have no names"
    with pytest.raises(ValueError, match="at least 1 pixel"):
        draw(stage(), Frame.of(np.zeros((0, 2), dtype=np.float32)), width=0)


def test_kinds_are_counted_once():
    assert stage(thing(kind="b"), thing(kind="a"), thing(kind="b")).kinds == ("b", "a")


# --- colours ----------------------------------------------------------------------------------------------------------

VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB."""
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def lab(colour: str, vision: str) -> np.ndarray:
    """CIE L*a*b* (D65) of a colour as such eyes see it."""
    c = np.array(rgb(colour)) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    f = np.cbrt(XYZ @ np.clip(np.array(VISION[vision]) @ linear, 1e-6, 1) / [0.95047, 1, 1.08883])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_tell_teams_apart(scheme: str, vision: str):
    seen = [lab(getattr(team, scheme), vision) for team in TEAMS]
    gaps = {pair: float(np.linalg.norm(seen[pair[0]] - seen[pair[1]])) for pair in combinations(range(len(TEAMS)), 2)}
    assert gaps[0, 1] > 80, "two teams: as different as can be"
    assert min(gaps.values()) > 25, gaps


# --- environments -----------------------------------------------------------------------------------------------------


def made(name: str, *, started: bool = True, **args: Any) -> Any:
    cls = ENVS[name]
    env = cls(cls.settle(cls.Config(**args)), 2, "cpu", 1)
    if started:
        env.reset()
    return env


def skirmish(map_name: str, **args: Any) -> Any:
    return made("sc2", map_name=map_name, engine="skirmish", **args)


def test_a_battle_is_shown_as_it_is():
    env = skirmish("3m", sight_range=7.0)
    live = env.battle.live
    live["pos"][1, :, 0] = torch.arange(6.0) + 10
    live["pos"][1, :, 1] = 15.5
    live["hp"][1] = torch.tensor([45.0, 30.0, 15.0, 45.0, 0.0, 45.0])
    live["target"][1] = torch.tensor([3, -1, 4, 0, 2, -1])
    live["order"][1] = torch.tensor([2, 1, 2, 1, 1, 1])
    live["cooldown"][1, 0] = 9.0
    now, world = env.frame(1), env.stage(1)
    assert now.position[:, 0].tolist() == [10, 11, 12, 13, 14, 15]
    assert now.health.tolist() == [45, 30, 15, 45, 0, 45]
    assert now.alive.tolist() == [True, True, True, True, False, True]
    assert now.target.tolist() == [3, -1, 4, 0, -1, -1], "the dead are after nobody"
    assert now.order == ("attack", "move", "attack", "attack", "", "move")
    assert now.cooldown.tolist() == [9, 0, 0, 0, 0, 0]
    assert [entity.team for entity in world.entities] == [0, 0, 0, 1, 1, 1]
    assert [entity.agent for entity in world.entities] == [0, 1, 2, None, None, None]
    assert [entity.sight for entity in world.entities] == [7, 7, 7, 0, 0, 0]
    first = world.entities[0]
    assert (first.name, first.mark, first.radius, first.reach, first.health) == ("marine 0", "0", 0.375, 5, 45)
    assert first.actions == ("no-op", "stop", "north", "south", "east", "west", "attack 0", "attack 1", "attack 2")
    live["pos"][1] += 1
    assert now.position[0].tolist() == [10, 15.5], "frames are copies"


def test_action_names_say_what_the_actions_do():
    env = skirmish("MMM")
    assert env.stage(0).entities[9].actions[6:8] == ("heal 0", "heal 1")
    assert env.stage(0).entities[0].actions[6 + 9] == "attack 9"
    assert env.stage(0).entities[9].aims[5:8] == (-1, 0, 1), "mates"
    assert env.stage(0).entities[0].aims[5:8] == (-1, 10, 11), "enemies"
    env = skirmish("3m")
    for action, name in enumerate(env.stage(0).entities[0].actions[2:6], start=2):
        env.reset()
        before = env.frame(0).position[0]
        env.step(torch.tensor([[action, 1, 1]] * 2))
        dx, dy = env.frame(0).position[0] - before
        assert {"north": dy, "south": -dy, "east": dx, "west": -dx}[name] > 0.2


def test_kinds_are_those_that_fight_in_this_row():
    env = skirmish("2s3z")
    assert [entity.kind for entity in env.stage(1).entities[:5]] == ["stalker"] * 2 + ["zealot"] * 3
    env.battle.live["kind"][1, 0] = env.battle.live["kind"][1, 4]
    assert [entity.kind for entity in env.stage(1).entities[:2]] == ["zealot", "stalker"]
    assert env.stage(0).entities[0].kind == "stalker"


def test_the_ground_is_cut_to_where_units_get_to():
    world = skirmish("3m").stage(0)
    assert (world.low, world.high) == ((0, 7), (32, 25))
    assert world.ground[:, 0].tolist() == world.ground[:, -1].tolist() == [WALL] * 32
    assert not world.ground[:, 1:-1].any()
    assert skirmish("MMM").stage(0).high == (32, 32), "Medivacs fly anywhere"
    assert (skirmish("2c_vs_64zg", started=False).stage(0).ground == CLIFF).sum() == 2 * 24


def test_a_battle_can_be_drawn():
    env = skirmish("2s_vs_1sc")
    picture = env.render(0, width=280)
    assert picture.shape == (360, 280, 3), "14 by 18 cells"
    x, y = env.frame(0).position[0]
    (left, _), (_, top) = env.stage(0).low, env.stage(0).high
    around = picture[round((top - y) * 20) - 8 :, round((x - left) * 20) - 8 :][:17, :17].reshape(-1, 3)
    assert (around == rgb(TEAMS[0].light)).all(-1).sum() > 100
    assert not np.array_equal(picture, env.render(0, width=300, ranges=[0]))


def test_multi_goal_shows_point_and_goals():
    env = made("multi_goal", step=2.0)
    env._point[0] = torch.tensor([2.0, -1.0])
    now, world = env.frame(0), env.stage(0)
    assert now.position[:2].mean(0).tolist() == [2, -1], "one agent on either side"
    assert now.position[2:].tolist() == [[0, 5], [0, -5], [5, 0], [-5, 0]]
    assert [entity.mark for entity in world.entities] == ["0", "1", "N", "S", "E", "W"]
    assert env.render(0, width=140).shape == (140, 140, 3)
    assert world.entities[1].pushes == ((0, 0), (0, 2), (0, -2), (2, 0), (-2, 0)), "as far as the point would go"


def test_the_example_of_an_environment_of_ones_own_works():
    """What docs/replay.md prints is enough for a picture."""
    text = (Path(__file__).parents[2] / "docs" / "replay.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"Stage": Stage, "Frame": Frame, "Entity": Entity}
    exec(re.search(r"```python\n(def stage.*?)```", text, re.DOTALL).group(1), names)
    env = SimpleNamespace(place=torch.tensor([[[-0.5, 0.0], [0.5, 0.0], [0.0, 0.5]]]))
    now = names["frame"](env, 0)
    picture = draw(names["stage"](env, 0), now, width=400)
    assert tuple(picture[200, 93].tolist()) == tuple(picture[200, 307].tolist()) == rgb(TEAMS[0].light)
    env.place += 1
    assert now.position[0, 0] == -0.5, "a copy"


@pytest.mark.parametrize("map_name", ["2s_vs_1sc", "6h_vs_8z", "MMM2"])
def test_everybody_starts_whole_and_on_the_stage(map_name: str):
    env = skirmish(map_name)
    world, now = env.stage(0), env.frame(0)
    x, y = (now.position - world.low).astype(int).T
    assert (world.ground[x, y] != WALL).all()
    assert now.alive.all()
    assert now.health.tolist() == [entity.health for entity in world.entities]
    assert now.shield.tolist() == [entity.shield for entity in world.entities]
    assert (now.energy <= [entity.energy for entity in world.entities]).all()
