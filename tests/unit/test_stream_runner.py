"""The streaming runner: whole episodes in the order of their starts, against a brute-force account and a replay."""

from __future__ import annotations

import heapq
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import toy  # noqa: F401 - registers an environment
from controllers.base import Acted, Controller
from core import checkpoint
from core.config import ConfigError, Settings, load, merge, resolve
from core.specs import ActionSpec, EnvSpec, EpisodeBatch, Outcome, TimeStep
from envs.base import BatchedEnv
from envs.hallway import Hallway
from run import Session, build
from runners.episode import EpisodeRunner, Rollout
from runners.stream import StreamRunner

ALGS = Path(__file__).parents[2] / "config" / "algs"
HALLWAY = {"env": "hallway", "env_args": {"lengths": [3, 5]}}
N, A, LIMIT = 2, 3, 6


class Tape(BatchedEnv):
    """The k-th episode of row r has ``lengths[r][k]`` steps, then again from the first one; all are numbered.

    A row shows (r, k, t); its reward is r + k + t. At steps of ``lost`` (row, k, t) its simulator fails.
    """

    def __init__(self, lengths: list[list[int]], lost: tuple[tuple[int, int, int], ...] = ()) -> None:
        super().__init__(None, len(lengths), "cpu", 0)
        self.lengths, self.lost = lengths, lost
        self.spec = EnvSpec((ActionSpec(A),) * N, (3,) * N, 3, LIMIT, metrics=("time",))
        self.k = [-1] * len(lengths)
        self.t = [0] * len(lengths)

    def reset(self, which: Tensor | None = None) -> TimeStep:
        for row in range(self.n_envs):
            if which is None or which[row]:
                self.k[row] += 1
                self.t[row] = 0
        return self._show()

    def step(self, action: Tensor) -> Outcome:
        reward = torch.tensor([float(r + k + t) for r, (k, t) in enumerate(zip(self.k, self.t, strict=True))])
        self.t = [t + 1 for t in self.t]
        ends = [self.t[r] == self._length(r) for r in range(self.n_envs)]
        lost = torch.tensor([(r, self.k[r], self.t[r]) in self.lost for r in range(self.n_envs)])
        over, never = torch.tensor(ends) & ~lost, torch.zeros(self.n_envs, dtype=torch.bool)
        info = {"time": torch.tensor(self.t, dtype=torch.float32)}
        return Outcome(self._show(), reward, over, never, info, lost if self.lost else None)

    def state_dict(self) -> dict[str, Any]:
        return {"k": list(self.k), "t": list(self.t)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.k, self.t = list(state["k"]), list(state["t"])

    def _length(self, row: int) -> int:
        return self.lengths[row][self.k[row] % len(self.lengths[row])]

    def _show(self) -> TimeStep:
        state = torch.tensor([[r, self.k[r], self.t[r]] for r in range(self.n_envs)], dtype=torch.float32)
        return TimeStep(state[:, None].repeat(1, N, 1), state, torch.ones(self.n_envs, N, A, dtype=torch.bool))


class Counter(Controller):
    """Counts every row's steps in its hidden state, plays (t + row) mod A, and stores what it was told."""

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__(spec, Controller.Config(), Settings(precision="float32"))

    def initial_hidden(self, b: int) -> Tensor:
        return torch.zeros(b, N, 1)

    def act(self, step: TimeStep, last: Tensor, hidden: Tensor, **_: Any) -> Acted:
        action = (hidden[..., 0] + step.state[:, :1]).long() % A
        return Acted(action, hidden + 1, {"counted": hidden[..., 0], "told": last})

    def unroll(self, batch: EpisodeBatch) -> Tensor:
        raise AssertionError("a runner does not unroll")


def settings(**more: object) -> Settings:
    base = {"env": "toy", "seed": 3, "batch_size_run": 4, "batch_size": 4, "hidden_dim": 8, "runner": "stream"}
    return resolve(merge(merge(load(ALGS / "qmix.yaml"), base), more))


def taped(
    lengths: list[list[int]], lost: tuple[tuple[int, int, int], ...] = (), wanted: int | None = None
) -> StreamRunner:
    env = Tape(lengths, lost)
    cfg = StreamRunner.Config(episodes_per_collect=wanted)
    return StreamRunner(env, Counter(env.spec), cfg, settings(), torch.Generator())


def starts(lengths: list[list[int]], n: int) -> list[tuple[int, int, int]]:
    """(row, k, length) of the first n episodes by (step of their start, row): the order that is promised."""
    every = []
    for row, own in enumerate(lengths):
        at = 0
        for k in range(n):
            every.append((at, row, k, own[k % len(own)]))
            at += own[k % len(own)]
    return [(row, k, length) for _, row, k, length in sorted(every)[:n]]


UNLIKE = [[1, 2], [6], [3, 1, 5], [2]]


@pytest.mark.parametrize("wanted", [None, 1, 3, 11])
def test_every_started_episode_is_delivered_once_in_the_order_of_starts(wanted: int | None) -> None:
    runner, got = taped(UNLIKE, wanted=wanted), []
    while len(got) < 120:
        rollout = runner.collect(t_env=0, mode="explore")
        assert len(rollout.episodes) == (wanted or 4) and rollout.discarded == 0
        first, lengths = rollout.episodes.state[:, 0], rollout.episodes.length
        got += [(int(r), int(k), n) for (r, k, _), n in zip(first.tolist(), lengths.tolist(), strict=True)]
    assert got == starts(UNLIKE, len(got))


def test_what_is_recorded_belongs_together() -> None:
    """States, actions, rewards, extras and memories step by step, each row from an empty memory; zeros beyond ends."""
    runner = taped(UNLIKE)
    for _ in range(10):
        rollout = runner.collect(t_env=0, mode="explore")
        got = rollout.episodes
        assert got.mask.sum(1).tolist() == got.length.tolist() == rollout.stats["ep_length"].tolist()
        assert torch.equal(rollout.stats["time"], got.length.float())
        assert torch.equal(rollout.stats["return"], got.reward.sum(1))
        for i, length in enumerate(got.length.tolist()):
            r, k, _ = (int(x) for x in got.state[i, 0])
            told = torch.zeros(A)
            for t in range(got.mask.shape[1]):
                real = t < length
                assert got.state[i, t].tolist() == ([r, k, t] if t <= length else [0, 0, 0])
                assert got.obs[i, t, 1].tolist() == got.state[i, t].tolist()
                assert got.reward[i, t] == (r + k + t if real else 0)
                assert got.action[i, t].tolist() == [(t + r) % A if real else 0] * N
                assert got.extras["counted"][i, t].tolist() == [t if real else 0] * N
                assert got.extras["told"][i, t, 0].tolist() == (told.tolist() if real else [0] * A)
                assert bool(got.terminated[i, t]) == (t == length - 1)
                told = torch.eye(A)[(t + r) % A]
            assert got.avail.all()


def test_no_row_ever_idles() -> None:
    runner = taped(UNLIKE)
    assert runner.counters() == {}
    for _ in range(5):
        runner.collect(t_env=0, mode="explore")
    assert runner.counters() == {"slot_use": 1.0}
    assert runner.counters() == {}


def test_looking_less_often_delivers_the_same_episodes() -> None:
    """As on a GPU: rows that have ended idle until the next look, and what is written meanwhile is nobody's."""
    often, seldom = taped(UNLIKE), taped(UNLIKE)
    seldom._every = 4
    expected: dict[tuple[int, ...], list[float]] = {}
    for _ in range(40):
        for runner in (often, seldom):
            got = runner.collect(t_env=0, mode="explore").episodes
            for i, length in enumerate(got.length.tolist()):
                key = tuple(got.state[i, 0].int().tolist())
                assert expected.setdefault(key, got.reward[i, :length].tolist()) == got.reward[i, :length].tolist()
    assert seldom.counters()["slot_use"] < 1


def test_lost_simulators_cost_their_episode_only() -> None:
    """Row 1 is lost in its first episode, at step 2 of 6, and in its second; they are passed over, and counted."""
    runner = taped(UNLIKE, lost=((1, 0, 2), (1, 1, 6)))
    rollouts = [runner.collect(t_env=0, mode="explore") for _ in range(6)]
    assert sum(r.discarded for r in rollouts) == 2
    got = [tuple(s[:2]) for r in rollouts for s in r.episodes.state[:, 0].int().tolist()]
    assert len(got) == len(set(got)) == 24
    assert (1, 0) not in got and (1, 1) not in got and (1, 2) in got
    assert [k for row, k in got if row == 0] == list(range(sum(row == 0 for row, _ in got)))
    for rollout in rollouts:
        for first, length in zip(rollout.episodes.state[:, 0].int().tolist(), rollout.episodes.length, strict=True):
            assert length == UNLIKE[first[0]][first[1] % len(UNLIKE[first[0]])]


def test_a_saved_stream_goes_on_as_it_was(tmp_path: Path) -> None:
    """Here and in another instance, step by step, with memories and last actions."""
    one, two, whole = taped(UNLIKE), taped(UNLIKE), taped(UNLIKE)
    for _ in range(3):
        assert same(one.collect(t_env=0, mode="explore"), whole.collect(t_env=0, mode="explore"))
    state = one.state_dict()
    assert one._play.t.any() and state["ended"]
    checkpoint.save(tmp_path / "state", state)
    expected = [whole.collect(t_env=0, mode="explore") for _ in range(6)]
    assert all(same(one.collect(t_env=0, mode="explore"), rollout) for rollout in expected), "saving changes nothing"
    for runner in (one, two):
        runner.load_state_dict(checkpoint.load(tmp_path / "state"))
        assert all(same(runner.collect(t_env=0, mode="explore"), rollout) for rollout in expected)
    room = checkpoint.load(tmp_path / "state")["play"]["room"]
    assert all(torch.equal(x, state["play"]["room"][name]) for name, x in room.items()), "a state is a copy"


def test_tests_are_not_streamed() -> None:
    with pytest.raises(ValueError, match="mode 'test'"):
        taped(UNLIKE).collect(t_env=0, mode="test")


# --- against a synchronous replay -------------------------------------------------------------------------------------


class Replayed(Controller):
    """Does in row r at step t what ``actions[r]`` says; beyond its end the last of it again."""

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__(spec, Controller.Config(), Settings(precision="float32"))
        self.actions: list[Tensor] = []

    def initial_hidden(self, b: int) -> Tensor:
        return torch.zeros(b, N, 1)

    def act(self, step: TimeStep, last: Tensor, hidden: Tensor, **_: Any) -> Acted:
        t = int(hidden[0, 0, 0])
        return Acted(torch.stack([own[min(t, len(own) - 1)] for own in self.actions]), hidden + 1)

    def unroll(self, batch: EpisodeBatch) -> Tensor:
        raise AssertionError("a runner does not unroll")


def by_row(episodes: list[dict[str, Tensor]], rows: int) -> list[list[dict[str, Tensor]]]:
    """Episodes in the order of their starts, sorted to the rows that must have played them."""
    free, sorted_ = [(0, row) for row in range(rows)], [[] for _ in range(rows)]
    for episode in episodes:
        at, row = heapq.heappop(free)
        sorted_[row].append(episode)
        heapq.heappush(free, (at + len(episode["action"]), row))
    return sorted_


def unpadded(batch: EpisodeBatch) -> list[dict[str, Tensor]]:
    names = {"obs": 1, "state": 1, "avail": 1, "action": 0, "reward": 0, "terminated": 0}
    return [
        {name: getattr(batch, name)[i, : length + more] for name, more in names.items()}
        for i, length in enumerate(batch.length.tolist())
    ]


def test_episodes_equal_those_of_a_synchronous_replay() -> None:
    """The k-th episode of row r, with the same actions and the same seed, whoever collects it."""
    cfg, rows, given = Hallway.Config(lengths=[3, 5]), 3, settings(**HALLWAY)
    env = Hallway(cfg, rows, "cpu", 7)
    made = given.build("mac", env.spec)
    streaming = StreamRunner(env, made, StreamRunner.Config(), given, torch.Generator().manual_seed(1))
    streamed = [e for _ in range(20) for e in unpadded(streaming.collect(t_env=0, mode="explore").episodes)]
    assert len({len(e["action"]) for e in streamed}) > 4
    sorted_ = by_row(streamed, rows)
    env = Hallway(cfg, rows, "cpu", 7)
    replay = Replayed(env.spec)
    runner = EpisodeRunner(env, replay, EpisodeRunner.Config(), given, torch.Generator())
    for episodes in zip(*sorted_, strict=False):
        replay.actions = [episode["action"] for episode in episodes]
        for one, two in zip(episodes, unpadded(runner.collect(t_env=0, mode="explore").episodes), strict=True):
            assert all(torch.equal(one[name], two[name]) for name in one)
    assert min(map(len, sorted_)) > 10


# --- sessions ---------------------------------------------------------------------------------------------------------


def session(**more: object) -> Session:
    return build(settings(**more))


def same(one: Rollout, two: Rollout) -> bool:
    names = [f.name for f in fields(EpisodeBatch) if f.name != "extras"]
    pairs = [(getattr(one.episodes, name), getattr(two.episodes, name)) for name in names]
    pairs += [(x, two.episodes.extras[name]) for name, x in one.episodes.extras.items()]
    pairs += [(x, two.stats[name]) for name, x in one.stats.items()]
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def test_the_seed_decides_the_stream() -> None:
    rollouts = []
    for seed in (3, 3, 4):
        made = session(seed=seed)
        torch.manual_seed(len(rollouts))
        rollouts.append([made.runner.collect(t_env=0, mode="explore") for _ in range(2)])
    assert all(map(same, rollouts[0], rollouts[1]))
    assert not any(map(same, rollouts[0], rollouts[2]))


def test_resumed_in_mid_episode_it_equals_an_uninterrupted_run(tmp_path: Path) -> None:
    rhythm = {"t_max": 250, "test_nepisode": 2, "test_interval": 50, "log_interval": 30}
    greedy = {"epsilon_start": 0.2, "epsilon_finish": 0.2}  # so that memories and last actions decide something
    keys = {**HALLWAY, **rhythm, **greedy, "episodes_per_collect": 3}
    whole, first, second = session(**keys), session(**keys), session(**keys)
    steps = [tick.t_env for tick in whole.train()]
    for done, _ in enumerate(first.train(), 1):
        if done >= len(steps) // 3 and first.runner._play.t.any() and first.runner._ended:
            break  # episodes are under way, and some wait
    assert done < len(steps) - 3
    checkpoint.save(tmp_path / "half", first.state_dict())
    second.load_state_dict(checkpoint.load(tmp_path / "half"))
    assert [tick.t_env for tick in second.train()] == steps[done:]
    one, two = whole.learner.state_dict(), second.learner.state_dict()
    assert all(torch.equal(x, two[name]) for name, x in one.items() if isinstance(x, Tensor))
    assert whole.progress == second.progress and whole.runner.counters() == second.runner.counters()


def test_steps_are_counted_once() -> None:
    made = session(t_max=60, test_nepisode=0)
    played = 0
    collect = made.runner.collect

    def counted(**how: Any) -> Rollout:
        nonlocal played
        rollout = collect(**how)
        played += int(rollout.episodes.mask.sum())
        return rollout

    made.runner.collect = counted
    ticks = [(tick.t_env, tick.episode) for tick in made.train()]
    assert ticks[-1][0] == played >= 60
    assert [episode for _, episode in ticks] == [4 * k for k in range(1, len(ticks) + 1)]


def test_tests_are_those_of_the_synchronous_runner_and_training_never_notices() -> None:
    one, two, plain = session(), session(), session(runner="episode")
    one.runner.collect(t_env=0, mode="explore")
    two.runner.collect(t_env=0, mode="explore")
    tested, expected = one.evaluate("test", 9), plain.evaluate("test", 9)
    assert all(torch.equal(tested[name], x) for name, x in expected.items())
    assert same(one.runner.collect(t_env=0, mode="explore"), two.runner.collect(t_env=0, mode="explore"))


def test_rewards_and_extras_of_each_agent() -> None:
    files = load(ALGS / "maddpg.yaml") | {"env": "toy", "env_args": {"individual": True}, "batch_size_run": 2}
    made = build(resolve(files | {"batch_size": 4, "runner": "stream", "test_nepisode": 0, "t_max": 20}))
    rollout = made.runner.collect(t_env=0, mode="explore")
    got = rollout.episodes
    assert got.reward.shape == (2, int(got.length.max()), 3)
    for i in range(3):
        assert torch.equal(rollout.stats[f"agent_return_{i}"], got.reward[..., i].sum(1))
    assert set(got.extras) == {"visible"} and got.extras["visible"].shape[1] == got.obs.shape[1]
    assert [tick.t_env for tick in made.train()][-1] >= 20


@pytest.mark.parametrize("algorithm", ["coma", "mappo", "happo", "maipg"])
def test_on_policy_learners_are_refused(algorithm: str) -> None:
    files = load(ALGS / f"{algorithm}.yaml") | {"env": "toy", "runner": "stream", "seed": 1, "batch_size_run": 2}
    with pytest.raises(ConfigError, match=r"'runner' is 'stream'.*on-policy.*Choose runner=episode"):
        build(resolve(files))


def test_bad_numbers_of_episodes_are_refused() -> None:
    with pytest.raises(ConfigError, match="'episodes_per_collect' must be at least 1, or null, not 0"):
        settings(episodes_per_collect=0)


def test_simulators_in_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Some fail: nothing doomed is delivered. Saved and loaded, what was under way is given up, and nothing else."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    kwargs = {"log": str(tmp_path / "log"), "doom": 0.15, "faults": ["raise"]}
    args = {"factory": "toy_flaky:Flaky", "api": "pymarl", "kwargs": kwargs, "metrics": ["length"]}
    made = session(env="external", env_args=args, batch_size_run=2)
    try:
        rollouts = [made.runner.collect(t_env=0, mode="explore") for _ in range(4)]
        state = made.runner.state_dict()
        under_way, waiting = set(state["number"]), {n for n, played in state["ended"].items() if played}
        assert len(under_way) == 2
        made.runner.load_state_dict(state)
        assert made.runner._next in {*under_way, *waiting} and not made.runner._number
        rollouts += [made.runner.collect(t_env=0, mode="explore") for _ in range(2)]
    finally:
        made.close()
    assert sum(r.discarded for r in rollouts) > 0
    for rollout in rollouts:
        got = rollout.episodes
        assert len(got) == 2 and not got.state[..., 1].any(), "a doomed episode was delivered"
        assert torch.equal(rollout.stats["length"], got.length.float())
        for i, length in enumerate(got.length.tolist()):
            assert got.state[i, : length + 1, 0].tolist() == list(range(length + 1))
