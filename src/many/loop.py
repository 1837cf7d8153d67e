"""Trains the sessions of several seeds at once: the loop of ``run.py``, with one of everything that computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from core.config import ConfigError
from many.acting import JointController
from many.batch import JointReplay
from many.program import Program
from many.rows import JointEnv

REMEDY = "give n_seeds=1, and start one run for each seed ('sweep' does that on the cores and GPUs there are)"

_OF_ONE = {"cuda_graphs": False, "precision": "float32"}
"""Keys by which updates are computed in another way than by the learner's code alone, and their usual values."""


class Together:
    """Sessions of one configuration and different seeds. Each is, at every tick, what it would be alone.

    Every seed has its own environment rows, replay and generators, and draws from them what it would draw alone. What
    is computed of them is computed at once: networks of all seeds in one stacked program, all rows in one environment.
    """

    def __init__(self, sessions: Sequence[Any]) -> None:
        """``sessions`` are ``run.Session`` objects, perhaps resumed, that ``refuse_unfit`` has nothing against."""
        self.sessions = list(sessions)
        self._joint: _Joint | None = None

    def train(self) -> Iterator[list[tuple[int, Any]]]:
        """The ticks of all seeds that are still running, with their numbers, after every collection and its updates.

        A seed that has reached ``t_max`` leaves the program; the others go on without it.
        """
        while running := [k for k, session in enumerate(self.sessions) if session.running]:
            joint = self._joint = _Joint([self.sessions[k] for k in running])
            ended = False
            while not ended:
                ticks = list(zip(running, joint.advance(), strict=True))
                ended = not all(self.sessions[k].running for k in running)
                yield ticks
            joint.settle()

    def settle(self) -> None:
        """Brings all sessions to where the program is, so that each can be saved."""
        if self._joint is not None:
            self._joint.settle()


def refuse_unfit(session: Any, n: int) -> None:
    """Asks whether sessions such as this one can be trained together.

    Raises:
        ConfigError: with every reason why not.
    """
    settings, chosen = session.settings, session.settings.components()
    problems = []
    if not chosen["learner"].batches_seeds:
        problems.append(f"'learner' is {settings['learner']}, whose update is not known to work for several seeds")
    if settings["runner"] != "episode":
        problems.append(f"'runner' is {settings['runner']}, and only episode plays the rows of several seeds")
    if settings["updates_per_step"] is not None:
        problems.append(
            "'updates_per_step' is set, by which seeds learn at different times: use null and updates_per_collect"
        )
    problems += [
        f"'{key}' is {settings[key]!r}, which is a way to compute the update of one seed: use {usual!r}"
        for key, usual in _OF_ONE.items()
        if settings[key] != usual
    ]
    if not session.env.native:
        problems.append(f"'env' is {settings['env']}, whose rows are processes: nothing of them is computed together")
    elif (reason := JointEnv.unmet(session.env.state_dict())) is not None:
        problems.append(f"'env' is {settings['env']}, of which {reason}")
    if problems:
        raise ConfigError([f"'n_seeds' is {n}, but {problem}; or {REMEDY}" for problem in problems])


class _Meters:
    """What the sessions' meters are to be told, all seeds at once."""

    def __init__(self, sessions: Sequence[Any]) -> None:
        self._sessions = sessions
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Adds everything in every seed's part [S, ...] of every tensor."""
        for name, value in values.items():
            each = value.detach().double().flatten(1).sum(1) if value.dim() > 1 else value.detach().double()
            self._sums[name] = self._sums[name] + each if name in self._sums else each
            self._counts[name] = self._counts.get(name, 0) + value[0].numel()

    def flush(self) -> None:
        """Tells them."""
        for name, total in self._sums.items():
            for session, own in zip(self._sessions, total.unbind(0), strict=True):
                meter = session.meter
                meter.sums[name] = meter.sums[name] + own if name in meter.sums else own
                meter.counts[name] = meter.counts.get(name, 0) + self._counts[name]
        self._sums, self._counts = {}, {}


class _Joint:
    """The program, the environment and the runner of some sessions, until one of them ends."""

    def __init__(self, sessions: Sequence[Any]) -> None:
        self.sessions, first = sessions, sessions[0]
        self._updates = int(first.settings["updates_per_collect"])
        try:
            self.program = Program([session.learner for session in sessions], first.networks()[1])
        except ValueError as error:
            raise ConfigError([f"these runs cannot go on together, {error}: resume each by itself"]) from error
        self.replay = JointReplay(self.program, [session.replay for session in sessions])
        self.env = JointEnv(first.more_rows, [session.env for session in sessions])
        self.controller = JointController(self.program, self.env, [session.runner.rng for session in sessions])
        self.runner = first.settings.build("runner", self.env, self.controller, rng=first.runner.rng)
        self.meters = _Meters(sessions)

    def advance(self) -> list[Any]:
        """One collection of all seeds and its updates; their ticks."""
        if any(session.due("test") for session in self.sessions):
            self.program.settle()
        records = [session.begin() for session in self.sessions]
        self._collect()
        template = self.program.template
        if template.ready(self.replay):
            for _ in range(self._updates):
                self.meters.add(self.program.update(self.replay, self._t_env()))
        if any(session.due("log") for session in self.sessions):
            self.meters.flush()
        if not all(session.running for session in self.sessions):
            self.program.settle()
        return [session.tick(own) for session, own in zip(self.sessions, records, strict=True)]

    def settle(self) -> None:
        """Brings the sessions to where the program is."""
        self.program.settle()
        self.env.hand_back()
        self.meters.flush()

    def _collect(self) -> None:
        """One episode of every row of every seed, to its own replay."""
        self.controller.t_env = self._t_env()
        n = len(self.sessions)
        rollout = self.runner.collect(t_env=max(self.controller.t_env), mode=self.controller.explore_mode)
        self.replay.add(rollout.episodes)
        for session, length in zip(self.sessions, rollout.episodes.length.view(n, -1), strict=True):
            session.count(length)
        self.meters.add({name: x.unflatten(0, (n, -1)) for name, x in rollout.stats.items()})

    def _t_env(self) -> list[int]:
        return [session.progress.t_env for session in self.sessions]
