"""Rollouts elsewhere, as far as they need no Ray: episodes put together, keys, and what is done about losses."""

from __future__ import annotations

import importlib.util
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import toy
from core import cli
from core.config import ConfigError, load, merge, resolve
from core.specs import EnvSpec, EpisodeBatch, joined
from runners import crew as crews
from runners.crew import AWAY, IDLE, PLAYING, STARTING, TESTING, Crew, Terms
from runners.episode import EpisodeRunner
from tools import trained
from toy_runs import run_of


@pytest.fixture
def ray_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: name == "ray" or found(name, *rest))


# --- episodes ---------------------------------------------------------------------------------------------------------


def rows(batch: EpisodeBatch, which: list[int]) -> EpisodeBatch:
    """Some episodes of a batch, cut to the longest of them."""
    longest = int(batch.length[which].max())

    def cut(name: str, x: torch.Tensor) -> torch.Tensor:
        states = name in ("obs", "state", "avail", "visible")
        return x[which] if name == "length" else x[which, : longest + states]

    values = {f.name: cut(f.name, getattr(batch, f.name)) for f in fields(batch) if f.name != "extras"}
    return replace(batch, **values, extras={name: cut(name, x) for name, x in batch.extras.items()})


def played(keys: dict[str, Any]) -> tuple[EpisodeBatch, EnvSpec]:
    """Eight episodes of the toy, and its spec."""
    env = toy.Toy(toy.Toy.Config(**keys), 8, "cpu", 3)
    settings = resolve(merge(load(cli.CONFIG / "algs/qmix.yaml"), {"env": "toy", "env_args": keys, "seed": 1}))
    runner = EpisodeRunner(
        env, settings.build("mac", env.spec), EpisodeRunner.Config(), settings, torch.Generator().manual_seed(0)
    )
    return runner.collect(t_env=0, mode="explore").episodes, env.spec


@pytest.mark.parametrize("keys", [{}, {"unlike": True}, {"individual": True, "visible": False}])
def test_joined_episodes_are_padded_as_if_played_together(keys: dict[str, Any]):
    """Of one batch, taken apart by rows and cut, comes the same batch."""
    whole, spec = played(keys)
    lengths = whole.length.tolist()
    assert len(set(lengths)) > 2, "the test needs episodes of different lengths"
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    parts = [order[:3], order[3:5], order[5:]]
    back = joined([rows(whole, part) for part in parts], spec)
    again = [order.index(row) for row in range(len(order))]
    for field in fields(whole):
        if field.name == "extras":
            assert set(back.extras) == set(whole.extras)
            assert all(torch.equal(back.extras[name][again], x) for name, x in whole.extras.items())
        else:
            assert torch.equal(getattr(back, field.name)[again], getattr(whole, field.name)), field.name


# --- keys -------------------------------------------------------------------------------------------------------------


def composed(*keys: str) -> Any:
    return cli.compose(cli.parse(["--config=qmix", "--env-config=matrix_game", "with", "runner=ray", *keys]))


def test_wrong_keys_are_told_together(ray_is_there: None):
    with pytest.raises(ConfigError) as error:
        composed("n_actors=0", "actor_cpus=-1", "max_staleness=-1", "actor_timeout=0")
    assert error.value.problems == [
        "'n_actors' must be at least 1, not 0",
        "'actor_cpus' must be at least 0, not -1.0",
        "'max_staleness' must be at least 0, or null, not -1",
        "'actor_timeout' must be positive, not 0.0",
    ]


def test_without_ray_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(ConfigError, match=r"needs the package ray: pip install -r requirements-cluster.txt"):
        composed()


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch):
    crews.refuse_unreachable("auto")
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at '127.0.0.1:1' .*ray start --head"):
        crews.refuse_unreachable("127.0.0.1:1")


def test_what_was_trained_elsewhere_is_evaluated_here(tmp_path: Path, ray_is_there: None):
    folder = run_of(tmp_path, "matrix_game", seed=1)
    session = trained.load(composed("n_actors=1", "t_max=100", "buffer_size=32", "device=cpu"), folder)
    assert isinstance(session.runner, EpisodeRunner)
    session.close()


# --- losses -----------------------------------------------------------------------------------------------------------


class RayError(Exception):
    pass


class RayTaskError(RayError):
    pass


