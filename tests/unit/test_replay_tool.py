"""``replay RUN``: what is recorded is what was played, and the page holds it and nothing from elsewhere."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import main
from core import cli
from core.config import ConfigError, Settings
from core.picture import Entity, Frame, Stage
from core.specs import ActionSpec, EnvSpec, Outcome, TimeStep
from envs.base import BatchedEnv
from run import Session, make_env
from tools import replay, trained
from tools.recording import Recorder, Recording, compact, record, result_of
from toy_runs import run_of
from tracking.folder import RunFolder

SEED = 11
TWO = ("--episodes", "2", "--sample")


@pytest.fixture(scope="module")
def battles(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_of(
        tmp_path_factory.mktemp("results"), "sc2", "env_args.map_name=3m", "env_args.engine=skirmish", seed=SEED
    )


@pytest.fixture(scope="module")
def session(battles: RunFolder) -> Any:
    made = trained.load(settings_of(battles), battles)
    yield made
    made.close()


@pytest.fixture(scope="module")
def explored(session: Session) -> list[Recording]:
    """Three battles of exploring agents."""
    return record(session, 3, sample=True)


@pytest.fixture(scope="module")
def text(battles: RunFolder) -> str:
    """The page of the first two of them."""
    return written(battles, *TWO)


def settings_of(folder: RunFolder) -> Settings:
    return cli.overlay([(yaml.safe_load(folder.config.read_text()), "the run")])


def written(folder: RunFolder, *options: str, out: str = "page.html") -> str:
    """The page that the command line writes."""
    path = folder.path / out
    assert main.main(["replay", str(folder.path), "--out", str(path), *options]) == 0
    return path.read_text(encoding="utf-8")


class Parts(HTMLParser):
    """The elements of a page, and the text inside its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.scripts: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "path":
            assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            attributes = self.tags[-1][1]
            self.scripts[attributes.get("type") or "code"] = data


def embedded(page: str) -> dict[str, Any]:
    return json.loads(Parts(page).scripts["application/json"])


# --- recording --------------------------------------------------------------------------------------------------------


def test_the_frames_are_the_states_that_the_actions_lead_through(session: Session, explored: list[Recording]):
    """Played again by hand, the recorded actions lead through the same frames, rewards and ends."""
    recordings = explored
    env = make_env(session.settings, 3, session.streams.seed("eval"))
    env.seed_rows(session.streams.seed("eval", session.progress.t_env))
    shown = env.reset()
    for t in range(max(len(one.action) for one in recordings)):
        live = [row for row, one in enumerate(recordings) if t < len(one.action)]
        for row in live:
            assert_same(recordings[row].frames[t], env.frame(row))
            assert recordings[row].choices[t].tolist() == shown.avail[row].sum(-1).tolist()
        action = shown.avail.int().argmax(-1)  # of rows that have ended
        for row in live:
            action[row] = torch.from_numpy(recordings[row].action[t])
        outcome = env.step(action)
        shown = outcome.next
        for row in live:
            one = recordings[row]
            assert one.reward[t] == outcome.reward[row].item()
            over = bool(outcome.terminated[row] | outcome.truncated[row])
            assert over == (t + 1 == len(one.action) == len(one.frames) - 1)
            if over:
                assert_same(one.frames[t + 1], env.frame(row))
                assert one.metrics["battle_won"] == outcome.info["battle_won"][row].item()
    env.close()


