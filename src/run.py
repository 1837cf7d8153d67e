"""Builds a run from its configuration and trains it: the only loop, a generator."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from controllers.base import Controller
from core.config import ConfigError, Settings, check_fit
from core.registry import ENVS
from core.seeding import Streams
from envs.base import BatchedEnv
from memory.replay import Replay
from runners.episode import Rollout
from tracking.record import Record

LARGEST_TEST = 128
"""Most rows of a native test environment; more test episodes are played in several rounds."""


@dataclass(frozen=True)
class Tick:
    """The state of a run between two collections; whatever is saved at one is complete."""

    t_env: int
    episode: int
    records: list[Record]
    checkpoint_due: bool


@dataclass
class Progress:
    """What the loop counts."""

    t_env: int = 0
    episode: int = 0
    next_test: int = 0
    next_log: int = 0
    next_checkpoint: int = 0


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
    return cls(settings.of(cls), n_envs, device_of(settings), seed)


def device_of(settings: Settings) -> torch.device:
    """Where the run's networks and native environments live."""
    chosen = settings["device"]
    if chosen == "auto":
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(chosen)


class Session:
    """One run: environment, controller, learner, replay and everything that decides what they do next."""

    def __init__(self, settings: Settings) -> None:
        """Builds every component.

        Raises:
            ConfigError: the selected components do not go together.
        """
        self.settings, self.streams = settings, Streams(settings["seed"])
        self.device = device_of(settings)
        self.env = make_env(settings, settings["batch_size_run"], self.streams.seed("env"))
        check_fit(settings, self.env.spec)
        self.controller, self.learner = self._networks()
        self.runner = settings.build(
            "runner", self.env, self.controller, rng=self.streams.generator("act", self.env.device)
        )
        cfg = self.learner.cfg
        self.replay = Replay(
            self.env.spec,
            cfg.buffer_size,
            cfg.buffer_bytes,
            self.device,
            self.streams.generator("replay"),
            cfg.buffer_steps,
            cfg.buffer_format,
        )
        self.progress = Progress(next_checkpoint=settings["checkpoint_interval"])
        self.meter = Meter()
        self._test_env: BatchedEnv | None = None
        self._clock = (time.perf_counter(), 0)

    def _networks(self) -> tuple[Controller, Any]:
        """Controller and learner; torch's global generator is the run's for as long as it initialises them."""
        with torch.random.fork_rng():
            torch.manual_seed(self.streams.seed("init"))
            controller = self.settings.build("mac", self.env.spec)
            learner = self.settings.build(
                "learner", self.env.spec, controller, rng=self.streams.generator("learn", self.device)
            )
        return controller, learner.to(self.device)

    def train(self) -> Iterator[Tick]:
        """Collects, learns, tests and reports until ``t_max``; yields after every collection and its updates."""
        at = self.progress
        while at.t_env < self.settings["t_max"]:
            records = [self.test()] if self._due("test") else []
            rollout, before = self.runner.collect(t_env=at.t_env, mode=self.controller.explore_mode), at.t_env
            self._count(rollout)
            if self.learner.ready(self.replay):
                for _ in range(self._updates(before)):
                    self.meter.add(self.learner.update(self.replay, at.t_env))
            if self._due("log"):
                records += self._report()
            if at.t_env >= self.settings["t_max"] and self.settings["test_nepisode"]:
                self._due("test")  # so that a run that is later extended does not repeat this test
                records.append(self.test())
            yield Tick(at.t_env, at.episode, records, self._due("checkpoint"))

    def _updates(self, before: int) -> int:
        """Updates after a collection that began at step ``before``; fractions of one are carried over."""
        rate = self.settings["updates_per_step"]
        if rate is None:
            return int(self.settings["updates_per_collect"])
        return int(rate * self.progress.t_env) - int(rate * before)

    def _due(self, what: str) -> bool:
        """Whether the next multiple of ``<what>_interval`` has been reached; if so, aims at the one after."""
        name, interval = f"next_{what}", self.settings[f"{what}_interval"]
        if self.progress.t_env < getattr(self.progress, name):
            return False
        setattr(self.progress, name, (self.progress.t_env // interval + 1) * interval)
        return what != "test" or self.settings["test_nepisode"] > 0

    def _count(self, rollout: Rollout) -> None:
        self.replay.add(rollout.episodes)
        self.progress.t_env += int(rollout.episodes.length.sum())
        self.progress.episode += len(rollout.episodes)
        self.meter.add(rollout.stats)

    def _report(self) -> list[Record]:
        now, (then, before) = time.perf_counter(), self._clock
        speed = (self.progress.t_env - before) / max(now - then, 1e-9)
        self._clock = (now, self.progress.t_env)
        values = self.meter.read() | {"episode": float(self.progress.episode)}
        t_env = self.progress.t_env
        return [Record("train", t_env, values), Record("perf", t_env, {"steps_per_second": speed})]

    def test(self) -> Record:
        """Means over ``test_nepisode`` episodes of every test mode.

        Names are ``test_<metric>_mean``; modes after the first one stand in the name: ``test_<mode>_<metric>_mean``.
        """
        values: dict[str, float] = {}
        for number, mode in enumerate(self.controller.test_modes):
            prefix = f"test_{mode}_" if number else "test_"
            stats = self.evaluate(mode, self.settings["test_nepisode"])
            values |= {f"{prefix}{name}_mean": float(x.double().mean()) for name, x in stats.items()}
        return Record("test", self.progress.t_env, values)

    def evaluate(self, mode: str, episodes: int) -> dict[str, torch.Tensor]:
        """Plays without learning, on an environment and random numbers of its own: training never notices.

        Returns:
            Per metric one value for each of ``episodes`` episodes.
        """
        env = self._testing_env(episodes)
        if env.native:
            env.seed_rows(self.streams.seed("eval", self.progress.t_env))
        rng = self.streams.generator("eval", env.device, self.progress.t_env)
        runner = self.settings.build("runner", env, self.controller, rng=rng)
        rounds: list[dict[str, torch.Tensor]] = []
        for _ in range(-(-episodes // env.n_envs)):
            rounds.append(runner.collect(t_env=self.progress.t_env, mode=mode).stats)
        return {name: torch.cat([stats[name] for stats in rounds])[:episodes] for name in rounds[0]}

    def _testing_env(self, episodes: int) -> BatchedEnv:
        rows = min(episodes, LARGEST_TEST) if self.env.native else self.settings["batch_size_run"]
        if self._test_env is None or self._test_env.n_envs != rows:
            if self._test_env is not None:
                self._test_env.close()
            self._test_env = make_env(self.settings, rows, self.streams.seed("eval"))
        return self._test_env

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the rest of the run."""
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
        """Stops the environments."""
        for env in (self.env, self._test_env):
            if env is not None:
                env.close()


def build(settings: Settings) -> Session:
    """A new run from checked settings.

    Raises:
        ConfigError: the selected components do not go together, or the device or the environment's means are missing.
    """
    torch.set_num_threads(settings["torch_threads"])
    if settings["device"] == "cuda" and not torch.cuda.is_available():
        raise ConfigError(["'device' is cuda, but torch finds no usable GPU: give device=cpu"])
    try:
        return Session(settings)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError([str(error)]) from error
