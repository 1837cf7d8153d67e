"""The episode runner on a scripted environment, row by row; rollouts and evaluations of whole sessions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import toy
from controllers.base import Acted, Controller
from core.config import Settings, load, merge, resolve
from core.specs import ActionSpec, EnvSpec, EpisodeBatch, Outcome, TimeStep, Trim
from envs.base import BatchedEnv
from run import Session, build
from runners.episode import EpisodeRunner, Rollout, returns

ALGS = Path(__file__).parents[2] / "config" / "algs"
N, A, LIMIT = 2, 3, 5


class Script(BatchedEnv):
    """Rows that last as long as they are told, and show NaN, forbidden actions and rewards when they are over.

    A running row's reward is its number + t / 10, its observation its number + t; the metric ``time`` counts steps.
    """

    def __init__(self, lengths: list[int], terminated: list[bool]) -> None:
        super().__init__(None, len(lengths), "cpu", 0)
        self.length, self.ends = torch.tensor(lengths), torch.tensor(terminated)
        self.spec = EnvSpec(
            (ActionSpec(A),) * N, (2,) * N, 1, LIMIT, extras={"visible": (N, N)}, metrics=("time", "won")
        )
        self.t, self.actions = torch.zeros(self.n_envs, dtype=torch.long), []

    def reset(self, which: Tensor | None = None) -> TimeStep:
        self.t.zero_()
        return self._show()

    def step(self, action: Tensor) -> Outcome:
        self.actions.append(action)
        running = self.t < self.length
        reward = torch.where(running, torch.arange(self.n_envs) + self.t / 10, 99.0)
        self.t += 1
        last = self.t == self.length
        info = {"time": torch.where(running, self.t.float(), -1.0), "won": last & self.ends}
        return Outcome(self._show(), reward, last & self.ends, last & ~self.ends, info)

    def _show(self) -> TimeStep:
        over = self.t > self.length
        number = torch.arange(self.n_envs) + self.t
        obs = torch.where(over, torch.nan, number.float())[:, None, None].repeat(1, N, 2)
        avail = (torch.arange(A) != self.t[:, None] % A)[:, None].repeat(1, N, 1) & ~over[:, None, None]
        visible = (number % 2 == 0)[:, None, None].repeat(1, N, N) | over[:, None, None]
        return TimeStep(obs, obs[:, 0, :1].clone(), avail, {"visible": visible})


class Puppet(Controller):
    """Plays (t + 1) mod A, counts time in its recurrent state, and remembers all it is given."""

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__(spec, Controller.Config(), Settings(precision="float32"))
        self.calls: list[SimpleNamespace] = []

    def initial_hidden(self, b: int) -> Tensor:
        return torch.zeros(b, N, 4)

    def act(self, step: TimeStep, last: Tensor, hidden: Tensor, **how: Any) -> Acted:
        self.calls.append(SimpleNamespace(step=step, last=last, hidden=hidden, **how))
        t, b = int(hidden[0, 0, 0]), len(step.state)
        return Acted(torch.full((b, N), (t + 1) % A), hidden + 1, {"prob": torch.full((b, N), 0.5 + t)})

    def unroll(self, batch: EpisodeBatch) -> Tensor:
        raise AssertionError("a runner does not unroll")


LENGTHS, TERMINATED = [2, 4, 1, 3], [True, False, True, False]


def scripted(lengths: list[int], terminated: list[bool]) -> tuple[EpisodeRunner, Script, Puppet]:
    """The runner reads no settings."""
    env = Script(lengths, terminated)
    puppet = Puppet(env.spec)
    return EpisodeRunner(env, puppet, EpisodeRunner.Config(), Settings(), torch.Generator()), env, puppet


def played(lengths: list[int] = LENGTHS, terminated: list[bool] = TERMINATED) -> tuple[Rollout, Script, Puppet]:
    runner, env, puppet = scripted(lengths, terminated)
    return runner.collect(t_env=70, mode="explore"), env, puppet


class Losing(Script):
    """Loses rows: the k-th play of row r at step ``lost[k][r]``; the next plays' lengths are ``later``."""

    def __init__(self, lost: list[dict[int, int]], later: list[list[int]]) -> None:
        super().__init__(LENGTHS, TERMINATED)
        self.schedule, self.later, self.resets = lost, later, []

    def reset(self, which: Tensor | None = None) -> TimeStep:
        if which is not None:
            self.resets.append(which.nonzero()[:, 0].tolist())
            self.t[which] = 0
            self.length[which] = torch.tensor(self.later[len(self.resets) - 1])[which]
        return self._show()

    def step(self, action: Tensor) -> Outcome:
        outcome = super().step(action)
        now = self.schedule[len(self.resets)]
        lost = torch.tensor([now.get(row) == t for row, t in enumerate(self.t.tolist())])
        return replace(outcome, lost=lost, terminated=outcome.terminated & ~lost, truncated=outcome.truncated & ~lost)