def assert_same(one: Frame, other: Frame) -> None:
    assert one.order == other.order
    for name in ("position", "alive", "health", "shield", "energy", "cooldown", "target"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_the_episodes_are_those_that_an_evaluation_begins_with(session: Session):
    recordings = record(session, 3, sample=False)
    stats = session.evaluate("test", 3)
    assert [one.reward.sum() for one in recordings] == pytest.approx(stats["return"].tolist())
    assert [len(one.action) for one in recordings] == stats["ep_length"].tolist()


def test_sampling_explores(session: Session, explored: list[Recording]):
    (greedy,) = record(session, 1, sample=False)
    assert len({tuple(step) for one in explored for step in one.action.tolist()}) > 20
    assert not np.array_equal(greedy.action, explored[0].action)


def test_more_episodes_than_rows_are_played_in_rounds(session: Session, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tools.recording.LARGEST_TEST", 2)
    recordings = record(session, 3, sample=True)
    assert len(recordings) == 3
    assert not np.array_equal(recordings[0].frames[0].position, recordings[2].frames[0].position)


def test_a_recorder_does_not_start_single_rows(session: Session):
    recorder = Recorder(session.env)
    with pytest.raises(ValueError, match="starts all rows together"):
        recorder.reset(torch.tensor([True]))


@pytest.mark.parametrize(
    ("metrics", "ended", "result"),
    [
        ({"battle_won": 1.0}, True, "won"),
        ({"battle_won": 0.0, "dead_allies": 3.0}, True, "lost"),
        ({"battle_won": 0.0}, False, "undecided"),
        ({"success": 1.0}, True, "won"),
        ({"success": 0.0}, False, "undecided"),
        ({"other": 1.0}, True, "over"),
        ({}, False, "over"),
    ],
)
def test_how_an_episode_came_out(metrics: dict[str, float], ended: bool, result: str):
    assert result_of(metrics, ended=ended) == result


# --- the compact form -------------------------------------------------------------------------------------------------


def recording(**fields: Any) -> Recording:
    """Two agents of two teams and a landmark, which live through one step."""
    entities = (
        Entity(
            name="a",
            kind="agent",
            mark="0",
            team=0,
            agent=0,
            actions=("stay", "go"),
            aims=(-1, 2),
            pushes=((0.0, 0.0), (0.5, 0.0)),
            radius=0.1,
            sight=0.5,
        ),
        Entity(name="b", kind="agent", mark="1", team=1, agent=1, radius=0.1, health=10.0),
        Entity(name="c", kind="landmark", mark="x", radius=0.2),
    )
    stage = Stage(title="</script><b>", teams=("we", "they"), entities=entities, low=(-1.0, -1.0), high=(1.0, 1.0))
    places = np.array([[0.123456, 0], [-0.5, 0], [1 / 3, 0]], dtype=np.float32)
    first = Frame.of(places, health=np.array([0, 10, 0], dtype=np.float32))
    second = Frame.of(places, health=np.array([0, 7.5, 0], dtype=np.float32), alive=np.array([True, False, True]))
    values = {
        "stage": stage, "frames": [first, second], "action": np.array([[1, 0]]), "choices": np.array([[2, 1]]),
        "reward": np.array([1.23456789]), "result": "over", "metrics": {"hits": 1.0},
    }  # fmt: skip
    return Recording(**(values | fields))


def test_the_compact_form_holds_everything_that_is_not_nothing():
    data = compact([recording()])
    (stage,), (episode,) = data["stages"], data["episodes"]
    assert stage["entities"][0] == {
        "name": "a", "kind": 0, "mark": "0", "team": 0, "agent": 0, "vocabulary": 0, "radius": 0.1, "sight": 0.5,
    }  # fmt: skip
    assert stage["entities"][1] == {
        "name": "b", "kind": 0, "mark": "1", "team": 1, "agent": 1, "vocabulary": 1, "radius": 0.1, "health": 10.0,
    }  # fmt: skip
    assert stage["entities"][2] == {"name": "c", "kind": 1, "mark": "x", "vocabulary": 1, "radius": 0.2}
    assert stage["vocabularies"] == [
        {"actions": ("stay", "go"), "aims": (-1, 2), "pushes": ((0.0, 0.0), (0.5, 0.0))},
        {"actions": (), "aims": (), "pushes": ()},
    ]
    assert [team["name"] for team in stage["teams"]] == ["we", "they"] and stage["ground"] is None
    assert episode["frames"] == {
        "x": [[0.1235, -0.5, 0.3333]] * 2, "alive": ["111", "101"], "health": [[0, 10, 0], [0, 7.5, 0]],
    }  # fmt: skip
    assert (episode["actions"], episode["choices"]) == ([[1, 0]], [[2, 1]])
    assert episode["reward"] == [1.234568]
    assert (episode["result"], episode["metrics"]) == ("over", {"hits": 1.0})


def test_targets_are_kept_where_there_is_one():
    one = recording()
    one.frames[1].target[0] = 1
    assert compact([one])["episodes"][0]["frames"]["target"] == [[-1, -1, -1], [1, -1, -1]]


def test_stages_are_written_once():
    other = recording(stage=Stage(title="other", teams=(), entities=(), low=(0.0, 0.0), high=(1.0, 1.0)))
    data = compact([recording(), other, recording()])
    assert [stage["title"] for stage in data["stages"]] == ["</script><b>", "other"]
    assert [episode["stage"] for episode in data["episodes"]] == [0, 1, 0]


def test_cells_are_written_row_by_row_from_below():
    ground = np.array([[0, 1], [2, 0], [0, 0]], dtype=np.uint8)
    stage = Stage(title="", teams=(), entities=(), low=(0.0, 0.0), high=(3.0, 2.0), ground=ground)
    assert compact([recording(stage=stage)])["stages"][0]["ground"] == {"columns": 3, "rows": 2, "cells": "020100"}


def test_boxes_of_actions_are_numbers():
    box = recording(action=np.array([[[0.25, -1 / 3], [1.0, 0.0]]], dtype=np.float32))
    assert compact([box])["episodes"][0]["actions"] == [[[0.25, -0.333], [1, 0]]]


def test_what_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        compact([recording(reward=np.array([np.nan]))])


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_stands_alone(text: str):
    parts = Parts(text)
    assert not parts.open, "every element is closed"
    assert not re.search(r"https?://|@import|url\(", text)
    loaded = [(tag, a) for tag, a in parts.tags if {"src", "href", "srcset", "data", "action"} & set(a)]
    assert not loaded and not {"link", "iframe", "img", "object"} & {tag for tag, _ in parts.tags}
    policy = next(a["content"] for tag, a in parts.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "$" + "recording" not in text and "$" + "style" not in text


def test_the_page_tells_run_map_and_engine(battles: RunFolder, text: str):
    data = embedded(text)
    assert data["title"] == "qmix on sc2-skirmish/3m"
    assert (data["run"], data["seed"], data["trained"]) == (battles.path.name, SEED, 0)
    assert (data["stages"][0]["title"], len(data["episodes"])) == ("3m", 2)
    assert "not StarCraft II, and not a SMAC result" in data["stages"][0]["note"]


def test_the_page_holds_the_recording(session: Session, text: str):
    data = embedded(text)
    one = record(session, 2, sample=True)[1]
    episode = data["episodes"][1]
    assert episode["actions"] == one.action.tolist()
    x, y = (np.array([frame.position[:, axis] for frame in one.frames]) for axis in (0, 1))
    assert np.abs(np.array(episode["frames"]["x"]) - x).max() < 0.006
    assert np.abs(np.array(episode["frames"]["y"]) - y).max() < 0.006
    assert sum(episode["reward"]) == pytest.approx(one.reward.sum(), abs=1e-4)
    assert data["policy"] == "exploring as in training"


def test_the_same_seed_writes_the_same_page(battles: RunFolder, text: str):
    assert written(battles, *TWO, "--seed", str(SEED), out="again.html") == text
    assert written(battles, *TWO, "--seed", "12", out="other.html") != text


def test_nothing_in_a_recording_ends_its_element():
    caption = {"title": "<&>", "run": "", "trained": 0, "policy": "", "seed": 0}
    text = replay.page(caption | compact([recording()]))
    assert embedded(text)["stages"][0]["title"] == "</script><b>"
    assert "<title>&lt;&amp;&gt;</title>" in text


def test_the_page_lies_in_the_run_by_default(battles: RunFolder, capsys: pytest.CaptureFixture[str]):
    assert main.main(["replay", str(battles.path)]) == 0
    page = battles.path / "replay.html"
    assert len(embedded(page.read_text(encoding="utf-8"))["episodes"]) == 4
    assert str(page) in capsys.readouterr().out


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_a_run_without_a_checkpoint_is_refused(battles: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = RunFolder.create(settings_of(battles) | {"results_dir": str(tmp_path)}, "sc2-skirmish/3m")
    assert main.main(["replay", str(folder.path)]) == 2
    assert "has no checkpoint yet" in capsys.readouterr().err
    assert not (folder.path / "replay.html").exists()


def test_an_environment_without_pictures_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = run_of(tmp_path, "matrix_game", "env_args.preset=dop14", seed=SEED)
    assert main.main(["replay", folder.path.name, "--results-dir", str(tmp_path)]) == 2
    assert "matrix_game/dop14 cannot be replayed: only two agents have a table" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere"], "no run 'nowhere'"),
        (["{run}", "--out", "{run}/no/page.html"], "is not a file in a folder that exists"),
        (["{run}", "--out", "{run}"], "is not a file in a folder that exists"),
    ],
)
def test_wrong_places_are_named(battles: RunFolder, options: list[str], message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        replay.main([option.format(run=battles.path) for option in options])


@pytest.mark.parametrize(
    "options",
    [["x", "--episodes", "0"], ["x", "--episodes", "few"], ["x", "--seed", "-1"], ["x", "--device", "tpu"], []],
)
def test_wrong_options_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        replay.main(options)
    assert end.value.code == 2
    assert "replay: error:" in capsys.readouterr().err


def test_the_command_is_listed():
    assert "replay" in cli.tools()
    assert "replay --help" in cli.help_text()


# --- other environments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["formation", "mill", "mtq"])
def test_actions_in_boxes_are_recorded(tmp_path: Path, name: str):
    """Played again by hand, they lead through the same frames, rewards and ends."""
    keys = ("env_args.action=continuous",) if name == "formation" else ()
    folder = run_of(tmp_path, name, *keys, seed=SEED, algorithm="mappo")
    session = trained.load(settings_of(folder), folder)
    recordings = record(session, 2, sample=True)
    env = make_env(session.settings, 2, session.streams.seed("eval"))
    env.seed_rows(session.streams.seed("eval", session.progress.t_env))
    env.reset()
    for t in range(len(recordings[0].action)):
        for row, one in enumerate(recordings):
            assert_same(one.frames[t], env.frame(row))
        assert len(recordings[1].action) == len(recordings[0].action), "these episodes end with the time"
        outcome = env.step(torch.from_numpy(np.stack([one.action[t] for one in recordings])))
        assert [float(one.reward[t]) for one in recordings] == outcome.reward.tolist()
    for row, one in enumerate(recordings):
        assert_same(one.frames[-1], env.frame(row))
        written = np.array(compact([one])["episodes"][0]["actions"])
        assert written.shape == one.action.shape == (len(one.reward), env.spec.n_agents, env.spec.n_actions)
        assert np.abs(written - one.action).max() <= 0.0051 * np.abs(one.action).max()
    assert len(np.unique(recordings[0].action)) > 1
    session.close()


class Drift(BatchedEnv):
    """Points that drift by their continuous actions, each paid for itself, and only some of which can be seen."""

    def __init__(self) -> None:
        super().__init__(None, 2, "cpu", 0)
        self.spec = EnvSpec((ActionSpec(1, -1.0, 1.0),) * 2, (1, 1), 1, 3, reward="individual")
        self.x, self.t = torch.zeros(2), 0

    def reset(self, which: Any = None) -> TimeStep:
        self.x, self.t = torch.zeros(2), 0
        return self._show()

    def step(self, action: Any) -> Outcome:
        self.x, self.t = self.x + action[:, 0, 0], self.t + 1
        over = torch.tensor([self.t >= 2, self.t >= 3])
        return Outcome(self._show(), action[:, :, 0], torch.zeros(2, dtype=torch.bool), over)

    def _show(self) -> TimeStep:
        return TimeStep(torch.zeros(2, 2, 1), torch.zeros(2, 1), torch.ones(2, 2, 1, dtype=torch.bool))

    def stage(self, row: int) -> Stage:
        point = Entity(name="point", kind="point", mark="p", radius=0.1)
        return Stage(title="drift", teams=(), entities=(point,), low=(-1.0, -1.0), high=(1.0, 1.0))

    def frame(self, row: int) -> Frame:
        return Frame.of(np.array([[float(self.x[row]), 0.0]], dtype=np.float32))


def test_frames_stop_where_an_episode_does():
    recorder = Recorder(Drift())
    recorder.reset()
    for _ in range(3):
        recorder.step(torch.full((2, 2, 1), 0.25))
    assert [[float(frame.position[0, 0]) for frame in row] for row in recorder.frames] == [
        [0, 0.25, 0.5],
        [0, 0.25, 0.5, 0.75],
    ]
    recorder.reset()
    assert [len(row) for row in recorder.frames] == [1, 1], "a new record"
