"""Runs that train together, each recorded by Sacred as if it had been started alone."""

from __future__ import annotations

import queue
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core import checkpoint, cli
from core.config import ConfigError, Settings
from core.stop import Stop
from many.loop import Together
from tracking.chorus import Chorus, Voice
from tracking.experiment import execute, trace_of
from tracking.folder import RunFolder
from tracking.record import Interrupted
from tracking.saving import keep, restore, state_of, tell
from tracking.tracker import Tracker

TOGETHER = "together"
"""The field of a run's record that names the folders of those that it was trained with, itself among them."""


@dataclass
class Run:
    """One seed's."""

    settings: Settings
    folder: RunFolder
    session: Any
    state: dict[str, Any] | None = None
    """The checkpoint from which it goes on ({}: none was made yet); None for a new run."""


def companions(folder: RunFolder, n_seeds: int) -> list[RunFolder]:
    """The folders of all runs that were started together with the one in ``folder``.

    Raises:
        ConfigError: there are none, or not ``n_seeds``, or one is missing.
    """
    names = folder.record.get(TOGETHER) or [folder.path.name]
    if len(names) != n_seeds:
        many = f"n_seeds={len(names)} goes on with all of these, n_seeds=1 with this one"
        raise ConfigError(
            [f"'n_seeds' is {n_seeds}, but {folder.path.name} was trained as one of {len(names)}: {many}"]
        )
    found = [RunFolder(folder.path.parent / name) for name in names]
    lost = [own.path.name for own in found if not own.config.exists()]
    if lost:
        raise ConfigError(
            [
                f"'n_seeds' is {n_seeds}, but {own} is not beside {folder.path.name}: resume each by itself"
                for own in lost
            ]
        )
    return found


def refuse_apart(states: Sequence[dict[str, Any]]) -> None:
    """Refuses to go on together from checkpoints of different points of training.

    Raises:
        ConfigError: naming the points.
    """
    points = [state["session"]["progress"]["episode"] if state else 0 for state in states]
    if len(set(points)) > 1:
        after = ", ".join(map(str, points))
        raise ConfigError(
            [f"'n_seeds' is {len(points)}, but these runs were stopped after {after} episodes: resume each by itself"]
        )


def conduct(runs: Sequence[Run]) -> int:
    """Trains them under Sacred's eyes, each until its end; the exit status of the worst of them.

    A signal stops all of them, each with its checkpoint; an error of one ends all.
    """
    together = Together([run.session for run in runs])
    names = [run.folder.path.name for run in runs]
    for run in runs:
        run.folder.update(**{TOGETHER: names})
    titles = [f"seed {run.settings['seed']}" for run in runs]
    title = f"{runs[0].settings['name']}, {len(runs)} seeds"
    logs = [run.folder.console for run in runs]
    with Stop() as stop:
        chorus = Chorus(logs, runs[0].settings["t_max"], titles, title)
        with chorus.attached():
            recorded = [_Recorded(run, voice) for run, voice in zip(runs, chorus.voices, strict=True)]
            _observe(recorded, together, chorus, stop)
    statuses = {each.status for each in recorded}
    if "INTERRUPTED" in statuses:
        again = f"{cli.STARTED_AS} resume {names[0]}"
        sys.stderr.write(f"to go on: {again} with n_seeds={len(runs)}; or each by itself: {again}\n")
    if statuses == {"COMPLETED"}:
        return 0
    return 1 if "FAILED" in statuses else 128 + (stop.signum or signal.SIGINT)


def _observe(recorded: Sequence[_Recorded], together: Together, chorus: Chorus, stop: Stop) -> None:
    """Begins all runs, trains them, and ends in the same way those that have not come to their own end."""
    failure: BaseException | None = None
    try:
        for each in recorded:
            each.begin()
        _follow(recorded, together, chorus, stop)
    except KeyboardInterrupt as interrupt:
        failure = interrupt
    except BaseException as error:  # noqa: BLE001  (it becomes the runs' status)
        sys.stderr.write(trace_of(error))
        failure = error
    for each in recorded:
        each.end(failure)


def _follow(recorded: Sequence[_Recorded], together: Together, chorus: Chorus, stop: Stop) -> None:
    """Trains, reports and saves until the last run's end or until a signal.

    Raises:
        Interrupted: a signal came; the checkpoints are written.
    """
    for ticks in together.train():
        running = [(recorded[k], tick) for k, tick in ticks]
        for each, tick in running:
            tell(tick, each.run.settings, each.run.folder, each.tracker)
        chorus.progress(min(tick.t_env for _, tick in running))
        ended = [each for each, _ in running if not each.run.session.running]
        due = [each for each, tick in running if tick.checkpoint_due]
        if stop.signum or ended or due:
            together.settle()
        if stop.signum:
            for each, _ in running:
                each.save()
            raise Interrupted(stop.signum)
        for each in due:
            keep(each.run.folder.checkpoint, each.state(), each.tracker)
        for each in ended:
            each.save()
            each.end(None)


class _Recorded:
    """A run in a thread of its own, in which Sacred waits for what happens to it; nothing is computed there."""

    def __init__(self, run: Run, voice: Voice) -> None:
        self.run, self.status = run, "FAILED"
        self.tracker: Tracker
        self._voice = voice
        self._over: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._record, name=f"seed {run.settings['seed']}")

    def begin(self) -> None:
        """Has Sacred begin the run, and sets it back to its checkpoint where it has one.

        Raises:
            RuntimeError: that was not possible; the reason has been printed.
        """
        self._thread.start()
        self._begun.wait()
        if not hasattr(self, "tracker"):
            raise RuntimeError(f"the run {self.run.folder.path.name} could not be begun")
        if self.run.state is not None:
            restore(self.run.session, self.tracker, self.run.state)

    def state(self) -> dict[str, Any]:
        """A checkpoint."""
        return state_of(self.run.session, self.run.settings, self.tracker)

    def save(self) -> None:
        """Writes the checkpoint, or raises."""
        checkpoint.save(self.run.folder.checkpoint, self.state())

    def end(self, failure: BaseException | None) -> None:
        """Ends the run: well, or by ``failure``. Nothing where it has ended, or never begun."""
        if self._thread.is_alive():
            self._over.put(failure)
            self._thread.join()

    def _record(self) -> None:
        resume = self.run.state is not None
        try:
            self.status = execute(self.run.settings, self.run.folder, self._wait, resume=resume, console=self._voice)
        finally:
            self._begun.set()

    def _wait(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self._begun.set()
        failure = self._over.get()
        if failure is not None:
            raise failure