def test_lost_rows_are_discarded_and_played_again() -> None:
    env = Losing([{1: 3, 3: 2}, {3: 1}, {}], later=[[9, 1, 9, 3], [9, 9, 9, 2]])
    puppet = Puppet(env.spec)
    runner = EpisodeRunner(env, puppet, EpisodeRunner.Config(), Settings(), torch.Generator())
    rollout = runner.collect(t_env=0, mode="explore")
    got, lengths = rollout.episodes, [2, 1, 1, 2]
    assert env.resets == [[1, 3], [3]] and rollout.discarded == 3
    assert got.length.tolist() == lengths and got.mask.sum(1).tolist() == lengths
    assert got.terminated.any(1).tolist() == TERMINATED
    assert rollout.stats["time"].tolist() == lengths == rollout.stats["ep_length"].tolist()
    for row, length in enumerate(lengths):
        assert got.reward[row].tolist() == pytest.approx([row + t / 10 if t < length else 0 for t in range(2)])
        assert got.action[row, :, 0].tolist() == [(t + 1) % A if t < length else 0 for t in range(2)]
        assert got.obs[row, :, 0, 0].tolist() == [row + t if t <= length else 0 for t in range(3)]
        assert got.avail[row, 2, 0].tolist() == ([a != 2 for a in range(A)] if length == 2 else [True] * A)
    starts = [call for call in puppet.calls if not call.hidden.any()]
    assert len(starts) == 3 and not any(call.last.any() for call in starts), "every play begins afresh"


def test_lengths_and_masks() -> None:
    got = played()[0].episodes
    assert got.length.tolist() == LENGTHS and got.length.device.type == "cpu"
    assert got.mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0]]


def test_true_ends_and_time_limits() -> None:
    got = played()[0].episodes
    assert got.terminated.int().tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_what_is_recorded_belongs_together() -> None:
    """State t, then action t, reward t and the controller's extras t, then state t + 1; zeros on padding."""
    got = played()[0].episodes
    for row, length in enumerate(LENGTHS):
        for t in range(4):
            real = t < length
            assert got.reward[row, t].item() == pytest.approx(row + t / 10 if real else 0)
            assert got.action[row, t].tolist() == [(t + 1) % A if real else 0] * N
            assert got.extras["prob"][row, t].tolist() == [0.5 + t if real else 0] * N
        for t in range(5):
            shown = t <= length
            assert got.obs[row, t].unique().tolist() == [row + t if shown else 0]
            assert got.state[row, t].tolist() == [row + t if shown else 0]
            assert got.avail[row, t, 1].tolist() == ([a != t % A for a in range(A)] if shown else [True] * A)
            assert got.extras["visible"][row, t].unique().tolist() == [shown and (row + t) % 2 == 0]


def test_nothing_of_ended_rows_is_recorded() -> None:
    got = played()[0].episodes
    for x in (got.obs, got.state, got.reward, *got.extras.values()):
        assert torch.isfinite(x.float()).all()
    assert got.avail.any(-1).all()


