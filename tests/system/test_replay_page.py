"""The replay page in a real browser: it plays, steps, shows units and needs nothing but its file."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor

import main
from browser import Chromium
from core.picture import TEAMS
from toy_runs import run_of

WIDE, NARROW = (1280, 800), (390, 844)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two battles of exploring Stalkers and Zealots."""
    folder = run_of(
        tmp_path_factory.mktemp("results"), "sc2", "env_args.map_name=2s3z", "env_args.engine=skirmish", seed=3
    )
    assert main.main(["replay", str(folder.path), "--episodes", "2", "--sample"]) == 0
    return folder.path / "replay.html"


@pytest.fixture(scope="module")
def data(page: Path) -> dict[str, Any]:
    return recorded(page)


@pytest.fixture
def shown(browser: Chromium, page: Path) -> Iterator[Chromium]:
    """The page at step 0, standing still, by day, in a wide window."""
    browser.problems.clear()
    browser.size(*WIDE)
    browser.open(page, "step=0")
    yield browser
    assert browser.problems == []


def recorded(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="recording">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(found.group(1))


def steps(data: dict[str, Any], episode: int = 0) -> int:
    return len(data["episodes"][episode]["reward"])


def step(browser: Chromium) -> int:
    return int(browser.text("step").split(" / ")[0])


def place(browser: Chromium, data: dict[str, Any], u: int, k: int) -> tuple[float, float]:
    """Where unit ``u`` is in the window at step ``k`` of the first episode."""
    view = browser.value("({...document.getElementById('scene').dataset})")
    box = browser.value("document.getElementById('scene').getBoundingClientRect().toJSON()")
    x, y = (data["episodes"][0]["frames"][axis][k][u] for axis in "xy")
    scale, left, top = (float(view[name]) for name in ("scale", "left", "top"))
    return box["x"] + (x - left) * scale, box["y"] + (top - y) * scale


def pixels(browser: Chromium) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("RGB")).astype(int)


def doing(data: dict[str, Any], agent: int, k: int) -> str:
    """The name of an agent's action at step ``k``."""
    stage, episode = data["stages"][0], data["episodes"][0]
    names = stage["vocabularies"][stage["entities"][agent]["vocabulary"]]["actions"]
    return names[episode["actions"][k][agent]]


def test_it_says_what_it_shows(shown: Chromium, data: dict[str, Any]):
    assert shown.value("document.title") == shown.text("title") == "qmix on sc2-skirmish/2s3z"
    assert data["run"] in shown.text("facts") and "exploring as in training" in shown.text("facts")
    assert "not a SMAC result" in shown.text("note")
    assert shown.value("getComputedStyle(document.getElementById('note')).display") != "none"
    assert shown.value("document.querySelectorAll('#episodes button').length") == 2
    names = shown.value(
        "[...document.querySelectorAll('#teams button > span:first-of-type')].map((s) => s.textContent)"
    )
    assert names == (["stalker"] * 2 + ["zealot"] * 3) * 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_units_are_where_they_were(shown: Chromium, page: Path, data: dict[str, Any], scheme: str):
    shown.size(*WIDE, dark=scheme == "dark")
    shown.open(page, "step=2")
    picture = pixels(shown)
    for u, entity in enumerate(data["stages"][0]["entities"]):
        x, y = (round(v) for v in place(shown, data, u, 2))
        around = picture[y - 12 : y + 13, x - 12 : x + 13]
        colour = ImageColor.getrgb(getattr(TEAMS[entity["team"]], scheme))
        share = (np.abs(around - colour).sum(-1) < 40).mean()
        assert share > 0.1, f"{entity['name']} is not seen at {x}, {y}"
    back = shown.value("getComputedStyle(document.body).backgroundColor")
    assert sum(int(part) for part in re.findall(r"\d+", back)) > 600 or scheme == "dark"
    assert sum(int(part) for part in re.findall(r"\d+", back)) < 150 or scheme == "light"