class StandIn:
    """Ray as far as a crew uses it; the test decides when and how every task ends."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self) -> None:
        self.ends: dict[str, Any] = {}
        self.killed: list[Any] = []
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def remote(self, **_: Any) -> Any:
        return lambda cls: SimpleNamespace(remote=lambda *arguments: SimpleNamespace(start=self.method("start")))

    def method(self, name: str) -> Any:
        def call(*arguments: Any) -> str:
            self.calls.append((name, arguments))
            return f"{name}{len(self.calls)}"

        return SimpleNamespace(remote=call)

    def wait(self, tasks: list[str], timeout: float) -> tuple[list[str], list[str]]:
        ready = [task for task in tasks if task in self.ends]
        return ready[:1], [task for task in tasks if task not in ready[:1]]

    def get(self, task: str) -> Any:
        end = self.ends.pop(task)
        if isinstance(end, Exception):
            raise end
        return end

    def kill(self, handle: Any) -> None:
        self.killed.append(handle)

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 4.0}


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> tuple[Crew, StandIn, list[float]]:
    """A crew of two on a cluster that is not there, and its clock."""
    ray, clock = StandIn(), [1000.0]
    monkeypatch.setattr(crews, "_joined", lambda terms: ray)
    monkeypatch.setattr(crews.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(crews.time, "sleep", lambda seconds: None)
    settings = resolve(merge(load(cli.CONFIG / "algs/qmix.yaml"), {"env": "toy", "batch_size_run": 5, "seed": 2}))
    return Crew(Terms(n_actors=2, actor_timeout=100.0), settings), ray, clock


def states(crew: Crew) -> list[str]:
    return [seat.state for seat in crew.seats]


def work(crew: Crew, ray: StandIn, seat: int, state: str = PLAYING) -> str:
    """Lets an idle actor do something; the task."""
    crew.seats[seat].handle.play = ray.method("play")
    crew.send(crew.seats[seat], state, "play")
    return f"play{len(ray.calls)}"


def test_lost_actors_are_counted_and_replaced_by_others(stand_in: Any):
    crew, ray, _ = stand_in
    assert [seat.rows for seat in crew.seats] == [3, 2]
    crew.answers()
    assert states(crew) == [STARTING, STARTING] and crew.coming()
    ray.ends = {"start1": None, "start2": None}
    assert crew.answers() == [] and crew.answers() == []
    assert states(crew) == [IDLE, IDLE] and not crew.coming()
    ray.ends = {work(crew, ray, 0): RayError("node died"), work(crew, ray, 1): "episodes"}
    assert crew.answers() == []
    assert (crew.actors_lost, crew.episodes_lost, len(ray.killed)) == (1, 3, 1)
    assert crew.answers() == [(crew.seats[1], "episodes")]
    assert states(crew) == [STARTING, IDLE] and not crew.coming(), "the others do not wait for a replacement"
    assert ray.calls[0][1] != ray.calls[-1][1], "with seeds of its own"


def test_tests_lose_no_episodes(stand_in: Any):
    crew, ray, _ = stand_in
    crew.answers()
    ray.ends = {"start1": None}
    crew.answers()
    ray.ends = {work(crew, ray, 0, TESTING): RayError("gone")}
    crew.answers()
    assert (crew.actors_lost, crew.episodes_lost) == (1, 0)


def test_replacements_that_fail_are_tried_again_after_longer_and_longer(stand_in: Any):
    crew, ray, clock = stand_in
    crew.answers()
    ray.ends = {"start1": RayError("node died"), "start2": None}
    crew.answers(), crew.answers()
    pauses = []
    for _ in range(8):
        crew.answers()
        task = next(task for task, seat in crew._tasks.items() if seat is crew.seats[0])
        ray.ends = {task: RayTaskError("no game here")}
        crew.answers()
        assert states(crew)[0] == AWAY
        pauses.append(crew.seats[0].since - clock[0])
        clock[0] += pauses[-1] + 0.01
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]


def test_the_first_actors_must_be_able_to_start(stand_in: Any):
    crew, ray, _ = stand_in
    crew.answers()
    ray.ends = {"start1": RayTaskError("no such map")}
    with pytest.raises(RayTaskError, match="no such map"):
        crew.answers()


def test_mistakes_while_playing_end_the_run(stand_in: Any):
    crew, ray, _ = stand_in
    crew.answers()
    ray.ends = {"start1": None}
    crew.answers()
    ray.ends = {work(crew, ray, 0): RayTaskError("an unavailable action")}
    with pytest.raises(RayTaskError, match="an unavailable action"):
        crew.answers()


def test_silence_is_a_loss(stand_in: Any):
    crew, ray, clock = stand_in
    crew.answers()
    ray.ends = {"start1": None, "start2": None}
    crew.answers(), crew.answers()
    tasks = [work(crew, ray, seat) for seat in (0, 1)]
    ray.ends = {tasks[1]: "episodes"}
    clock[0] += 101  # the learner took its time
    assert [result for _, result in crew.answers()] == ["episodes"]
    assert states(crew) == [AWAY, IDLE] and crew.actors_lost == 1


def test_answers_that_wait_for_the_learner_are_no_losses(stand_in: Any):
    crew, ray, clock = stand_in
    crew.answers()
    ray.ends = {"start1": None, "start2": None}
    crew.answers(), crew.answers()
    ray.ends = {work(crew, ray, seat): seat for seat in (0, 1)}
    clock[0] += 101
    found = crew.answers() + crew.answers()  # one at a time: the other one waits
    assert [result for _, result in found] == [0, 1]
    assert crew.actors_lost == 0


def test_a_run_without_actors_ends(stand_in: Any):
    crew, ray, clock = stand_in
    crew.answers()
    ray.ends = {"start1": RayError("ConnectionLost")}
    crew.answers()
    clock[0] += 99
    crew.answers()
    clock[0] += 2
    with pytest.raises(RuntimeError, match=r"no rollout actor for 100 s: 2 actors of 1 CPUs .* has 4 .*ConnectionLost"):
        crew.answers()


def test_further_lives_after_a_resume(stand_in: Any):
    crew, ray, _ = stand_in
    crew.answers()
    before = [arguments for _, arguments in ray.calls]
    crew.load_state_dict(crew.state_dict() | {"actors_lost": 3})
    for seat in crew.seats:
        seat.state = AWAY
    crew.answers()
    after = [arguments for _, arguments in ray.calls[2:]]
    assert crew.actors_lost == 3 and not set(before) & set(after)