def test_types() -> None:
    got = played()[0].episodes
    types = {name: getattr(got, name).dtype for name in ("action", "reward", "terminated", "mask", "obs", "avail")}
    assert types == {
        "action": torch.int64,
        "reward": torch.float32,
        "terminated": torch.bool,
        "mask": torch.float32,
        "obs": torch.float32,
        "avail": torch.bool,
    }
    assert got.extras["visible"].dtype == torch.bool


def test_statistics_are_of_whole_episodes_and_their_last_steps() -> None:
    stats = played()[0].stats
    assert stats.keys() == {"return", "ep_length", "time", "won"}
    expected = [sum(row + t / 10 for t in range(length)) for row, length in enumerate(LENGTHS)]
    assert stats["return"].tolist() == pytest.approx(expected)
    assert stats["ep_length"].tolist() == stats["time"].tolist() == LENGTHS
    assert stats["won"].tolist() == [1, 0, 1, 0]


def test_it_stops_when_the_last_row_has_ended() -> None:
    rollout, env, _ = played([1, 2], [True, True])
    assert len(env.actions) == 2 and rollout.episodes.reward.shape == (2, 2) and rollout.episodes.obs.shape[1] == 3


def test_it_stops_at_the_limit() -> None:
    rollout, env, _ = played([LIMIT, 2], [False, True])
    assert len(env.actions) == LIMIT and rollout.episodes.length.tolist() == [LIMIT, 2]


def test_the_controller_gets_its_own_past() -> None:
    """Hidden states are handed on, last actions are one-hots (zeros at first), schedules get the time before."""
    _, _, puppet = played()
    assert [call.hidden.unique().tolist() for call in puppet.calls] == [[0], [1], [2], [3]]
    assert not puppet.calls[0].last.any()
    assert [call.last.argmax(-1).unique().tolist() for call in puppet.calls[1:]] == [[1], [2], [0]]
    assert all((call.last.sum(-1) == 1).all() for call in puppet.calls[1:])
    assert {(call.t_env, call.mode) for call in puppet.calls} == {(70, "explore")}
    assert [call.step.obs[1, 0, 0].item() for call in puppet.calls] == [1, 2, 3, 4]