def test_keys_step_and_jump(shown: Chromium, data: dict[str, Any]):
    last = steps(data)
    for key, shift, expected in (
        ("ArrowRight", False, 1),
        ("ArrowRight", True, 11),
        ("ArrowLeft", False, 10),
        ("End", False, last),
        ("ArrowRight", False, last),
        ("ArrowLeft", True, last - 10),
        ("Home", False, 0),
        ("ArrowLeft", False, 0),
    ):
        shown.press(key, shift=shift)
        assert step(shown) == expected, key
        assert shown.value("Number(document.getElementById('scrubber').value)") == expected
        assert shown.value("document.getElementById('outcome').hidden") == (expected < last)
    shown.press("]")
    assert shown.text("step") == f"0 / {steps(data, 1)}"
    shown.press("[")
    assert shown.text("step") == f"0 / {last}"


def test_numbers_are_those_of_the_recording(shown: Chromium, data: dict[str, Any]):
    episode = data["episodes"][0]
    shown.press("End")
    assert float(shown.text("return")) == pytest.approx(sum(episode["reward"]), abs=0.006)
    assert float(shown.text("reward")) == pytest.approx(episode["reward"][-1], abs=0.006)
    assert shown.text("outcome").lower().startswith(episode["result"])
    alive = [episode["frames"]["alive"][-1][:5].count("1"), episode["frames"]["alive"][-1][5:].count("1")]
    counts = shown.value("[...document.querySelectorAll('#teams h2 span:last-child')].map((s) => s.textContent)")
    assert counts == [f"{n} of 5 left" for n in alive]


def test_it_plays_and_pauses(shown: Chromium):
    shown.value("document.getElementById('speed').value = '32'")
    shown.value("document.getElementById('speed').dispatchEvent(new Event('change'))")
    shown.press(" ")
    assert shown.value("document.getElementById('play').getAttribute('aria-label')") == "Pause"
    shown.until("parseInt(document.getElementById('step').textContent) >= 5")
    shown.press(" ")
    stopped = step(shown)
    for _ in range(5):
        shown.settle()
    assert step(shown) == stopped >= 5
    assert shown.value("document.getElementById('play').getAttribute('aria-label')") == "Play"


def test_it_plays_by_itself_unless_motion_is_unwanted(shown: Chromium, page: Path):
    shown.open(page)
    assert shown.value("document.getElementById('play').getAttribute('aria-label')") == "Pause"
    shown.size(*WIDE, still=True)
    shown.open(page)
    assert shown.value("document.getElementById('play').getAttribute('aria-label')") == "Play"
    assert step(shown) == 0


def test_units_move_smoothly_between_steps(shown: Chromium, data: dict[str, Any]):
    """Half way between two steps a unit is half way between its two places."""
    shown.value("seek(2.5)")
    shown.settle()
    frames = data["episodes"][0]["frames"]
    for u in range(10):
        unit = shown.value(f"picture.moment[{u}]")
        for axis in "xy":
            assert unit[axis] == pytest.approx((frames[axis][2][u] + frames[axis][3][u]) / 2)


@pytest.mark.parametrize("u", [1, 7])
def test_a_click_chooses_a_unit(shown: Chromium, data: dict[str, Any], u: int):
    entity = data["stages"][0]["entities"][u]
    assert "Choose a unit" in shown.text("card")
    before = pixels(shown)
    shown.click(*place(shown, data, u, 0))
    card = shown.text("card")
    assert entity["name"] in card
    assert f"{entity['health']:.0f} / {entity['health']:.0f}" in card
    if u < 5:
        assert shown.text("act").startswith(doing(data, u, 0))
        assert f"one of {data['episodes'][0]['choices'][0][u]} available" in card
        seen = np.abs(pixels(shown) - before).sum(-1) > 0
        x, y = (round(v) for v in place(shown, data, u, 0))
        scale = float(shown.value("document.getElementById('scene').dataset.scale"))
        inside = round(y - 0.9 * entity["sight"] * scale), x
        assert seen[max(inside[0], 130), inside[1]], "its field of view is tinted"
    shown.press("Escape")
    assert "Choose a unit" in shown.text("card")


