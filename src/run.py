"""Builds a run from its configuration and trains it: the only loop, a generator."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from controllers.base import Controller
from core.config import ConfigError, Settings, check_fit
from core.device import roomy
from core.precision import set_matmul
from core.registry import ENVS, LEARNERS, did_you_mean
from core.schedule import mark
from core.seeding import Streams
from envs.base import BatchedEnv
from memory.replay import Replay
from modules.precision import keep_outputs_exact
from runners.episode import AGENT_RETURN, EpisodeRunner, Rollout
from tracking.record import HEADLINES, Record

AUTO = "auto"
"""As ``best_by``: the usual metric of the environment."""
LARGEST_TEST = 128
"""Most rows of a native test environment; more test episodes are played in several rounds."""


@dataclass(frozen=True)
class Tick:
    """The state of a run between two collections; whatever is saved at one is complete."""

    t_env: int
    episode: int
    records: list[Record]
    checkpoint_due: bool
    best: dict[str, Any] | None = None
    """What acting needs (see ``Session.load_policy``), where a test has just been the best so far."""


@dataclass
class Progress:
    """What the loop counts."""

    t_env: int = 0
    episode: int = 0
    next_test: int = 0
    next_log: int = 0
    next_checkpoint: int = 0
    episodes_discarded: int = 0
    """Played while collecting or testing, and lost with their simulator."""
    env_restarts: int = 0
    """Simulators replaced after a failure, and (``env_recycled``) against leaks."""
    env_recycled: int = 0
    best: float | None = None
    """The best result of a test so far."""


@dataclass
class Meter:
    """Means of scalars between two records; sums stay on their device until they are read."""

    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, values: dict[str, torch.Tensor]) -> None:
        """Adds every element of every tensor."""
        for name, value in values.items():
            total = value.detach().double().sum()
            self.sums[name] = self.sums[name] + total if name in self.sums else total
            self.counts[name] = self.counts.get(name, 0) + value.numel()

    def read(self) -> dict[str, float]:
        """The means, and a fresh start."""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


def make_env(settings: Settings, n_envs: int, seed: int) -> BatchedEnv:
    """``n_envs`` copies of the configured environment."""
    cls = ENVS[settings["env"]]
    made: BatchedEnv = cls.build(settings.of(cls), n_envs, device_of(settings), seed)
    return made


def device_of(settings: Settings) -> torch.device:
    """Where the run's networks and native environments live."""
    chosen = settings["device"]
    if chosen == "auto":
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(chosen)


def replay_device(asked: str, device: torch.device, nbytes: int) -> torch.device:
    """Where episodes are kept.

    Raises:
        ConfigError: on a GPU, while networks are not.
    """
    if asked == "cuda" and device.type != "cuda":
        raise ConfigError([f"'buffer_device' is cuda, but networks are on {device.type}: give buffer_device=auto"])
    return device if asked == "cuda" or (asked == "auto" and roomy(device, nbytes)) else torch.device("cpu")