def test_every_collection_starts_afresh() -> None:
    runner, _, puppet = scripted(LENGTHS, TERMINATED)
    one, two = (runner.collect(t_env=0, mode="explore").episodes for _ in range(2))
    for name in ("obs", "action", "reward", "avail", "mask"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert not puppet.calls[4].last.any() and not puppet.calls[4].hidden.any()


def test_what_was_recorded_stays_when_the_environment_goes_on() -> None:
    runner, _, _ = scripted(LENGTHS, TERMINATED)
    first = runner.collect(t_env=0, mode="explore").episodes
    copies = {name: getattr(first, name).clone() for name in ("obs", "state", "reward", "avail")}
    runner.collect(t_env=0, mode="explore")
    assert all(torch.equal(getattr(first, name), x) for name, x in copies.items())


def test_how_often_it_looks_decides_nothing() -> None:
    """As on a GPU: what is drawn and stepped after the last end is put back, also where rows are played again."""
    plays = []
    for every in (1, 4):
        made = session(batch_size_run=3, env="hallway", env_args={"lengths": [3, 5]})
        made.runner._every = every
        plays.append([made.runner.collect(t_env=0, mode="explore") for _ in range(4)])
    assert all(map(same, *plays))
    assert any(rollout.episodes.mask.shape[1] % 4 for rollout in plays[0])
    for every in (1, 3):
        env = Losing([{1: 3, 3: 2}, {3: 1}, {}], later=[[9, 1, 9, 3], [9, 9, 9, 2]])
        runner = EpisodeRunner(env, Puppet(env.spec), EpisodeRunner.Config(), Settings(), torch.Generator())
        runner._every = every
        rollout = runner.collect(t_env=0, mode="explore")
        assert rollout.episodes.length.tolist() == [2, 1, 1, 2] and rollout.discarded == 3


# --- agents of different sizes and with rewards of their own ----------------------------------------------------------


class Sloppy(Script):
    """Agent 1 has one entry and two actions; what it has not is NaN and available."""

    def __init__(self) -> None:
        super().__init__([2, 3], [True, False])
        self.spec = EnvSpec((ActionSpec(3), ActionSpec(2)), (2, 1), 1, LIMIT, metrics=("time", "won"))

    def _show(self) -> TimeStep:
        shown = super()._show()
        obs, avail = shown.obs.clone(), shown.avail.clone()
        obs[:, 1, 1], avail[:, 1, 2] = torch.nan, True
        return TimeStep(obs, shown.state, avail)


def test_only_what_the_spec_declares_enters() -> None:
    env = Sloppy()
    puppet = Puppet(env.spec)
    runner = EpisodeRunner(env, puppet, EpisodeRunner.Config(), Settings(), torch.Generator())
    got = runner.collect(t_env=0, mode="explore").episodes
    for call in puppet.calls:
        assert not call.step.obs[:, 1, 1].any() and not call.step.avail[:, 1, 2].any()
        assert call.step.obs[1, :, 0].all() and call.step.obs[1, 0, 1] != 0
    assert not got.obs[..., 1, 1].any() and got.obs[1, :, 0].all()
    assert not got.avail[..., 1, 2].any() and got.avail[0, 3].tolist() == [[True] * 3, [True, True, False]]


def test_equal_sizes_pass_as_they_are() -> None:
    _, env, puppet = played()
    shown = env.reset()
    assert Trim(env.spec, "cpu")(shown) is shown
    assert puppet.calls[0].step.obs.shape[-1] == 2


def test_masks_and_joint_observations_of_unlike_agents() -> None:
    spec = EnvSpec((ActionSpec(1), ActionSpec(3), ActionSpec(2)), (2, 3, 1), 1, LIMIT)
    assert spec.obs_mask.int().tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert spec.action_mask.int().tolist() == [[1, 0, 0], [1, 1, 1], [1, 1, 0]]
    obs = torch.arange(18.0).view(2, 1, 3, 3)
    assert spec.joint_obs(obs).tolist() == [[[0, 1, 3, 4, 5, 6]], [[9, 10, 12, 13, 14, 15]]]
    equal = replace(spec, obs_dims=(3, 3, 3))
    assert torch.equal(equal.joint_obs(obs), obs.view(2, 1, 9)) and equal.obs_mask.all()


def test_returns_of_each_agents_own() -> None:
    """Sums over steps; their sum, their mean, and each; of a crowd only the two ends."""
    reward = torch.tensor([[[1.0, 2, 4], [0, -1, 2]], [[0.5, 0, 0], [0, 0, 0]]])
    got = {name: x.tolist() for name, x in returns(reward).items()}
    each = {"agent_return_0": [1, 0.5], "agent_return_1": [1, 0], "agent_return_2": [6, 0]}
    assert got == {"return": [8, 0.5], "return_per_agent": [pytest.approx(8 / 3), pytest.approx(1 / 6)]} | each
    assert returns(reward.sum(-1)).keys() == {"return"}
    crowd = returns(torch.arange(17.0).expand(2, 3, 17))
    assert {name: x.tolist() for name, x in crowd.items()} == {
        "return": [3 * 136] * 2,
        "return_per_agent": [24] * 2,
        "agent_return_min": [0] * 2,
        "agent_return_max": [48] * 2,
    }
    assert len(returns(torch.zeros(2, 3, 16))) == 18


def test_tests_and_journals_tell_agents_apart() -> None:
    files = load(ALGS / "maddpg.yaml") | {"env": "toy", "env_args": {"individual": True}, "batch_size_run": 2}
    made = build(resolve(files | {"batch_size": 4, "test_nepisode": 3, "t_max": 10, "log_interval": 1}))
    records = {record.kind: record.values for tick in made.train() for record in tick.records}
    names = ["return", "return_per_agent", *(f"agent_return_{i}" for i in range(3))]
    assert {f"test_{name}_mean" for name in names} < records["test"].keys()
    assert {*names} < records["train"].keys()
    for values, form in ((records["train"], "{}"), (records["test"], "test_{}_mean")):
        total, mean, *each = (values[form.format(name)] for name in names)
        assert total == pytest.approx(sum(each)) and mean == pytest.approx(total / 3)


# --- sessions ---------------------------------------------------------------------------------------------------------


def session(**more: object) -> Session:
    base = {"env": "toy", "seed": 3, "batch_size_run": 4, "batch_size": 4, "hidden_dim": 8}
    return build(resolve(merge(merge(load(ALGS / "qmix.yaml"), base), more)))


def same(one: Rollout, two: Rollout) -> bool:
    first, second = one.episodes, two.episodes
    names = ("obs", "state", "avail", "action", "reward", "terminated", "mask")
    alike = all(getattr(first, k).shape == getattr(second, k).shape for k in names)
    return alike and all(torch.equal(getattr(first, k), getattr(second, k)) for k in names)


def test_the_seed_decides_the_rollout() -> None:
    rollouts = []
    for seed in (3, 3, 4):
        made = session(seed=seed)
        torch.manual_seed(len(rollouts))
        rollouts.append([made.runner.collect(t_env=0, mode="explore") for _ in range(3)])
    assert all(same(a, b) for a, b in zip(rollouts[0], rollouts[1], strict=True))
    assert not any(same(a, b) for a, b in zip(rollouts[0], rollouts[2], strict=True))
    assert not same(rollouts[0][0], rollouts[0][1])


def test_actions_are_legal_and_the_toy_is_played_to_its_ends() -> None:
    got = session(batch_size_run=40).runner.collect(t_env=0, mode="explore").episodes
    chosen = got.avail[:, :-1].gather(-1, got.action[..., None])[..., 0]
    assert chosen[got.mask > 0].all()
    ended = got.terminated.any(1)
    assert 5 < ended.sum() < 40  # early ends and time limits
    assert (got.length[~ended] == 5).all() and (got.terminated.sum(1) <= 1).all()
    assert torch.equal(got.terminated.float().argmax(1)[ended] + 1, got.length[ended])


def test_the_runners_state_continues_exactly() -> None:
    one, two = session(), session(seed=9)
    two.controller.load_state_dict(one.controller.state_dict())
    one.runner.collect(t_env=0, mode="explore")
    two.runner.load_state_dict(one.runner.state_dict())
    assert all(
        same(one.runner.collect(t_env=t, mode="explore"), two.runner.collect(t_env=t, mode="explore")) for t in (0, 9)
    )


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("episodes", [1, 3, 4, 9])
def test_an_evaluation_has_exactly_the_episodes_asked_for(
    monkeypatch: pytest.MonkeyPatch, native: bool, episodes: int
) -> None:
    """Also where the test environment has more rows than that, or where they have to play several rounds."""
    monkeypatch.setattr(toy.Toy, "native", native)
    monkeypatch.setattr("run.LARGEST_TEST", 4)
    made = session()
    stats = made.evaluate("test", episodes)
    assert {name: len(x) for name, x in stats.items()} == {"return": episodes, "ep_length": episodes, "won": episodes}


def test_an_evaluation_of_a_native_environment_can_be_repeated() -> None:
    """The same networks at the same time get the same tests, whatever was tested in between; training goes on alike."""
    one, two = session(), session()
    first = one.evaluate("test", 6)
    one.evaluate("test", 3)
    for again in (one.evaluate("test", 6), one.evaluate("test", 6)):
        assert all(torch.equal(first[k], again[k]) for k in first)
    assert len(set(first["return"].tolist())) > 1
    assert same(one.runner.collect(t_env=0, mode="explore"), two.runner.collect(t_env=0, mode="explore"))
    one.progress = replace(one.progress, t_env=50)
    assert not torch.equal(one.evaluate("test", 6)["return"], first["return"])


@pytest.mark.parametrize("rate", [0.3, 1, 2.5])
def test_updates_keep_pace_with_the_steps(monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    made, updates = session(updates_per_step=rate, t_max=100, buffer_size=4, test_nepisode=0), []
    monkeypatch.setattr(made.learner, "update", lambda *_: updates.append(None) or {})
    steps = [tick.t_env for tick in made.train()]
    assert len(updates) == int(rate * steps[-1])