def test_the_list_chooses_too_and_says_what_is_done(shown: Chromium, data: dict[str, Any]):
    shown.value("document.querySelector('[data-unit=\"3\"]').click()")
    for k in range(4):
        shown.settle()
        assert shown.text("act").startswith(doing(data, 3, k))
        label = shown.value("document.querySelector('[data-unit=\"3\"]').getAttribute('aria-label')")
        health = data["episodes"][0]["frames"]["health"][k][3]
        assert label == f"zealot 3, health {health:.0f} of 100, {doing(data, 3, k)}"
        shown.press("ArrowRight")


def test_agents_are_after_whom_their_actions_name(shown: Chromium, data: dict[str, Any]):
    """Also where that enemy falls in this very step."""
    episode = data["episodes"][0]
    checked = set()
    for k in range(steps(data)):
        for u in range(5):
            action, target = episode["actions"][k][u], shown.value(f"episode().target({k}, {u})")
            assert target == (action - 6 + 5 if action >= 6 else -1)
            checked.add(target)
    assert len(checked) > 3


def test_enemies_do_what_they_are_ordered_to(shown: Chromium, data: dict[str, Any]):
    """What stands in the list at step k is the order that led to the next frame."""
    frames, words = data["episodes"][0]["frames"], data["episodes"][0]["words"]
    seen = set()
    for k in range(0, steps(data), 3):
        shown.value(f"seek({k})")
        shown.settle()
        for u in range(5, 10):
            if frames["alive"][k + 1][u] == "1":
                old, new = frames["target"][k][u], frames["target"][k + 1][u]
                felled = new < 0 <= old and frames["alive"][k + 1][old] < frames["alive"][k][old]
                target = old if felled else new
                order = words[frames["order"][k + 1 - felled][u]] + (f" {target}" if target >= 0 else "")
                does = shown.value(f"document.querySelector('[data-unit=\"{u}\"] .does').textContent")
                assert does == order
                seen.add(order.split()[0])
    assert seen == {"move", "attack"}


def test_the_fallen_are_gone(shown: Chromium, data: dict[str, Any]):
    alive = data["episodes"][0]["frames"]["alive"]
    k, u = next((k, u) for k in range(1, len(alive)) for u in range(10) if alive[k][u] == "0")
    shown.value(f"seek({k - 1})")
    shown.settle()
    assert shown.value(f"picture.moment[{u}].presence") == 1
    shown.value(f"seek({k})")
    shown.settle()
    assert shown.value(f"picture.moment[{u}].presence") == 0
    assert shown.value(f"document.querySelector('[data-unit=\"{u}\"]').classList.contains('dead')")


def test_the_scrubber_and_the_curve_seek(shown: Chromium, data: dict[str, Any]):
    shown.value("document.getElementById('scrubber').value = 7")
    shown.value("document.getElementById('scrubber').dispatchEvent(new Event('input'))")
    shown.settle()
    assert step(shown) == 7
    box = shown.value("document.getElementById('curve').getBoundingClientRect().toJSON()")
    shown.click(box["x"] + 8 + (box["width"] - 16) * 5 / steps(data), box["y"] + 20)
    assert step(shown) == 5


def test_the_address_leads_to_a_moment(shown: Chromium, page: Path, data: dict[str, Any]):
    shown.open(page, "episode=2&step=4&unit=1&view=whole&speed=8&play=0")
    assert shown.text("step") == f"4 / {steps(data, 1)}"
    assert "stalker 1" in shown.text("card")
    assert [shown.value(f"document.getElementById('{name}').value") for name in ("view", "speed")] == ["whole", "8"]
    shown.open(page, "episode=99&step=-5&unit=zero&speed=7")
    assert shown.text("step") == f"0 / {steps(data, 1)}"
    assert "Choose a unit" in shown.text("card")