class Session:
    """One run: environment, controller, learner, replay and everything that decides what they do next."""

    def __init__(self, settings: Settings) -> None:
        """Builds every component.

        Raises:
            ConfigError: the selected components do not go together.
        """
        self.settings, self.streams = settings, Streams(settings["seed"])
        self.device = device_of(settings)
        rows = 1 if settings.components()["runner"].remote else settings["batch_size_run"]
        self.env = make_env(settings, rows, self.streams.seed("env"))
        check_fit(settings, self.env.spec)
        self.controller, self.learner = self.networks()
        self._check_best_by()
        self.runner = settings.build(
            "runner", self.env, self.controller, rng=self.streams.generator("act", self.env.device)
        )
        cfg = self.learner.cfg
        self.replay = Replay(
            self.env.spec,
            cfg.buffer_size,
            cfg.buffer_bytes,
            replay_device(cfg.buffer_device, self.device, cfg.buffer_bytes),
            self.streams.generator("replay"),
            cfg.buffer_steps,
            cfg.buffer_format,
            self.device,
        )
        self.progress = Progress(next_checkpoint=settings["checkpoint_interval"])
        self.meter = Meter()
        self._test_env: BatchedEnv | None = None
        self._replaced = (0, 0)
        """Restarts and recyclings that the progress has counted already."""
        self._best: dict[str, Any] | None = None
        self._clock = (time.perf_counter(), 0)

    def more_rows(self, rows: int) -> BatchedEnv:
        """An environment like the run's with another number of rows, at the start of the same streams."""
        return make_env(self.settings, rows, self.streams.seed("env"))

    def networks(self) -> tuple[Controller, Any]:
        """New controller and learner; torch's global generator is the run's for as long as it initialises them."""
        with torch.random.fork_rng():
            torch.manual_seed(self.streams.seed("init"))
            controller = self.settings.build("mac", self.env.spec)
            learner = self.settings.build(
                "learner", self.env.spec, controller, rng=self.streams.generator("learn", self.device)
            )
        if self.settings["precision"] == "bfloat16":
            keep_outputs_exact(learner)
        return controller, learner.to(self.device)

    def train(self) -> Iterator[Tick]:
        """Collects, learns, tests and reports until ``t_max``; yields after every collection and its updates."""
        at = self.progress
        while self.running:
            records = self.begin()
            rollout, before = self.runner.collect(t_env=at.t_env, mode=self.controller.explore_mode), at.t_env
            self._count(rollout)
            if self.learner.ready(self.replay):
                for _ in range(self._updates(before)):
                    self.meter.add(self.learner.update(self.replay, at.t_env))
            yield self.tick(records)

    @property
    def running(self) -> bool:
        """Whether there is anything left to do."""
        return self.progress.t_env < self.settings["t_max"]

    def begin(self) -> list[Record]:
        """The test that is due before a collection."""
        return [self.test()] if self._due("test") else []

    def tick(self, records: list[Record]) -> Tick:
        """What there is to say after a collection and its updates, beside ``records``."""
        at = self.progress
        if self._due("log"):
            records += self._report()
        if not self.running and self.settings["test_nepisode"]:
            self._due("test")  # so that a run that is later extended does not repeat this test
            records.append(self.test())
        best, self._best = self._best, None
        return Tick(at.t_env, at.episode, records, self._due("checkpoint"), best)

    def _updates(self, before: int) -> int:
        """Updates after a collection that began at step ``before``; fractions of one are carried over."""
        rate = self.settings["updates_per_step"]
        if rate is None:
            return int(self.settings["updates_per_collect"])
        return int(rate * self.progress.t_env) - int(rate * before)

    def due(self, what: str) -> bool:
        """Whether the next multiple of ``<what>_interval`` has been reached."""
        return bool(self.progress.t_env >= getattr(self.progress, f"next_{what}"))

    def _due(self, what: str) -> bool:
        """Whether the next multiple of ``<what>_interval`` has been reached; if so, aims at the one after."""
        name, interval = f"next_{what}", self.settings[f"{what}_interval"]
        if not self.due(what):
            return False
        setattr(self.progress, name, (self.progress.t_env // interval + 1) * interval)
        return what != "test" or self.settings["test_nepisode"] > 0

    def _count(self, rollout: Rollout) -> None:
        self.replay.add(rollout.episodes)
        self.count(rollout.episodes.length)
        self.progress.episodes_discarded += rollout.discarded
        self.meter.add(rollout.stats)

    def count(self, length: Int[Tensor, " b"]) -> None:
        """Counts collected episodes of so many steps."""
        self.progress.t_env += int(length.sum())
        self.progress.episode += len(length)

    def _report(self) -> list[Record]:
        now, (then, before) = time.perf_counter(), self._clock
        speed = (self.progress.t_env - before) / max(now - then, 1e-9)
        self._clock = (now, self.progress.t_env)
        values = self.meter.read() | {"episode": float(self.progress.episode)}
        t_env = self.progress.t_env
        perf = {"steps_per_second": speed} | self._losses() | self.runner.counters()
        return [Record("train", t_env, values), Record("perf", t_env, perf)]

    def _losses(self) -> dict[str, float]:
        """Where simulators are processes: what they cost since the run began, resumed ones' parts together."""
        if self.env.native:
            return {}
        names = ("episodes_discarded", "env_restarts", "env_recycled")
        self._notice_replacements()
        return {name: float(getattr(self.progress, name)) for name in names}

    def _notice_replacements(self) -> None:
        """Adds to the progress what the environments have counted since the last time."""
        each = [env.replaced() for env in (self.env, self._test_env) if env is not None]
        counts = sum(restarts for restarts, _ in each), sum(recycled for _, recycled in each)
        self.progress.env_restarts += counts[0] - self._replaced[0]
        self.progress.env_recycled += counts[1] - self._replaced[1]
        self._replaced = counts

    def test(self) -> Record:
        """Means over ``test_nepisode`` episodes of every test mode.

        Names are ``test_<metric>_mean``; modes after the first one stand in the name: ``test_<mode>_<metric>_mean``.
        """
        values: dict[str, float] = {}
        episodes: dict[str, list[float | None]] = {}
        for number, mode in enumerate(self.controller.test_modes):
            prefix = f"{mode}_" if number else ""
            stats = self.evaluate(mode, self.settings["test_nepisode"])
            values |= {f"test_{prefix}{name}_mean": float(x.double().mean()) for name, x in stats.items()}
            episodes |= {prefix + name: _short(x) for name, x in stats.items() if not name.startswith(AGENT_RETURN)}
        self._compare(values)
        at = mark(self.progress.t_env, self.settings["test_interval"], self.settings["t_max"])
        return Record("test", self.progress.t_env, values, {"mark": at, "episodes": episodes})

    def _compare(self, values: dict[str, float]) -> None:
        """Keeps the policy where this test is better than all before; of equal ones the first counts."""
        if self.settings["best_by"] is None:
            return
        by = self.settings["best_by"]
        result = values[next(name for name in HEADLINES if name in values) if by == AUTO else by]
        if math.isfinite(result) and (self.progress.best is None or result > self.progress.best):
            self.progress.best = result
            learner = copy.deepcopy(self.learner.state_dict())  # training goes on before anybody can save it
            self._best = {"learner": learner, "progress": vars(self.progress).copy()}

    def _check_best_by(self) -> None:
        """Raises ConfigError for a metric that no test reports."""
        by, modes = self.settings["best_by"], ("", *(f"{mode}_" for mode in self.controller.test_modes[1:]))
        names = ("return", "ep_length", *self.env.spec.metrics)
        reported = [f"test_{mode}{name}_mean" for mode in modes for name in names]
        if by not in (None, AUTO, *reported):
            raise ConfigError([f"'best_by' is '{by}', which tests do not report.{did_you_mean(by, reported)}"])

    def evaluate(self, mode: str, episodes: int, *, afresh: bool = False) -> dict[str, torch.Tensor]:
        """Plays without learning, on an environment and random numbers of its own: training never notices.

        Args:
            mode: one of the controller's.
            episodes: how many.
            afresh: other episodes than those of a test at this step, which a policy may have been chosen by.

        Returns:
            Per metric one value for each of ``episodes`` episodes.
        """
        if self.runner.remote:
            return self.runner.evaluate(t_env=self.progress.t_env, mode=mode, episodes=episodes, afresh=afresh)
        env, which = self._testing_env(episodes), (self.progress.t_env, *[1] * afresh)
        if env.native:
            env.seed_rows(self.streams.seed("eval", *which))
        rng = self.streams.generator("eval", env.device, *which)
        runner = EpisodeRunner(env, self.controller, EpisodeRunner.Config(), self.settings, rng)
        rounds: list[dict[str, torch.Tensor]] = []
        for _ in range(-(-episodes // env.n_envs)):
            rollout = runner.collect(t_env=self.progress.t_env, mode=mode)
            self.progress.episodes_discarded += rollout.discarded
            rounds.append(rollout.stats)
        return {name: torch.cat([stats[name] for stats in rounds])[:episodes] for name in rounds[0]}

    def _testing_env(self, episodes: int) -> BatchedEnv:
        rows = min(episodes, LARGEST_TEST) if self.env.native else self.settings["batch_size_run"]
        if self._test_env is None or self._test_env.n_envs != rows:
            if self._test_env is not None:
                self._notice_replacements()
                self._test_env.close()
                self._replaced = self.env.replaced()
            self._test_env = make_env(self.settings, rows, self.streams.seed("eval"))
        return self._test_env

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the rest of the run."""
        self._notice_replacements()
        return {
            "learner": self.learner.state_dict(),
            "replay": self.replay.state_dict(),
            "runner": self.runner.state_dict(),
            "progress": vars(self.progress).copy(),
            "meter": {"sums": dict(self.meter.sums), "counts": dict(self.meter.counts)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``, for a session of the same configuration."""
        self.learner.load_state_dict(state["learner"])
        self.replay.load_state_dict(state["replay"])
        self.runner.load_state_dict(state["runner"])
        self.progress = Progress(**state["progress"])
        self.meter = Meter(**state["meter"])
        self._clock = (time.perf_counter(), self.progress.t_env)

    def load_policy(self, state: dict[str, Any]) -> None:
        """Only what acting needs, for evaluation."""
        self.learner.load_state_dict(state["learner"])
        self.progress = Progress(**state["progress"])

    def close(self) -> None:
        """Stops the environments and what plays elsewhere."""
        self.runner.close()
        for env in (self.env, self._test_env):
            if env is not None:
                env.close()


def _short(x: torch.Tensor) -> list[float | None]:
    """Numbers with the digits that single precision has; None where one is not finite."""
    return [float(f"{value:.7g}") if math.isfinite(value) else None for value in x.tolist()]


def _refuse_graphs(settings: Settings) -> None:
    """Raises ConfigError where an update cannot be recorded."""
    if not settings["cuda_graphs"]:
        return
    problems = []
    if device_of(settings).type != "cuda":
        problems.append("'cuda_graphs' needs a GPU, and networks are on the CPU: give cuda_graphs=False")
    if not settings.components()["learner"].recordable:
        can = ", ".join(name for name in LEARNERS.names() if LEARNERS[name].recordable)
        problems.append(f"'cuda_graphs': learner '{settings['learner']}' cannot be recorded; these can: {can}")
    if problems:
        raise ConfigError(problems)


def build(settings: Settings) -> Session:
    """A new run from checked settings.

    Raises:
        ConfigError: the selected components do not go together, or the device or the environment's means are missing.
    """
    torch.set_num_threads(settings["torch_threads"])
    if settings["device"] == "cuda" and not torch.cuda.is_available():
        raise ConfigError(["'device' is cuda, but torch finds no usable GPU: give device=cpu"])
    _refuse_graphs(settings)
    set_matmul(settings["precision"], device_of(settings))
    try:
        return Session(settings)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError([str(error)]) from error