def test_views_show_more_or_less(shown: Chromium, data: dict[str, Any]):
    scales = {}
    for view in ("whole", "action", "follow"):
        shown.value(f"setView('{view}')")
        shown.settle()
        scales[view] = float(shown.value("document.getElementById('scene').dataset.scale"))
    assert scales["whole"] < scales["action"]
    box = shown.value("document.getElementById('scene').getBoundingClientRect().toJSON()")
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    assert place(shown, data, 0, 0) == pytest.approx(middle, abs=0.5), "followed: the first agent"


@pytest.mark.parametrize("size", [WIDE, (1024, 700), NARROW], ids=lambda size: f"{size[0]}x{size[1]}")
def test_it_fits_the_window(shown: Chromium, page: Path, size: tuple[int, int]):
    shown.size(*size)
    shown.open(page, "step=3")
    assert shown.value("document.documentElement.scrollWidth") <= size[0], "nothing sticks out sideways"
    boxes = {
        name: shown.value(f"document.getElementById('{name}').getBoundingClientRect().toJSON()")
        for name in ("scene", "scrubber", "card", "play")
    }
    assert boxes["scene"]["width"] > 0.5 * size[0] and boxes["scene"]["height"] > 200
    assert all(box["left"] >= 0 and box["right"] <= size[0] for box in boxes.values())
    if size == WIDE:
        assert shown.value("document.documentElement.scrollHeight") <= size[1], "everything is in view"


def test_everything_to_operate_has_a_name(shown: Chromium):
    nameless = shown.value(
        "[...document.querySelectorAll('button, select, input, canvas')].filter((e) => "
        "!(e.getAttribute('aria-label') || e.textContent.trim() || e.closest('label')?.textContent.trim()))"
        ".map((e) => e.outerHTML)"
    )
    assert nameless == []
    assert shown.value("document.documentElement.lang") == "en"
    shown.press("ArrowRight")
    words = shown.value("document.getElementById('scene').getAttribute('aria-label')")
    assert words.startswith("Step 1 of ") and "5 of 5 agents left" in words
    assert shown.text("spoken") == words, "said while nothing moves"


def test_the_network_is_out_of_reach(shown: Chromium):
    answer = shown.value("fetch('http://127.0.0.1:9/').then(() => 'reached', () => 'refused')")
    assert answer == "refused"
    assert any("Content Security Policy" in problem for problem in shown.problems), "by the page, not by the network"
    assert not any("asked for" in problem for problem in shown.problems)
    shown.problems.clear()


# --- worlds without battles -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["discrete", "continuous"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of exploring agents in a particle world."""
    where, action = tmp_path_factory.mktemp("results"), request.param
    algorithm = "qmix" if action == "discrete" else "mappo"
    folder = run_of(where, "formation", f"env_args.action={action}", seed=4, algorithm=algorithm)
    assert main.main(["replay", str(folder.path), "--episodes", "2", "--sample"]) == 0
    return folder.path / "replay.html"


@pytest.fixture
def roamed(browser: Chromium, world: Path) -> Iterator[Chromium]:
    """Its page, like ``shown``."""
    browser.problems.clear()
    browser.size(*WIDE)
    browser.open(world, "step=0&view=whole")
    yield browser
    assert browser.problems == []


def arrow(data: dict[str, Any], agent: int, k: int) -> np.ndarray:
    """What the action of step ``k`` pushes to."""
    pushes = np.array(data["stages"][0]["vocabularies"][0]["pushes"])
    action = data["episodes"][0]["actions"][k][agent]
    return pushes[action] if isinstance(action, int) else np.array(action) @ pushes


def apart(data: dict[str, Any], k: int) -> float:
    """The smallest distance between two agents before step ``k``."""
    x, y = (np.array(data["episodes"][0]["frames"][axis][k][:3]) for axis in "xy")
    return min(float(np.hypot(x[i] - x[j], y[i] - y[j])) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_agents_without_health_are_only_counted(roamed: Chromium, world: Path):
    data = recorded(world)
    assert roamed.value("[...document.querySelectorAll('#teams h2')].map((h) => h.textContent)") == ["agents3"]
    assert roamed.value("document.querySelectorAll('.bars *').length") == 0
    assert roamed.text("card") == "Choose a unit, on the map or in the list, to see what it does."
    labels = roamed.value("[...document.querySelectorAll('.options label')].filter((l) => !l.hidden).length")
    assert labels == 2, "view and pushes: there are no targets, and nobody's sight ends"
    assert roamed.value("document.getElementById('scene').getAttribute('aria-label')").endswith(": 3 agents")
    roamed.press("End")
    assert roamed.text("outcome").startswith("Undecided") and data["episodes"][0]["result"] == "undecided"


def test_pushes_are_arrows(roamed: Chromium, world: Path):
    """From the edge of each disc, as long and in the direction as its action says; and only where they are wanted."""
    data = recorded(world)
    scale = float(roamed.value("document.getElementById('scene').dataset.scale"))
    ink = ImageColor.getrgb(roamed.value("getComputedStyle(document.documentElement).getPropertyValue('--text')"))
    pushing = [k for k in range(steps(data)) if all(np.hypot(*arrow(data, n, k)) > 0.05 for n in range(3))]
    k = max(pushing, key=lambda k: apart(data, k))
    roamed.value(f"seek({k})")
    roamed.settle()
    picture = pixels(roamed)
    ways = []
    for n in range(3):
        way = arrow(data, n, k)
        way = way / np.hypot(*way)
        ways.append((place(roamed, data, n, k), way, data["stages"][0]["entities"][n]["radius"] * scale))
    lengths = [np.hypot(*arrow(data, n, k)) * scale for n in range(3)]

    def dark(n: int, along: float) -> bool:
        (x, y), way, _ = ways[n]
        px, py = round(x + along * way[0]), round(y - along * way[1])
        return bool((np.abs(picture[py - 1 : py + 2, px - 1 : px + 2] - ink).sum(-1) < 90).any())

    for n in range(3):
        edge = ways[n][2]
        assert dark(n, edge + 0.5 * lengths[n]) and dark(n, edge + lengths[n] - 3), f"agent {n}'s arrow is not seen"
        assert not dark(n, edge + lengths[n] + 5), f"agent {n}'s arrow is too long"
    roamed.value("document.getElementById('pushes').click()")
    roamed.settle()
    picture = pixels(roamed)
    assert not any(dark(n, ways[n][2] + 0.5 * lengths[n]) for n in range(3))


def test_actions_of_particles_are_told(roamed: Chromium, world: Path):
    data = recorded(world)
    action = data["episodes"][0]["actions"][0][1]
    roamed.click(*place(roamed, data, 1, 0))
    names = ("stay", "right", "left", "up", "down")
    if isinstance(action, int):
        assert roamed.text("act") == f"{names[action]} one of 5 available"
    else:
        words = roamed.text("act").strip("()").split(", ")
        assert [float(word) for word in words] == pytest.approx(action, abs=0.0051)
    assert roamed.text("card").count("agent 1") == 1, "its name is not said twice"


def test_what_is_small_can_be_clicked_inside_of_what_is_large(browser: Chromium, tmp_path: Path):
    """MTQ's tops lie within rings that lie within rings; before the choice there is no joint action."""
    folder = run_of(tmp_path, "mtq", seed=4, algorithm="mappo")
    assert main.main(["replay", str(folder.path), "--episodes", "1"]) == 0
    page = folder.path / "replay.html"
    data = recorded(page)
    browser.problems.clear()
    browser.size(*WIDE)
    browser.open(page, "step=0")
    for u, name in ((5, "wide hill, payoff 0"), (4, "wide hill, payoff -0.8"), (8, "narrow hill, payoff 10")):
        x, y = place(browser, data, u, 0)
        aside = 1.5 * float(browser.value("document.getElementById('scene').dataset.scale")) if u == 4 else 0
        browser.click(x + aside, y)
        assert name in browser.text("card")
    row = "document.querySelector('[data-unit=\"2\"]')"
    assert browser.value(f"{row}.textContent") == "joint actionnot there yet"
    browser.press("End")
    assert browser.value(f"{row}.textContent") == "joint action"
    assert browser.text("outcome").startswith("The end")
    assert browser.problems == []
